"""Wiring of the custom.metrics.k8s.io adapter in one operator process; `manager` runs it.

Flow: demand statistics in Postgres -> stats_reader -> routes -> server. certificate_watcher passes changed certificates
to the server; on the leader, certificate_rotation replaces them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from niyanta.cluster.api.client import ApiClient
from niyanta.custom_metrics.certificate import ServingCertificate, ends_at
from niyanta.custom_metrics.certificate_rotation import CertificateRotation
from niyanta.custom_metrics.certificate_watcher import CertificateWatcher
from niyanta.custom_metrics.routes import CustomMetricsRoutes
from niyanta.custom_metrics.server import AggregatedApiServer
from niyanta.custom_metrics.stats_reader import StatsReader
from niyanta.observability import log
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.settings import Settings
from niyanta.store.state import StateManager

logger = log.get(__name__)


class MetricsAdapter:
    """The adapter of one replica, leading or not. It does nothing if `settings.metrics_adapter` is off."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: ApiClient,
        state: StateManager,
        pools: Callable[[], Mapping[str, WorkerPool]],
    ) -> None:
        self._enabled = settings.metrics_adapter
        self._stats = StatsReader(state.get_figures)
        api = CustomMetricsRoutes(
            self._stats,
            namespace=settings.namespace,
            pools=lambda: {name: pool.metadata.labels for name, pool in pools().items()},
        )
        self._adapter = AggregatedApiServer(api, host=settings.metrics_adapter_host, port=settings.metrics_adapter_port)
        self._certificate_watcher = CertificateWatcher(client, settings, self._use)
        self._certificate_rotation = CertificateRotation(client, settings)

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Tasks of every replica, by name."""
        if not self._enabled:
            return []
        return [("adapter stats", self._stats.run), ("adapter certificates", self._certificate_watcher.run)]

    def leader_tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Tasks that run beside the leader's loop, by name."""
        return [("adapter certificate rotation", self._certificate_rotation.run)] if self._enabled else []

    def problem(self) -> str:
        """The reason for which this replica isn't ready; "" if it answers, or if the adapter is off."""
        found = self._adapter.problem() if self._enabled else ""
        return f"the metrics adapter does not answer: {found}" if found else ""

    async def stop(self) -> None:
        """Stop answering."""
        await self._adapter.stop()

    async def _use(self, held: ServingCertificate, authentication: Mapping[str, str]) -> None:
        try:
            end = ends_at(held.certificate)
        except ValueError as error:  # the Secret was edited; the leader replaces the certificate
            logger.error("the metrics adapter's Secret doesn't contain a certificate", error=str(error))
            return
        await self._adapter.use(certificate=held.certificate, key=held.key, ends_at=end, authentication=authentication)
