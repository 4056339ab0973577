"""The Customer resource (cluster-scoped): tier, limits, and the namespaces it may use."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MaxLen
from pydantic import Field

from niyanta.resources.labels import API_VERSION
from niyanta.resources.models.base import LabelKey, Model, Rule
from niyanta.resources.models.meta import Condition, Metadata, name_rule
from niyanta.resources.models.pod_template import Tolerated

MAX_CUSTOMER_NAME = 63
EVERY_NAMESPACE = "*"


class Tier(enum.Enum):
    """Service tier of a customer; its weight multiplies priorities."""

    FREE = "Free"
    STANDARD = "Standard"
    PREMIUM = "Premium"
    ENTERPRISE = "Enterprise"


NamespaceEntry = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^([*]|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")]


ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Audience = Annotated[str, Field(min_length=1, max_length=253)]


class AllowedToleration(Tolerated):
    """A toleration that templates may carry: this one, and any that tolerates no other taints than this one."""


class CustomerSpec(Model):
    """Tier, limits, and the namespaces the customer may use."""

    tier: Annotated[Tier, Field(strict=False)] = Field(Tier.STANDARD, description="Tier; multiplies priorities.")
    namespaces: Annotated[list[NamespaceEntry], Field(max_length=256)] = Field(
        default_factory=list,
        description="Namespaces whose workloads may belong to it. A namespace that a Customer lists by name belongs to "
        'the Customers that list it by name; "*" stands for all others, but kube-* and the operator\'s namespace.',
    )
    max_queue_depth: int | None = Field(
        None, ge=0, le=10_000_000, description="Maximum number of waiting workloads. Default: no limit."
    )
    max_concurrent: int | None = Field(
        None, ge=0, le=1_000_000, description="Maximum number of running workloads. Default: no limit."
    )
    max_priority: int | None = Field(
        None, ge=0, le=100, description="Maximum spec.priority of its workloads, before the tier. Default: no limit."
    )
    submit_rate_per_second: int | None = Field(
        None, ge=0, le=100_000, description="Maximum submissions per second through the REST door. Default: no limit."
    )
    allow_cluster_scope: bool = Field(
        False, description="True allows anti terms that match other customers' workloads (scope Cluster)."
    )
    topology_keys: Annotated[list[LabelKey], Field(max_length=32)] = Field(
        default_factory=list,
        description="Topology keys that its anti and near terms and spec.topology may use besides "
        "kubernetes.io/hostname, topology.kubernetes.io/zone, topology.kubernetes.io/region and those of the setting "
        "topology_keys.",
    )
    tolerations: Annotated[list[AllowedToleration], Field(max_length=64)] = Field(
        default_factory=list,
        description="Tolerations that its templates may carry. Default: none. Only an entry without a key and with "
        "operator Exists allows a toleration of every taint.",
    )
    priority_classes: Annotated[list[ObjectName], Field(max_length=64)] = Field(
        default_factory=list, description="PriorityClasses that its templates may name. Default: none."
    )
    runtime_classes: Annotated[list[ObjectName], Field(max_length=64)] = Field(
        default_factory=list, description="RuntimeClasses that its templates may name. Default: none."
    )
    service_accounts: Annotated[list[ObjectName], Field(max_length=64)] = Field(
        default_factory=list,
        description="ServiceAccounts that its REST submissions may name. Default: only `default`.",
    )
    secrets: Annotated[list[ObjectName], Field(max_length=256)] = Field(
        default_factory=list,
        description="Secrets, and SecretProviderClasses of CSI volumes, that its REST submissions may use. Default:"
        " none.",
    )
    config_maps: Annotated[list[ObjectName], Field(max_length=256)] = Field(
        default_factory=list, description="ConfigMaps that its REST submissions may use. Default: none."
    )
    csi_drivers: Annotated[list[ObjectName], Field(max_length=64)] = Field(
        default_factory=list,
        description="CSI drivers whose inline volumes its REST submissions may use. Default: none.",
    )
    token_audiences: Annotated[list[Audience], Field(max_length=64)] = Field(
        default_factory=list,
        description="Audiences of ServiceAccount tokens that its REST submissions may project. Default: only the API "
        "server's own, which a pod gets anyway.",
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.namespaces) || !self.namespaces.exists(n, n.startsWith('kube-'))",
            lambda s: not any(n.startswith("kube-") for n in s.namespaces),
            "namespaces: kube-* namespaces are reserved for the cluster",
            ".namespaces",
        ),
    )


class CustomerStatus(Model):
    """Status of the customer; written by the operator."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    pending: int | None = Field(None, ge=0, description="Number of pending workloads.")
    running: int | None = Field(None, ge=0, description="Number of running workloads.")
    usage: Annotated[dict[str, Annotated[str, Field(max_length=40)]], MaxLen(64)] = Field(
        default_factory=dict, description="What the placed pods of its workloads request, by resource."
    )
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Conditions of the customer.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Customer(Model):
    """A customer: tier, limits, and the namespaces it may use."""

    api_version: Literal["niyanta.io/v1alpha1"] = API_VERSION
    kind: Literal["Customer"] = "Customer"
    metadata: Metadata = Field(description="Standard object metadata.")
    spec: CustomerSpec = Field(description="Tier, limits, and the namespaces it may use.")
    status: dict[str, Any] | None = None
    rules: ClassVar[tuple[Rule, ...]] = (name_rule(MAX_CUSTOMER_NAME),)
