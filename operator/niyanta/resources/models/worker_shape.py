"""`spec.workerShape` of a WorkerPool: what an empty worker offers, for pools that may have none to look at."""

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
    """What a taint does to pods that don't tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class ShapeTaint(Model):
    """A taint that every worker of the pool has."""

    key: LabelKey = Field(description="Taint key.")
    value: LabelValue = Field("", description="Taint value.")
    effect: Annotated[Effect, Field(strict=False)] = Field(
        description="NoSchedule, PreferNoSchedule (has no say in placement) or NoExecute."
    )


class WorkerShape(Model):
    """An empty worker of the pool, as placement would find it."""

    allocatable: Amounts = Field(
        description="What a worker offers to workloads: the node's status.allocatable less what DaemonSets take. cpu, "
        "memory, pods (default 110), nvidia.com/gpu and so on."
    )
    labels: LabelMap = Field(
        default_factory=dict, description="Labels of the nodes, beside those that nodeSelector asks for."
    )
    taints: Annotated[list[ShapeTaint], Field(max_length=32)] = Field(
        default_factory=list, description="Taints of the nodes."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "'cpu' in self.allocatable && 'memory' in self.allocatable",
            lambda s: "cpu" in s.allocatable and "memory" in s.allocatable,
            "allocatable: give at least cpu and memory",
            ".allocatable",
        ),
    )
