"""The fence: a ConfigMap with the highest epoch and the database's identity, the parameter of an admission policy.

The policy refuses Niyanta pods of a lower epoch, so a create that was queued in a stopped process does nothing when it
arrives late. A new leader raises the fence before it reads or places anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, error_kind
from niyanta.observability import log

logger = log.get(__name__)

NAME = "niyanta-fence"


@dataclass(frozen=True, slots=True)
class Fence:
    """Content of the fence's ConfigMap; `epoch` is 0 and `database` "" if there is none."""

    epoch: int
    database: str


class FenceRaisedError(Exception):
    """The fence is beyond our epoch: a newer leader of this database exists."""


async def read(client: ApiClient, namespace: str) -> Fence:
    """The fence as it stands."""
    found = await client.get_config_map(namespace, NAME)
    data = (found or {}).get("data") or {}
    return Fence(int(data.get("epoch", "0") or 0), str(data.get("database", "")))


async def raise_to(client: ApiClient, namespace: str, *, epoch: int, database: str) -> None:
    """Set the fence to `epoch`; never lowers it (FenceRaisedError)."""
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
            current = int((found.get("data") or {}).get("epoch", "0") or 0)
            if current > epoch:
                msg = f"the fence stands at epoch {current}, ours is {epoch}"
                raise FenceRaisedError(msg)
            version = found["metadata"]["resourceVersion"]
            await client.patch_config_map(namespace, NAME, {"data": data}, resource_version=version)
        except ApiError as error:
            if error_kind(error) not in (ErrorKind.CONFLICT, ErrorKind.ALREADY_EXISTS):
                raise
            logger.info("the fence moved while it was raised; looking again")
        else:
            return
