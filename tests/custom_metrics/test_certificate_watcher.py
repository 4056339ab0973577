"""The watcher and the rotation of the certificate: objects that others have edited end neither of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest.mock import create_autospec

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.containment import Boundary
from niyanta.custom_metrics import certificate_rotation, certificate_watcher
from niyanta.custom_metrics.certificate import ServingCertificate, to_data
from niyanta.custom_metrics.certificate_rotation import CertificateRotation
from niyanta.custom_metrics.certificate_watcher import CertificateWatcher
from niyanta.settings import Settings
from tests.custom_metrics.adapter_scenario import make_certificate
from tests.fakes.leader import contained_errors, until

pytestmark = pytest.mark.unit


async def test_an_unexpected_error_does_not_end_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_watcher, "FIRST_READ_INTERVAL_SECONDS", 0.001)
    before = contained_errors(Boundary.METRICS_ADAPTER)
    held, used = make_certificate(), []
    answers: list[Any] = [{"data": to_data(held)}, {"data": 7}]  # a Secret, and a ConfigMap that is none

    async def get(*_: object, **__: object) -> Any:
        return answers.pop(0) if answers else {"data": to_data(held)}

    async def use(certificate: ServingCertificate, _: Mapping[str, str]) -> None:
        used.append(certificate)

    client = create_autospec(ApiClient, instance=True)
    client.get.side_effect = get
    running = asyncio.create_task(CertificateWatcher(client, Settings(), use).run())
    await until(lambda: used, "the certificate is used")
    assert contained_errors(Boundary.METRICS_ADAPTER) == before + 1
    running.cancel()


async def test_an_unexpected_error_does_not_end_the_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_rotation, "CHECK_INTERVAL_SECONDS", 0.001)
    before = contained_errors(Boundary.METRICS_ADAPTER)
    client = create_autospec(ApiClient, instance=True)
    client.get.return_value = {"metadata": {}}  # an APIService without a spec
    running = asyncio.create_task(CertificateRotation(client, Settings()).run())
    await until(lambda: client.get.await_count > 4, "it checks again")
    assert not running.done()
    assert contained_errors(Boundary.METRICS_ADAPTER) == before + 1
    running.cancel()
