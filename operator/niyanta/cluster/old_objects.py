"""Workload objects of earlier releases in the cluster, and the CustomResourceDefinition of an earlier release.

The present definition drops the values of fields that have other names now, so an operator that met such objects would
run them without, say, their GPUs: it refuses to start beside them (`refuse_old_form`). `niyanta migrate --check` lists
them and `niyanta migrate --export` makes manifests of them (cli/upgrade.py).

Users choose the size of objects, and they are read here with their managed fields: small pages, one object decoded at a
time, within the bounds of `bounded_objects`.

Objects of REST submissions don't count: their rows have the spec, and migration 0010 rewrites it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from niyanta.bounded_json import VIOLATION_KEY, BoundedJsonError
from niyanta.cluster.api import bounded_objects
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import WORKLOADS, ResourceKind
from niyanta.cluster.api.transport import JSON, METADATA_LIST, Transport
from niyanta.observability import log
from niyanta.resources.labels import REST_ID, VERSION
from niyanta.resources.old_form import old_fields, old_managed_fields

logger = log.get(__name__)

Manifest = dict[str, Any]

DEFINITIONS = ResourceKind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
WORKLOAD_DEFINITION = f"{WORKLOADS.plural}.{WORKLOADS.group}"

PAGE_OBJECTS = 50
"""An object has at most 1.5 MB, so that a page has at most 75 MB. 100,000 ordinary objects are 2,000 requests."""

LARGE_BYTES = 1 << 16
"""Objects of at least this size are decoded in a thread."""

START_CHECK_SECONDS = 180.0
"""Longest list at the start of an operator. After it the operator starts, and logs that the check is incomplete."""

OLD_NAMES = (b'"f:maxRetries"', b'"f:workerIds"', b'"f:gpu"')
"""An object whose metadata has none of these has no old fields, and isn't decoded."""

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
    """The first of these objects, in the order of the API server's list, and the number of all. `unreadable`: the first
    objects out of bounds, as text with the bound, of `unreadable_total`. `younger`: the number of those that name old
    fields, but can't be old."""

    first: list[OldObject] = field(default_factory=list)
    total: int = 0
    unreadable: list[str] = field(default_factory=list)
    unreadable_total: int = 0
    younger: int = 0


async def is_definition_old(transport: Transport) -> bool:
    """True if the definition of Workloads in the cluster is of an earlier release; False also if there is none, or this
    process may not read it. Raises ApiError."""
    return _is_old(await _definition(transport))


async def _definition(transport: Transport) -> Manifest:
    """The definition of Workloads; empty if there is none, or this process may not read it."""
    path = DEFINITIONS.path("", WORKLOAD_DEFINITION)
    try:
        answer = await transport.send("GET", path, verb="get", resource=DEFINITIONS.plural)
    except ApiError as error:
        if error_kind(error) in (ErrorKind.NOT_FOUND, ErrorKind.FORBIDDEN):
            return {}
        raise
    found: Manifest = orjson.loads(answer)
    return found


def _is_old(definition: Manifest) -> bool:
    for version in definition.get("spec", {}).get("versions", ()):
        if version["name"] == VERSION:
            spec = version.get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})
            fields = spec.get("properties", {})
            # Both after an apply that left the fields of another field manager.
            return "backoffLimit" not in fields or "maxRetries" in fields
    return False


def _written_at(definition: Manifest) -> datetime | None:
    """Time of the last change of a definition's spec, which only administrators can make."""
    metadata = definition.get("metadata", {})
    texts = [metadata.get("creationTimestamp")]
    texts += [
        entry.get("time") for entry in metadata.get("managedFields") or () if "f:spec" in entry.get("fieldsV1", ())
    ]
    return max((datetime.fromisoformat(text) for text in texts if text), default=None)


async def find_old_objects(
    transport: Transport, *, most: int, metadata_only: bool, made_before: datetime | None = None
) -> OldObjects:
    """Up to `most` Workload objects in the old form. With `metadata_only` by their managed fields alone, which is
    enough, and costs less, under the present definition. Objects made at or after `made_before` (by the API server's
    clock) are counted as `younger` instead. Raises ApiError."""
    found = OldObjects()
    accept, containing = (METADATA_LIST, OLD_NAMES) if metadata_only else (JSON, ())
    async for obj in list_objects(transport, WORKLOADS, accept=accept, containing=containing):
        if VIOLATION_KEY in obj:
            found.unreadable_total += 1
            if len(found.unreadable) < most:
                found.unreadable.append(unreadable(obj))
        elif made_before is not None and _made_at(obj) >= made_before:
            found.younger += bool(old_fields_of(obj))
        elif fields := old_fields_of(obj):
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


