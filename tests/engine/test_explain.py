"""Every reason has a text, and the nearest miss is the worker with the fewest failed checks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.explain import fit_note, nearest_miss, summary
from niyanta.engine.schedule import schedule
from niyanta.engine.sizing.planner import FitKind, PoolFit
from niyanta.engine.types import (
    Matcher,
    Reason,
    Rejection,
    Requirements,
)
from tests.engine.builders import POD, node, snapshot, wants
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
    assert found[0].failed == ((Reason.REGION, ""), (Reason.RESOURCE, "cpu"))
    assert found[1].failed == ((Reason.REGION, ""), (Reason.SLOTS, ""))


def test_pools_of_other_customers_are_counted_but_never_the_nearest_miss() -> None:
    theirs = replace(node("a"), customers=frozenset({"bolt"}), ready=False)
    made = snapshot(theirs, node("b", cpu=100))
    rejection = schedule(made, [wants("p")], now=0).rejections[0]
    assert summary(rejection) == "0/2 workers: 1 in pools that are not for this customer, 1 insufficient cpu"
    assert [miss.worker for miss in nearest_miss(made, wants("p"))] == ["b"]


def test_notes_on_pools_and_the_lane() -> None:
    a = pool("a", most=1)
    assert fit_note(PoolFit(FitKind.NEW, "a"), a) == "would fit on an empty worker of pool a"
    assert fit_note(PoolFit(FitKind.NEW, "a"), a, 3) == "would fit on empty workers of pool a"
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
