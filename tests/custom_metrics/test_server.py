"""The adapter over TLS: who is answered, what, and what happens when certificates change under it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from multidict import CIMultiDictProxy

from niyanta.custom_metrics.certificate import ServingCertificate, ends_at, issue, joined, service_names
from niyanta.custom_metrics.documents import AGGREGATED
from niyanta.custom_metrics.routes import CustomMetricsRoutes
from niyanta.custom_metrics.server import AggregatedApiServer
from niyanta.custom_metrics.stats_reader import StatsReader
from niyanta.store.errors import StoreUnavailableError
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats
from tests.custom_metrics.authorities import Authority, client_context

pytestmark = pytest.mark.unit

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
    status: int
    body: Any
    headers: CIMultiDictProxy[str]

    @property
    def value(self) -> str:
        (item,) = self.body["items"]
        return str(item["value"])


@dataclass
class Scene:
    """An adapter, the authority of its cluster's front proxy, and what the leader counted."""

    folder: Path
    front: Authority = field(default_factory=lambda: Authority("front-proxy-ca"))
    serving: ServingCertificate = field(default_factory=make_certificate)
    figures: tuple[DemandStats, float] | None = (FIGURES, 0.4)
    store_away: bool = False
    labels: dict[str, dict[str, str]] = field(default_factory=lambda: {"gpu": {"tier": "fast"}, "idle": {}, "new": {}})

    def __post_init__(self) -> None:
        self.feed = StatsReader(self._read)
        self.adapter = AggregatedApiServer(
            CustomMetricsRoutes(self.feed, namespace=NAMESPACE, pools=lambda: self.labels), host="127.0.0.1", port=0
        )
        self.proxy = self.front.client(self.folder, "front-proxy-client")

    async def _read(self) -> tuple[DemandStats, float] | None:
        if self.store_away:
            raise StoreUnavailableError("no")
        return self.figures

    async def use(self, serving: ServingCertificate | None = None, **authentication: str) -> None:
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
        await self.feed.read()

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
async def running(scene: Scene, **authentication: str) -> AsyncIterator[Scene]:
    await scene.use(**authentication)
    try:
        yield scene
    finally:
        await scene.adapter.stop()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running(Scene(tmp_path)) as made:
        yield made


def assert_status(reply: Reply, code: int, reason: str, words: str) -> None:
    assert reply.status == code, reply.body
    assert reply.body["kind"] == "Status"
    assert (reply.body["status"], reply.body["code"], reply.body["reason"]) == ("Failure", code, reason)
    assert words in reply.body["message"]


# --- who is answered -------------------------------------------------------------------------------------------------


async def test_the_front_proxy_is_answered_in_json_whatever_it_would_rather_have(scene: Scene) -> None:
    reply = await scene.ask(f"{POOLS}/gpu/demand")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.value == "7"
    only_protobuf = await scene.ask(f"{POOLS}/gpu/demand", headers={**AS_HPA, "Accept": PROTOBUF.split(",")[0]})
    assert only_protobuf.value == "7"


async def test_headers_without_a_certificate_prove_nothing(scene: Scene) -> None:
    spoofed = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    reply = await scene.ask(f"{POOLS}/gpu/demand", anonymous=True, headers=spoofed)
    assert_status(reply, 401, "Unauthorized", "only the API server may ask here")
    assert_status(await scene.ask(ROOT, anonymous=True, headers=spoofed), 401, "Unauthorized", "only the API server")


async def test_a_certificate_of_another_authority_ends_the_connection(scene: Scene, tmp_path: Path) -> None:
    # An impostor's authority may even carry the right name.
    for stranger in (Authority("stranger"), Authority("front-proxy-ca")):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await scene.ask(ROOT, certificate=stranger.client(tmp_path, "front-proxy-client"))
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await scene.ask(ROOT, certificate=scene.front.client(tmp_path, "front-proxy-client", ended=True))


