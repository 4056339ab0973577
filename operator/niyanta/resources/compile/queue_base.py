"""The base of a queue class: a hash of what a spec asks of placement, without the defaults of its namespace.

Both doors compute it, so that equal specs share a class whichever way they came; Postgres adds the values of the
visible label keys (migration 0014). Workloads of one base compile to equal requirements under any LimitRange,
RuntimeClass and Customer: whatever the compiler reads of a spec is in the hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from niyanta.engine.types import Requirements, Scope
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import compile_workload, declared_terms, plain
from niyanta.resources.models.pod_template import ContainerResourceSpec
from niyanta.resources.models.workload import WorkloadSpec
from niyanta.resources.quantity import quantities

VisibleKeys = tuple[tuple[str, str], ...]
"""(reach, key) of label keys; reach: namespace/<name>, customer/<name> or *."""


@dataclass(frozen=True, slots=True)
class SpecClass:
    """The part of a base that depends on the spec alone."""

    digest: bytes
    keys: tuple[tuple[Scope, str], ...]
    """Label keys that its anti and near terms name, with the scope that each term declares."""

    def base(self, *, namespace: str, customer: str) -> str:
        """The base of the class of such workloads there, 32 hex digits."""
        owner = orjson.dumps([customer, namespace])
        return hashlib.blake2b(self.digest + owner, digest_size=16).hexdigest()

    def visible_keys(self, *, namespace: str, customer: str) -> VisibleKeys:
        """The label keys by which its terms tell workloads apart.

        A term of scope Customer reaches the namespace where a wildcard made the customer, so both reaches are named.
        """
        found = set()
        for scope, key in self.keys:
            if scope is Scope.CLUSTER:
                found.add(("*", key))
                continue
            found.add((f"namespace/{namespace}", key))
            if scope is Scope.CUSTOMER:
                found.add((f"customer/{customer}", key))
        return tuple(sorted(found))


def spec_class(spec: WorkloadSpec, requirements: Requirements | None = None) -> SpecClass:
    """The class of a spec. `requirements`: the spec compiled without defaults, if that was done already. Raises
    InvalidManifestError."""
    if requirements is None:
        requirements = compile_workload(
            spec, namespace="", customer="", labels={}, defaults=NamespaceDefaults()
        ).requirements
    anti = declared_terms(spec)
    pod = spec.template.spec
    parts = [
        spec.replicas,
        spec.type or "",
        plain(replace(requirements, anti=anti)),
        # What namespace defaults and RuntimeClasses are applied to.
        pod.runtime_class_name,
        _quantities(pod.overhead),
        _resources(pod.resources),
        [_resources(container.resources) for container in pod.containers],
        [[init.restart_policy, _resources(init.resources)] for init in pod.init_containers],
    ]
    digest = hashlib.blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
    keys = {(term.scope, item.key) for term in (*anti, *requirements.near) for item in term.selector.labels}
    return SpecClass(digest, tuple(sorted(keys, key=lambda found: (found[0].value, found[1]))))


def _quantities(given: Mapping[str, Any] | None) -> dict[str, int] | None:
    return None if given is None else quantities(given, "")


def _resources(given: ContainerResourceSpec | None) -> list[dict[str, int] | None]:
    return [] if given is None else [_quantities(given.requests), _quantities(given.limits)]
