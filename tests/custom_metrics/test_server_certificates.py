"""The adapter while its certificates and the front proxy's authority change."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from pathlib import Path

import aiohttp
import pytest

from niyanta.custom_metrics.certificate import ServingCertificate, joined
from tests.custom_metrics.adapter_scenario import (
    POOLS,
    ROOT,
    AdapterScenario,
    fetch,
    make_certificate,
    running,
)
from tests.custom_metrics.authorities import Authority

pytestmark = pytest.mark.unit


async def test_it_is_not_ready_before_it_has_a_certificate(tmp_path: Path) -> None:
    scenario = AdapterScenario(tmp_path)
    assert scenario.adapter.problem() == "it has no certificate yet"
    assert scenario.adapter.port == 0
    async with running(scenario):
        assert scenario.adapter.problem() == ""


async def test_a_new_certificate_is_used_without_a_restart_and_both_are_trusted(scenario: AdapterScenario) -> None:
    port, old, new = scenario.adapter.port, scenario.serving, make_certificate()
    overlap = joined(new.authorities, old.authorities, now=dt.datetime.now(dt.UTC))
    # The old certificate is still served, and trusted.
    assert (await scenario.ask(ROOT, trusting=overlap)).status == 200
    await scenario.use(new)
    assert scenario.adapter.port == port
    assert (await scenario.ask(ROOT, trusting=overlap)).status == 200
    with pytest.raises(aiohttp.ClientError):
        await scenario.ask(ROOT, trusting=old.authorities)


async def test_no_request_fails_while_certificates_change(scenario: AdapterScenario) -> None:
    certificates = [make_certificate() for _ in range(3)]
    now = dt.datetime.now(dt.UTC)
    bundle = scenario.serving.authorities
    for one in certificates:
        bundle = joined(bundle, one.authorities, now=now)
    over = asyncio.Event()
    answered = 0

    async def keep_asking() -> None:
        nonlocal answered
        while not over.is_set():
            assert (await scenario.ask(f"{POOLS}/gpu/demand", trusting=bundle)).value == "7"
            answered += 1

    asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
    for one in certificates:
        before = answered
        await scenario.use(one)
        async with asyncio.timeout(30):
            while answered < before + 8:  # noqa: ASYNC110 - until each has asked again
                await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*asking)


async def test_a_connection_ends_when_its_front_proxy_is_revoked(scenario: AdapterScenario, tmp_path: Path) -> None:
    revoked = scenario.proxy
    async with scenario.session(revoked) as session:
        assert (await fetch(session, ROOT)).status == 200
        scenario.front = Authority("front-proxy-ca")
        await scenario.use()
        # The kept connection is gone, and its certificate opens no other.
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await fetch(session, ROOT)
    assert (await scenario.ask(ROOT, certificate=scenario.front.client(tmp_path, "front-proxy-client"))).status == 200


async def test_a_certificate_that_cannot_be_used_changes_nothing(scenario: AdapterScenario) -> None:
    good = scenario.serving
    bad = ServingCertificate(good.certificate, make_certificate().key, good.authorities)
    await scenario.use(bad)
    assert scenario.adapter.problem() == ""
    assert (await scenario.ask(ROOT, trusting=good.authorities)).status == 200


async def test_two_hundred_at_once(scenario: AdapterScenario) -> None:
    async with scenario.session(scenario.proxy) as session:
        replies = await asyncio.gather(*(fetch(session, f"{POOLS}/gpu/demand") for _ in range(200)))
    assert {reply.value for reply in replies} == {"7"}
