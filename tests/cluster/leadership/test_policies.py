"""The required admission policies are found if they fail closed and deny everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.leadership import policies
from niyanta.cluster.leadership.policies import AUTHORS, BINDINGS, COVERED, MISSING, POLICIES, REQUIRED
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
        (POLICIES, {"validations": []}),
        (POLICIES, {"matchConstraints": {}}),
        (POLICIES, {"matchConstraints": {"resourceRules": [{"operations": ["*"], "resources": ["pods"]}]}}),
        (POLICIES, {"matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "resources": ["*"]}]}}),
        (
            POLICIES,
            {
                "matchConstraints": {
                    "resourceRules": [{"operations": ["*"], "resources": ["*"], "resourceNames": ["a"]}]
                }
            },
        ),
        (
            POLICIES,
            {
                "matchConstraints": {
                    "resourceRules": [{"operations": ["*"], "resources": ["*"]}],
                    "namespaceSelector": {"matchLabels": {"a": "b"}},
                }
            },
        ),
        (BINDINGS, {"paramRef": {"name": "niyanta-fence", "parameterNotFoundAction": "Allow"}}),
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


async def test_the_policy_on_authors_is_reported_where_it_is_enabled() -> None:
    cluster = PoliciesInMemory()
    del cluster.objects[BINDINGS.plural, AUTHORS]
    assert await missing(cluster) == ()
    assert await policies.missing(cast("ApiClient", cluster), authors=True) == (AUTHORS,)
    assert MISSING._value.get() == 1


@pytest.mark.parametrize("name", COVERED)
def test_operations_and_resources_are_those_of_the_chart(name: str) -> None:
    folder = Path(__file__).parents[3] / "charts/niyanta/templates"
    pages = [path.read_text() for path in (*folder.glob("fence/*.yaml"), *folder.glob("policies/*.yaml"))]
    (page,) = [page for page in pages if f"name: {name}\n" in page]
    (rule,) = re.findall(r"operations: \[(.*)\]\n +resources: \[(.*)\]", page)
    assert tuple(frozenset(listed.split(", ")) for listed in rule) == COVERED[name]
