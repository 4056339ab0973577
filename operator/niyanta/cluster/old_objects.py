"""Workload objects of earlier releases in the cluster, and the CustomResourceDefinition of an earlier release.

The present definition drops the values of fields that have other names now, so an operator that met such objects would
run them without, say, their GPUs: it refuses to start beside them (`refuse_old_form`). `niyanta migrate --check` lists
them and `niyanta migrate --export` makes manifests of them (cli/upgrade.py).

Objects of REST submissions don't count: their rows have the spec, and migration 0010 rewrites it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.errors import ApiError, ErrorKind, OutcomeUnknownError, error_kind
from niyanta.cluster.api.kinds import WORKLOADS, ResourceKind
from niyanta.cluster.api.transport import JSON, METADATA_LIST, Transport
from niyanta.resources.labels import REST_ID, VERSION
from niyanta.resources.old_form import old_fields, old_managed_fields

Manifest = dict[str, Any]

DEFINITIONS = ResourceKind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
WORKLOAD_DEFINITION = f"{WORKLOADS.plural}.{WORKLOADS.group}"

PAGE_OBJECTS = 250
LIST_TIMEOUT_SECONDS = 60.0
SHOWN_OBJECTS = 3
"""Objects that the operator's message names."""

OLD_DEFINITION = (
    "the CustomResourceDefinitions in the cluster are those of an earlier release: replace them "
    "(`kubectl replace -f crds/`, or `helm upgrade` with crds.enabled), see docs/upgrade.md"
)


@asynccontextmanager
async def open_transport(connection: Connection, *, request_timeout: float) -> AsyncIterator[Transport]:
    """A transport for reads alone, closed at the end of the block."""
    transport = Transport(connection, connections=1, request_timeout=request_timeout, may_write=lambda: False)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


class OldFormError(Exception):
    """The cluster or the database is in the form of an earlier release. The message says which command helps."""


@dataclass(frozen=True, slots=True)
class OldObject:
    """A Workload object with fields of an earlier release. `fields` are their paths, such as `spec.maxRetries`."""

    namespace: str
    name: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} ({', '.join(self.fields)})"


@dataclass(slots=True)
class OldObjects:
    """The first of these objects, in the order of the API server's list, and the number of all."""

    first: list[OldObject] = field(default_factory=list)
    total: int = 0


async def is_definition_old(transport: Transport) -> bool:
    """True if the definition of Workloads in the cluster is of an earlier release; False also if there is none, or this
    process may not read it. Raises ApiError."""
    path = DEFINITIONS.path("", WORKLOAD_DEFINITION)
    try:
        answer = await transport.send("GET", path, verb="get", resource=DEFINITIONS.plural)
    except ApiError as error:
        if error_kind(error) in (ErrorKind.NOT_FOUND, ErrorKind.FORBIDDEN):
            return False
        raise
    for version in orjson.loads(answer).get("spec", {}).get("versions", ()):
        if version["name"] == VERSION:
            spec = version.get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})
            fields = spec.get("properties", {})
            # Both after an apply that left the fields of another field manager.
            return "backoffLimit" not in fields or "maxRetries" in fields
    return False


async def find_old_objects(transport: Transport, *, most: int, metadata_only: bool) -> OldObjects:
    """Up to `most` Workload objects in the old form. With `metadata_only` by their managed fields alone, which is
    enough, and costs less, under the present definition. Raises ApiError."""
    found = OldObjects()
    async for obj in list_objects(transport, WORKLOADS, accept=METADATA_LIST if metadata_only else JSON):
        if fields := old_fields_of(obj):
            found.total += 1
            if len(found.first) < most:
                metadata = obj["metadata"]
                found.first.append(OldObject(metadata["namespace"], metadata["name"], fields))
    return found


def old_fields_of(obj: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the old fields that a Workload object has, or had; none for the object of a REST submission."""
    if is_submission(obj):
        return ()
    spec = obj.get("spec")
    own = old_fields(spec) if isinstance(spec, Mapping) else []
    return tuple(dict.fromkeys([*own, *old_managed_fields(obj["metadata"].get("managedFields") or ())]))


def is_submission(obj: Mapping[str, Any]) -> bool:
    """True for the object of a REST submission, whose name ends with the beginning of its row's id."""
    metadata = obj["metadata"]
    row = str((metadata.get("labels") or {}).get(REST_ID, ""))
    return bool(row) and str(metadata["name"]).endswith(f"-{row.replace('-', '')[:8]}")


async def list_objects(
    transport: Transport, kind: ResourceKind, *, accept: str = JSON, labels: str = ""
) -> AsyncIterator[Manifest]:
    """Every object of a kind, page by page, with its managed fields; none if the kind doesn't exist. `labels` is a
    label selector. Raises ApiError, also when the list takes so long that the server forgets its version."""
    params = {"limit": str(PAGE_OBJECTS)} | ({"labelSelector": labels} if labels else {})
    while True:
        try:
            answer = await transport.send(
                "GET",
                kind.path(),
                verb="list",
                resource=kind.plural,
                params=params,
                accept=accept,
                timeout=LIST_TIMEOUT_SECONDS,
            )
        except ApiError as error:
            if error_kind(error) is ErrorKind.NOT_FOUND:
                return
            raise
        try:
            page = await asyncio.to_thread(orjson.loads, answer)
        except orjson.JSONDecodeError as error:
            raise OutcomeUnknownError(f"the list can't be read: {str(error)[:200]}") from error
        for item in page.get("items") or ():
            yield {"apiVersion": kind.api_version, **item, "kind": kind.kind}
        token = page["metadata"].get("continue")
        if not token:
            return
        params["continue"] = token


async def refuse_old_form(transport: Transport) -> None:
    """Raise OldFormError beside a definition or objects of an earlier release. Raises ApiError."""
    if await is_definition_old(transport):
        raise OldFormError(OLD_DEFINITION)
    found = await find_old_objects(transport, most=SHOWN_OBJECTS, metadata_only=True)
    if found.total:
        shown = ", ".join(map(str, found.first))
        raise OldFormError(
            f"{found.total} Workload objects have fields of an earlier release: {shown}"
            f"{', ...' if found.total > len(found.first) else ''}; see `niyanta migrate --check` and docs/upgrade.md"
        )
