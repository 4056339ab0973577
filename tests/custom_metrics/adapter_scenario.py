"""The adapter on a local port with certificates of the test's own, for tests of its server."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDictProxy

from niyanta.custom_metrics.certificate import ServingCertificate, ends_at, issue, service_names
from niyanta.custom_metrics.routes import CustomMetricsRoutes
from niyanta.custom_metrics.server import AggregatedApiServer
from niyanta.custom_metrics.stats_reader import StatsReader
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats
from tests.custom_metrics.authorities import Authority, client_context

NAMESPACE = "niyanta-system"
HOST = f"adapter.{NAMESPACE}.svc"
ROOT = "/apis/custom.metrics.k8s.io/v1beta2"
POOLS = f"{ROOT}/namespaces/{NAMESPACE}/workerpools.niyanta.io"
PROTOBUF = "application/vnd.kubernetes.protobuf,application/json"
AS_HPA = {"X-Remote-User": "system:serviceaccount:kube-system:horizontal-pod-autoscaler", "Accept": PROTOBUF}
FIGURES = DemandStats(
    at=1_700_000_000_000_000,
    epoch=4,
    pools=(PoolStats("gpu", running_slots=3, queued_slots=4, workers_needed=2), PoolStats("idle")),
    namespaces=(NamespaceStats("team", queued_workloads=4, queued_slots=8, oldest_age_seconds=2.25),),
)


def make_certificate() -> ServingCertificate:
    return issue(service_names("adapter", NAMESPACE), lifetime=dt.timedelta(days=1), now=dt.datetime.now(dt.UTC))


@dataclass
class Reply:
    """Status, decoded body and headers of an answer."""

    status: int
    body: Any
    headers: CIMultiDictProxy[str]

    @property
    def value(self) -> str:
        (item,) = self.body["items"]
        return str(item["value"])


@dataclass
class AdapterScenario:
    """A running adapter, the authority of its cluster's front proxy, and the statistics that the leader wrote."""

    folder: Path
    front: Authority = field(default_factory=lambda: Authority("front-proxy-ca"))
    serving: ServingCertificate = field(default_factory=make_certificate)
    figures: tuple[DemandStats, float] | None = (FIGURES, 0.4)
    store_away: bool = False
    labels: dict[str, dict[str, str]] = field(default_factory=lambda: {"gpu": {"tier": "fast"}, "idle": {}, "new": {}})

    def __post_init__(self) -> None:
        self.stats = StatsReader(self._read)
        self.adapter = AggregatedApiServer(
            CustomMetricsRoutes(self.stats, namespace=NAMESPACE, pools=lambda: self.labels), host="127.0.0.1", port=0
        )
        self.proxy = self.front.client(self.folder, "front-proxy-client")

    async def _read(self) -> tuple[DemandStats, float] | None:
        if self.store_away:
            raise StoreUnavailableError("no")
        return self.figures

    async def use(self, serving: ServingCertificate | None = None, **authentication: str) -> None:
        """Gives the adapter this certificate (by default its own again) and the cluster's authentication settings."""
        self.serving = serving or self.serving
        data = {
            "requestheader-client-ca-file": self.front.pem,
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            **authentication,
        }
        await self.adapter.use(
            certificate=self.serving.certificate,
            key=self.serving.key,
            ends_at=ends_at(self.serving.certificate),
            authentication=data,
        )
        await self.stats.read()

    def session(self, certificate: Path | None, *, trusting: bytes | None = None) -> aiohttp.ClientSession:
        context = client_context(trusting or self.serving.authorities, certificate)
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.adapter.port}", connector=aiohttp.TCPConnector(ssl=context)
        )

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        certificate: Path | None = None,
        anonymous: bool = False,
        headers: dict[str, str] | None = None,
        trusting: bytes | None = None,
    ) -> Reply:
        """One request on a connection of its own; by default the front proxy's, for the autoscaler."""
        shown = None if anonymous else certificate or self.proxy
        async with self.session(shown, trusting=trusting) as session:
            return await fetch(session, path, method=method, headers=headers)


async def fetch(
    session: aiohttp.ClientSession, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> Reply:
    sent = AS_HPA if headers is None else headers
    async with session.request(method, path, headers=sent, server_hostname=HOST) as answer:
        raw = await answer.read()
        is_json = raw and answer.headers["Content-Type"].startswith("application/json")
        return Reply(answer.status, orjson.loads(raw) if is_json else raw, answer.headers)


@asynccontextmanager
async def running(scenario: AdapterScenario, **authentication: str) -> AsyncIterator[AdapterScenario]:
    """The scenario with its adapter started; stops the adapter at the end."""
    await scenario.use(**authentication)
    try:
        yield scenario
    finally:
        await scenario.adapter.stop()


def assert_status(reply: Reply, code: int, reason: str, words: str) -> None:
    assert reply.status == code, reply.body
    assert reply.body["kind"] == "Status"
    assert (reply.body["status"], reply.body["code"], reply.body["reason"]) == ("Failure", code, reason)
    assert words in reply.body["message"]
