"""The policies and bindings of a cluster in memory, in place of the client of the API server."""

from __future__ import annotations

from typing import Any

from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.leadership.policies import AUTHORS, BINDINGS, COVERED, POLICIES, REQUIRED


class PoliciesInMemory:
    """Answers `get` for policies and bindings, and "not found" for everything else."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.error: ApiError | None = None
        self.reads = 0
        for name in (*REQUIRED, AUTHORS):
            self.install(name)

    def install(self, name: str) -> None:
        """Create the policy and its binding as the chart does, with the defaults of the API server."""
        operations, resources = COVERED[name]
        rule = {"operations": sorted(operations), "resources": sorted(resources)}
        self.objects[POLICIES.plural, name] = {
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule], "namespaceSelector": {}, "objectSelector": {}},
                "validations": [{"expression": "true"}],
            }
        }
        self.objects[BINDINGS.plural, name] = {
            "spec": {
                "policyName": name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"},
            }
        }

    async def get(self, kind: ResourceKind, name: str, *, namespace: str = "") -> dict[str, Any] | None:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.objects.get((kind.plural, name))
