"""The client of the API server: every request except the reflectors' lists and watches, and kopf's.

Every method raises `errors.ApiError` or a subclass, which `errors.error_kind` classifies. Deletes and patches name the
UID of the object, so that a later object of the same name is never changed; they succeed if the object is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec
import orjson

from niyanta.bounded_json import BoundedJsonError
from niyanta.cluster.api.bounded_objects import read_object, read_page
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.api.errors import ApiError, ErrorKind, OutcomeUnknownError, error_kind
from niyanta.cluster.api.kinds import CONFIG_MAPS, CUSTOMERS, EVENTS, PODS, WORKLOADS, ResourceKind
from niyanta.cluster.api.objects import UNDECODABLE, Pod
from niyanta.cluster.api.packed_objects import PackedManifest
from niyanta.cluster.api.pod_lane import PodLane
from niyanta.cluster.api.status_apply import StatusApply
from niyanta.cluster.api.transport import JSON, MERGE_PATCH, METADATA_LIST, STRATEGIC_PATCH, Transport
from niyanta.resources.labels import OUTCOME_FINALIZER
from niyanta.settings import Settings

Manifest = dict[str, Any]
T = TypeVar("T")

LIST_CHUNK_OBJECTS = 100


@dataclass(frozen=True, slots=True)
class Created(Generic[T]):
    """The object as the server stored it, with defaults. `ClusterCache.assume` takes in created pods."""

    obj: T


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind at `resource_version`, as `ApiClient.list` was told to keep them."""

    items: list[Any]
    resource_version: str


OTHER_CONNECTIONS = 48
"""Connections beside those for creates of pods: for as many removals of pods, statuses and Events as may be under way,
so that slow ones don't take the connections of creates."""


