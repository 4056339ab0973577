"""The required admission policies are found if they fail closed and deny everywhere."""

from __future__ import annotations

from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.leadership import policies
from niyanta.cluster.leadership.policies import BINDINGS, MISSING, POLICIES, REQUIRED
from tests.cluster.leadership.policies_in_memory import PoliciesInMemory

pytestmark = pytest.mark.unit


async def missing(cluster: PoliciesInMemory) -> tuple[str, ...]:
    return await policies.missing(cast("ApiClient", cluster))


async def test_policies_of_the_chart_are_found() -> None:
    assert await missing(PoliciesInMemory()) == ()
    assert MISSING._value.get() == 0


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("kind", [POLICIES, BINDINGS])
async def test_an_absent_policy_or_binding_is_missing(name: str, kind: Any) -> None:
    cluster = PoliciesInMemory()
    del cluster.objects[kind.plural, name]
    assert await missing(cluster) == (name,)
    assert MISSING._value.get() == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (POLICIES, {"failurePolicy": "Ignore"}),
        (BINDINGS, {"validationActions": ["Warn", "Audit"]}),
        (BINDINGS, {"policyName": "another"}),
        (BINDINGS, {"matchResources": {"namespaceSelector": {"matchLabels": {"a": "b"}}}}),
        (BINDINGS, {"matchResources": {"excludeResourceRules": [{"resources": ["pods"]}]}}),
    ],
)
async def test_a_policy_that_does_not_deny_everywhere_is_missing(kind: Any, change: dict[str, Any]) -> None:
    cluster = PoliciesInMemory()
    cluster.objects[kind.plural, "niyanta-operator"]["spec"] |= change
    assert await missing(cluster) == ("niyanta-operator",)