def _made_at(obj: Mapping[str, Any]) -> datetime:
    """`creationTimestamp`, which the API server writes, and which no client can change."""
    return datetime.fromisoformat(obj["metadata"]["creationTimestamp"])


def unreadable(obj: Mapping[str, Any]) -> str:
    """The name of a stub, and the bound that its object exceeds."""
    metadata = obj["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']} ({obj[VIOLATION_KEY]})".removeprefix("/")


def is_submission(obj: Mapping[str, Any]) -> bool:
    """True for the object of a REST submission, whose name ends with the beginning of its row's id."""
    metadata = obj["metadata"]
    row = str((metadata.get("labels") or {}).get(REST_ID, ""))
    return bool(row) and str(metadata["name"]).endswith(f"-{row.replace('-', '')[:8]}")


async def list_objects(
    transport: Transport,
    kind: ResourceKind,
    *,
    namespace: str = "",
    accept: str = JSON,
    fields: str = "",
    containing: Collection[bytes] = (),
) -> AsyncIterator[Manifest]:
    """Every object of a kind, page by page, with its managed fields; none if the kind doesn't exist. `fields` is a
    field selector. With `containing`, only objects whose text has one of these parts.

    An object out of bounds is yielded as a stub, which has the key VIOLATION_KEY; one without readable metadata is left
    out and logged. Raises ApiError, also when the list takes so long that the server forgets its version.
    """
    params = {"limit": str(PAGE_OBJECTS)} | ({"fieldSelector": fields} if fields else {})
    try:
        pages = transport.pages(kind, bounded_objects.raw_page, namespace=namespace, params=params, accept=accept)
        async for items in pages:
            for item in items:
                raw = bytes(item)
                if containing and not any(part in raw for part in containing):
                    continue
                if (obj := await _decoded(raw, kind)) is not None:
                    yield {"apiVersion": kind.api_version, **obj, "kind": kind.kind}
    except ApiError as error:
        if error_kind(error) is not ErrorKind.NOT_FOUND:
            raise


async def _decoded(raw: bytes, kind: ResourceKind) -> Manifest | None:
    try:
        if len(raw) < LARGE_BYTES:
            return bounded_objects.read_whole(raw)
        return await asyncio.to_thread(bounded_objects.read_whole, raw)
    except BoundedJsonError as error:
        bounded_objects.dropped(kind.kind, error)
        return None


async def refuse_old_form(transport: Transport, *, migrated_at: datetime | None = None) -> None:
    """Raise OldFormError beside a definition or objects of an earlier release. Raises ApiError.

    Users can write `managedFields`, so the fields that it names are believed only of objects older than the present
    names: than `migrated_at`, when the database got them, and than the last change of the definition. Other such
    objects, objects that can't be read, and a list that takes too long are logged.
    """
    definition = await _definition(transport)
    if _is_old(definition):
        raise OldFormError(OLD_DEFINITION)
    made_before = min((at for at in (migrated_at, _written_at(definition)) if at is not None), default=None)
    try:
        async with asyncio.timeout(START_CHECK_SECONDS):
            found = await find_old_objects(transport, most=SHOWN_OBJECTS, metadata_only=True, made_before=made_before)
    except TimeoutError:
        logger.error("the check for objects of an earlier release is incomplete; run `niyanta migrate --check`")
        return
    if found.unreadable_total:
        logger.warning(
            "objects were not checked for fields of an earlier release",
            objects=found.unreadable_total,
            first=found.unreadable,
        )
    if found.younger:
        logger.warning(
            "objects name fields of an earlier release, but were made in the present form", objects=found.younger
        )
    if found.total:
        shown = ", ".join(map(str, found.first))
        raise OldFormError(
            f"{found.total} Workload objects have fields of an earlier release: {shown}"
            f"{', ...' if found.total > len(found.first) else ''}; see `niyanta migrate --check` and docs/upgrade.md"
        )
