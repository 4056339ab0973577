"""The APIServices of custom.metrics.k8s.io, read by the leader: the release's own, and that of another adapter.

A cluster has one server of the group, because autoscalers use its preferred version only. The chart registers v1beta2
with a low priority, so that another adapter (usually v1beta1) stays preferred; its policy keeps the APIService of
another server from being replaced. `certificate_rotation` writes to the APIService only while it refers to this
adapter's Service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niyanta.cluster.api.client import ApiClient, Manifest
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import API_SERVICES
from niyanta.observability import log
from niyanta.observability.gauges import LeaderGauge
from niyanta.settings import Settings

logger = log.get(__name__)

API_SERVICE = "v1beta2.custom.metrics.k8s.io"
OTHER_API_SERVICE = "v1beta1.custom.metrics.k8s.io"

REGISTERED = LeaderGauge(
    "niyanta_adapter_registered",
    "1 while this release alone serves custom.metrics.k8s.io; 0 while its APIService is missing or belongs to another "
    "server, or another server has registered the group as well",
)


class Registration:
    """Reads the APIServices, reports the result as a metric, and logs a problem once."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self._client = client
        self._namespace = settings.namespace
        self._service = settings.metrics_adapter_service
        self._logged = ""
        """The last logged problem."""

    async def read(self) -> Manifest | None:
        """The APIService if it refers to this adapter's Service; None otherwise, so that it isn't changed.

        Raises:
            ApiError: it can't be read.
        """
        found = await self._client.get(API_SERVICES, API_SERVICE)
        is_ours = found is not None and self._is_ours(found)
        problem = self._problem(found) or await self._other_server()
        REGISTERED.set(0.0 if problem else 1.0)
        if problem and problem != self._logged:
            logger.error(problem)
        self._logged = problem
        return found if is_ours else None

    def forget(self) -> None:
        """Remove the metric: only a leader knows."""
        REGISTERED.clear()

    def _problem(self, found: Manifest | None) -> str:
        if found is None:
            return f"the APIService {API_SERVICE} is missing: autoscalers can't read metrics"
        if not self._is_ours(found):
            owner = _owner(found)
            return f"the APIService {API_SERVICE} belongs to {owner}: autoscalers can't read Niyanta's metrics"
        return ""

    async def _other_server(self) -> str:
        try:
            other = await self._client.get(API_SERVICES, OTHER_API_SERVICE)
        except ApiError as error:
            if error_kind(error) is ErrorKind.FORBIDDEN:  # roles of an administrator, which may lack this permission
                return ""
            raise
        if other is None or self._is_ours(other):
            return ""
        return (
            f"the APIService {OTHER_API_SERVICE} belongs to {_owner(other)}: a cluster can have only one server of "
            "custom.metrics.k8s.io, and autoscalers read metrics from the preferred one. Set metricsAdapter.enabled to "
            "false, or remove the other adapter"
        )

    def _is_ours(self, registration: Manifest) -> bool:
        return _service(registration) == (self._namespace, self._service)


def _service(registration: Manifest) -> tuple[object, object]:
    service: Mapping[str, Any] = registration["spec"].get("service") or {}
    return service.get("namespace"), service.get("name")


def _owner(registration: Manifest) -> str:
    namespace, name = _service(registration)
    return f"the Service {namespace}/{name}" if name else "the API server itself"
