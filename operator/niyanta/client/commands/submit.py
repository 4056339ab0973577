"""`niyanta submit`: one manifest by the single door, several by the batch door; a retry never doubles anything."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from niyanta.client import manifests, tables
from niyanta.client.commands.wait import verdict, wait
from niyanta.client.context import Context, OutputOption, command
from niyanta.client.errors import ClientError, Exit, RefusedError, UsageError, describe, field_lines
from niyanta.client.output import Output, seconds

BATCH_ITEMS = 1000
BATCH_BYTES = 16 * 1024 * 1024

Files = Annotated[
    list[str], typer.Option("--filename", "-f", help="File with Workloads, `-` for standard input; may be repeated.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Like --wait, and show everything that happens to them.")]
Timeout = Annotated[
    float | None,
    typer.Option(parser=seconds, metavar="TIME", help="Longest wait, such as 90, 90s, 15m or 2h; then exit code 5."),
]


@dataclass(slots=True)
class Sent:
    """What became of the manifests so far."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Name -> problem details."""


@command
def submit(
    session: Context,
    filename: Files,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of manifests that name none.")
    ] = None,
    wait_: Annotated[
        bool, typer.Option("--wait", help="Wait until all have finished; exit code 1 if one didn't succeed.")
    ] = False,
    watch: Watch = False,
    timeout: Timeout = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="Name of this submission: the same command with the same key and files submits nothing twice within "
            "24 hours. Default: a new one, used for the retries of this run."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Submit Workloads: the very manifests that kubectl takes.

    Several Workloads (documents, or files) go as one batch: each is accepted or refused by itself.
    """
    found = manifests.read(filename)
    for manifest in found:
        metadata = manifest.get("metadata")
        if namespace and isinstance(metadata, dict) and not metadata.get("namespace"):
            metadata["namespace"] = namespace
    key = idempotency_key or str(uuid.uuid4())
    if not re.fullmatch(r"[\x21-\x7e]{1,240}", key):
        raise UsageError("--idempotency-key: 1 to 240 printable ASCII characters without blanks are wanted")
    sent = Sent()
    trouble: ClientError | None = None
    try:
        _send(session, found, key, sent)
    except ClientError as error:
        if not sent.accepted:
            raise
        trouble = error
        session.fail(error)
        session.note(f"the rest was not submitted; with --idempotency-key {key} nothing is submitted twice")
    _tell_refused(session, sent)
    shown: Any = sent.accepted[0] if len(found) == 1 and sent.accepted else sent.accepted
    code = trouble.code if trouble else (Exit.REFUSED if sent.refused else Exit.OK)
    waiting = (wait_ or watch) and bool(sent.accepted)
    if not waiting:
        session.show(shown, output, tables.ACCEPTED)
        return code
    return finish(session, [item["id"] for item in sent.accepted], timeout, watch, output, one=len(found) == 1) or code


def finish(
    session: Context, ids: Sequence[str], timeout: float | None, watch: bool, output: Output, *, one: bool
) -> Exit:
    """Waits, shows how they ended, and says it as an exit code."""
    try:
        finished = wait(session, ids, timeout=timeout, watch=watch)
    except KeyboardInterrupt:
        session.note(f"not waited to the end; what was submitted goes on: {' '.join(ids[:5])}")
        raise
    session.show(finished[0] if one else finished, output, tables.WORKLOADS)
    return verdict(finished)


def _send(session: Context, found: Sequence[dict[str, Any]], key: str, sent: Sent) -> None:
    if len(found) == 1:
        sent.accepted.append(session.api.post("/v1/workloads", found[0], key=key))
        return
    chunks = list(_chunks(found))
    for number, chunk in enumerate(chunks, start=1):
        chunk_key = key if len(chunks) == 1 else f"{key}-{number}"
        for item in session.api.post_lines("/v1/workloads:batch", chunk, key=chunk_key):
            if item.get("workload"):
                sent.accepted.append(item["workload"])
            else:
                manifest = chunk[item["line"]] if item.get("line", len(chunk)) < len(chunk) else {}
                sent.refused.append((_name(manifest), item.get("problem") or {}))


def _chunks(found: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Batches that the door takes: by count, size, and customer (which an admin's manifests may name)."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for manifest in found:
        length = len(json.dumps(manifest))
        full = len(chunk) == BATCH_ITEMS or size + length > BATCH_BYTES
        if chunk and (full or _customer(manifest) != _customer(chunk[0])):
            yield chunk
            chunk, size = [], 0
        chunk.append(manifest)
        size += length
    yield chunk


def _tell_refused(session: Context, sent: Sent) -> None:
    """Each refusal by name; the same exit as for a single one."""
    for name, problem in sent.refused[:20]:
        status = int(problem.get("status") or 0)
        session.fail(ClientError(f"{name}: {describe(status, problem)}", *field_lines(problem)))
    if len(sent.refused) > 20:
        session.note(f"and {len(sent.refused) - 20} more were refused")
    if sent.refused and not sent.accepted:
        raise RefusedError(422, {"title": f"all {len(sent.refused)} were refused"})


def _customer(manifest: dict[str, Any]) -> Any:
    spec = manifest.get("spec")
    return spec.get("customer") if isinstance(spec, dict) else None


def _name(manifest: dict[str, Any]) -> str:
    metadata = manifest.get("metadata")
    return str(metadata.get("name") or "(no name)") if isinstance(metadata, dict) else "(no name)"
