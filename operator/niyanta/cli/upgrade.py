"""Commands for upgrades and removal: `niyanta migrate --check`, `niyanta migrate --export`, `niyanta
release-finalizers`. docs/upgrade.md and docs/uninstall.md say when to run them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from niyanta.cluster.api.connection import Connection
    from niyanta.cluster.api.kinds import ResourceKind
    from niyanta.cluster.api.transport import Transport
    from niyanta.settings import Settings

T = TypeVar("T")

MOST_LINES = 100
"""Rows, and objects, that `--check` names."""

_TERMINAL = ("Succeeded", "Failed", "Cancelled")


def check(settings: Settings, *, dsn: str, database_only: bool) -> int:
    """Print the rows and objects in the form of an earlier release, one a line, and their numbers; returns the exit
    code: 0 if there are none, 1 if there are any."""
    from niyanta.store.errors import StoreError
    from niyanta.store.postgres.old_rows import find_old_rows

    try:
        rows = find_old_rows(dsn, most=MOST_LINES)
    except StoreError as error:
        _end(str(error))
    for row in rows.first:
        print(f"row {row.namespace}/{row.name} {row.id} ({row.phase.capitalize()})")
    print(f"{rows.total} rows in the old form" + (": `niyanta migrate` rewrites them" if rows.total else ""))
    if database_only:
        return 1 if rows.total else 0
    return _run(settings, _check_cluster) or (1 if rows.total else 0)


async def _check_cluster(transport: Transport) -> int:
    from niyanta.cluster.old_objects import OLD_DEFINITION, find_old_objects, is_definition_old

    is_old = await is_definition_old(transport)
    found = await find_old_objects(transport, most=MOST_LINES, metadata_only=False)
    for obj in found.first:
        print(f"object {obj}")
    for line in found.unreadable:
        print(f"unreadable object {line}")
    if found.unreadable_total:
        print(f"{found.unreadable_total} Workload objects can't be read, so their form is unknown")
    print(f"{found.total} Workload objects in the old form" + (": see docs/upgrade.md" if found.total else ""))
    if is_old:
        print(OLD_DEFINITION)
    return 1 if is_old or found.total or found.unreadable_total else 0


def export(settings: Settings, folder: Path) -> int:
    """Write the cluster's Customers, WorkerPools and Workloads as manifests with the present names; returns the exit
    code. Workloads that have finished get a folder of their own, because they would run again if they were applied."""
    if folder.exists() and any(folder.iterdir()):
        _end(f"{folder} isn't empty")
    return _run(settings, lambda transport: _export(transport, folder))


async def _export(transport: Transport, folder: Path) -> int:
    from niyanta.cluster.api.kinds import CUSTOMERS, WORKER_POOLS, WORKLOADS
    from niyanta.cluster.old_objects import is_definition_old, is_submission
    from niyanta.resources.old_form import lost_fields, new_manifest

    files: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    lost: list[str] = []
    skipped: list[str] = []
    for kind, name in ((CUSTOMERS, "customers.yaml"), (WORKER_POOLS, "workerpools.yaml")):
        files[name] = [new_manifest(obj) async for obj in _readable(transport, kind, skipped)]
    submissions = 0
    # Under the definition of the earlier release values are complete, whatever users wrote into managedFields.
    complete = await is_definition_old(transport)
    async for obj in _readable(transport, WORKLOADS, skipped):
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        if is_submission(obj):
            submissions += 1
            continue
        if not complete and (fields := lost_fields(obj)):
            lost.append(f"object {namespace}/{name} ({', '.join(fields)})")
        finished = (obj.get("status") or {}).get("phase") in _TERMINAL
        files[f"{'finished' if finished else 'workloads'}/{namespace}.yaml"].append(new_manifest(obj))
    if lost:
        _print_some(lost)
        _end(
            f"the present CustomResourceDefinitions have dropped fields of {len(lost)} Workloads: put those of the "
            "earlier release back (`kubectl replace`), export, and replace them then"
        )
    for path, manifests in files.items():
        if manifests:
            _write(folder / path, manifests)
    for path in sorted(files):
        print(f"{len(files[path])} objects: {folder / path}")
    if submissions:
        print(f"{submissions} objects of REST submissions are left out: their rows stay")
    if skipped:
        _print_some(skipped)
        print(f"{len(skipped)} objects can't be read and are left out")
    return 1 if skipped else 0


async def _readable(transport: Transport, kind: ResourceKind, skipped: list[str]) -> AsyncIterator[dict[str, Any]]:
    """The objects of a kind that are within bounds; the others are added to `skipped` as lines of output."""
    from niyanta.bounded_json import VIOLATION_KEY
    from niyanta.cluster.old_objects import list_objects, unreadable

    async for obj in list_objects(transport, kind):
        if VIOLATION_KEY in obj:
            skipped.append(f"unreadable object {unreadable(obj)}")
        else:
            yield obj


def release_finalizers(settings: Settings, *, dry_run: bool, force: bool) -> int:
    """Remove the outcome finalizer from Niyanta's pods and print the numbers; returns the exit code."""

    async def work(transport: Transport) -> int:
        from niyanta.cluster.api.client import ApiClient
        from niyanta.cluster.pod_finalizers import release_finalizers, running_operators

        if not force and not dry_run and (running := await running_operators(transport)):
            _end(f"operators run ({', '.join(running)}) and would lose outcomes: stop them first, or use --force")
        async with ApiClient(_connection(settings), settings) as client:
            counts = await release_finalizers(client, transport, dry_run=dry_run)
        print(f"{counts.found} pods of Workloads have the finalizer")
        if counts.others:
            print(f"{counts.others} other pods have it and keep it: no Workload controls them")
        if not dry_run:
            print(f"released: {counts.released}, gone meanwhile: {counts.gone}, failed: {counts.failed}")
        if counts.failed:
            print(f"niyanta: {counts.error}", file=sys.stderr)
        return 1 if counts.failed else 0

    return _run(settings, work)


def _write(path: Path, manifests: Iterable[dict[str, Any]]) -> None:
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump_all(manifests, file, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _print_some(lines: list[str]) -> None:
    for line in lines[:MOST_LINES]:
        print(line)


def _run(settings: Settings, work: Callable[[Transport], Awaitable[T]]) -> T:
    """The result of `work` with a transport to the cluster; errors end the command."""
    from niyanta.cluster.api.errors import ApiError
    from niyanta.cluster.old_objects import open_transport

    async def opened() -> T:
        async with open_transport(_connection(settings), request_timeout=settings.request_timeout) as transport:
            return await work(transport)

    try:
        return asyncio.run(opened())
    except ApiError as error:
        _end(f"the API server: {error}")


def _connection(settings: Settings) -> Connection:
    """That of NIYANTA_KUBECONFIG, else of the pod's ServiceAccount, else of kubectl's own configuration."""
    from kubernetes.config import ConfigException

    from niyanta.cluster.api.connection import connect

    path = settings.kubeconfig
    if not path and "KUBERNETES_SERVICE_HOST" not in os.environ:
        path = os.environ.get("KUBECONFIG", "") or str(Path.home() / ".kube" / "config")
    try:
        return connect(settings.model_copy(update={"kubeconfig": path}))
    except ConfigException as error:
        _end(f"no cluster: {error} (NIYANTA_KUBECONFIG names a kubeconfig; --database-only checks the rows alone)")


def _end(message: str) -> NoReturn:
    print(f"niyanta: {message}", file=sys.stderr)
    raise typer.Exit(2)
