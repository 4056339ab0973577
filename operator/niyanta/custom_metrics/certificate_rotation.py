"""The leader's care for the metrics adapter: a valid certificate in its Secret, its authority in the APIService.

API servers must trust a certificate before any replica answers with it, and still trust the last one while some do: a
new authority goes into the APIService first, beside the old one, and the Secret follows. `trust` takes it from there.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Mapping
from typing import Any

from niyanta.cluster.api.client import ApiClient, Manifest
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import API_SERVICES, SECRETS
from niyanta.custom_metrics.certificate import (
    ServingCertificate,
    from_data,
    issue,
    joined,
    problem,
    service_names,
    to_data,
)
from niyanta.observability import log
from niyanta.settings import Settings

logger = log.get(__name__)

API_SERVICE = "v1beta2.custom.metrics.k8s.io"

CHECK_INTERVAL_SECONDS = 5.0
"""Seconds between two looks: how long an edit by somebody else lasts."""

SPREAD_SECONDS = 2.0
"""Seconds in which every API server has heard of an edited APIService."""


def secret_name(settings: Settings) -> str:
    """The Secret with the adapter's certificate; the chart makes it, empty."""
    return f"{settings.metrics_adapter_service}-tls"


class CertificateRotation:
    """Runs beside the leader's loop; only the leader writes."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self._client = client
        self._namespace = settings.namespace
        self._service = settings.metrics_adapter_service
        self._secret = secret_name(settings)
        self._names = service_names(self._service, self._namespace)
        self._lifetime = dt.timedelta(seconds=settings.metrics_adapter_certificate_lifetime)
        self._authorities = b""
        """Those of the last certificate seen: replicas still answer with it when somebody empties the Secret."""
        self._said = ""

    async def run(self) -> None:
        """Look after both until cancelled; errors are tried again at the next turn."""
        while True:
            try:
                await self._look()
            except WritesClosedError:
                return
            except ApiError as error:
                # Somebody else wrote in between: the next look sees what.
                if error_kind(error) is not ErrorKind.CONFLICT:
                    logger.warning("the metrics adapter's certificate was not looked after", error=str(error))
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def _look(self) -> None:
        secret = await self._client.get(SECRETS, self._secret, namespace=self._namespace)
        if secret is None:
            self._say(f"the Secret {self._namespace}/{self._secret} is missing: `helm upgrade` makes it again")
            return
        registration = await self._our_registration()
        held = from_data(secret.get("data"))
        now = dt.datetime.now(dt.UTC)
        if cause := problem(held, self._names, lifetime=self._lifetime, now=now):
            earlier = held.authorities if held is not None else self._authorities
            held = await self._replace(secret, earlier, registration, now)
            logger.info("the metrics adapter has a new certificate", cause=cause)
            registration = await self._our_registration()
        if held is None:
            return
        self._authorities = held.authorities
        if registration is not None:
            await self._write_bundle(registration, held.authorities)

    async def _replace(
        self, secret: Manifest, earlier: bytes, registration: Manifest | None, now: dt.datetime
    ) -> ServingCertificate:
        fresh = await asyncio.to_thread(issue, self._names, lifetime=self._lifetime, now=now)
        fresh = ServingCertificate(fresh.certificate, fresh.key, joined(fresh.authorities, earlier, now=now))
        if registration is not None and earlier:
            await self._write_bundle(registration, fresh.authorities)
            await asyncio.sleep(SPREAD_SECONDS)
        body = {"metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]}, "data": to_data(fresh)}
        await self._client.patch(SECRETS, self._secret, body, namespace=self._namespace)
        if not earlier:
            # The API server looks again when the APIService changes, and somebody should answer by then.
            await asyncio.sleep(SPREAD_SECONDS)
        return fresh

    async def _write_bundle(self, registration: Manifest, authorities: bytes) -> None:
        """Put the bundle right if it isn't. Another one's certificate would never be trusted with it."""
        spec = registration["spec"]
        bundle = base64.b64encode(authorities).decode()
        if spec.get("caBundle") == bundle and not spec.get("insecureSkipTLSVerify"):
            return
        if spec.get("caBundle") or spec.get("insecureSkipTLSVerify"):
            logger.info("the APIService's caBundle is written anew", name=API_SERVICE)
        body = {
            "metadata": {"resourceVersion": registration["metadata"]["resourceVersion"]},
            "spec": {"caBundle": bundle, "insecureSkipTLSVerify": None},
        }
        await self._client.patch(API_SERVICES, API_SERVICE, body)

    async def _our_registration(self) -> Manifest | None:
        """The APIService while it leads to our Service; never touched while it leads elsewhere."""
        found = await self._client.get(API_SERVICES, API_SERVICE)
        if found is None:
            self._say(f"the APIService {API_SERVICE} is missing: autoscalers can't ask for metrics")
            return None
        service: Mapping[str, Any] = found["spec"].get("service") or {}
        if (service.get("namespace"), service.get("name")) != (self._namespace, self._service):
            owner = f"{service.get('namespace')}/{service.get('name')}" if service else "the API server itself"
            self._say(f"the APIService {API_SERVICE} belongs to {owner}: autoscalers can't ask Niyanta for metrics")
            return None
        self._said = ""
        return found

    def _say(self, what: str) -> None:
        """Once, until it is well again or something else is wrong."""
        if what != self._said:
            self._said = what
            logger.error(what)
