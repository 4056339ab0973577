"""The custom.metrics.k8s.io adapter of one operator process, put together: figures in, certificates in, answers out.

Flow: store.figures -> metrics.adapter_feed -> metrics.adapter_api -> metrics.adapter; cluster.trust brings what changes
about certificates, and cluster.keeper, beside the leader's loop, changes it. `operate` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from niyanta import log
from niyanta.cluster.certificate import ServingCertificate, ends_at
from niyanta.cluster.client import ApiClient
from niyanta.cluster.keeper import Keeper
from niyanta.cluster.trust import TrustFollower
from niyanta.metrics.adapter import Adapter
from niyanta.metrics.adapter_api import AdapterApi
from niyanta.metrics.adapter_feed import FiguresFeed
from niyanta.resources.worker_pool import WorkerPool
from niyanta.settings import Settings
from niyanta.store.state import StateManager

logger = log.get(__name__)


class MetricsAdapter:
    """Every replica has one, whether it leads or not; with `settings.metrics_adapter` off it does nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: ApiClient,
        state: StateManager,
        pools: Callable[[], Mapping[str, WorkerPool]],
    ) -> None:
        self._enabled = settings.metrics_adapter
        self._feed = FiguresFeed(state.get_figures)
        api = AdapterApi(
            self._feed,
            namespace=settings.namespace,
            pools=lambda: {name: pool.metadata.labels for name, pool in pools().items()},
        )
        self._adapter = Adapter(api, host=settings.metrics_adapter_host, port=settings.metrics_adapter_port)
        self._trust = TrustFollower(client, settings, self._use)
        self._keeper = Keeper(client, settings)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What every replica runs, by name."""
        if not self._enabled:
            return []
        return [("adapter figures", self._feed.run()), ("adapter trust", self._trust.run())]

    def leader_tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the leader's loop."""
        return [("adapter keeper", self._keeper.run())] if self._enabled else []

    def problem(self) -> str:
        """Why this replica isn't ready; "" when it answers, or needn't."""
        found = self._adapter.problem() if self._enabled else ""
        return f"the metrics adapter does not answer: {found}" if found else ""

    async def stop(self) -> None:
        """Stop answering."""
        await self._adapter.stop()

    async def _use(self, held: ServingCertificate, authentication: Mapping[str, str]) -> None:
        try:
            end = ends_at(held.certificate)
        except ValueError as error:  # somebody edited the Secret: the leader makes another one
            logger.error("the Secret of the metrics adapter holds no certificate", error=str(error))
            return
        await self._adapter.use(certificate=held.certificate, key=held.key, ends_at=end, authentication=authentication)
