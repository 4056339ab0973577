"""`spec.workerShape` of a WorkerPool: capacity of an empty worker, for pools that may have no worker."""

from __future__ import annotations

import enum
import re
from typing import Annotated, ClassVar

from annotated_types import MaxLen
from pydantic import BeforeValidator, Field

from niyanta.resources.models.affinity import LabelMap, Quantity
from niyanta.resources.models.base import LABEL_KEY_PATTERN, LabelKey, LabelValue, Model, Rule, Ruled, without_nulls

_NAMES = Rule(
    f"self.all(k, k.size() <= 317 && k.matches('{LABEL_KEY_PATTERN}'))",
    lambda amounts: all(len(k) <= 317 and re.fullmatch(LABEL_KEY_PATTERN, k) for k in amounts),
    "every key must be a resource name, such as cpu or nvidia.com/gpu",
)
Amounts = Annotated[dict[str, Quantity], MaxLen(32), Ruled(_NAMES), BeforeValidator(without_nulls)]


class Effect(enum.Enum):
    """Effect of a taint on pods that don't tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class ShapeTaint(Model):
    """A taint that every worker of the pool has."""

    key: LabelKey = Field(description="Taint key.")
    value: LabelValue = Field("", description="Taint value.")
    effect: Annotated[Effect, Field(strict=False)] = Field(
        description="NoSchedule, PreferNoSchedule (ignored by placement) or NoExecute."
    )


class WorkerShape(Model):
    """Capacity, labels and taints of an empty worker of the pool."""

    allocatable: Amounts = Field(
        description="Resources for workloads: the node's status.allocatable without the requests of DaemonSets. cpu, "
        "memory, pods (default 110), nvidia.com/gpu and so on."
    )
    labels: LabelMap = Field(default_factory=dict, description="Labels of the nodes, besides those in nodeSelector.")
    taints: Annotated[list[ShapeTaint], Field(max_length=32)] = Field(
        default_factory=list, description="Taints of the nodes."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "'cpu' in self.allocatable && 'memory' in self.allocatable",
            lambda s: "cpu" in s.allocatable and "memory" in s.allocatable,
            "allocatable: set at least cpu and memory",
            ".allocatable",
        ),
    )
