"""`spec.affinity` of a Workload: where it must (hard), should (soft) and must not (anti) run; and selectors."""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MaxLen
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from niyanta.engine.types import HOSTNAME_TOPOLOGY, Op, Scope
from niyanta.resources import quantity
from niyanta.resources.models.base import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    CustomerName,
    LabelKey,
    LabelValue,
    Model,
    NodeName,
    Rule,
    Ruled,
    Word,
    without_nulls,
)

_KEYS = Rule(
    f"self.all(k, k.size() <= 317 && k.matches('{LABEL_KEY_PATTERN}'))",
    lambda labels: all(len(k) <= 317 and _label_key(k) for k in labels),
    "every key must be a label key, such as disk or example.com/disk",
)


def _label_key(key: str) -> bool:
    return re.fullmatch(LABEL_KEY_PATTERN, key) is not None


def checked_quantity(value: Any) -> Any:
    if not quantity.valid(value):
        raise PydanticCustomError("quantity", 'must be a non-negative quantity, such as 2, "500m" or "1Gi"')
    return value


def _int_or_string(value: Any) -> Any:
    if isinstance(value, float):
        raise PydanticCustomError("quantity", "must be an integer or a string")
    return checked_quantity(value)


MAX_AFFINITY_CHARACTERS = 64 * 1024

LabelMap = Annotated[dict[str, LabelValue], MaxLen(32), Ruled(_KEYS), BeforeValidator(without_nulls)]
Quantity = Annotated[
    str | int,
    PlainValidator(_int_or_string),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
        | {"pattern": quantity.PATTERN, "maxLength": 40, "minimum": 0}
    ),
]
Words = Annotated[list[Word], Field(max_length=64)]
Operator = Annotated[Op, Field(strict=False)]


def only(*members: enum.Enum) -> Ruled:
    """Annotation that narrows an enum to `members`."""
    names = [member.value for member in members]
    rule = Rule("", lambda value: value in members, f"Unsupported value: supported values are {', '.join(names)}")
    return Ruled(rule, schema={"type": "string", "enum": names})


_INTEGER = r"[+-]?[0-9]{1,18}"

ExpressionValue = Annotated[str, Field(max_length=63, pattern=f"^({_INTEGER}|{LABEL_VALUE_PATTERN[1:-1]})$")]
"""A label value, or a signed integer for Gt and Lt."""

_EXPRESSION_RULES: tuple[Rule, ...] = (
    Rule(
        "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
        lambda e: e.operator not in (Op.IN, Op.NOT_IN) or bool(e.values),
        "values: operators In and NotIn need at least one value",
        ".values",
    ),
    Rule(
        "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
        lambda e: e.operator not in (Op.EXISTS, Op.DOES_NOT_EXIST) or not e.values,
        "values: operators Exists and DoesNotExist take no values",
        ".values",
    ),
)
_COMPARISON = Rule(
    "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && self.values.size() == 1 && "
    f"self.values[0].matches('^{_INTEGER}$'))",
    lambda e: (
        e.operator not in (Op.GT, Op.LT) or (len(e.values) == 1 and re.fullmatch(_INTEGER, e.values[0]) is not None)
    ),
    "values: operators Gt and Lt need exactly one value, an integer",
    ".values",
)


class NodeExpression(Model):
    """One requirement on a label, as in node affinity."""

    key: LabelKey = Field(description="Label key.")
    operator: Operator = Field(description="Comparison: In, NotIn, Exists, DoesNotExist, Gt or Lt.")
    values: Annotated[list[ExpressionValue], Field(max_length=64)] = Field(
        default_factory=list,
        description="Values for In and NotIn; one integer for Gt and Lt; no value for Exists and DoesNotExist.",
    )
    rules: ClassVar[tuple[Rule, ...]] = (*_EXPRESSION_RULES, _COMPARISON)


class LabelExpression(Model):
    """One requirement on a label, as in a label selector."""

    key: LabelKey = Field(description="Label key.")
    operator: Annotated[Operator, only(Op.IN, Op.NOT_IN, Op.EXISTS, Op.DOES_NOT_EXIST)] = Field(
        description="Comparison: In, NotIn, Exists or DoesNotExist."
    )
    values: Annotated[list[LabelValue], Field(max_length=32)] = Field(
        default_factory=list, description="Values for In and NotIn; no value for Exists and DoesNotExist."
    )
    rules: ClassVar[tuple[Rule, ...]] = _EXPRESSION_RULES


class LabelSelector(Model):
    """Selects by labels: everything given must match; an empty selector matches everything."""

    match_labels: LabelMap = Field(default_factory=dict, description="Labels that must have exactly these values.")
    match_expressions: Annotated[list[LabelExpression], Field(max_length=16)] = Field(
        default_factory=list, description="Requirements that must all hold."
    )

    @property
    def empty(self) -> bool:
        """True when the selector matches everything."""
        return not self.match_labels and not self.match_expressions


