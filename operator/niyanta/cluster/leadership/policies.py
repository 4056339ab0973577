"""The admission policies that a leader relies on: which of them are missing or changed in the cluster.

Without `niyanta-fence` a replaced leader may still create pods, without `niyanta-labels` others may set the labels by
which pods are found, and without `niyanta-operator` only RBAC limits this process. `election` asks before it takes
leadership, and while it leads.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import Gauge

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.kinds import FENCE_POLICY, ResourceKind
from niyanta.observability import log

logger = log.get(__name__)

REQUIRED = (FENCE_POLICY, "niyanta-labels", "niyanta-operator")
"""Names of the policies, and of the binding of each."""

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
    "Required admission policies that are missing or switched off, as the leader or a candidate last saw; a process "
    "takes no leadership while there are any",
)


async def missing(client: ApiClient) -> tuple[str, ...]:
    """Names of the required policies that are absent, don't fail closed, or whose binding doesn't deny everywhere.
    Sets the metric. Raises ApiError."""
    verdicts = await asyncio.gather(*(_is_enforced(client, name) for name in REQUIRED))
    found = tuple(name for name, enforced in zip(REQUIRED, verdicts, strict=True) if not enforced)
    MISSING.set(len(found))
    return found


async def _is_enforced(client: ApiClient, name: str) -> bool:
    policy, binding = await asyncio.gather(client.get(POLICIES, name), client.get(BINDINGS, name))
    if policy is None or binding is None:
        return False
    return policy["spec"].get("failurePolicy", "Fail") == "Fail" and _denies(binding, name)


def _denies(binding: dict[str, Any], name: str) -> bool:
    """True if the binding enforces the policy of that name. matchResources would exempt namespaces or objects."""
    spec = binding["spec"]
    return (
        spec.get("policyName") == name
        and "Deny" in (spec.get("validationActions") or [])
        and not _restricts(spec.get("matchResources") or {})
    )


def _restricts(match: dict[str, Any]) -> bool:
    """True if matchResources leaves anything out. The API server fills in empty selectors and matchPolicy."""
    selectors = (match.get("namespaceSelector"), match.get("objectSelector"))
    return any(selectors) or any(match.get(rules) for rules in ("resourceRules", "excludeResourceRules"))
