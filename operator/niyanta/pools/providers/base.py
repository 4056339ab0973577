"""Interface of a provider of workers, which `ec2` and `kwok` implement. `controller` reads the group, `executor` sends
orders."""

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
    """Being terminated, by Niyanta or another client."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine. `provider_id` is its Node's spec.providerID; `node` is the Node's name if the provider knows it. At
    least one of them is set."""

    id: str
    state: InstanceState = InstanceState.RUNNING
    provider_id: str = ""
    node: str = ""
    protected: bool = False
    """The provider doesn't choose it when the group becomes smaller."""


@dataclass(frozen=True, slots=True)
class Group:
    """The group as it exists. `desired` is the size last ordered, which includes instances that don't exist yet.

    `minimum` and `maximum` are the provider's own bounds (None: no bound). `protects`: instances can be protected.
    """

    instances: tuple[Instance, ...]
    desired: int
    minimum: int = 0
    maximum: int | None = None
    protects: bool = False


class ProviderReason(enum.StrEnum):
    """Reasons of provider errors, for conditions and Events."""

    AT_GROUP_BOUND = "AtGroupBound"
    GROUP_HAS_OTHER_SCALER = "GroupHasOtherScaler"
    GROUP_NOT_FOUND = "GroupNotFound"
    INSTANCE_GONE = "InstanceGone"
    POOL_GONE = "PoolGone"
    PROVIDER_ERROR = "ProviderError"
    PROVIDER_REFUSED = "ProviderRefused"
    PROVIDER_THROTTLED = "ProviderThrottled"
    WEIGHTED_GROUP = "WeightedGroup"
    WRONG_TEMPLATE = "WrongTemplate"


class ProviderError(Exception):
    """The provider didn't carry out a request; the text has the details."""

    reason = ProviderReason.PROVIDER_ERROR
    temporary = True
    """A later attempt may succeed without any change by users."""


class ThrottledError(ProviderError):
    """Too many requests, or the provider is busy with an earlier one."""

    reason = ProviderReason.PROVIDER_THROTTLED


class AtBoundError(ProviderError):
    """The request exceeds the group's own minimum or maximum."""

    reason = ProviderReason.AT_GROUP_BOUND


class ProviderRefusedError(ProviderError):
    """The request isn't allowed, the group doesn't exist, or another scaler manages it."""

    temporary = False

    def __init__(self, message: str, *, reason: ProviderReason = ProviderReason.PROVIDER_REFUSED) -> None:
        super().__init__(message)
        self.reason = reason


class InstanceGoneError(ProviderError):
    """The instance doesn't exist any more."""

    reason = ProviderReason.INSTANCE_GONE


class Provider(Protocol):
    """The provider of one pool. Every call raises ProviderError or a subclass, and may take long."""

    async def describe(self) -> Group:
        """A fresh read of the group."""
        ...

    async def grow(self, group: Group, to: int) -> None:
        """Set the desired size to `to`, which is more than `group.desired` of a fresh read (idempotent)."""
        ...

    async def remove(self, instance: Instance) -> None:
        """Remove this instance and reduce the group's size by one. Returns when the removal is ordered, not when the
        instance is gone. Must not be called for an instance that is LEAVING."""
        ...

    async def protect(self, instances: Sequence[str], *, on: bool) -> None:
        """Switch the instances' protection from removal by the provider on or off."""
        ...

    def close(self) -> None:
        """Release threads and connections without waiting."""
        ...
