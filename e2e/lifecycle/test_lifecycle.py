"""The life of a Workload on a real control plane: retries, deletion, suspension, edits and timeouts.

kwok simulates the kubelets: annotations of `testing.cluster.stages` on the pods set how long they run and how they end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.cluster.api_client import JSON
from testing.scenarios.workloads import ATTEMPT, PodRecorder, Workloads
from testing.waiting import until

pytestmark = pytest.mark.e2e

Nodes = Callable[..., list[str]]


def transitions(workloads: Workloads, uid: str) -> list[str]:
    """The transitions in the audit, without notes."""
    return [event["event"] for event in workloads.database.events(uid) if event["event"] != "Noted"]


def set_life(workloads: Workloads, pod: JSON, **annotations: str | None) -> None:
    """Changes the annotations of a running pod ("sim/exit" is sim_exit)."""
    notes = {key.replace("_", "/", 1).replace("_", "-"): value for key, value in annotations.items()}
    path = f"/api/v1/namespaces/{workloads.namespace}/pods/{pod['metadata']['name']}"
    workloads.cluster.api.patch(path, {"metadata": {"annotations": notes}})


def running_pod(workloads: Workloads, uid: str, attempt: int) -> JSON:
    """Waits for a Running pod of an attempt; returns it."""

    def found() -> JSON | None:
        pods = [p for p in workloads.pods(uid) if p["metadata"]["labels"][ATTEMPT] == str(attempt)]
        return next((p for p in pods if p["status"].get("phase") == "Running"), None)

    return until(found, what=f"a pod of attempt {attempt} runs")


def test_a_pod_that_fails_twice_is_tried_again_with_backoff_and_succeeds(workloads: Workloads, nodes: Nodes) -> None:
    """The end of each attempt is set by annotations of its running pod."""
    nodes(2)
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        uid = workloads.apply("flaky", backoffLimit=3)
        for attempt, code in ((1, "7"), (2, "7"), (3, "0")):
            pod = running_pod(workloads, uid, attempt)
            set_life(workloads, pod, sim_exit=code, sim_run_for="1ms")
        status = workloads.wait("flaky", "Succeeded")
    assert status["attempts"] == 3
    attempts = workloads.database.attempts(uid)
    assert [(a["attempt"], a["outcome"], a["reason"]) for a in attempts] == [
        (1, "Retry", "PodFailed"),
        (2, "Retry", "PodFailed"),
        (3, "Succeed", "Completed"),
    ]
    first, second = ((attempts[i + 1]["scheduled_at"] - attempts[i]["finished_at"]).total_seconds() for i in range(2))
    assert first >= 0.5, "the first retry waits for the backoff of 0.5 s"
    assert second >= 1.0, "the second retry waits for twice the backoff"
    words = [event["message"] for event in workloads.database.events(uid) if event["event"] == "Retry"]
    assert "exited with code 7" in words[0]
    assert words[0].endswith("retry 1 of 3")
    assert words[1].endswith("retry 2 of 3")
    assert not workloads.live_pods(uid)
    assert [len(pods) for pods in recorder.ever_ran.values()] == [1, 1, 1]
    workloads.wait_event(uid, "Scheduled")
    workloads.wait_event(uid, "Retrying")


def test_a_workload_without_retries_left_fails_with_a_message(workloads: Workloads, nodes: Nodes) -> None:
    nodes(1)
    uid = workloads.apply("hopeless", backoffLimit=1, life={"run_for": "10ms", "exit_code": "3"})
    status = workloads.wait("hopeless", "Failed")
    assert status["attempts"] == 2
    assert "exited with code 3" in status["message"]
    assert "1 of 1 retries used" in status["message"]
    decisive = [
        move for move in transitions(workloads, uid) if move != "Start"
    ]  # a pod may end before its Running was observed
    assert decisive == ["Accepted", "Place", "Retry", "Place", "Fail"]
    workloads.wait_event(uid, "Failed")


def test_one_failing_pod_ends_the_attempt_of_its_group(workloads: Workloads, nodes: Nodes) -> None:
    """The next attempt of a group of 4 starts when all pods of the first are gone; they stop within 2 s here."""
    nodes(4, cpu="1")
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        uid = workloads.apply("group", replicas=4, cpu="800m", backoffLimit=1, life={"stop_after": "2s"})
        workloads.wait("group", "Running")
        victim = running_pod(workloads, uid, 1)
        set_life(workloads, victim, sim_exit="1", sim_run_for="1ms")
        workloads.wait("group", "Running", attempts=2)
    first, second = workloads.database.attempts(uid)
    stopped = (second["scheduled_at"] - first["finished_at"]).total_seconds()
    assert stopped >= 2, f"attempt 2 was placed {stopped:.1f} s after the failure, while pods were still stopping"
    assert first["outcome"] == "Retry"
    assert {key[1:] for key in recorder.ever_ran} == {(str(i), str(a)) for i in range(4) for a in (1, 2)}
    assert len(workloads.live_pods(uid)) == 4


def assert_cancelled(workloads: Workloads, uid: str, name: str) -> None:
    workloads.database.wait_status(uid, "CANCELLED")
    workloads.wait_no_pods(uid)
    until(lambda: not workloads.pods(uid), what="all its pods are gone")
    assert workloads.find(name) is None


@pytest.mark.parametrize("phase", ["Pending", "Scheduled", "Running"])
def test_deletion_frees_the_worker(workloads: Workloads, nodes: Nodes, phase: str) -> None:
    """In each phase; afterwards another Workload gets the whole worker."""
    nodes(1, cpu="2")
    life = {"never_start": "true"} if phase == "Scheduled" else {}
    uid = workloads.apply("victim", cpu="100" if phase == "Pending" else "2", life=life)
    if phase == "Pending":
        workloads.wait_message("victim", "Unschedulable")
        workloads.wait_event(uid, "Unschedulable")
    else:
        workloads.wait("victim", phase)
        until(lambda: workloads.live_pods(uid), what="its pod exists")
    workloads.delete("victim")
    assert_cancelled(workloads, uid, "victim")
    assert transitions(workloads, uid)[-1] == "Cancel"
    workloads.apply("next", cpu="2", life={"run_for": "10ms"})
    workloads.wait("next", "Succeeded")


def test_a_name_deleted_and_applied_again_at_once_is_two_workloads(workloads: Workloads, nodes: Nodes) -> None:
    """The old pods take 3 s to stop, and the worker has room for one workload: the new one runs after they are gone."""
    nodes(1, cpu="2")
    with PodRecorder(workloads.cluster, workloads.namespace) as recorder:
        old = workloads.apply("twin", cpu="2", life={"stop_after": "3s"})
        workloads.wait("twin", "Running")
        workloads.delete("twin")
        new = workloads.apply("twin", cpu="2")
        assert new != old
        workloads.wait("twin", "Running")
        workloads.database.wait_status(old, "CANCELLED")
        until(lambda: not workloads.pods(old), what="the old pods are gone")
    assert workloads.uid("twin") == new
    assert {key[0]: len(pods) for key, pods in recorder.ever_ran.items()} == {old: 1, new: 1}
    ended = workloads.database.events(old)[-1]
    placed = next(e for e in workloads.database.events(new) if e["event"] == "Place")
    assert ended["at"] < placed["at"]


def test_a_suspended_workload_waits_and_resumes(workloads: Workloads, nodes: Nodes) -> None:
    """It is created suspended, resumed, suspended while it runs (which deletes its pods), and resumed again."""
    nodes(1)
    uid = workloads.apply("pause", suspend=True)
    workloads.wait("pause", "Suspended")
    assert not workloads.pods(uid)
    workloads.edit("pause", suspend=False)
    workloads.wait("pause", "Running")
    workloads.edit("pause", suspend=True)
    workloads.wait("pause", "Suspended")
    workloads.wait_no_pods(uid)
    workloads.edit("pause", suspend=False)
    workloads.wait("pause", "Running", attempts=2)
    assert workloads.database.row(uid)["failures"] == 0  # type: ignore[index]
    assert transitions(workloads, uid).count("Suspend") == 1
    assert transitions(workloads, uid).count("Resume") == 2


def test_a_workload_suspended_while_pending_leaves_the_queue(workloads: Workloads, nodes: Nodes) -> None:
    uid = workloads.apply("waits")
    workloads.database.wait_status(uid, "PENDING")
    workloads.edit("waits", suspend=True)
    workloads.wait("waits", "Suspended")
    nodes(1)
    workloads.apply("other", life={"run_for": "10ms"})
    workloads.wait("other", "Succeeded")
    assert workloads.status("waits")["phase"] == "Suspended"
    workloads.edit("waits", suspend=False)
    workloads.wait("waits", "Running")


def test_an_edit_of_priority_reorders_the_queue(workloads: Workloads, nodes: Nodes) -> None:
    """Of three equal workloads in the queue, the last gets a higher and the first a lower priority."""
    uids = workloads.apply_all(
        *(workloads.manifest(f"n{i}", cpu="2", priority=10, life={"run_for": "300ms"}) for i in range(3))
    )
    for uid in uids:
        workloads.database.wait_status(uid, "PENDING")
    workloads.edit("n2", priority=90)
    workloads.edit("n0", priority=1)
    for uid, wanted in ((uids[2], 90), (uids[0], 1)):
        until(lambda: workloads.database.row(uid)["priority"] == wanted, what=f"priority {wanted} is stored")  # noqa: B023
    nodes(1, cpu="2")
    for name in ("n0", "n1", "n2"):
        workloads.wait(name, "Succeeded")
    placed = {uid: workloads.database.attempts(uid)[0]["scheduled_at"] for uid in uids}
    assert sorted(uids, key=lambda uid: placed[uid]) == [uids[2], uids[1], uids[0]]


@pytest.mark.parametrize(
    ("life", "fields", "reason", "words"),
    [
        pytest.param(
            {"never_start": "true"}, {"startTimeoutSeconds": 1}, "StartTimeout", "were bound", id="not started in time"
        ),
        pytest.param({}, {"timeoutSeconds": 1}, "Timeout", "ran longer than timeoutSeconds 1", id="ran too long"),
    ],
)
def test_a_timeout_ends_the_attempt(
    workloads: Workloads, nodes: Nodes, life: dict[str, str], fields: dict[str, Any], reason: str, words: str
) -> None:
    """It counts as a failed attempt: after one retry the Workload is Failed, with no pod left."""
    nodes(1)
    uid = workloads.apply("late", backoffLimit=1, life=life, **fields)
    status = workloads.wait("late", "Failed")
    assert status["reason"] == reason
    assert words in status["message"]
    assert status["attempts"] == 2
    workloads.wait_no_pods(uid)


def test_an_edit_of_the_timeout_counts_from_the_start_of_the_run(workloads: Workloads, nodes: Nodes) -> None:
    nodes(1)
    workloads.apply("edited", backoffLimit=0)
    workloads.wait("edited", "Running")
    workloads.edit("edited", timeoutSeconds=1)
    assert workloads.wait("edited", "Failed")["reason"] == "Timeout"


def test_a_finished_object_expires_and_its_row_stays(workloads: Workloads, nodes: Nodes) -> None:
    nodes(1)
    uid = workloads.apply("short", life={"run_for": "10ms"}, ttlSecondsAfterFinished=1)
    workloads.wait("short", "Succeeded")
    until(lambda: workloads.find("short") is None, what="the object expired")
    until(lambda: not workloads.pods(uid), what="its pods went with it")
    row = workloads.database.row(uid)
    assert row is not None
    assert row["status"] == "SUCCEEDED"
    assert transitions(workloads, uid)[-1] == "Succeed"


def test_a_pod_deleted_by_hand_is_a_failed_attempt(workloads: Workloads, nodes: Nodes) -> None:
    nodes(1)
    uid = workloads.apply("orphaned", backoffLimit=1)
    pod = running_pod(workloads, uid, 1)
    workloads.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", workloads.namespace, "--wait=false")
    workloads.wait("orphaned", "Running", attempts=2)
    assert workloads.database.attempts(uid)[0]["outcome"] == "Retry"
    running_pod(workloads, uid, 2)
