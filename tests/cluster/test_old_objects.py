"""Objects and definitions of earlier releases are found, and an operator refuses to start beside them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import yaml
from aiohttp import web

from niyanta.cluster import old_objects
from niyanta.cluster.api import bounded_objects
from niyanta.cluster.api.bounded_objects import MAX_RAW_CONTAINERS
from niyanta.cluster.old_objects import (
    OldFormError,
    OldObject,
    find_old_objects,
    is_definition_old,
    open_transport,
    refuse_old_form,
)
from niyanta.resources.labels import REST_ID
from testing.processes.run_directory import REPO
from tests.fakes.scripted_api_server import Step, fake_api, refuse

pytestmark = pytest.mark.unit

OWNED = [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:maxRetries": {}}}}]
OLD = REPO / "testing" / "data" / "crds" / "before-v0.1.0-alpha.1" / "workloads.niyanta.io.yaml"


def workload(name: str, *, managed: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "managedFields": managed or [], **more.pop("metadata", {})}
    return {"metadata": metadata, "spec": {}, **more}


def answer(body: dict[str, Any]) -> Step:
    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return step


def page(*items: dict[str, Any], token: str = "") -> Step:
    return answer({"metadata": {"resourceVersion": "1", "continue": token}, "items": list(items)})


def definition(*, old: bool, mixed: bool = False) -> Step:
    found = yaml.safe_load(OLD.read_text(encoding="utf-8"))
    if not old:
        schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        fields = schema["properties"]["spec"]["properties"]
        fields["backoffLimit"] = fields["maxRetries"] if mixed else fields.pop("maxRetries")
    return answer(found)


async def test_old_objects_are_listed_up_to_a_bound_and_all_are_counted() -> None:
    submission = workload("job-0123abcd", managed=OWNED, metadata={"labels": {REST_ID: "0123abcd-0000-4000-8000-0"}})
    own_label = workload("mine", managed=OWNED, metadata={"labels": {REST_ID: "0123abcd-0000-4000-8000-0"}})
    before = workload("before", spec={"affinity": {"soft": [{"weight": 1, "workerIds": ["n"]}]}})
    pages = (page(workload("new"), before, token="next"), page(submission, own_label, workload("b", managed=OWNED)))
    async with fake_api(*pages) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        found = await find_old_objects(transport, most=2, metadata_only=False)
    assert found.total == 3
    assert found.first == [
        OldObject("team", "before", ("spec.affinity.soft[0].workerIds",)),
        OldObject("team", "mine", ("spec.maxRetries",)),
    ]
    assert api.queries()[1]["continue"] == "next"


@pytest.mark.parametrize("metadata_only", [True, False])
async def test_only_the_check_reads_whole_objects(metadata_only: bool) -> None:
    async with fake_api(page()) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        await find_old_objects(transport, most=2, metadata_only=metadata_only)
    assert ("PartialObjectMetadataList" in api.requests[0].headers["Accept"]) is metadata_only


@pytest.mark.parametrize(
    ("step", "old"),
    [
        (definition(old=True), True),
        (definition(old=False), False),
        (definition(old=False, mixed=True), True),
        (refuse(404, "NotFound"), False),
        (refuse(403, "Forbidden"), False),
    ],
)
async def test_a_definition_without_the_present_names_is_old(step: Step, old: bool) -> None:
    async with fake_api(step) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        assert await is_definition_old(transport) is old


async def test_an_operator_says_which_command_helps() -> None:
    async with fake_api(definition(old=True)) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        with pytest.raises(OldFormError, match="kubectl replace -f crds/"):
            await refuse_old_form(transport)
    olds = [workload(f"w{n}", managed=OWNED) for n in range(5)]
    steps = (definition(old=False), page(*olds), definition(old=False), page(workload("new")))
    async with fake_api(*steps) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        with pytest.raises(OldFormError, match=r"^5 Workload objects .* team/w0 \(spec.maxRetries\).*migrate --check"):
            await refuse_old_form(transport)
        await refuse_old_form(transport)


def wide(name: str, containers: int) -> dict[str, Any]:
    """An object in the old form whose managed fields have this many sets."""
    labels: dict[str, Any] = {f"f:{number}": {} for number in range(containers)}
    return workload(name, managed=[{"fieldsV1": {"f:metadata": {"f:labels": labels}, "f:spec": {"f:maxRetries": {}}}}])


async def test_objects_out_of_bounds_are_named_and_not_decoded() -> None:
    pages = (page(wide("wide", MAX_RAW_CONTAINERS), workload("b", managed=OWNED)),) * 2
    async with fake_api(*pages) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        for metadata_only in (True, False):
            found = await find_old_objects(transport, most=2, metadata_only=metadata_only)
            assert [obj.name for obj in found.first] == ["b"]
            assert found.unreadable_total == 1
            assert found.unreadable[0].startswith("team/wide (the object has 5")
    assert int(api.queries()[0]["limit"]) <= 50


async def test_an_object_out_of_bounds_or_a_slow_list_stops_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (definition(old=False), page(wide("wide", MAX_RAW_CONTAINERS)))
    async with fake_api(*steps) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        await refuse_old_form(transport)
    monkeypatch.setattr(old_objects, "START_CHECK_SECONDS", 0.0)
    steps = (definition(old=False), page(workload("b", managed=OWNED)))
    async with fake_api(*steps) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        await refuse_old_form(transport)


async def test_a_start_decodes_only_objects_that_name_old_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def read_whole(raw: bytes) -> dict[str, Any]:
        decoded.append(raw)
        return {"metadata": {"name": "b", "namespace": "team"}}

    monkeypatch.setattr(bounded_objects, "read_whole", read_whole)
    async with (
        fake_api(page(workload("new"), workload("b", managed=OWNED))) as api,
        open_transport(api.connection, request_timeout=1.0) as transport,
    ):
        await find_old_objects(transport, most=2, metadata_only=True)
    assert len(decoded) == 1


BEFORE, MIGRATED, WRITTEN, AFTER = (f"2026-11-0{day}T10:00:00+00:00" for day in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("migrated", "made", "refused"),
    [
        (MIGRATED, BEFORE, True),
        (MIGRATED, MIGRATED, False),
        (MIGRATED, AFTER, False),
        # A database made after the objects: the definition has been the present one for longer.
        (AFTER, BEFORE, True),
        (AFTER, WRITTEN, False),
        # A later change of the definition makes no object suspect.
        (BEFORE, MIGRATED, False),
    ],
)
async def test_written_managed_fields_of_present_objects_stop_no_start(migrated: str, made: str, refused: bool) -> None:
    spec = yaml.safe_load(OLD.read_text(encoding="utf-8"))["spec"]
    fields = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["backoffLimit"] = fields.pop("maxRetries")
    metadata = {
        "creationTimestamp": BEFORE,
        "managedFields": [
            {"time": WRITTEN, "fieldsV1": {"f:spec": {}}},
            {"time": AFTER, "subresource": "status", "fieldsV1": {"f:status": {}}},
        ],
    }
    forged = workload("w", managed=OWNED, metadata={"creationTimestamp": made})
    steps = (answer({"metadata": metadata, "spec": spec}), page(forged))
    async with fake_api(*steps) as api, open_transport(api.connection, request_timeout=1.0) as transport:
        check = refuse_old_form(transport, migrated_at=datetime.fromisoformat(migrated))
        if refused:
            with pytest.raises(OldFormError, match="1 Workload objects"):
                await check
        else:
            await check
