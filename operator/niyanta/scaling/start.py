"""Puts a scaler together: which provider a pool gets, and what it may use. `operate` calls it for each leadership."""

from __future__ import annotations

from collections.abc import Callable

from niyanta.cluster.cache import ClusterCache
from niyanta.cluster.catalog import Catalog
from niyanta.cluster.client import ApiClient
from niyanta.resources.worker_pool import WorkerPool
from niyanta.scaling.ec2 import Ec2Provider
from niyanta.scaling.fleet import Fleet
from niyanta.scaling.kwok import KwokProvider
from niyanta.scaling.ports import Provider
from niyanta.scaling.scaler import Scaler
from niyanta.scheduler.session import Session
from niyanta.settings import Settings


def make_scaler(
    settings: Settings,
    *,
    cache: ClusterCache,
    client: ApiClient,
    session: Session,
    pools: Catalog[WorkerPool],
    may_act: Callable[[], bool],
) -> Scaler:
    """A scaler for one leadership. `may_act` is asked right before each order to a provider leaves."""
    fleet = Fleet(cache=cache, client=client, session=session, pools=pools)

    def provider_for(pool: WorkerPool) -> Provider | None:
        name, spec = pool.metadata.name, pool.spec.provider
        if spec is None:
            return None
        if spec.ec2_auto_scaling_group is not None:
            return Ec2Provider(spec.ec2_auto_scaling_group, may_act=may_act)
        return KwokProvider(client, lambda: fleet.pool(name), fleet.owners)

    return Scaler(
        fleet=fleet,
        session=session,
        pools=pools,
        provider_for=provider_for,
        interval=settings.scaling_interval,
        enabled=settings.enable_scaling,
    )
