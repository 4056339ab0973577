"""Rows of objects that could not be handled. Nothing of their spec is stored, because its content is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niyanta.engine.types import Subject
from niyanta.lifecycle import Door, Phase
from niyanta.scheduler.faults.parked import parked_message
from niyanta.scheduler.intake.object_to_row import CompiledObject
from niyanta.scheduler.reasons import RowReason
from niyanta.store.rows import WorkloadIntake

LONGEST_NAME = 253
MOST_REPLICAS = 2**31 - 1


def parked_object(obj: Mapping[str, Any], error: Exception) -> CompiledObject:
    """The Held row of an object that raised an unexpected error. Raises KeyError if metadata has no name, namespace or
    UID."""
    return _refused(obj, Phase.HELD, RowReason.INTERNAL_ERROR, parked_message(error))


def unreadable_object(obj: Mapping[str, Any], violation: str) -> CompiledObject:
    """The Failed row of an object that exceeds a bound. Raises KeyError as above."""
    return _refused(obj, Phase.FAILED, RowReason.INVALID_SPEC, violation)


def _refused(obj: Mapping[str, Any], phase: Phase, reason: RowReason, message: str) -> CompiledObject:
    """A row of generation 0, so that the next reading of the object (after a change, or by the next leader) replaces
    its spec, and so that nothing in the row of a workload that is known already is replaced."""
    meta = obj["metadata"]
    namespace = str(meta["namespace"])[:LONGEST_NAME]
    spec = obj.get("spec")
    replicas = spec.get("replicas") if isinstance(spec, Mapping) else 1
    intake = WorkloadIntake(
        id=meta["uid"],
        door=Door.KUBERNETES,
        namespace=namespace,
        name=str(meta["name"])[:LONGEST_NAME],
        customer="",
        type="",
        labels={},
        generation=0,
        spec={},
        class_id="",
        # It can't be changed later, so it must be right if it can be read.
        replicas=replicas if isinstance(replicas, int) and 1 <= replicas <= MOST_REPLICAS else 1,
        priority=0,
        tier_weight=1,
        phase=phase,
        reason=reason.value,
        message=message,
    )
    return CompiledObject(intake, None, None, Subject(namespace, ""))
