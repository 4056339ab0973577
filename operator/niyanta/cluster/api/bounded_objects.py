"""Decoding of custom objects from the API server, whose depth, size and integers users choose.

`client`, `kopf_watcher` and `old_objects` use it. An object that exceeds a bound of `bounded_json` is replaced by a
stub: its identity (see `_Identity`), an empty spec, and the violation as text under the top-level key
`niyantaViolation`, which `scheduler.intake.object_to_row` turns into a Failed row. So the object gets a status, and
deletions and corrections of it are seen. Managed fields and the last applied manifest are dropped, except by
`read_whole`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson
from prometheus_client import Counter

from niyanta import bounded_json
from niyanta.bounded_json import VIOLATION_KEY, BoundedJsonError
from niyanta.cluster.api import json_scan
from niyanta.cluster.api.objects import UNDECODABLE
from niyanta.observability import log

logger = log.get(__name__)

Manifest = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

MAX_RAW_CONTAINERS = 50_000
"""Most lists and objects in one object, with its managed fields. Decoded, each takes some 60 bytes at least."""

MAX_CONTAINERS = 5_000
MAX_VALUES = 10_000
MAX_OBJECT_BYTES = 512 * 1024
"""Bounds of an object without its managed fields. Thousands of objects may be in memory at the same time."""

TOO_DEEP = f"at most {bounded_json.MAX_DEPTH} levels of lists and objects are allowed"

OUT_OF_BOUNDS = Counter(
    "niyanta_objects_out_of_bounds_total",
    "Objects too deep, too large or with integers of more than 64 bits, as read from the API server",
    ["outcome"],
)
for _outcome in ("stub", "dropped"):
    OUT_OF_BOUNDS.labels(_outcome)


class _RawEvent(msgspec.Struct, frozen=True):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _PageMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _RawPage(msgspec.Struct, frozen=True):
    kind: str = ""
    apiVersion: str = ""  # noqa: N815 - the name in the document
    metadata: _PageMetadata = _PageMetadata()
    items: list[msgspec.Raw] | None = None


class _StubMetadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Metadata of an object that becomes a stub."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    finalizers: list[str] = []


class _Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is decoded of an object that becomes a stub."""

    apiVersion: str = ""  # noqa: N815 - the name in the document
    kind: str = ""
    metadata: _StubMetadata = _StubMetadata()


_events = msgspec.json.Decoder(_RawEvent)
_pages = msgspec.json.Decoder(_RawPage)
_identities = msgspec.json.Decoder(_Identity)

T = TypeVar("T")


def read_object(raw: bytes) -> Manifest:
    """One object, or its stub. Raises BoundedJsonError if not even its metadata can be read."""
    problem = None
    if len(raw) >= json_scan.SMALL_BYTES:
        problem = _problem(raw, most_bytes=bounded_json.MAX_BYTES, most_containers=MAX_RAW_CONTAINERS)
    if problem is None:
        try:
            found = orjson.loads(raw)
            if not isinstance(found, dict):
                raise BoundedJsonError("not an object")
            _slim(found)
            # Encoded again, without managed fields, most objects have too few brackets to need a scan.
            text = orjson.dumps(found)
        except orjson.JSONDecodeError as error:
            problem = f"not valid JSON: {str(error)[:200]}"
        except orjson.JSONEncodeError:
            problem = TOO_DEEP
        else:
            problem = _problem(text, most_bytes=MAX_OBJECT_BYTES, most_containers=MAX_CONTAINERS)
            if problem is None and (text.count(b",") > MAX_VALUES or json_scan.has_large_integer(text)):
                problem = bounded_json.violation(found, max_values=MAX_VALUES)
            if problem is None:
                return found
    return _stub(raw, problem)


def read_event(line: bytes) -> Manifest:
    """A line of a watch, `{"type": .., "object": ..}`, with an object as by `read_object`. Raises BoundedJsonError."""
    event = _decoded(_events, line, depth=bounded_json.MAX_DEPTH + 2)
    return {"type": event.type, "object": read_object(bytes(event.object))}


