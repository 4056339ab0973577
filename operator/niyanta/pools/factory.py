"""Makes the scaling controller of one leadership, and each pool's provider. `manager` calls it."""

from __future__ import annotations

from collections.abc import Callable

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.state.cache import ClusterCache
from niyanta.cluster.watch.resource_store import ResourceStore
from niyanta.observability.gauges import LabelLimit
from niyanta.pools.controller import ScalingController
from niyanta.pools.pool_nodes import PoolNodes
from niyanta.pools.providers.base import Provider
from niyanta.pools.providers.kwok import KwokProvider
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.scheduler.periodic.drain_queries import DrainQueries
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from niyanta.store.state import StateManager


def make_scaling_controller(
    settings: Settings,
    *,
    cache: ClusterCache,
    client: ApiClient,
    state: SchedulerState,
    store: StateManager,
    drain_queries: DrainQueries,
    pool_labels: LabelLimit,
    pools: ResourceStore[WorkerPool],
    may_act: Callable[[], bool],
) -> ScalingController:
    """The scaling controller of one leadership. `may_act` is called right before each order is sent to a provider."""
    nodes = PoolNodes(cache=cache, client=client, state=state, pools=pools)

    def provider_for(pool: WorkerPool) -> Provider | None:
        name, spec = pool.metadata.name, pool.spec.provider
        if spec is None:
            return None
        if spec.ec2_auto_scaling_group is not None:
            # boto3 takes a tenth of the operator's start and 20 MiB, and few clusters need it.
            from niyanta.pools.providers.ec2 import Ec2Provider

            return Ec2Provider(spec.ec2_auto_scaling_group, may_act=may_act)
        return KwokProvider(client, lambda: nodes.pool(name), nodes.owners)

    return ScalingController(
        nodes=nodes,
        state=state,
        store=store,
        drain_queries=drain_queries,
        pool_labels=pool_labels,
        pools=pools,
        provider_for=provider_for,
        interval=settings.scaling_interval,
        enabled=settings.enable_scaling,
    )
