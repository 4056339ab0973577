"""Boundaries contain the errors of one thing, and let shared faults pass."""

from __future__ import annotations

import pytest

from niyanta import containment
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.scheduler.cluster_api import ClusterAwayError, LeaseLostError, MissingObjectsError
from niyanta.store.errors import ConflictError, StaleEpochError, StoreUnavailableError

pytestmark = pytest.mark.unit


def count(boundary: Boundary) -> float:
    return CONTAINED_ERRORS.labels(boundary.value)._value.get()


def test_an_error_is_counted_and_does_not_leave_the_block() -> None:
    before = count(Boundary.POOL)
    with containment.contained(Boundary.POOL, "gpu"):
        raise KeyError("nvidia.com/gpu")
    assert count(Boundary.POOL) == before + 1


@pytest.mark.parametrize(
    "error",
    [ClusterAwayError, LeaseLostError, MissingObjectsError, ConflictError, StaleEpochError, StoreUnavailableError],
)
def test_faults_that_concern_more_than_one_thing_pass(error: type[Exception]) -> None:
    with pytest.raises(error), containment.contained(Boundary.ROW, "id"):
        raise error("away")


def test_texts_of_errors_are_bounded() -> None:
    assert len(containment.describe(ValueError("x\n" * 100_000))) < 400
