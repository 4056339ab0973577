"""Certificate rotation on the leader: keeps a valid certificate in the adapter's Secret and its authority in the
APIService.

API servers must trust a certificate before any replica serves it, and trust the former one while a replica still serves
it. Therefore the new authority is added to the APIService first, beside the old one, and the Secret is written later.
`certificate_watcher` loads it in every replica.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt

from niyanta.cluster.api.client import ApiClient, Manifest
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import API_SERVICES, SECRETS
from niyanta.containment import Boundary, describe, record
from niyanta.custom_metrics.certificate import (
    ServingCertificate,
    from_data,
    issue,
    joined,
    problem,
    service_names,
    to_data,
)
from niyanta.custom_metrics.registration import API_SERVICE, Registration
from niyanta.observability import log
from niyanta.settings import Settings

logger = log.get(__name__)

CHECK_INTERVAL_SECONDS = 5.0
"""Time between two checks, and thus the longest time until an edit by another client is corrected."""

SPREAD_SECONDS = 2.0
"""Time in which every API server has observed a change of the APIService."""


def secret_name(settings: Settings) -> str:
    """Name of the Secret with the adapter's certificate; the chart creates it empty."""
    return f"{settings.metrics_adapter_service}-tls"


class CertificateRotation:
    """Replaces the certificate when needed. Runs beside the leader's loop, because only the leader may write."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self._client = client
        self._registration = Registration(client, settings)
        self._namespace = settings.namespace
        self._service = settings.metrics_adapter_service
        self._secret = secret_name(settings)
        self._names = service_names(self._service, self._namespace)
        self._lifetime = dt.timedelta(seconds=settings.metrics_adapter_certificate_lifetime)
        self._authorities = b""
        """Authorities of the last valid certificate, which replicas still serve if the Secret is emptied."""
        self._logged = ""
        """The last logged problem."""
        self._trouble = ""
        """The last unexpected error, which is counted once."""

    async def run(self) -> None:
        """Check until cancelled; after an error, the next check tries again."""
        try:
            await self._check_until_cancelled()
        finally:
            self._registration.forget()

    async def _check_until_cancelled(self) -> None:
        while True:
            try:
                await self._check()
                self._trouble = ""
            except WritesClosedError:
                return
            except ApiError as error:
                # After a conflict with another client's write, the next check reads again.
                if error_kind(error) is not ErrorKind.CONFLICT:
                    logger.warning("the metrics adapter's certificate was not maintained", error=str(error))
            except Exception as error:  # the Secret and the APIService are edited by others
                if describe(error) != self._trouble:
                    record(Boundary.METRICS_ADAPTER, "certificate of the metrics adapter", error)
                self._trouble = describe(error)
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def _check(self) -> None:
        registration = await self._registration.read()
        secret = await self._client.get(SECRETS, self._secret, namespace=self._namespace)
        if secret is None:
            self._log_once(f"the Secret {self._namespace}/{self._secret} is missing: `helm upgrade` creates it again")
            return
        self._logged = ""
        held = from_data(secret.get("data"))
        now = dt.datetime.now(dt.UTC)
        if cause := problem(held, self._names, lifetime=self._lifetime, now=now):
            earlier = held.authorities if held is not None else self._authorities
            held = await self._replace(secret, earlier, registration, now)
            logger.info("the metrics adapter has a new certificate", cause=cause)
            registration = await self._registration.read()
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
            # API servers probe the adapter when the APIService changes, and a replica should serve by then.
            await asyncio.sleep(SPREAD_SECONDS)
        return fresh

    async def _write_bundle(self, registration: Manifest, authorities: bytes) -> None:
        """Write the APIService's caBundle if it differs."""
        spec = registration["spec"]
        bundle = base64.b64encode(authorities).decode()
        if spec.get("caBundle") == bundle and not spec.get("insecureSkipTLSVerify"):
            return
        if spec.get("caBundle") or spec.get("insecureSkipTLSVerify"):
            logger.info("the APIService's caBundle is replaced", name=API_SERVICE)
        body = {
            "metadata": {"resourceVersion": registration["metadata"]["resourceVersion"]},
            "spec": {"caBundle": bundle, "insecureSkipTLSVerify": None},
        }
        await self._client.patch(API_SERVICES, API_SERVICE, body)

    def _log_once(self, problem: str) -> None:
        """Log a problem, unless it is the last logged one."""
        if problem != self._logged:
            self._logged = problem
            logger.error(problem)