async def test_another_name_of_the_right_authority_is_forbidden(scene: Scene, tmp_path: Path) -> None:
    reply = await scene.ask(ROOT, certificate=scene.front.client(tmp_path, "kubelet"))
    assert_status(reply, 403, "Forbidden", "kubelet's, which is not one of requestheader-allowed-names")


async def test_without_allowed_names_every_name_of_the_authority_will_do(tmp_path: Path) -> None:
    async with running(Scene(tmp_path), **{"requestheader-allowed-names": "[]"}) as scene:
        assert (await scene.ask(ROOT, certificate=scene.front.client(tmp_path, "anybody"))).status == 200


async def test_the_user_is_read_from_the_headers_that_the_cluster_names(tmp_path: Path) -> None:
    async with running(Scene(tmp_path), **{"requestheader-username-headers": '["X-Who"]'}) as scene:
        assert (await scene.ask(ROOT, headers={"X-Who": "somebody"})).status == 200
        assert_status(await scene.ask(ROOT), 401, "Unauthorized", "expected in X-Who")


async def test_nobody_is_answered_while_the_authority_is_unknown(tmp_path: Path) -> None:
    async with running(Scene(tmp_path), **{"requestheader-client-ca-file": ""}) as scene:
        assert_status(await scene.ask(ROOT), 401, "Unauthorized", "names no requestheader-client-ca-file")
        assert scene.adapter.problem() == ""


@pytest.mark.parametrize("names", ["front-proxy-client", '{"a": 1}', "[1]", '[""]'])
async def test_allowed_names_that_cannot_be_read_allow_nobody(tmp_path: Path, names: str) -> None:
    async with running(Scene(tmp_path), **{"requestheader-allowed-names": names}) as scene:
        assert_status(await scene.ask(ROOT), 401, "Unauthorized", "names no requestheader-client-ca-file")


async def test_probes_need_no_certificate(scene: Scene) -> None:
    for path in ("/healthz", "/readyz", "/livez"):
        assert (await scene.ask(path, anonymous=True)).body == b"ok"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_protocols_and_plain_http_get_nothing(scene: Scene) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{scene.adapter.port}/healthz")
    context = client_context(scene.serving.authorities)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", scene.adapter.port, ssl=context, server_hostname=HOST)


async def test_what_is_too_long_is_refused(scene: Scene) -> None:
    assert (await scene.ask(f"{POOLS}/{'x' * 9000}/demand")).status in (400, 414)
    assert (await scene.ask(ROOT, headers={**AS_HPA, "X-Long": "x" * 20_000})).status == 400


async def test_metrics_are_only_read(scene: Scene) -> None:
    for method in ("POST", "DELETE", "PUT", "PATCH"):
        reply = await scene.ask(f"{POOLS}/gpu/demand", method=method)
        assert_status(reply, 405, "MethodNotAllowed", "metrics are only read")
    assert (await scene.ask(f"{POOLS}/gpu/demand", method="HEAD")).status == 200


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_an_empty_queue_is_zero_not_nothing(scene: Scene) -> None:
    for metric in ("demand", "workers_needed", "utilization_percent_sum", "queue_depth", "queue_oldest_age_seconds"):
        assert (await scene.ask(f"{POOLS}/idle/{metric}")).value == "0"
    assert (await scene.ask(f"{ROOT}/namespaces/quiet/metrics/queue_depth")).value == "0"


async def test_namespaces_have_metrics_too(scene: Scene) -> None:
    async def ask(metric: str) -> str:
        return (await scene.ask(f"{ROOT}/namespaces/team/metrics/{metric}?metricLabelSelector=")).value

    assert [await ask(m) for m in ("demand", "queue_depth", "queue_oldest_age_seconds")] == ["8", "4", "2250m"]
    everywhere = await scene.ask(f"{ROOT}/namespaces/*/metrics/demand")
    assert [item["describedObject"]["name"] for item in everywhere.body["items"]] == ["team"]