class ApiClient:
    """Asynchronous client. Use as `async with ApiClient(...) as client`."""

    def __init__(
        self, connection: Connection, settings: Settings, *, may_write: Callable[[], bool] | None = None
    ) -> None:
        """`may_write` is called right before each write is sent; False raises WritesClosedError (ErrorKind.FENCED)."""
        self._transport = Transport(
            connection,
            connections=settings.connections + OTHER_CONNECTIONS,
            request_timeout=settings.request_timeout,
            may_write=may_write,
        )
        self._statuses = StatusApply(self._transport)
        self.pod_lane = PodLane()
        """The creates of pods under way, which other writes may wait for."""
        self._instance = settings.identity[:128]
        self._pod = msgspec.json.Decoder(Pod)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.close()

    # --- pods --------------------------------------------------------------------------------------------------------

    async def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> Created[Pod]:
        """Create a bound pod. Unknown fields are refused (INVALID) instead of being dropped."""
        with self.pod_lane:
            answer = await self._transport.send(
                "POST",
                PODS.path(namespace),
                verb="create",
                resource="pods",
                params={"fieldValidation": "Strict"},
                body=orjson.dumps(manifest),
            )
        return Created(self._decoded_pod(answer))

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """A fresh read; None if the pod doesn't exist."""
        try:
            answer = await self._transport.send("GET", PODS.path(namespace, name), verb="get", resource="pods")
        except ApiError as error:
            if error_kind(error) is ErrorKind.NOT_FOUND:
                return None
            raise
        return self._decoded_pod(answer)

    def _decoded_pod(self, answer: bytes) -> Pod:
        try:
            return self._pod.decode(answer)
        except UNDECODABLE as error:
            raise OutcomeUnknownError(f"the answer can't be read: {str(error)[:200]}") from error

    async def delete_pod(self, namespace: str, name: str, uid: str, *, grace: int | None = None) -> bool:
        """Request deletion; False if the pod is gone. It exists until its kubelet has stopped it and its finalizers are
        removed."""
        return await self._delete(PODS, namespace, name, uid, grace=grace)

    async def remove_pod_finalizer(
        self, namespace: str, name: str, uid: str, *, finalizer: str = OUTCOME_FINALIZER
    ) -> bool:
        """Remove a finalizer (idempotent); False if the pod is gone."""
        body = {"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}}
        return await self._patch_if_same(PODS, namespace, name, STRATEGIC_PATCH, body, uid=uid)

    # --- custom resources --------------------------------------------------------------------------------------------

    async def create_workload(self, namespace: str, manifest: Mapping[str, Any]) -> Created[Manifest]:
        """Create the Workload object of a REST submission."""
        return Created(await self.create(WORKLOADS, manifest, namespace=namespace))

    async def get_workload(self, namespace: str, name: str) -> Manifest | None:
        """A fresh (quorum) read; None if the Workload doesn't exist."""
        return await self.get(WORKLOADS, name, namespace=namespace)

    async def delete_workload(self, namespace: str, name: str, uid: str) -> bool:
        """Delete; garbage collection deletes its pods. False if the Workload is gone."""
        return await self._delete(WORKLOADS, namespace, name, uid)

    async def list_workloads(self) -> Listed:
        """Every Workload of the cluster, from a consistent list."""
        return await self.list(WORKLOADS, keep=PackedManifest)

    async def apply_status(
        self,
        kind: ResourceKind,
        name: str,
        uid: str,
        status: Mapping[str, Any],
        *,
        namespace: str = "",
        version: str = "",
        on_answer: Callable[[float], None] = lambda _: None,
    ) -> str | None:
        """Apply a status to the object with that UID, and return the object's new version; None if it is gone. See
        `StatusApply.apply`."""
        return await self._statuses.apply(kind, namespace, name, uid, status, version=version, on_answer=on_answer)

    async def create_customer(self, manifest: Mapping[str, Any]) -> Created[Manifest]:
        """Create a Customer."""
        return Created(await self.create(CUSTOMERS, manifest))

    # --- the fence, events -------------------------------------------------------------------------------------------

    async def get_config_map(self, namespace: str, name: str) -> Manifest | None:
        """A fresh (quorum) read; None if it doesn't exist."""
        return await self.get(CONFIG_MAPS, name, namespace=namespace)

    async def create_config_map(self, namespace: str, manifest: Mapping[str, Any]) -> Created[Manifest]:
        """Create; raises ALREADY_EXISTS if it exists."""
        return Created(await self.create(CONFIG_MAPS, manifest, namespace=namespace))

    async def patch_config_map(
        self, namespace: str, name: str, body: Mapping[str, Any], *, resource_version: str = ""
    ) -> Manifest:
        """Merge patch, with `resource_version` only of that version (else CONFLICT). Returns the stored object."""
        if resource_version:
            metadata = {**body.get("metadata", {}), "resourceVersion": resource_version}
            body = {**body, "metadata": metadata}
        return await self.patch(CONFIG_MAPS, name, body, namespace=namespace)

    async def create_event(
        self,
        namespace: str,
        *,
        regarding: Mapping[str, str],
        name: str,
        reason: str,
        note: str,
        action: str,
        at: int,
        warning: bool = False,
    ) -> None:
        """Record an Event on the object `regarding` (apiVersion, kind, namespace, name, uid).

        Its namespace must be `namespace`; for cluster-scoped objects it has none and `namespace` is "default".
        `name` must be unique in the namespace; `at` is microseconds of the database's clock.
        """
        when = datetime.fromtimestamp(at // 1_000_000, UTC).replace(microsecond=at % 1_000_000)
        manifest = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "niyanta.io/operator",
            "reportingInstance": self._instance,
            "action": action[:128],
            "reason": reason[:128],
            "note": note[:1024],
            "type": "Warning" if warning else "Normal",
            "regarding": dict(regarding),
        }
        await self.create(EVENTS, manifest, namespace=namespace)

    # --- any kind ----------------------------------------------------------------------------------------------------

    async def get(self, kind: ResourceKind, name: str, *, namespace: str = "") -> Manifest | None:
        """A fresh read; None if the object doesn't exist."""
        try:
            answer = await self._transport.send("GET", kind.path(namespace, name), verb="get", resource=kind.plural)
        except ApiError as error:
            if error_kind(error) is ErrorKind.NOT_FOUND:
                return None
            raise
        return _mapping(answer)

    async def create(self, kind: ResourceKind, manifest: Mapping[str, Any], *, namespace: str = "") -> Manifest:
        """Create; returns the stored object."""
        answer = await self._transport.send(
            "POST", kind.path(namespace), verb="create", resource=kind.plural, body=orjson.dumps(manifest)
        )
        return _mapping(answer)

    async def patch(
        self, kind: ResourceKind, name: str, body: Mapping[str, Any], *, namespace: str = "", subresource: str = ""
    ) -> Manifest:
        """Merge patch; returns the stored object."""
        answer = await self._transport.send(
            "PATCH",
            kind.path(namespace, name, subresource),
            verb="patch",
            resource=f"{kind.plural}/{subresource}" if subresource else kind.plural,
            body=orjson.dumps(body),
            content_type=MERGE_PATCH,
        )
        return _mapping(answer)

    async def delete(self, kind: ResourceKind, name: str, uid: str, *, namespace: str = "") -> bool:
        """Delete the object with that UID; False if it is gone."""
        return await self._delete(kind, namespace, name, uid)

    async def list(
        self, kind: ResourceKind, *, namespace: str = "", label_selector: str = "", keep: type[Any] = dict
    ) -> Listed:
        """All objects, in chunks, from a consistent list (never from a stale cache), each made a `keep`.

        If the server no longer knows the version between two chunks, the list starts again, at last without chunks.
        """
        for chunk in (LIST_CHUNK_OBJECTS, LIST_CHUNK_OBJECTS, 0):
            items: list[Any] = []
            try:
                async for page in self._pages(kind, chunk, namespace=namespace, label_selector=label_selector):
                    items += await asyncio.to_thread(list, map(keep, page["items"]))
                    version = str(page["metadata"]["resourceVersion"])
                    await asyncio.sleep(0)
            except ApiError as error:
                if error_kind(error) is ErrorKind.GONE and chunk:
                    continue
                raise
            return Listed(items, version)
        raise AssertionError("unreachable")

    async def list_uids(self, kind: ResourceKind) -> set[str]:
        """UIDs of all objects. Only metadata is asked for, and only UIDs are kept."""
        for chunk in (LIST_CHUNK_OBJECTS, 0):
            found: set[str] = set()
            try:
                async for page in self._pages(kind, chunk, accept=METADATA_LIST):
                    found |= {str(item["metadata"].get("uid", "")) for item in page["items"]}
            except ApiError as error:
                if error_kind(error) is not ErrorKind.GONE or not chunk:
                    raise
            else:
                return found
        raise AssertionError("unreachable")

    async def _pages(
        self, kind: ResourceKind, chunk: int, *, namespace: str = "", label_selector: str = "", accept: str = JSON
    ) -> AsyncIterator[Manifest]:
        params = {"limit": str(chunk)} if chunk else {}
        if label_selector:
            params["labelSelector"] = label_selector
        pages = self._transport.pages(kind, _page, namespace=namespace, params=params, accept=accept)
        async for page in pages:
            yield page

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _delete(
        self, kind: ResourceKind, namespace: str, name: str, uid: str, *, grace: int | None = None
    ) -> bool:
        options: Manifest = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self._transport.send(
                "DELETE",
                kind.path(namespace, name),
                verb="delete",
                resource=kind.plural,
                body=orjson.dumps(options),
            )
        except ApiError as error:
            return await self._false_if_gone(error, kind, namespace, name, uid)
        return True

    async def _patch_if_same(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        content_type: str,
        body: Any,
        *,
        uid: str = "",
        subresource: str = "",
    ) -> bool:
        try:
            await self._transport.send(
                "PATCH",
                kind.path(namespace, name, subresource),
                verb="patch",
                resource=f"{kind.plural}/{subresource}" if subresource else kind.plural,
                body=orjson.dumps(body),
                content_type=content_type,
            )
        except ApiError as error:
            return await self._false_if_gone(error, kind, namespace, name, uid)
        return True

    async def _false_if_gone(self, error: ApiError, kind: ResourceKind, namespace: str, name: str, uid: str) -> bool:
        """False if the object with that UID is gone; raises other errors. A conflict may concern the UID or the version
        of the object, which its answer doesn't tell in a field: the object is read again."""
        found = error_kind(error)
        if found is ErrorKind.NOT_FOUND:
            return False
        if found is ErrorKind.CONFLICT and uid:
            with contextlib.suppress(ApiError):  # nodes can't be read by name
                current = await self.get(kind, name, namespace=namespace)
                if current is None or current["metadata"].get("uid") != uid:
                    return False
        raise error


def _mapping(answer: bytes) -> Manifest:
    """The object in an answer, within bounds (see `bounded_objects`)."""
    try:
        return read_object(answer)
    except BoundedJsonError as error:
        raise OutcomeUnknownError(f"the answer can't be read: {error}") from error


def _page(answer: bytes) -> tuple[Manifest, str]:
    page = read_page(answer)
    return page, page["metadata"].get("continue") or ""
