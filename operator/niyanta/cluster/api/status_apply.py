"""Server-side apply of statuses of custom resources.

The API server compares no `metadata.uid` when a status of a custom resource is applied, so each apply names the version
of the object, which no later object of the same name has. A missing object is never created by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from niyanta.cluster.api.errors import ApiError, ErrorKind, OutcomeUnknownError, error_kind
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.api.objects import UNDECODABLE
from niyanta.cluster.api.transport import APPLY_PATCH, JSON, JSON_PATCH, METADATA, Transport

FIELD_MANAGER = "niyanta"
MOST_TRIES = 3
"""Applies of one status while other writers change the object in between, each after a read; the removal of former
fields, two requests, is tried once beside them."""


class ManagedFields(msgspec.Struct, frozen=True):
    """An entry of `metadata.managedFields`; its fields are decoded only if they are the operator's."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fieldsV1: msgspec.Raw = msgspec.Raw(b"{}")  # noqa: N815 - the name in the document

    @property
    def former(self) -> dict[str, Any]:
        """The status fields that an operator of an older release wrote, by updates; empty if there are none."""
        if (self.manager, self.operation, self.subresource) != (FIELD_MANAGER, "Update", "status"):
            return {}
        owned = _fields(_fields(orjson.loads(bytes(self.fieldsV1))).get("f:status"))
        return {
            name.removeprefix("f:"): _fields(below) for name, below in owned.items() if name != "." and below != _DOT
        }


_DOT: dict[str, Any] = {".": {}}
"""Fields below a list or map of which only the list or map itself is owned."""


def _fields(value: Any) -> dict[str, Any]:
    """An object of `fieldsV1`; users may write other things there."""
    return value if isinstance(value, dict) else {}


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    uid: str
    managed_fields: list[ManagedFields] | None = None

    @property
    def former(self) -> dict[str, Any]:
        """See `ManagedFields`."""
        return {name: below for entry in self.managed_fields or () for name, below in entry.former.items()}


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata
    status: dict[str, Any] | None = None


_OBJECT = msgspec.json.Decoder(_Object)


class StatusApply:
    """Applies statuses over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def apply(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        uid: str,
        status: Mapping[str, Any],
        *,
        version: str = "",
        on_answer: Callable[[float], None] = lambda _: None,
    ) -> str | None:
        """Make `status` the operator's part of the status of the object with that UID. Fields that it applied before
        and that are missing now are removed; fields and list items of other writers stay.

        `version`: the object's version if it is known; otherwise, and after a conflict, the object is read. `on_answer`
        is called with the seconds that each successful apply took. Returns the object's new version, or None if the
        object is gone.
        """
        conflict: ApiError | None = None
        clean = False
        for _ in range(MOST_TRIES):
            try:
                if not version:
                    found = (await self._read(kind, namespace, name)).metadata
                    if found.uid != uid:
                        return None
                    version = found.resource_version
                meta = {"name": name, "uid": uid, "resourceVersion": version}
                if namespace:
                    meta["namespace"] = namespace
                body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "status": status}
                began = time.monotonic()
                stored = await self._patch(kind, namespace, name, APPLY_PATCH, body)
                on_answer(time.monotonic() - began)
                if clean or not stored.former:
                    return stored.resource_version
                # Leaving out a field removes it only if all its owners applied it: the former ones go, and come back.
                # Once only, because users can write entries that stay.
                clean = True
                version = await self._remove_former(kind, namespace, name)
                if not version:
                    return stored.resource_version
            except ApiError as error:
                if error_kind(error) is ErrorKind.NOT_FOUND:
                    return None
                if not _changed_meanwhile(error):
                    raise
                conflict, version = error, ""
        if conflict is not None:
            raise conflict
        return version

    async def _read(self, kind: ResourceKind, namespace: str, name: str, *, accept: str = METADATA) -> _Object:
        """A fresh read of an object's metadata, and of its status if `accept` asks for more."""
        answer = await self._transport.send(
            "GET", kind.path(namespace, name), verb="get", resource=kind.plural, accept=accept
        )
        return _decoded(answer)

    async def _remove_former(self, kind: ResourceKind, namespace: str, name: str) -> str:
        """Remove the status fields that an older release wrote; returns the object's new version, "" if the status has
        no such fields."""
        found = await self._read(kind, namespace, name, accept=JSON)
        removed = removals(found.status or {}, found.metadata.former)
        if not removed:
            return ""
        test = {"op": "test", "path": "/metadata/resourceVersion", "value": found.metadata.resource_version}
        patch = [test, *removed]
        return (await self._patch(kind, namespace, name, JSON_PATCH, patch)).resource_version

    async def _patch(self, kind: ResourceKind, namespace: str, name: str, content_type: str, body: Any) -> _Metadata:
        answer = await self._transport.send(
            "PATCH",
            kind.path(namespace, name, "status"),
            verb="patch",
            resource=f"{kind.plural}/status",
            params={"fieldManager": FIELD_MANAGER} | ({"force": "true"} if content_type == APPLY_PATCH else {}),
            body=msgspec.json.encode(body),
            content_type=content_type,
            accept=METADATA,
        )
        return _decoded(answer).metadata


def filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a status that have a value, neither None nor an object without fields.

    Applying a status removes the fields that it leaves out. An empty object in the place of one with fields would be
    refused, because the API server makes it null.
    """
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def removals(status: Mapping[str, Any], former: Mapping[str, Any]) -> list[dict[str, Any]]:
    """JSON patch that removes fields from a status; `former`: names to the fields below. Conditions of other writers
    stay."""
    patch: list[dict[str, Any]] = []
    for name, below in former.items():
        if name not in status:
            continue
        if name == "conditions":
            theirs = [c for c in status[name] if f"k:{orjson.dumps({'type': c['type']}).decode()}" not in below]
            patch.append({"op": "replace", "path": "/status/conditions", "value": theirs})
        else:
            patch.append({"op": "remove", "path": f"/status/{name}"})
    return patch


def _changed_meanwhile(error: ApiError) -> bool:
    """True for a conflict, and for a failed test of a JSON patch, whose 422 has no causes."""
    return error_kind(error) is ErrorKind.CONFLICT or (error.status == 422 and not error.causes)


def _decoded(answer: bytes) -> _Object:
    try:
        return _OBJECT.decode(answer)
    except UNDECODABLE as error:
        raise OutcomeUnknownError(f"the answer can't be read: {str(error)[:200]}") from error