async def test_all_pools_at_once_or_those_with_a_label(scene: Scene) -> None:
    async def names(query: str) -> list[str]:
        reply = await scene.ask(f"{POOLS}/*/demand{query}")
        return [item["describedObject"]["name"] for item in reply.body["items"]]

    assert await names("") == ["gpu", "idle"]
    assert await names("?labelSelector=tier%3Dfast") == ["gpu"]
    assert await names("?labelSelector=tier+notin+%28fast%29") == ["idle"]
    assert await names("?labelSelector=tier%3Dslow") == []
    assert_status(await scene.ask(f"{POOLS}/*/demand?labelSelector=%3D"), 400, "BadRequest", "label selector")


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        (f"{POOLS}/nope/demand", 404, "there is no WorkerPool nope; there are: gpu, idle, new"),
        (f"{POOLS}/gpu/nope", 404, "a WorkerPool has no metric nope; it has: demand, workers_needed"),
        (f"{ROOT}/namespaces/team/metrics/workers_needed", 404, "a Namespace has no metric workers_needed"),
        (f"{ROOT}/namespaces/team/workerpools.niyanta.io/gpu/demand", 404, "in the namespace niyanta-system alone"),
        (f"{ROOT}/namespaces/team/pods/web/demand", 404, "there are no metrics of pods"),
        (f"{ROOT}/nodes/n1/demand", 404, "is not served; metrics are at"),
        ("/apis/external.metrics.k8s.io/v1beta1", 404, "is not served"),
        ("/", 404, "is not served"),
        (f"{POOLS}/gpu/demand?metricLabelSelector=a%3Db", 400, "these metrics have no labels"),
        (f"{ROOT}/namespaces/*/metrics/demand?labelSelector=a", 400, "labels of namespaces are not known"),
        (f"{POOLS}/new/demand", 503, "the WorkerPool new was not counted yet"),
    ],
)
async def test_what_is_not_there_is_said_by_name(scene: Scene, path: str, code: int, words: str) -> None:
    reason = {404: "NotFound", 400: "BadRequest", 503: "ServiceUnavailable"}[code]
    assert_status(await scene.ask(path), code, reason, words)


async def test_old_figures_are_not_told(scene: Scene) -> None:
    scene.figures = (FIGURES, 5.2)
    await scene.feed.read()
    reply = await scene.ask(f"{POOLS}/gpu/demand")
    assert_status(reply, 503, "ServiceUnavailable", "no leader has written newer ones")
    assert "the figures are 5." in reply.body["message"]
    # A retry would keep the autoscaler waiting: it holds still by itself.
    assert "Retry-After" not in reply.headers
    assert (await scene.ask(ROOT)).status == 200


async def test_without_postgres_discovery_goes_on_and_figures_grow_old(scene: Scene) -> None:
    scene.store_away = True
    await scene.feed.read()
    assert (await scene.ask(f"{POOLS}/gpu/demand")).value == "7"
    scene.store_away = False
    scene.figures = (FIGURES, 30.0)
    await scene.feed.read()
    scene.store_away = True
    await scene.feed.read()
    for path in (f"{POOLS}/gpu/demand", f"{ROOT}/namespaces/team/metrics/demand"):
        assert_status(await scene.ask(path), 503, "ServiceUnavailable", "Postgres does not answer")
    for path in ("/apis", "/apis/custom.metrics.k8s.io", ROOT, "/openapi/v2", "/openapi/v3"):
        assert (await scene.ask(path)).status == 200


async def test_nothing_is_told_before_a_leader_has_counted(tmp_path: Path) -> None:
    async with running(Scene(tmp_path, figures=None)) as scene:
        assert_status(await scene.ask(f"{POOLS}/gpu/demand"), 503, "ServiceUnavailable", "no leader has counted yet")


# --- discovery -------------------------------------------------------------------------------------------------------


