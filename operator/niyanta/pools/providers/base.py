"""Interface of a provider of workers, which `ec2` and `kwok` implement; `controller` reads, `executor` orders."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class InstanceState(enum.Enum):
    """States of an instance."""

    STARTING = "Starting"
    RUNNING = "Running"
    LEAVING = "Leaving"
    """Being terminated, whoever asked for it."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine. `provider_id` is what its Node has in spec.providerID; `node` is the Node's name where the provider
    knows it by itself. At least one of them is given."""

    id: str
    state: InstanceState = InstanceState.RUNNING
    provider_id: str = ""
    node: str = ""
    protected: bool = False
    """The provider won't choose it by itself when it makes the group smaller."""


@dataclass(frozen=True, slots=True)
class Group:
    """The group as it exists. `desired` is the size last asked for, which also counts instances that are ordered and
    not there yet.

    `minimum` and `maximum` are the provider's own bounds (None: no bound). `protects`: instances can be protected.
    """

    instances: tuple[Instance, ...]
    desired: int
    minimum: int = 0
    maximum: int | None = None
    protects: bool = False


class ProviderError(Exception):
    """The provider didn't do what it was asked. `reason` is for conditions and Events, the text says more."""

    reason = "ProviderError"
    temporary = True
    """Waiting may help; otherwise somebody has to change something first."""


class ThrottledError(ProviderError):
    """Too many requests, or it is busy with an earlier one."""

    reason = "ProviderThrottled"


class AtBoundError(ProviderError):
    """The group's own minimum or maximum is in the way."""

    reason = "AtGroupBound"


class ProviderRefusedError(ProviderError):
    """Not allowed, no such group, or a group that others scale."""

    temporary = False

    def __init__(self, message: str, *, reason: str = "ProviderRefused") -> None:
        super().__init__(message)
        self.reason = reason


class InstanceGoneError(ProviderError):
    """There is no such instance any more: what was to be done about it is done."""

    reason = "InstanceGone"


class Provider(Protocol):
    """One pool's. Every call raises ProviderError or a subclass, and may take long: others don't wait for it."""

    async def describe(self) -> Group:
        """The group as it exists now, from the provider itself."""
        ...

    async def grow(self, group: Group, to: int) -> None:
        """Let there be `to` instances, more than `group.desired`, which was described just now. Asking again for the
        same number makes no more of them."""
        ...

    async def remove(self, instance: Instance) -> None:
        """Remove this very instance, and make the group smaller by it. Returns when it is asked for, not when it is
        gone. Not to be called for one that is LEAVING."""
        ...

    async def protect(self, instances: Sequence[str], *, on: bool) -> None:
        """(Un)protect instances from the provider's own choice."""
        ...

    def close(self) -> None:
        """Let go of threads and connections, without waiting."""
        ...
