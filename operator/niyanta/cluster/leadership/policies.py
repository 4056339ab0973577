"""The admission policies that a leader relies on: which of them are missing or changed in the cluster.

Without `niyanta-fence` a replaced leader may still create pods, without `niyanta-labels` others may set the labels by
which pods are found, and without `niyanta-operator` only RBAC limits this process. `election` asks before it takes
leadership, and while it leads. `niyanta-authors` guards the right to create Workloads, not the leader's own work: if it
is missing, that is reported and stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prometheus_client import Gauge

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.kinds import FENCE_POLICY, ResourceKind
from niyanta.observability import log

logger = log.get(__name__)

REQUIRED = (FENCE_POLICY, "niyanta-labels", "niyanta-operator")
"""Names of the policies without which nobody leads, and of the binding of each."""

AUTHORS = "niyanta-authors"
"""Name of the policy on the authors of Workloads, which is only reported."""

_PODS = frozenset(("pods", "pods/status", "pods/binding", "bindings"))
COVERED: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    FENCE_POLICY: (frozenset(("CREATE",)), frozenset(("pods",))),
    "niyanta-labels": (frozenset(("CREATE", "UPDATE")), _PODS),
    "niyanta-operator": (frozenset(("CREATE", "UPDATE", "DELETE")), frozenset(("pods", "nodes"))),
    AUTHORS: (frozenset(("CREATE",)), frozenset(("workloads",))),
}
"""Operations and resources that each policy of the chart applies to, in one rule."""

POLICIES = ResourceKind(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
BINDINGS = ResourceKind(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)

MISSING = Gauge(
    "niyanta_missing_policies",
    "Admission policies that are missing, switched off or narrowed, as the leader or a candidate last saw; a process "
    "takes no leadership without those that guard its own work",
)


async def missing(client: ApiClient, *, authors: bool = False) -> tuple[str, ...]:
    """Names of the policies that are absent, don't fail closed, leave out what the chart's apply to, or whose binding
    doesn't deny everywhere; with `authors` also of AUTHORS. Sets the metric. Raises ApiError."""
    names = (*REQUIRED, AUTHORS) if authors else REQUIRED
    verdicts = await asyncio.gather(*(_is_enforced(client, name) for name in names))
    found = tuple(name for name, enforced in zip(names, verdicts, strict=True) if not enforced)
    MISSING.set(len(found))
    return found


async def _is_enforced(client: ApiClient, name: str) -> bool:
    policy, binding = await asyncio.gather(client.get(POLICIES, name), client.get(BINDINGS, name))
    if policy is None or binding is None:
        return False
    spec = policy["spec"]
    return spec.get("failurePolicy", "Fail") == "Fail" and _covers(spec, name) and _denies(binding, name)


def _covers(spec: dict[str, Any], name: str) -> bool:
    """True if the policy validates something, and a rule applies to all that the chart's does, in every namespace."""
    operations, resources = COVERED[name]
    constraints = spec.get("matchConstraints") or {}
    narrowed = constraints.get("namespaceSelector") or constraints.get("excludeResourceRules")
    # The fence selects pods by their label.
    if narrowed or not spec.get("validations") or (constraints.get("objectSelector") and name != FENCE_POLICY):
        return False
    return any(
        not rule.get("resourceNames")
        and _includes(rule.get("operations"), operations)
        and _includes(rule.get("resources"), resources)
        for rule in constraints.get("resourceRules") or ()
    )


def _includes(listed: list[str] | None, needed: frozenset[str]) -> bool:
    return "*" in (listed or ()) or needed <= set(listed or ())


def _denies(binding: dict[str, Any], name: str) -> bool:
    """True if the binding enforces the policy of that name. matchResources would exempt namespaces or objects, and a
    parameter that may be absent would switch the fence off with its ConfigMap."""
    spec = binding["spec"]
    return (
        spec.get("policyName") == name
        and "Deny" in (spec.get("validationActions") or [])
        and (spec.get("paramRef") or {}).get("parameterNotFoundAction", "Deny") == "Deny"
        and not _restricts(spec.get("matchResources") or {})
    )


def _restricts(match: dict[str, Any]) -> bool:
    """True if matchResources leaves anything out. The API server fills in empty selectors and matchPolicy."""
    selectors = (match.get("namespaceSelector"), match.get("objectSelector"))
    return any(selectors) or any(match.get(rules) for rules in ("resourceRules", "excludeResourceRules"))
