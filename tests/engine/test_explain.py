"""Every reason has a text, and the nearest miss is the worker with the fewest failed checks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.explain import LASTING, fit_note, nearest_miss, needs, summary
from niyanta.engine.schedule import schedule
from niyanta.engine.sizing.planner import FitKind, PoolFit
from niyanta.engine.types import (
    Charge,
    Matcher,
    Quantities,
    Reason,
    Rejection,
    Requirements,
)
from tests.engine.builders import ALIKE, GIB, POD, WEB, node, snapshot, wants
from tests.engine.sizing.pools import pool

pytestmark = pytest.mark.unit


def test_the_summary_names_the_requested_values() -> None:
    counts = (
        (Reason.GPU_MODEL, "", 310),
        (Reason.REGION, "", 120),
        (Reason.RESOURCE, "nvidia.com/gpu", 70),
        (Reason.TAINT, "spot", 3),
        (Reason.ANTI, "kubernetes.io/hostname", 2),
    )
    asked = Requirements((), Matcher(gpu_models=("A100",), regions=("eu-west",)))
    rejection = Rejection("a", 1, 505, counts)
    assert summary(rejection, asked) == (
        "0/505 workers: 310 GPU model is not A100, 120 not in region eu-west, 70 insufficient nvidia.com/gpu, "
        "3 untolerated taint spot, 2 anti-affinity on kubernetes.io/hostname"
    )
    assert "310 GPU model does not match" in summary(rejection)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_text(reason: Reason) -> None:
    rejection = Rejection("a", 1, 3, ((reason, "x", 3),))
    for asked in (None, POD):
        assert len(summary(rejection, asked)) > len("0/3 workers: 3 ")


def test_the_nearest_miss_is_the_worker_with_the_fewest_failed_checks() -> None:
    made = snapshot(node("a", cpu=100), replace(node("b", cpu=100), ready=False), node("c", slots=0))
    found = nearest_miss(made, wants("p", replace(POD, hard=Matcher(regions=("eu",)))), limit=2)
    assert [miss.worker for miss in found] == ["a", "c"]
    assert found[0].failed == ((Reason.REGION, ""), (Reason.TOO_SMALL, "cpu"))
    assert found[1].failed == ((Reason.REGION, ""), (Reason.SLOTS, ""))


def test_pools_of_other_customers_are_counted_but_never_the_nearest_miss() -> None:
    theirs = replace(node("a"), customers=frozenset({"bolt"}), ready=False)
    made = snapshot(theirs, node("b", cpu=100))
    rejection = schedule(made, [wants("p")], now=0).rejections[0]
    theirs_and_small = "0/2 workers: 1 in pools that are not for this customer, 1"
    assert summary(rejection) == f"{theirs_and_small} too small for the requested cpu"
    assert summary(rejection, POD) == f"{theirs_and_small} have less than 1 cpu"
    assert [miss.worker for miss in nearest_miss(made, wants("p"))] == ["b"]


def test_a_worker_that_can_never_hold_a_pod_is_told_from_one_without_room() -> None:
    """Small by memory counts as too small even where cpu, the first resource, is short as well."""
    busy, small = node("busy", cpu=2000), replace(node("small", cpu=2000), allocatable=_amounts(2000, GIB))
    made = snapshot(busy, small, node("lesser", cpu=500))
    for name in ("busy", "small"):
        made.charge(Charge(name, name, (("cpu", 1500), ("pods", 1)), subject=WEB))
    asked = replace(POD, requests=(("cpu", 1500), ("memory", 2 * GIB), ("pods", 1)))
    (rejection,) = schedule(made, [wants("p", asked)], now=0).rejections
    small_by = (Reason.TOO_SMALL, "cpu", 1), (Reason.TOO_SMALL, "memory", 1)
    assert rejection.counts == (*small_by, (Reason.RESOURCE, "cpu", 1))
    text = "0/3 workers: 1 have less than 1.5 cpu, 1 have less than 2Gi memory, 1 insufficient cpu"
    assert summary(rejection, asked) == text
    assert needs(rejection, asked) == (), "busy has room later"
    failed = {miss.worker: miss.failed for miss in nearest_miss(made, wants("p", asked))}
    assert failed["small"] == ((Reason.TOO_SMALL, "memory"), (Reason.RESOURCE, "cpu"))
    assert failed["lesser"] == ((Reason.TOO_SMALL, "cpu"),)


def test_room_that_others_take_is_lasting_where_no_empty_worker_holds_the_pod() -> None:
    made = snapshot(node("a", cpu=2000), node("b", cpu=1000))
    made.charge(Charge("daemon", "a", (("cpu", 100), ("pods", 1))))
    asked = replace(POD, requests=(("cpu", 2000), ("pods", 1)))
    (rejection,) = schedule(made, [wants("p", asked)], now=0).rejections
    assert rejection.counts == ((Reason.TOO_SMALL, "cpu", 1), (Reason.RESOURCE, "cpu", 1))
    nowhere = needs(rejection, asked, PoolFit(FitKind.NOWHERE))
    assert nowhere == ("with 2 cpu beside the pods that are not Niyanta's",)
    for fit in (None, PoolFit(FitKind.NEVER, "a"), PoolFit(FitKind.FULL, "a")):
        assert needs(rejection, asked, fit) == ()
    full = replace(rejection, counts=(*rejection.counts, (Reason.SLOTS, "", 1)))
    assert needs(full, asked, PoolFit(FitKind.NOWHERE)) == ()


def test_devices_that_no_worker_has_are_lasting_also_while_some_are_in_use() -> None:
    made = snapshot(node("a", gpus=4), node("b"))
    made.charge(Charge("web", "a", (("pods", 1),), gpu_count=3, subject=WEB))
    for count, lasting in ((2, False), (4, False), (5, True)):
        asked = replace(POD, gpu_count=count, wants_gpu=True)
        (rejection,) = schedule(made, [wants("p", asked)], now=0).rejections
        reason = Reason.TOO_SMALL if lasting else Reason.RESOURCE
        assert set(rejection.counts) == {(reason, "nvidia.com/gpu", 1), (Reason.GPU_MODEL, "", 1)}
        assert needs(rejection, asked) == (("with a GPU", "with at least 5 nvidia.com/gpu") if lasting else ())


def test_an_amount_that_no_worker_ever_had_is_lasting() -> None:
    asked = replace(POD, requests=(("example.com/fpga", 2), ("pods", 1)))
    (rejection,) = schedule(snapshot(node("a")), [wants("p", asked)], now=0).rejections
    assert needs(rejection, asked) == ("with at least 2 example.com/fpga",)


def test_the_lasting_needs_are_named_in_the_order_of_the_checks() -> None:
    counts = (
        (Reason.TOO_SMALL, "memory", 9),
        (Reason.REGION, "", 5),
        (Reason.TAINT, "spot", 2),
        (Reason.CORDONED, "", 1),
    )
    asked = replace(POD, hard=Matcher(regions=("eu-west", "eu-north")))
    wanted = (
        "that is not cordoned",
        "without the taint spot",
        "in region eu-west or eu-north",
        "with at least 1Gi memory",
    )
    assert needs(Rejection("a", 1, 17, counts), asked) == wanted
    for reason in set(Reason) - LASTING:
        assert needs(Rejection("a", 1, 18, (*counts, (reason, "", 1))), asked) == ()


@pytest.mark.parametrize("reason", sorted(LASTING, key=lambda reason: reason.value))
def test_every_lasting_reason_names_a_need(reason: Reason) -> None:
    (text,) = needs(Rejection("a", 1, 3, ((reason, "memory", 3),)), POD)
    assert text.split()[0] in ("in", "with", "without", "that", "named")


def _amounts(cpu: int, memory: int) -> Quantities:
    return (("cpu", cpu), ("memory", memory), ("pods", 10))


def test_notes_on_pools_and_the_lane() -> None:
    a = pool("a", most=1)
    assert fit_note(PoolFit(FitKind.NEW, "a"), a) == "would fit on an empty worker of pool a"
    assert fit_note(PoolFit(FitKind.NEW, "a"), a, 3) == "would fit on empty workers of pool a"
    needs_cpu, tied = Requirements(_amounts(1, 1)), Requirements(_amounts(1, 1), anti=(ALIKE,))
    empty = PoolFit(FitKind.EMPTY, "a")
    assert fit_note(empty, a, 1, needs_cpu) == "would fit on an empty worker of pool a"
    assert fit_note(empty, a, 2, needs_cpu) == fit_note(empty, a, 1, tied) == "", "it wasn't packed"
    full = "would fit on an empty worker of pool a, which is at its maximum of 1 worker"
    assert fit_note(PoolFit(FitKind.FULL, "a"), a) == full
    fixed = "would fit on an empty worker of pool a, whose number of workers is fixed"
    assert fit_note(PoolFit(FitKind.FULL, "a"), replace(a, fixed=True)) == fixed
    nowhere = PoolFit(FitKind.NOWHERE, "", "a", ((Reason.RESOURCE, "cpu"), (Reason.REGION, "")))
    lacks = "insufficient cpu and not in a requested region"
    assert fit_note(nowhere, None) == f"does not fit on an empty worker of any pool; pool a comes closest: {lacks}"
    known = f"of the pools whose worker capacity is known, a comes closest: {lacks}"
    assert fit_note(nowhere, None, all_known=False) == known
    assert fit_note(PoolFit(FitKind.NEVER, "a"), a) == fit_note(PoolFit(FitKind.LIMITED), None) == ""
