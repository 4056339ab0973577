"""The rule from pods to lifecycle events, and the teardown of pods that no attempt needs."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.cluster_api import NodeState, PodPhase, PodView
from niyanta.scheduler.pods.outcome import (
    MOST_DISRUPTIONS,
    Attempt,
    LifecycleDecision,
    failed_attempt,
    is_rejection,
    outcome_of,
    tear_down,
)

pytestmark = pytest.mark.unit


def attempt(**fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "phase": Phase.SCHEDULED,
        "attempt": 2,
        "workers": ("a", "b"),
        "failures": 0,
        "rejections": 0,
        "backoff_limit": 3,
        "max_rejections": 10,
        "replace_lost": False,
        "known": frozenset(),
    }
    return Attempt(**{**values, **fields})


def pod(index: int = 0, phase: str = "Running", **fields: Any) -> PodView:
    values: dict[str, Any] = {
        "name": f"w-{index}",
        "namespace": "n",
        "uid": f"uid-{index}",
        "workload_id": "w",
        "attempt": 2,
        "index": index,
        "node": "ab"[index % 2],
        "phase": PodPhase(phase),
        "over": phase in ("Succeeded", "Failed"),
        "deleting": False,
        "has_finalizer": True,
        "never_ran": False,
    }
    return PodView(**{**values, **fields})


def ready(_: str) -> NodeState:
    return NodeState.READY


def event(found: LifecycleDecision | None) -> Event | None:
    return None if found is None else found.event


@pytest.mark.parametrize(
    ("phases", "phase", "wanted"),
    [
        (("Pending", "Running"), Phase.SCHEDULED, None),
        (("Running", "Running"), Phase.SCHEDULED, Event.START),
        (("Running", "Succeeded"), Phase.SCHEDULED, Event.START),
        (("Running", "Running"), Phase.RUNNING, None),
        (("Running", "Succeeded"), Phase.RUNNING, None),
        (("Succeeded", "Succeeded"), Phase.RUNNING, Event.SUCCEED),
        (("Succeeded", "Succeeded"), Phase.SCHEDULED, Event.SUCCEED),
        (("Succeeded", "Failed"), Phase.RUNNING, Event.RETRY),
        (("Pending", "Failed"), Phase.SCHEDULED, Event.RETRY),
    ],
)
def test_pods_together_say_what_happened(phases: tuple[str, str], phase: Phase, wanted: Event | None) -> None:
    pods = [pod(index, text) for index, text in enumerate(phases)]
    assert event(outcome_of(attempt(phase=phase), pods, ready)) is wanted


def test_a_pod_that_is_not_there_yet_says_nothing() -> None:
    assert outcome_of(attempt(), [pod(0, "Succeeded")], ready) is None


def test_a_pod_that_was_there_and_is_not_any_more_is_lost() -> None:
    found = outcome_of(attempt(known=frozenset({0, 1})), [pod(0)], ready)
    assert found is not None
    assert (found.event, found.reason) == (Event.RETRY, "PodLost")
    assert "pod 1 on b" in found.message


def test_pods_of_other_attempts_say_nothing() -> None:
    assert outcome_of(attempt(), [pod(0, "Failed", attempt=1), pod(1, "Failed", attempt=3)], ready) is None


def test_retries_are_counted_in_words() -> None:
    first = failed_attempt(attempt(failures=1), "PodFailed", "it broke")
    assert (first.event, first.message) == (Event.RETRY, "it broke; retry 2 of 3")
    last = failed_attempt(attempt(failures=3), "PodFailed", "it broke")
    assert (last.event, last.message) == (Event.FAIL, "it broke; 3 of 3 retries used")
    assert failed_attempt(attempt(backoff_limit=0), "PodFailed", "x").event is Event.FAIL


@pytest.mark.parametrize("reason", ["OutOfcpu", "OutOfnvidia.com/gpu", "NodeAffinity", "UnexpectedAdmissionError"])
def test_a_refusal_by_the_kubelet_costs_no_retry_and_excludes_the_worker(reason: str) -> None:
    refused = pod(1, "Failed", never_ran=True, reason=reason)
    assert is_rejection(refused)
    found = outcome_of(attempt(backoff_limit=0, rejections=9), [refused], ready)
    assert found is not None
    assert (found.event, found.exclude) == (Event.REQUEUE, "b")


def test_refusals_without_end_are_failures() -> None:
    refused = pod(1, "Failed", never_ran=True, reason="OutOfcpu")
    found = outcome_of(attempt(rejections=10), [refused], ready)
    assert found is not None
    assert (found.event, found.exclude) == (Event.RETRY, "")


@pytest.mark.parametrize(
    ("never_ran", "reason"), [(False, "OutOfcpu"), (True, "Evicted"), (True, "DeadlineExceeded"), (True, "")]
)
def test_other_failures_are_no_refusals(never_ran: bool, reason: str) -> None:
    assert not is_rejection(pod(0, "Failed", never_ran=never_ran, reason=reason))


def test_a_pod_deleted_with_no_grace_left_is_lost() -> None:
    found = outcome_of(attempt(), [pod(0, over=True, deleting=True)], ready)
    assert found is not None
    assert found.reason == "PodLost"


@pytest.mark.parametrize(
    ("state", "replace", "wanted"),
    [
        (NodeState.NOT_READY, False, None),
        (NodeState.NOT_READY, True, "NodeLost"),
        (NodeState.FENCED, False, "NodeLost"),
        (NodeState.FENCED, True, "NodeLost"),
    ],
)
def test_a_lost_node_ends_the_attempt_when_it_may(state: NodeState, replace: bool, wanted: str | None) -> None:
    facts = attempt(phase=Phase.RUNNING, replace_lost=replace)
    found = outcome_of(facts, [pod(0), pod(1)], lambda node: state if node == "b" else NodeState.READY)
    assert (found.reason if found else None) == wanted


def test_what_ended_well_on_a_lost_node_counts() -> None:
    pods = [pod(0, "Succeeded"), pod(1, "Succeeded")]
    assert event(outcome_of(attempt(phase=Phase.RUNNING), pods, lambda _: NodeState.FENCED)) is Event.SUCCEED


# --- teardown --------------------------------------------------------------------------------------------------------


def test_pods_of_the_kept_attempt_are_left_alone() -> None:
    down = tear_down([pod(0), pod(1, attempt=1)], keep_attempt=2, replace=False, node_state=ready)
    assert [p.attempt for p in down.delete] == [1]
    assert [p.attempt for p in down.waiting] == [1]


def test_a_pod_that_is_over_is_released_and_not_waited_for() -> None:
    down = tear_down([pod(0, "Failed")], keep_attempt=None, replace=False, node_state=ready)
    assert (len(down.release), len(down.delete), len(down.waiting)) == (1, 0, 0)
    assert not tear_down(
        [pod(0, "Failed", has_finalizer=False)], keep_attempt=None, replace=False, node_state=ready
    ).release


def test_a_pod_being_deleted_is_waited_for_and_not_deleted_again() -> None:
    down = tear_down([pod(0, deleting=True)], keep_attempt=None, replace=False, node_state=ready)
    assert (len(down.delete), len(down.waiting)) == (0, 1)


@pytest.mark.parametrize(
    ("state", "replace", "forced"),
    [
        (NodeState.READY, True, False),
        (NodeState.NOT_READY, False, False),
        (NodeState.NOT_READY, True, True),
        (NodeState.FENCED, False, True),
    ],
)
def test_pods_on_lost_nodes_are_removed_by_force(state: NodeState, replace: bool, forced: bool) -> None:
    down = tear_down([pod(0)], keep_attempt=None, replace=replace, node_state=lambda _: state)
    assert bool(down.force) is forced
    assert bool(down.waiting) is not forced


# --- disruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"phase": "Failed"}, {"over": True, "deleting": True}])
def test_a_pod_that_the_cluster_ended_is_no_retry(fields: dict[str, Any]) -> None:
    ended = pod(disruption="EvictionByEvictionAPI", **fields)
    found = outcome_of(attempt(backoff_limit=0), [ended, pod(1)], ready)
    assert found is not None
    assert (found.event, found.reason, found.exclude) == (Event.REQUEUE, "PodDisrupted", "")
    assert "EvictionByEvictionAPI" in found.message


def test_a_pod_that_was_being_evicted_when_its_node_went_is_no_retry() -> None:
    ending = pod(disruption="DeletionByTaintManager", deleting=True)
    found = outcome_of(attempt(phase=Phase.RUNNING), [ending, pod(1)], lambda _: NodeState.FENCED)
    assert event(found) is Event.REQUEUE


def test_a_pod_that_is_still_ending_decides_nothing() -> None:
    assert (
        outcome_of(attempt(phase=Phase.RUNNING), [pod(disruption="TerminationByKubelet", deleting=True)], ready) is None
    )


def test_a_pod_that_succeeded_despite_a_disruption_succeeded() -> None:
    pods = [pod(0, "Succeeded", disruption="TerminationByKubelet"), pod(1, "Succeeded")]
    assert event(outcome_of(attempt(), pods, ready)) is Event.SUCCEED


def test_disruptions_without_end_count_as_retries() -> None:
    ended = pod(0, "Failed", disruption="DeletionByTaintManager")
    found = outcome_of(attempt(disruptions=MOST_DISRUPTIONS), [ended, pod(1)], ready)
    assert event(found) is Event.RETRY


def not_ready(_: str) -> NodeState:
    return NodeState.NOT_READY


def test_a_pod_deleted_without_grace_may_still_run_on_a_node_that_is_not_ready() -> None:
    deleted = pod(over=True, deleting=True)
    assert outcome_of(attempt(phase=Phase.RUNNING), [deleted, pod(1)], not_ready) is None
    assert event(outcome_of(attempt(phase=Phase.RUNNING), [deleted, pod(1)], ready)) is Event.RETRY
    found = tear_down([deleted], keep_attempt=None, replace=False, node_state=not_ready)
    assert (found.waiting, found.release) == ((deleted,), ())
    found = tear_down([deleted], keep_attempt=None, replace=True, node_state=not_ready)
    assert (found.force, found.release) == ((deleted,), (deleted,))


def test_text_of_kubelets_and_users_becomes_one_bounded_line() -> None:
    found = outcome_of(attempt(), [pod(0, "Failed", reason="a\x1b[2J", message="two\nlines " + "x" * 5000)], ready)
    assert found is not None
    assert len(found.message) <= 1024
    assert "\x1b" not in found.message
    assert "\n" not in found.message
