"""The adapter never writes to the APIService of another server, and a leader reports its registration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest.mock import create_autospec

import pytest
import structlog
from prometheus_client import REGISTRY

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import API_SERVICES, SECRETS, ResourceKind
from niyanta.custom_metrics import certificate_rotation
from niyanta.custom_metrics.certificate import to_data
from niyanta.custom_metrics.certificate_rotation import CertificateRotation
from niyanta.custom_metrics.registration import API_SERVICE, OTHER_API_SERVICE, Registration
from niyanta.settings import Settings
from tests.custom_metrics.adapter_scenario import make_certificate
from tests.fakes.leader import until

pytestmark = pytest.mark.unit

SETTINGS = Settings(namespace="niyanta-system", metrics_adapter_service="adapter")
OURS = {"namespace": "niyanta-system", "name": "adapter"}
FOREIGN = {"namespace": "monitoring", "name": "prometheus-adapter"}


def client_with(services: Mapping[str, Any]) -> Any:
    """A client of a cluster with these APIServices: name -> their `service`, None for a local one, or an error."""

    async def get(kind: ResourceKind, name: str, **_: object) -> Any:
        if kind is SECRETS:
            return {"metadata": {"resourceVersion": "1"}, "data": to_data(make_certificate())}
        if isinstance(found := services.get(name, ()), Exception):
            raise found
        return None if found == () else {"metadata": {"resourceVersion": "1"}, "spec": {"service": found}}

    client = create_autospec(ApiClient, instance=True)
    client.get.side_effect = get
    return client


def shown() -> float | None:
    return REGISTRY.get_sample_value("niyanta_adapter_registered")


@pytest.mark.parametrize(
    ("services", "is_ours", "value", "words"),
    [
        ({API_SERVICE: OURS}, True, 1, ""),
        ({API_SERVICE: OURS, OTHER_API_SERVICE: OURS}, True, 1, ""),
        ({API_SERVICE: OURS, OTHER_API_SERVICE: ApiError(403, "Forbidden", "no")}, True, 1, ""),
        ({}, False, 0, "is missing"),
        ({API_SERVICE: FOREIGN}, False, 0, "belongs to the Service monitoring/prometheus-adapter"),
        ({API_SERVICE: None}, False, 0, "belongs to the API server itself"),
        # Another version of the group, which autoscalers prefer.
        ({API_SERVICE: OURS, OTHER_API_SERVICE: FOREIGN}, True, 0, f"{OTHER_API_SERVICE} belongs to the Service"),
    ],
)
async def test_the_registration_is_compared_with_the_adapters_service(
    services: Mapping[str, Any], is_ours: bool, value: float, words: str
) -> None:
    registration = Registration(client_with(services), SETTINGS)
    with structlog.testing.capture_logs() as logged:
        assert (await registration.read() is not None) == is_ours
        await registration.read()
    assert shown() == value
    assert [words in entry["event"] for entry in logged] == ([True] if words else [])
    registration.forget()
    assert shown() is None


async def test_an_error_of_the_other_registration_is_raised() -> None:
    registration = Registration(client_with({API_SERVICE: OURS, OTHER_API_SERVICE: ApiError(500, "", "no")}), SETTINGS)
    with pytest.raises(ApiError):
        await registration.read()


async def test_the_rotation_writes_to_no_registration_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_rotation, "CHECK_INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(certificate_rotation, "SPREAD_SECONDS", 0.0)
    for service, writes in ((FOREIGN, False), (OURS, True)):
        client = client_with({API_SERVICE: service})
        running = asyncio.create_task(CertificateRotation(client, SETTINGS).run())
        await until(lambda client=client: client.get.await_count > 8, "it checks again")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        written = [call for call in client.patch.await_args_list if call.args[0] is API_SERVICES]
        assert bool(written) == writes
    assert shown() is None, "another process leads"
