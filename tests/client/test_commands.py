"""The commands as users run them, against a real REST door."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from niyanta.lifecycle import Event
from niyanta.store.rest.api_keys import Role
from niyanta.store.rows import ClassState, PendingNote, PoolRow, WorkerRow
from niyanta.store.state import StateManager
from testing.processes.free_ports import free_port
from testing.waiting import until
from tests.client.conftest import DoorProcess, NewUser, User

pytestmark = pytest.mark.process


def test_a_manifest_for_kubectl_is_submitted_and_shown_in_every_format(user: User) -> None:
    id_ = user.niyanta("submit", "-f", user.file(user.manifest("thumbnails", priority=20)), "-o", "id")[0].strip()
    out, err = user.niyanta("get", id_)
    assert out.split()[:3] == ["NAME", "ID", "PHASE"]
    assert out.splitlines()[1].split()[:5] == ["thumbnails", id_, "Pending", "0/1", user.customer]
    assert (err, len(out.splitlines())) == ("", 2)
    assert user.json("get", "thumbnails")["spec"]["priority"] == 20
    assert yaml.safe_load(user.niyanta("get", f"{user.namespace}/thumbnails", "-o", "yaml")[0])["id"] == id_
    assert user.niyanta("list", "-o", "id")[0] == f"{id_}\n"
    assert user.namespace in user.niyanta("list", "-o", "wide")[0]


def test_several_documents_are_one_batch_and_each_has_its_own_result(user: User) -> None:
    good, bad, other = user.manifest("a"), user.manifest("b", replicas=0), user.manifest("c")
    out, err = user.niyanta("submit", "-f", "-", "-o", "id", code=3, stdin=yaml.safe_dump_all([good, bad, other]))
    assert len(out.splitlines()) == 2
    assert "b: The manifest is invalid" in err
    assert "spec.replicas" in err
    assert len(user.ids()) == 2


def test_a_refusal_names_the_field_and_exits_with_3(user: User) -> None:
    unsafe = user.manifest("a")
    unsafe["spec"] = yaml.safe_load(yaml.safe_dump(unsafe["spec"]))
    del unsafe["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    _, err = user.niyanta("submit", "-f", user.file(unsafe), code=3)
    assert "spec.template.spec.containers[0].securityContext" in err
    assert "Traceback" not in err
    user.submit("a")
    _, err = user.niyanta("submit", "-f", user.file(user.manifest("a")), code=3)
    assert "An unfinished workload of the customer has this name" in err


def test_the_same_submission_twice_is_one(user: User) -> None:
    file = user.file(user.manifest("once"))
    first, second = (user.json("submit", "-f", file, "--idempotency-key", "nightly-1") for _ in range(2))
    assert first["id"] == second["id"]
    assert user.ids() == [first["id"]]
    other = user.file(user.manifest("another"))
    _, err = user.niyanta("submit", "-f", other, "--idempotency-key", "nightly-1", code=3)
    assert "belongs to another request" in err
    _, err = user.niyanta("submit", "-f", other, "--idempotency-key", "with blanks", code=2)
    assert "printable ASCII" in err


@pytest.mark.parametrize(("last", "code"), [(Event.SUCCEED, 0), (Event.FAIL, 1)])
def test_waiting_ends_with_the_workload_and_its_exit_code(user: User, last: Event, code: int) -> None:
    process = user.start("submit", "-f", user.file(user.manifest("w")), "--watch", "-o", "json", "--timeout", "2m")
    id_ = until(user.ids, what="it is submitted")[0]
    user.door.database.move(id_, Event.PLACE, Event.START, last)
    out, err = process.communicate(timeout=90)
    assert (process.returncode, json.loads(out)["id"]) == (code, id_), err
    for step in ("Pending -> Scheduled on w1", "Scheduled -> Running"):
        assert step in err


def test_a_wait_beyond_the_timeout_ends_with_5_and_the_workload_continues(user: User) -> None:
    id_ = user.submit("slow")
    _, err = user.niyanta("wait", "slow", "--timeout", "0.5", code=5)
    assert "not finished after 0.5 s: 1 of 1 (1 Pending)" in err
    assert user.phase(id_) == "Pending"


@pytest.mark.parametrize(
    ("condition", "events", "code"),
    [
        ("scheduled", [Event.PLACE], 0),
        ("running", [Event.PLACE, Event.START], 0),
        ("condition=Running", [Event.PLACE, Event.START, Event.SUCCEED], 0),
        ("running", [Event.PLACE, Event.START, Event.FAIL], 1),
        ("succeeded", [Event.CANCEL], 1),
        ("condition=Succeeded=True", [Event.PLACE, Event.START, Event.SUCCEED], 0),
        ("Finished", [Event.PLACE, Event.START, Event.FAIL], 1),
    ],
)
def test_a_wait_ends_with_its_condition_or_when_that_cannot_come(
    user: User, condition: str, events: list[Event], code: int
) -> None:
    id_ = user.submit("w")
    user.door.database.move(id_, *events)
    assert user.json("wait", "w", "--for", condition, code=code)["id"] == id_


def test_a_wait_for_something_unknown_names_the_conditions(user: User) -> None:
    _, err = user.niyanta("wait", "w", "--for", "deleted", code=2)
    assert "finished, succeeded, running, scheduled" in " ".join(err.split())


def test_names_are_printed_for_pipes_and_lists_are_filtered_by_namespace(user: User) -> None:
    ids = [user.submit(name) for name in ("a", "b")]
    names = "workloads.niyanta.io/b\nworkloads.niyanta.io/a\n"
    assert user.niyanta("list", "-n", user.namespace, "-o", "name")[0] == names
    assert user.niyanta("list", "-n", "elsewhere", "-o", "name")[0] == ""
    assert user.niyanta("get", "a", "-o", "name")[0] == "workloads.niyanta.io/a\n"
    assert user.json("get", "workloads.niyanta.io/a")["id"] == ids[0]
    assert user.json("cancel", "workload.niyanta.io/b")["id"] == ids[1]


def test_suspend_resume_and_cancel_by_name_and_id(user: User) -> None:
    ids = [user.submit(name) for name in ("x", "y")]
    assert user.json("suspend", "x")["phase"] == "Suspended"
    assert [item["name"] for item in user.json("list", "--status", "suspended")["items"]] == ["x"]
    assert user.json("resume", ids[0])["phase"] == "Pending"
    out, err = user.niyanta("cancel", "x", "none", "y", "-o", "id", code=3)
    assert out.split() == ids
    assert "none: no workload none" in err
    assert user.phase(ids[0]) == "Cancelled"
    _, err = user.niyanta("suspend", ids[0], code=3)
    assert "phase Cancelled" in err


def test_explain_shows_reasons_and_the_position_in_the_queue(user: User) -> None:
    id_ = user.submit("gpu")

    async def note(state: StateManager) -> None:
        reasons = [["GpuModelMismatch", "A100", 310], ["NoRoom", "cpu", 70]]
        (row,) = await state.get_workloads([id_])
        await state.note_pending([PendingNote(id_, row.version, "Unschedulable", "0/380 workers", reasons)], epoch=None)

    user.door.database.run(note)
    out, _ = user.niyanta("explain", "gpu")
    for words in (
        "Pending (Unschedulable: 0/380 workers)",
        "310: GpuModelMismatch (A100)",
        "70: NoRoom (cpu)",
        "ahead",
    ):
        assert words in out
    assert user.json("explain", "gpu")["position"]["exact"] is True


def test_explain_names_the_worker_that_has_to_be_there(user: User) -> None:
    id_ = user.submit("huge")

    async def note(state: StateManager) -> None:
        needs = {"needs": ["in region eu-west", "with at least 64 cpu"]}
        (row,) = await state.get_workloads([id_])
        text = "0/3 workers: 3 have less than 64 cpu"
        reasons = [["WorkerTooSmall", "cpu", 3], needs, {"fitsPool": {"pool": "big", "atMaximum": 2}}]
        await state.note_pending([PendingNote(id_, row.version, "Unschedulable", text, reasons)], epoch=None)
        await state.write_leader_stats({"placed_per_minute": 10.0}, epoch=None)

    user.door.database.run(note)
    out, _ = user.niyanta("explain", "huge")
    (start,) = [line for line in out.splitlines() if line.startswith("Start ")]
    wanted = "not known (not before a worker is added or changed: it needs one in region eu-west, with at least 64 cpu"
    assert wanted in start
    assert "; pool big could add one, but is at its maximum of 2 workers)" in start


def test_a_workload_outside_the_leaders_memory_shows_the_reasons_of_its_class(user: User) -> None:
    ids = [user.submit(name) for name in ("one", "two")]
    out, _ = user.niyanta("explain", "one")
    assert "Unschedulable" not in out

    async def refuse(state: StateManager) -> None:
        async with state._pool.connection() as connection:
            await connection.execute(
                b"UPDATE workload_state SET queue_class = md5(customer_id) WHERE id = ANY(%s::uuid[])", [ids]
            )
        (row, _) = await state.get_workloads(ids)
        reasons = [["InsufficientResource", "cpu", 5]]
        found = ClassState(row.customer, row.queue_class, reasons, "Unschedulable", "0/5 workers", datetime.now(UTC))
        await state.write_class_states([found], None)

    user.door.database.run(refuse)
    out, _ = user.niyanta("explain", "one")
    for words in (
        "Pending (Unschedulable: 0/5 workers)",
        "5: InsufficientResource (cpu)",
        "2 workloads of this class",
        "of its class: this workload was not tried by itself yet",
    ):
        assert words in out
    for command in (("top", "--once"), ("list",)):
        lines = user.niyanta(*command)[0].splitlines()
        for name in ("one", "two"):
            (line,) = [line for line in lines if line.split()[:1] == [name]]
            assert "Unschedulable" in line
    assert user.json("get", "two")["message"] == "0/5 workers"


def test_events_show_every_transition(user: User) -> None:
    id_ = user.submit("story")
    user.door.database.move(id_, Event.PLACE, Event.START, Event.SUCCEED)
    rows = [line.split() for line in user.niyanta("events", "story")[0].splitlines()[1:]]
    assert [row[1] for row in rows] == ["Accepted", "Place", "Start", "Succeed"]
    assert len(user.json("events", id_, "--limit", "2")["items"]) == 2


def test_a_list_reads_all_pages_and_filters(user: User) -> None:
    out, _ = user.niyanta("submit", "-f", user.file(*(user.manifest(f"n-{n}") for n in range(600))), "-o", "id")
    assert len(out.split()) == 600
    assert len(user.niyanta("list", "-o", "id")[0].split()) == 600
    assert len(user.niyanta("list", "--limit", "7", "-o", "id")[0].split()) == 7
    assert user.niyanta("list", "--type", "none", "--since", "1h")[1].strip() == "no workloads"
    assert user.json("list", "--until", "2001-01-01T00:00:00Z")["items"] == []
    _, err = user.niyanta("list", "--since", "yesterday", code=2)
    assert "neither a time" in err
    assert user.json("get", "n-599")["name"] == "n-599"


def test_another_customer_sees_nothing(user: User, new_user: NewUser) -> None:
    id_ = user.submit("secret")
    other = new_user()
    for verb in ("get", "explain", "events", "cancel"):
        out, err = other.niyanta(verb, id_, code=3)
        assert (out, "Not found" in err) == ("", True)
    assert other.json("list")["items"] == []
    assert other.json("queue-depth")["total"] == 0


def test_an_admin_sees_customers_workers_and_pools(new_user: NewUser, door: DoorProcess) -> None:
    admin, customer = new_user(role=Role.ADMIN), new_user(maxQueueDepth=5)
    customer.submit("waiting")

    async def upsert(state: StateManager) -> None:
        await state.upsert_workers(
            [WorkerRow("node-1", "gpu", gpu_model="A100", allocatable={"cpu": 8000}, used={"cpu": 2000}, slots=4)]
        )
        await state.upsert_pools([PoolRow("gpu", {"strategy": "Pack"}, {"replicas": 2, "readyReplicas": 1})])

    door.database.run(upsert)
    assert "1/5" in admin.niyanta("customers")[0]
    assert [item["name"] for item in customer.json("customers")["items"]] == [customer.customer]
    assert "25%" in admin.niyanta("workers")[0]
    assert "25%" not in customer.niyanta("workers")[0]
    assert "1/2" in admin.niyanta("pools")[0]
    out, _ = admin.niyanta("queue-depth")
    assert any(line.split() == ["customer", customer.customer, "1"] for line in out.splitlines())


def test_top_once_prints_plain_text_without_a_terminal(user: User) -> None:
    user.submit("seen")
    out, _ = user.niyanta("top", "--once")
    assert "1 pending" in out
    assert "seen" in out
    assert "\x1b" not in out


def test_a_terminal_shows_whole_ids_and_a_live_view_until_ctrl_c(user: User) -> None:
    id_ = user.submit("seen")
    code, text = user.at_a_terminal("get", id_)
    assert (code, id_ in text) == (0, True)
    code, text = user.at_a_terminal("top", "--interval", "0.5", interrupt_at="seen")
    assert (code, "1 pending" in text) == (0, True)
    code, text = user.at_a_terminal("wait", id_, interrupt_at="1 Pending")
    assert (code, "the workloads continue" in text) == (130, True)


def test_a_full_queue_is_a_refusal_with_a_retry_after(new_user: NewUser) -> None:
    user = new_user(maxQueueDepth=1)
    user.submit("first")
    _, err = user.niyanta("submit", "-f", user.file(user.manifest("second")), "--retry-seconds", "0", code=3)
    assert "The customer's queue is full" in err
    assert "asks to wait" in err


def test_an_unreachable_server_is_4_and_invalid_usage_is_2(user: User) -> None:
    away = {"NIYANTA_API_URL": f"http://127.0.0.1:{free_port()}"}
    _, err = user.niyanta("list", "--retry-seconds", "0.5", code=4, env=away)
    assert away["NIYANTA_API_URL"] in err
    user.niyanta("list", "--status", "Flying", code=2)
    _, err = user.niyanta("submit", "-f", "/nowhere.yaml", code=2)
    assert "No such file" in err
    _, err = user.niyanta("list", code=2, env={"NIYANTA_API_URL": ""})
    assert "no server is configured" in err
    _, err = user.niyanta("list", code=3, env={"NIYANTA_API_KEY": ""})
    assert "no API key" in err


def test_the_file_configures_and_a_readable_key_gives_a_warning(user: User) -> None:
    folder = user.folder / "niyanta"
    folder.mkdir()
    file = folder / "config.toml"
    file.write_text(f'[profiles.here]\nurl = "{user.door.url}"\nkey = "{user.key}"\n')
    file.chmod(0o644)
    bare = {"NIYANTA_API_URL": "", "NIYANTA_API_KEY": "", "NIYANTA_PROFILE": "here"}
    out, err = user.niyanta("list", "-o", "json", env=bare)
    assert json.loads(out) == {"items": []}
    assert f"chmod 600 {file}" in err


def test_names_are_completed_in_the_shell(user: User) -> None:
    user.submit("render-7")
    asked = {"_NIYANTA_COMPLETE": "complete_bash", "COMP_WORDS": "niyanta get ren", "COMP_CWORD": "2"}
    assert user.niyanta(env=asked)[0].split() == ["render-7"]
    away = {**asked, "NIYANTA_API_URL": f"http://127.0.0.1:{free_port()}"}
    out, err = user.niyanta(env=away)
    assert (out.strip(), err) == ("", "")
