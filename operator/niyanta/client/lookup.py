"""Finds a workload by id, name, name of its Workload object, or namespace/name; each also after
`workloads.niyanta.io/`, as `-o name` prints it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from niyanta.client.errors import RefusedError, UsageError
from niyanta.lifecycle import TERMINAL, Phase

if TYPE_CHECKING:
    from niyanta.client.api import Api

UNFINISHED = [phase.value for phase in Phase if phase not in TERMINAL]
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
WORKLOADS = "workloads.niyanta.io/"
"""Before a name: its resource, as kubectl takes it. No namespace contains a dot."""
_RESOURCES = (WORKLOADS, "workload.niyanta.io/")
MAX_SEARCHED = 20_000
"""Workloads of one name that are searched; beyond this the id is needed."""


def is_id(reference: str) -> bool:
    return _UUID.fullmatch(reference) is not None


def find(api: Api, reference: str) -> dict[str, Any]:
    """The workload; raises RefusedError (not found) or UsageError (several match)."""
    found: dict[str, Any] = api.get(f"/v1/workloads/{find_id(api, reference)}")
    return found


def find_id(api: Api, reference: str) -> str:
    """Id of the workload; requests it from the server unless `reference` is an id."""
    for prefix in _RESOURCES:
        reference = reference.removeprefix(prefix)
    return reference.lower() if is_id(reference) else str(by_name(api, reference)["id"])


def by_name(api: Api, reference: str) -> dict[str, Any]:
    """The unfinished workload of that name, or else the newest finished one."""
    namespace, _, name = reference.rpartition("/")
    if not name:
        raise UsageError(f"{reference!r} is neither an id nor a name")
    named = api.pages("/v1/workloads", {"name": name}, limit=MAX_SEARCHED)
    known = [item for item in named if _named(item, namespace, name)]
    found = [item for item in known if item.get("phase") in UNFINISHED] or known[:1]
    if not found:
        raise RefusedError(404, {"title": f"no workload {reference}"})
    if len(found) > 1:
        raise UsageError(f"several workloads are named {reference}: use an id", *_lines(found))
    return dict(found[0])


def _named(item: Any, namespace: str, name: str) -> bool:
    if namespace and item.get("namespace") != namespace:
        return False
    return name in (item.get("name"), item.get("objectName"))


def _lines(items: Sequence[Any]) -> list[str]:
    return [f"{item['id']}  {item.get('namespace')}/{item.get('name')}  {item.get('customer', '')}" for item in items]