async def test_discovery_in_both_forms(scene: Scene) -> None:
    plain = await scene.ask("/apis")
    assert [group["name"] for group in plain.body["groups"]] == ["custom.metrics.k8s.io"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList, application/json"
    both = await scene.ask("/apis", headers={**AS_HPA, "Accept": accept})
    assert both.headers["Content-Type"] == AGGREGATED
    assert both.body["kind"] == "APIGroupDiscoveryList"
    older = await scene.ask("/apis", headers={**AS_HPA, "Accept": accept.replace("v=v2", "v=v2beta1")})
    assert older.body["kind"] == "APIGroupList"
    assert (await scene.ask("/apis/custom.metrics.k8s.io")).body["preferredVersion"]["version"] == "v1beta2"
    assert (await scene.ask(ROOT)).body["kind"] == "APIResourceList"


async def test_discovery_that_has_not_changed_is_not_sent_again(scene: Scene) -> None:
    first = await scene.ask(ROOT)
    again = await scene.ask(ROOT, headers={**AS_HPA, "If-None-Match": first.headers["ETag"]})
    assert again.status == 304


# --- certificates ----------------------------------------------------------------------------------------------------


async def test_it_is_not_ready_before_it_has_a_certificate(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.adapter.problem() == "it has no certificate yet"
    assert scene.adapter.port == 0
    async with running(scene):
        assert scene.adapter.problem() == ""


async def test_a_new_certificate_is_used_without_a_restart_and_both_are_trusted(scene: Scene) -> None:
    port, old, new = scene.adapter.port, scene.serving, make_certificate()
    overlap = joined(new.authorities, old.authorities, now=dt.datetime.now(dt.UTC))
    assert (await scene.ask(ROOT, trusting=overlap)).status == 200  # not reloaded yet, and trusted all the same
    await scene.use(new)
    assert scene.adapter.port == port
    assert (await scene.ask(ROOT, trusting=overlap)).status == 200
    with pytest.raises(aiohttp.ClientError):
        await scene.ask(ROOT, trusting=old.authorities)


async def test_nobody_is_turned_away_while_certificates_change(scene: Scene) -> None:
    certificates = [make_certificate() for _ in range(3)]
    now = dt.datetime.now(dt.UTC)
    bundle = scene.serving.authorities
    for one in certificates:
        bundle = joined(bundle, one.authorities, now=now)
    over = asyncio.Event()
    answered = 0

    async def keep_asking() -> None:
        nonlocal answered
        while not over.is_set():
            assert (await scene.ask(f"{POOLS}/gpu/demand", trusting=bundle)).value == "7"
            answered += 1

    asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
    for one in certificates:
        before = answered
        await scene.use(one)
        async with asyncio.timeout(30):
            while answered < before + 8:  # noqa: ASYNC110 - until each has asked again
                await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*asking)


async def test_a_connection_of_a_revoked_front_proxy_ends(scene: Scene, tmp_path: Path) -> None:
    revoked = scene.proxy
    async with scene.session(revoked) as session:
        assert (await fetch(session, ROOT)).status == 200
        scene.front = Authority("front-proxy-ca")
        await scene.use()
        # The kept connection is gone, and its certificate opens no other.
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await fetch(session, ROOT)
    assert (await scene.ask(ROOT, certificate=scene.front.client(tmp_path, "front-proxy-client"))).status == 200


async def test_a_certificate_that_cannot_be_used_changes_nothing(scene: Scene) -> None:
    good = scene.serving
    bad = ServingCertificate(good.certificate, make_certificate().key, good.authorities)
    await scene.use(bad)
    assert scene.adapter.problem() == ""
    assert (await scene.ask(ROOT, trusting=good.authorities)).status == 200


async def test_two_hundred_at_once(scene: Scene) -> None:
    async with scene.session(scene.proxy) as session:
        replies = await asyncio.gather(*(fetch(session, f"{POOLS}/gpu/demand") for _ in range(200)))
    assert {reply.value for reply in replies} == {"7"}
