"""Watches the serving certificate in its Secret, and the authorities of callers in their ConfigMap.

Every replica reads both, so that rotations of the certificate or of the cluster's front-proxy authority need no
restart. `adapter` passes changes to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import CONFIG_MAPS, SECRETS
from niyanta.containment import Boundary, describe, record
from niyanta.custom_metrics.certificate import ServingCertificate, from_data
from niyanta.custom_metrics.certificate_rotation import secret_name
from niyanta.observability import log
from niyanta.settings import Settings

logger = log.get(__name__)

AUTHENTICATION = ("kube-system", "extension-apiserver-authentication")
"""Namespace and name of the ConfigMap with the front proxy's authorities, which API servers publish."""

READ_INTERVAL_SECONDS = 5.0
"""Time between two reads."""

FIRST_READ_INTERVAL_SECONDS = 0.5
"""Time between two reads until a certificate exists, because a first installation waits for it."""

Use = Callable[[ServingCertificate, Mapping[str, str]], Awaitable[None]]
"""Called with a certificate and the data of the authentication ConfigMap (empty if it can't be read)."""


class CertificateWatcher:
    """Reads the Secret and the ConfigMap, and passes changes to `use`."""

    def __init__(self, client: ApiClient, settings: Settings, use: Use) -> None:
        self._client = client
        self._namespace = settings.namespace
        self._secret = secret_name(settings)
        self._use = use
        self._used: tuple[ServingCertificate, dict[str, str]] | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Read until cancelled. While the API server is away, the last certificate stays in use."""
        while True:
            try:
                await self._read()
                self._trouble = ""
            except ApiError as error:
                if str(error) != self._trouble:  # logged once, because the first reads are frequent
                    logger.warning("the metrics adapter's certificate was not read", error=str(error))
                self._trouble = str(error)
            except Exception as error:  # the Secret and the ConfigMap are edited by others
                if describe(error) != self._trouble:
                    record(Boundary.METRICS_ADAPTER, "certificate of the metrics adapter", error)
                self._trouble = describe(error)
            await asyncio.sleep(READ_INTERVAL_SECONDS if self._used else FIRST_READ_INTERVAL_SECONDS)

    async def _read(self) -> None:
        secret = await self._client.get(SECRETS, self._secret, namespace=self._namespace)
        certificate = from_data((secret or {}).get("data")) or (self._used[0] if self._used else None)
        if certificate is None:
            return
        found = (certificate, await self._authentication())
        if found != self._used:
            await self._use(*found)
            self._used = found

    async def _authentication(self) -> dict[str, str]:
        namespace, name = AUTHENTICATION
        try:
            found = await self._client.get(CONFIG_MAPS, name, namespace=namespace)
        except ApiError as error:
            if error_kind(error) is not ErrorKind.FORBIDDEN:
                raise
            if self._used is None or self._used[1]:
                logger.error("the authorities of the metrics adapter's callers can't be read", error=str(error))
            return {}
        return dict((found or {}).get("data") or {})
