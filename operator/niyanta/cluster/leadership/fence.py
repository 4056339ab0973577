"""The fence: a ConfigMap with the highest epoch and the database's identity, the parameter of an admission policy.

The policy refuses Niyanta pods of a lower epoch, so that a late create of a former leader has no effect. A new leader
raises the fence before it reads or places anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.cluster.api.kinds import FENCE_POLICY
from niyanta.observability import log

logger = log.get(__name__)

NAME = FENCE_POLICY
"""Name of the ConfigMap."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Content of the fence's ConfigMap; `epoch` is 0 and `database` "" if it doesn't exist."""

    epoch: int
    database: str


class FenceRaisedError(Exception):
    """The fence has a higher epoch than this process: a newer leader exists."""


async def read(client: ApiClient, namespace: str) -> Fence:
    """A fresh read of the fence. Raises ApiError."""
    found = await client.get_config_map(namespace, NAME)
    data = (found or {}).get("data") or {}
    return Fence(_epoch(data), str(data.get("database", "")))


async def raise_to(client: ApiClient, namespace: str, *, epoch: int, database: str) -> None:
    """Set the fence to `epoch`. Raises FenceRaisedError if it is higher already, and ApiError."""
    while True:
        found = await client.get_config_map(namespace, NAME)
        data = {"epoch": str(epoch), "database": database}
        try:
            if found is None:
                manifest = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": NAME,
                        "namespace": namespace,
                        "labels": {"app.kubernetes.io/part-of": "niyanta"},
                    },
                    "data": data,
                }
                await client.create_config_map(namespace, manifest)
                return
            current = _epoch(found.get("data") or {})
            if current > epoch:
                msg = f"the fence is at epoch {current}, this leader's epoch is {epoch}"
                raise FenceRaisedError(msg)
            version = found["metadata"]["resourceVersion"]
            await client.patch_config_map(namespace, NAME, {"data": data}, resource_version=version)
        except ApiError as error:
            if error_kind(error) not in (ErrorKind.CONFLICT, ErrorKind.ALREADY_EXISTS):
                raise
            logger.info("the fence changed while it was being raised; reading it again")
        else:
            return


def _epoch(data: Mapping[str, Any]) -> int:
    """The epoch in the ConfigMap; 0 if it isn't a whole number of at most 18 digits, which the policy refuses too."""
    text = str(data.get("epoch", ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0
