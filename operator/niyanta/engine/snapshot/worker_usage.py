"""Capacity of a worker and the part in use, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from niyanta.engine.types import Quantities


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """Capacity of one worker and the part in use. `used` may exceed `allocatable` when others overcommit the node."""

    name: str
    pool: str
    allocatable: Quantities
    used: Quantities
    """Resources in use, including pods that Niyanta did not make."""
    slots: int | None
    slots_used: int
    """Niyanta's pods on the worker."""
    devices: int
    devices_idle: int
    """GPU devices that no pod uses."""