def read_page(body: bytes) -> Manifest:
    """A page of a list. Items as by `read_object`; items that can't be read at all are left out and counted. Raises
    BoundedJsonError if the body isn't a list."""
    page = _decoded(_pages, body, depth=bounded_json.MAX_DEPTH + 3)
    items = []
    for raw in page.items or ():
        try:
            item = read_object(bytes(raw))
        except BoundedJsonError as error:
            dropped(page.kind, error)
            continue
        if page.kind:
            item.setdefault("kind", page.kind.removesuffix("List"))
            item.setdefault("apiVersion", page.apiVersion)
        items.append(item)
    metadata = msgspec.to_builtins(page.metadata)
    return {"kind": page.kind, "apiVersion": page.apiVersion, "metadata": metadata, "items": items}


def raw_page(body: bytes) -> tuple[list[msgspec.Raw], str]:
    """Undecoded items of a page of a list, and the token of the next page (empty at the end). Raises BoundedJsonError
    if the body isn't a list."""
    page = _decoded(_pages, body, depth=bounded_json.MAX_DEPTH + 3)
    return page.items or [], page.metadata.continue_token


def read_whole(raw: bytes) -> Manifest:
    """One object with its managed fields and last applied manifest, or its stub. Only the bounds of depth, bytes and
    containers count: the caller has one such object at a time. Raises BoundedJsonError as `read_object` does."""
    problem = _problem(raw, most_bytes=bounded_json.MAX_BYTES, most_containers=MAX_RAW_CONTAINERS)
    if problem is None:
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            problem = f"not valid JSON: {str(error)[:200]}"
        else:
            if not isinstance(found, dict):
                raise BoundedJsonError("not an object")
            found.pop(VIOLATION_KEY, None)
            return found
    return _stub(raw, problem)


def is_page(body: bytes) -> bool:
    """True if the body is a list of objects, and not, say, a list of API groups."""
    if b'"items"' not in body:
        return False
    return _decoded(_pages, body, depth=bounded_json.MAX_DEPTH + 3).items is not None


def dropped(what: str, error: Exception) -> None:
    """Log and count an object that can't be read at all."""
    OUT_OF_BOUNDS.labels("dropped").inc()
    logger.error("an object can't be read; it is left out", what=what, error=str(error)[:300])


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes, *, depth: int) -> T:
    """Decode an envelope. If an object in it is too deep for the decoder, it is cut at `depth` levels first, one more
    than are allowed in the object, so that `read_object` finds the violation."""
    try:
        return decoder.decode(text)
    except UNDECODABLE:
        try:
            return decoder.decode(json_scan.pruned(text, depth))
        except UNDECODABLE as error:
            raise BoundedJsonError(f"can't be decoded: {str(error)[:200]}") from error


def _problem(raw: bytes, *, most_bytes: int, most_containers: int) -> str | None:
    if len(raw) > most_bytes:
        return f"the object has {len(raw)} bytes; at most {most_bytes} are allowed"
    levels, containers = json_scan.shape(raw)
    if levels > bounded_json.MAX_DEPTH:
        return TOO_DEEP
    if containers > most_containers:
        return f"the object has {containers} lists and objects; at most {most_containers} are allowed"
    return None


def _stub(raw: bytes, problem: str) -> Manifest:
    found = _decoded(_identities, raw, depth=bounded_json.MAX_DEPTH)
    if not found.metadata.name or abs(found.metadata.generation) > bounded_json.MAX_INTEGER:
        raise BoundedJsonError(f"no metadata ({problem})")
    OUT_OF_BOUNDS.labels("stub").inc()
    stub: Manifest = msgspec.to_builtins(found)
    return {**stub, "spec": {}, VIOLATION_KEY: problem}


def _slim(found: Manifest) -> None:
    """Drop the parts of metadata that only other programs read, and a key that only stubs have."""
    found.pop(VIOLATION_KEY, None)
    metadata = found.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict):
            annotations.pop(LAST_APPLIED, None)
