"""A corpus of hostile Workloads: too deep, too large, numbers out of range, dense junk, and texts that imitate errors.

Every entry is JSON text, because some of it no encoder of Python makes. All of it can be sent by anybody who may create
Workloads in one namespace, or who has one API key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

PHRASES = (
    "ValidatingAdmissionPolicy 'niyanta-fence' with binding 'niyanta-fence' denied request: niyanta-fence: replaced",
    "failed to configure policy",
    "no params found",
    "resulted in error",
    "exceeded quota: compute, requested: pods=1, used: pods=1, limited: pods=1",
    "status unknown for quota: compute",
    "unable to create new content in namespace x because it is being terminated",
    "NamespaceTerminating",
    "AlreadyExists",
    "metadata.uid",
    "etcdserver: request timed out",
    "context deadline exceeded",
    "request did not complete within the allotted timeout",
    "etcdserver: leader changed",
    "context canceled",
    "the lease is lost",
    "current transaction is aborted",
    "42P01",
    "%s %(id)s {0} ${HOME} $(reboot)",
    "\u0000",
    "\uffff\u202e\u0007",
)
"""Texts that error handling somewhere looks for, or could look for, and texts that break formatting."""


RESTRICTED = (
    '"securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false, "capabilities": '
    '{"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}'
)
"""As the restricted Pod Security standard requires, so that nothing is refused for that alone."""


def document(name: str, tenant: str, *, container: str = "{}", metadata: str = "{}") -> str:
    """A Workload as JSON text, in the namespace and for the WorkerPool `tenant`; `container` and `metadata` are objects
    as text, whose fields are added as they are."""

    def fields(text: str) -> str:
        inner = text.strip()[1:-1]
        return f", {inner}" if inner.strip() else ""

    return (
        f'{{"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", '
        f'"metadata": {{"name": "{name}", "namespace": "{tenant}"{fields(metadata)}}}, '
        f'"spec": {{"affinity": {{"hard": {{"pools": ["{tenant}"]}}}}, "template": {{"spec": {{"containers": '
        f'[{{"name": "main", "image": "registry.invalid/none", {RESTRICTED}{fields(container)}}}]}}}}}}}}'
    )


def nested(depth: int) -> str:
    """Objects in objects."""
    return '{"a":' * depth + "1" + "}" * depth


def nested_lists(depth: int) -> str:
    """Lists in lists."""
    return "[" * depth + "]" * depth


def structures() -> Iterator[tuple[str, str]]:
    """Fields of a container as JSON text, with a name each: depths, numbers, junk, sizes."""
    for depth in (70, 260, 1_100, 5_000):
        yield f"deep-objects-{depth}", f'{{"livenessProbe": {{"exec": {nested(depth)}}}}}'
        yield f"deep-lists-{depth}", f'{{"lifecycle": {{"x": {nested_lists(depth)}}}}}'
    numbers = {
        "above-63-bits": 2**63,
        "above-64-bits": 2**64,
        "below-64-bits": -(2**64),
        "huge": 10**300,
    }
    for name, number in numbers.items():
        yield f"integer-{name}", f'{{"livenessProbe": {{"periodSeconds": {number}}}}}'
    yield "float-overflow", '{"livenessProbe": {"periodSeconds": 1e308}}'
    yield "dense-lists", f'{{"livenessProbe": {{"x": [{",".join(["[]"] * 20_000)}]}}}}'
    yield "dense-objects", f'{{"livenessProbe": {{"x": [{",".join(["{}"] * 20_000)}]}}}}'
    yield "wide-object", json.dumps({"livenessProbe": {f"k{number}": 0 for number in range(5_000)}})
    yield "wrong-types", '{"livenessProbe": [1, "x", null, {"a": []}], "env": {"a": 1}, "args": 7}'
    yield "quantity-exponent", '{"resources": {"requests": {"cpu": "1e999999999"}}}'
    yield "quantity-digits", f'{{"resources": {{"requests": {{"memory": "{"9" * 5_000}"}}}}}}'
    yield "quantity-number", '{"resources": {"requests": {"memory": 99999999999999999999999999}}}'


def phrases() -> Iterator[tuple[str, str]]:
    """Fields of a container as JSON text, in which every free text is one of `PHRASES`. An environment variable's name
    with `=` is refused by the API server at pod creation, with the name in the message."""
    for number, phrase in enumerate(PHRASES):
        text = json.dumps(phrase)
        refused = json.dumps(f"={phrase}")
        yield (
            f"phrase-{number}",
            f'{{"env": [{{"name": {text}, "value": {text}}}], "args": [{text}], "workingDir": {text}}}',
        )
        yield f"phrase-name-{number}", f'{{"env": [{{"name": {refused}, "value": {text}}}]}}'


def large(name: str, tenant: str) -> str:
    """A Workload of about 1.4 MB, nearly all of it labels: the API server has no limit on their number."""
    labels = {f"example.com/{'k' * 50}{number:06}": "v" * 63 for number in range(10_000)}
    return document(name, tenant, metadata=json.dumps({"labels": labels}))


def documents(tenant: str, *, prefix: str) -> Iterator[tuple[str, bytes]]:
    """The whole corpus: names and Workloads. Each name begins with `prefix`."""
    for name, container in (*structures(), *phrases()):
        full = f"{prefix}-{name}"
        yield full, document(full, tenant, container=container).encode()
    yield f"{prefix}-large", large(f"{prefix}-large", tenant).encode()
