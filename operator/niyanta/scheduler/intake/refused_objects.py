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
    """The Held row of an object that raised an unexpected error.

    Its generation is 0, so that the next reading of the object (after a change, or by the next leader) replaces the
    row's spec. Raises KeyError if metadata has no name, namespace or UID.
    """
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
        phase=Phase.HELD,
        reason=RowReason.INTERNAL_ERROR.value,
        message=parked_message(error),
    )
    return CompiledObject(intake, None, None, Subject(namespace, ""))
