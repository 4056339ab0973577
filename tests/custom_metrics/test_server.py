"""The adapter over TLS: authentication of callers, answers, and discovery."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from niyanta.custom_metrics import server
from niyanta.custom_metrics.documents import AGGREGATED
from tests.custom_metrics.adapter_scenario import (
    AS_HPA,
    FIGURES,
    HOST,
    POOLS,
    PROTOBUF,
    ROOT,
    AdapterScenario,
    assert_status,
    running,
)
from tests.custom_metrics.authorities import Authority, client_context

pytestmark = pytest.mark.unit

# --- authentication --------------------------------------------------------------------------------------------------


async def test_the_front_proxy_is_answered_in_json_whatever_it_accepts(scenario: AdapterScenario) -> None:
    reply = await scenario.ask(f"{POOLS}/gpu/demand")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.value == "7"
    only_protobuf = await scenario.ask(f"{POOLS}/gpu/demand", headers={**AS_HPA, "Accept": PROTOBUF.split(",")[0]})
    assert only_protobuf.value == "7"


async def test_headers_without_a_certificate_prove_nothing(scenario: AdapterScenario) -> None:
    spoofed = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    reply = await scenario.ask(f"{POOLS}/gpu/demand", anonymous=True, headers=spoofed)
    assert_status(reply, 401, "Unauthorized", "only the API server may send requests")
    assert_status(await scenario.ask(ROOT, anonymous=True, headers=spoofed), 401, "Unauthorized", "only the API server")


async def test_a_certificate_of_another_authority_ends_the_connection(
    scenario: AdapterScenario, tmp_path: Path
) -> None:
    # An impostor's authority may even carry the right name.
    for stranger in (Authority("stranger"), Authority("front-proxy-ca")):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await scenario.ask(ROOT, certificate=stranger.client(tmp_path, "front-proxy-client"))
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await scenario.ask(ROOT, certificate=scenario.front.client(tmp_path, "front-proxy-client", ended=True))


async def test_another_name_of_the_right_authority_is_forbidden(scenario: AdapterScenario, tmp_path: Path) -> None:
    reply = await scenario.ask(ROOT, certificate=scenario.front.client(tmp_path, "kubelet"))
    assert_status(reply, 403, "Forbidden", "name (kubelet) is not one of requestheader-allowed-names")


async def test_without_allowed_names_every_name_of_the_authority_is_accepted(tmp_path: Path) -> None:
    async with running(AdapterScenario(tmp_path), **{"requestheader-allowed-names": "[]"}) as scenario:
        assert (await scenario.ask(ROOT, certificate=scenario.front.client(tmp_path, "any-client"))).status == 200


async def test_the_user_is_read_from_the_headers_that_the_cluster_names(tmp_path: Path) -> None:
    async with running(AdapterScenario(tmp_path), **{"requestheader-username-headers": '["X-Who"]'}) as scenario:
        assert (await scenario.ask(ROOT, headers={"X-Who": "caller"})).status == 200
        assert_status(await scenario.ask(ROOT), 401, "Unauthorized", "expected in X-Who")


async def test_every_caller_is_unauthorized_while_the_authority_is_unknown(tmp_path: Path) -> None:
    async with running(AdapterScenario(tmp_path), **{"requestheader-client-ca-file": ""}) as scenario:
        assert_status(await scenario.ask(ROOT), 401, "Unauthorized", "names no requestheader-client-ca-file")
        assert scenario.adapter.problem() == ""


@pytest.mark.parametrize("names", ["front-proxy-client", '{"a": 1}', "[1]", '[""]', "[" * 5000, f'["{"x" * 70_000}"]'])
async def test_allowed_names_that_cannot_be_read_allow_no_caller(tmp_path: Path, names: str) -> None:
    async with running(AdapterScenario(tmp_path), **{"requestheader-allowed-names": names}) as scenario:
        assert_status(await scenario.ask(ROOT), 401, "Unauthorized", "names no requestheader-client-ca-file")


async def test_probes_need_no_certificate(scenario: AdapterScenario) -> None:
    for path in ("/healthz", "/readyz", "/livez"):
        assert (await scenario.ask(path, anonymous=True)).body == b"ok"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_protocols_and_plain_http_are_refused(scenario: AdapterScenario) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{scenario.adapter.port}/healthz")
    context = client_context(scenario.serving.authorities)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", scenario.adapter.port, ssl=context, server_hostname=HOST)


async def test_long_paths_and_headers_are_refused(scenario: AdapterScenario) -> None:
    assert (await scenario.ask(f"{POOLS}/{'x' * 9000}/demand")).status in (400, 414)
    assert (await scenario.ask(ROOT, headers={**AS_HPA, "X-Long": "x" * 20_000})).status == 400


async def test_other_methods_than_get_and_head_are_refused(scenario: AdapterScenario) -> None:
    for method in ("POST", "DELETE", "PUT", "PATCH"):
        reply = await scenario.ask(f"{POOLS}/gpu/demand", method=method)
        assert_status(reply, 405, "MethodNotAllowed", "metrics are only read")
    assert (await scenario.ask(f"{POOLS}/gpu/demand", method="HEAD")).status == 200


async def test_idle_connections_of_others_leave_room_for_the_front_proxy(
    scenario: AdapterScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 6)
    monkeypatch.setattr(server, "MOST_OTHER_CONNECTIONS", 3)
    context = client_context(scenario.serving.authorities)
    opened = [
        await asyncio.open_connection("127.0.0.1", scenario.adapter.port, ssl=context, server_hostname=HOST)
        for _ in range(8)
    ]
    try:
        async with asyncio.timeout(10):
            for reader, _ in opened[:5]:
                with suppress(ConnectionError):
                    assert await reader.read() == b"", "each took the place of the oldest"
        assert (await scenario.ask(f"{POOLS}/gpu/demand")).value == "7"
        assert (await scenario.ask("/healthz", anonymous=True)).body == b"ok"
    finally:
        for _, writer in opened:
            writer.close()


async def test_a_connection_without_certificate_ends_with_its_first_response(scenario: AdapterScenario) -> None:
    assert (await scenario.ask(ROOT, anonymous=True)).headers["Connection"] == "close"
    assert "Connection" not in (await scenario.ask(ROOT)).headers


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_an_empty_queue_has_the_value_zero(scenario: AdapterScenario) -> None:
    for metric in ("demand", "workers_needed", "utilization_percent_sum", "queue_depth", "queue_oldest_age_seconds"):
        assert (await scenario.ask(f"{POOLS}/idle/{metric}")).value == "0"
    assert (await scenario.ask(f"{ROOT}/namespaces/quiet/metrics/queue_depth")).value == "0"


async def test_namespaces_have_metrics_too(scenario: AdapterScenario) -> None:
    async def ask(metric: str) -> str:
        return (await scenario.ask(f"{ROOT}/namespaces/team/metrics/{metric}?metricLabelSelector=")).value

    assert [await ask(m) for m in ("demand", "queue_depth", "queue_oldest_age_seconds")] == ["8", "4", "2250m"]
    everywhere = await scenario.ask(f"{ROOT}/namespaces/*/metrics/demand")
    assert [item["describedObject"]["name"] for item in everywhere.body["items"]] == ["team"]


async def test_a_label_selector_chooses_among_all_pools(scenario: AdapterScenario) -> None:
    async def names(query: str) -> list[str]:
        reply = await scenario.ask(f"{POOLS}/*/demand{query}")
        return [item["describedObject"]["name"] for item in reply.body["items"]]

    assert await names("") == ["gpu", "idle"]
    assert await names("?labelSelector=tier%3Dfast") == ["gpu"]
    assert await names("?labelSelector=tier+notin+%28fast%29") == ["idle"]
    assert await names("?labelSelector=tier%3Dslow") == []
    assert_status(await scenario.ask(f"{POOLS}/*/demand?labelSelector=%3D"), 400, "BadRequest", "label selector")


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        (f"{POOLS}/nope/demand", 404, "there is no WorkerPool nope; there are: gpu, idle, new"),
        (f"{POOLS}/gpu/nope", 404, "a WorkerPool has no metric nope; it has: demand, workers_needed"),
        (f"{ROOT}/namespaces/team/metrics/workers_needed", 404, "a Namespace has no metric workers_needed"),
        (f"{ROOT}/namespaces/team/workerpools.niyanta.io/gpu/demand", 404, "in the namespace niyanta-system only"),
        (f"{ROOT}/namespaces/team/pods/web/demand", 404, "there are no metrics of pods"),
        (f"{ROOT}/nodes/n1/demand", 404, "is not served; metrics are at"),
        ("/apis/external.metrics.k8s.io/v1beta1", 404, "is not served"),
        ("/", 404, "is not served"),
        (f"{POOLS}/gpu/demand?metricLabelSelector=a%3Db", 400, "these metrics have no labels"),
        (f"{ROOT}/namespaces/*/metrics/demand?labelSelector=a", 400, "labels of namespaces are not known"),
        (f"{POOLS}/new/demand", 503, "the WorkerPool new was not counted yet"),
    ],
)
async def test_a_refusal_names_what_is_missing(scenario: AdapterScenario, path: str, code: int, words: str) -> None:
    reason = {404: "NotFound", 400: "BadRequest", 503: "ServiceUnavailable"}[code]
    assert_status(await scenario.ask(path), code, reason, words)


async def test_old_statistics_are_not_served(scenario: AdapterScenario) -> None:
    scenario.figures = (FIGURES, 5.2)
    await scenario.stats.read()
    reply = await scenario.ask(f"{POOLS}/gpu/demand")
    assert_status(reply, 503, "ServiceUnavailable", "no leader has written newer ones")
    assert "the figures are 5." in reply.body["message"]
    # No Retry-After: the autoscaler would wait for it, and it scales nothing without a metric anyway.
    assert "Retry-After" not in reply.headers
    assert (await scenario.ask(ROOT)).status == 200


async def test_without_postgres_discovery_goes_on_and_statistics_expire(scenario: AdapterScenario) -> None:
    scenario.store_away = True
    await scenario.stats.read()
    assert (await scenario.ask(f"{POOLS}/gpu/demand")).value == "7"
    scenario.store_away = False
    scenario.figures = (FIGURES, 30.0)
    await scenario.stats.read()
    scenario.store_away = True
    await scenario.stats.read()
    for path in (f"{POOLS}/gpu/demand", f"{ROOT}/namespaces/team/metrics/demand"):
        assert_status(await scenario.ask(path), 503, "ServiceUnavailable", "Postgres does not answer")
    for path in ("/apis", "/apis/custom.metrics.k8s.io", ROOT, "/openapi/v2", "/openapi/v3"):
        assert (await scenario.ask(path)).status == 200


async def test_no_metric_is_served_before_a_leader_has_written_statistics(tmp_path: Path) -> None:
    async with running(AdapterScenario(tmp_path, figures=None)) as scenario:
        assert_status(await scenario.ask(f"{POOLS}/gpu/demand"), 503, "ServiceUnavailable", "no leader has counted yet")


# --- discovery -------------------------------------------------------------------------------------------------------


async def test_discovery_in_both_forms(scenario: AdapterScenario) -> None:
    plain = await scenario.ask("/apis")
    assert [group["name"] for group in plain.body["groups"]] == ["custom.metrics.k8s.io"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList, application/json"
    both = await scenario.ask("/apis", headers={**AS_HPA, "Accept": accept})
    assert both.headers["Content-Type"] == AGGREGATED
    assert both.body["kind"] == "APIGroupDiscoveryList"
    older = await scenario.ask("/apis", headers={**AS_HPA, "Accept": accept.replace("v=v2", "v=v2beta1")})
    assert older.body["kind"] == "APIGroupList"
    assert (await scenario.ask("/apis/custom.metrics.k8s.io")).body["preferredVersion"]["version"] == "v1beta2"
    assert (await scenario.ask(ROOT)).body["kind"] == "APIResourceList"


async def test_discovery_that_has_not_changed_is_not_sent_again(scenario: AdapterScenario) -> None:
    first = await scenario.ask(ROOT)
    again = await scenario.ask(ROOT, headers={**AS_HPA, "If-None-Match": first.headers["ETag"]})
    assert again.status == 304