class SoftGpu(Model):
    """Preferred GPUs."""

    models: Words = Field(default_factory=list, description="Any of these GPU models.")
    min_memory: Quantity | None = Field(None, description="Minimum memory of one device, for instance 40Gi.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.models) && self.models.size() > 0) || has(self.minMemory)",
            lambda g: bool(g.models) or g.min_memory is not None,
            "gpu: set models or minMemory",
        ),
    )


class MatcherFields(Model):
    """Conditions on a worker; all that are given must match."""

    node_names: Annotated[list[NodeName], Field(max_length=256)] = Field(
        default_factory=list, description="Any of these workers, by the name of their node."
    )
    worker_tags: LabelMap = Field(
        default_factory=dict, description="All of these tags: labels of the node and tags of its pool."
    )
    worker_expressions: Annotated[list[NodeExpression], Field(max_length=16)] = Field(
        default_factory=list, description="Requirements on tags that must all hold."
    )
    capabilities: Words = Field(default_factory=list, description="All of these capabilities.")
    regions: Words = Field(default_factory=list, description="Any of these regions.")
    zones: Words = Field(default_factory=list, description="Any of these zones.")
    pools: Words = Field(default_factory=list, description="Any of these WorkerPools, by name.")
    compliance: Words = Field(default_factory=list, description="All of these compliance regimes.")


_MATCHERS = ("nodeNames", "workerTags", "workerExpressions", "capabilities", "regions", "zones", "pools", "compliance")


def _given(name: str) -> str:
    return f"(has(self.{name}) && self.{name}.size() > 0)"


class Near(Model):
    """Running workloads whose topology domain must be shared."""

    workload_selector: LabelSelector | None = Field(None, description="Workloads with these labels.")
    types: Words = Field(default_factory=list, description="Workloads of any of these types.")
    topology_key: LabelKey = Field(HOSTNAME_TOPOLOGY, description="Node label whose value must be shared.")
    scope: Literal["Namespace"] = Field(
        "Namespace", description="Workloads that the term applies to: those of the same Namespace."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"has(self.workloadSelector) || {_given('types')}",
            lambda n: n.workload_selector is not None or bool(n.types),
            "near: set workloadSelector or types",
        ),
    )


class Hard(MatcherFields):
    """Conditions that a worker must match."""

    near: Annotated[list[Near], Field(max_length=8)] = Field(
        default_factory=list, description="Running workloads of the same namespace to share a topology domain with."
    )


class Soft(MatcherFields):
    """A preference: a worker that matches all of its conditions scores its weight."""

    weight: int = Field(ge=1, le=100, description="Weight of a match, 1 to 100.")
    gpu: SoftGpu | None = Field(None, description="Preferred GPUs.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            " || ".join([*(_given(name) for name in _MATCHERS), "has(self.gpu)"]),
            lambda s: s.gpu is not None or any(getattr(s, f) for f in MatcherFields.model_fields),
            "soft: a preference needs at least one condition besides its weight",
        ),
    )


class Anti(Model):
    """Workloads that must not share a topology domain with this one. Applies in both directions."""

    types: Words = Field(default_factory=list, description="Workloads of any of these types.")
    customers: Annotated[list[CustomerName], Field(max_length=64)] = Field(
        default_factory=list, description="Workloads of any of these customers; needs scope Cluster."
    )
    workload_selector: LabelSelector | None = Field(
        None, description="Workloads with these labels; {} means every workload."
    )
    topology_key: LabelKey = Field(
        HOSTNAME_TOPOLOGY, description="Node label whose value must not be shared: a worker, a zone or a region."
    )
    scope: Annotated[Scope, Field(strict=False)] = Field(
        Scope.NAMESPACE,
        description="Workloads that the term applies to: those of the same Namespace, the same Customer, or the whole "
        "Cluster (only if the Customer has allowClusterScope).",
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{_given('types')} || {_given('customers')} || has(self.workloadSelector)",
            lambda a: bool(a.types or a.customers) or a.workload_selector is not None,
            "anti: set types, customers or workloadSelector",
        ),
        Rule(
            f"!{_given('customers')} || self.scope == 'Cluster'",
            lambda a: not a.customers or a.scope is Scope.CLUSTER,
            "customers: needs scope Cluster, other scopes contain only the workload's customer",
            ".customers",
        ),
    )


class Affinity(Model):
    """Conditions on workers, and on workloads that share a worker, zone or region."""

    hard: Hard | None = Field(None, description="Conditions that a worker must match.")
    soft: Annotated[list[Soft], Field(max_length=16)] = Field(
        default_factory=list,
        description="Preferences: the score is 100 times matched weight over total weight, or 50 without preferences.",
    )
    anti: Annotated[list[Anti], Field(max_length=16)] = Field(
        default_factory=list, description="Workloads that must not share a worker, zone or region with this one."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        # The schema's bounds allow megabytes, which the queue would keep in memory; CEL can't measure an object's size.
        Rule(
            "",
            lambda a: len(a.model_dump_json(by_alias=True, exclude_unset=True)) <= MAX_AFFINITY_CHARACTERS,
            f"Too long: may not be more than {MAX_AFFINITY_CHARACTERS} characters as JSON",
        ),
    )
