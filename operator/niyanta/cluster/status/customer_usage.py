"""Resources that the placed pods of each customer request, from the placements and pods in the leader's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from niyanta.aio import in_slices
from niyanta.engine.types import Charge, WorkerInfo
from niyanta.resources import quantity

SLICE_CHARGES = 2_000
"""Charges added up before other tasks of the event loop run."""

MOST_RESOURCES = 64
"""Resources shown for one customer, in the order of their names."""


async def usage_by_customer(charges: Iterable[Charge], workers: Mapping[str, WorkerInfo]) -> dict[str, dict[str, int]]:
    """Customer -> resource -> base units; pods that aren't Niyanta's don't count. `workers`: by name, for the names of
    their GPU resources."""
    usage: dict[str, dict[str, int]] = {}
    async for part in in_slices(list(charges), SLICE_CHARGES):
        for charge in part:
            if charge.subject is None:
                continue
            used = usage.setdefault(charge.subject.customer, {})
            for resource, amount in charge.requests:
                used[resource] = used.get(resource, 0) + amount
            worker = workers.get(charge.worker)
            if charge.gpu_count and worker is not None and worker.gpu is not None:
                used[worker.gpu.resource] = used.get(worker.gpu.resource, 0) + charge.gpu_count
    return usage


def as_quantities(usage: Mapping[str, int]) -> dict[str, str]:
    """Resource -> quantity, for `status.usage`."""
    return {name: quantity.to_text(name, usage[name]) for name in sorted(usage)[:MOST_RESOURCES]}
