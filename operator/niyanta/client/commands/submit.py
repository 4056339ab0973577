"""`niyanta submit`: one manifest by POST /v1/workloads, several by /v1/workloads:batch, with an Idempotency-Key."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from niyanta.client import manifests, tables
from niyanta.client.commands.wait import Awaited, exit_code, wait
from niyanta.client.context import Context, OutputOption, command
from niyanta.client.errors import ClientError, Exit, RefusedError, UsageError, describe, field_lines
from niyanta.client.output import Output, seconds

BATCH_ITEMS = 1000
BATCH_BYTES = 16 * 1024 * 1024

Files = Annotated[
    list[str],
    typer.Option("--filename", "-f", help="File of Workload manifests, `-` for standard input; may be repeated."),
]
Watch = Annotated[bool, typer.Option("--watch", help="Like --wait, and show the workloads' events as they happen.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        parser=seconds, metavar="TIME", help="Maximum time to wait, such as 90, 90s, 15m or 2h; then exit code 5."
    ),
]


@dataclass(slots=True)
class SubmissionResults:
    """Results of the manifests submitted so far."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(name, problem details)."""


@command
def submit(
    context: Context,
    filename: Files,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of manifests without one.")
    ] = None,
    wait_: Annotated[
        bool, typer.Option("--wait", help="Wait until all have finished; exit code 1 if any did not succeed.")
    ] = False,
    watch: Watch = False,
    timeout: Timeout = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="Key of this submission: the same command with the same key and files submits nothing twice within "
            "24 hours. Default: a new key, used for the retries of this run."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Submit Workloads, from the same manifests as for kubectl.

    Several Workloads are sent as one batch, in which each is accepted or refused separately.
    """
    found = manifests.read(filename)
    for manifest in found:
        metadata = manifest.get("metadata")
        if namespace and isinstance(metadata, dict) and not metadata.get("namespace"):
            metadata["namespace"] = namespace
    key = idempotency_key or str(uuid.uuid4())
    if not re.fullmatch(r"[\x21-\x7e]{1,240}", key):
        raise UsageError("--idempotency-key: must be 1 to 240 printable ASCII characters without spaces")
    results = SubmissionResults()
    trouble: ClientError | None = None
    try:
        _send(context, found, key, results)
    except ClientError as error:
        if not results.accepted:
            raise
        trouble = error
        context.fail(error)
        context.note(
            f"the other Workloads were not submitted; to continue, repeat the command with --idempotency-key {key}"
        )
    _report_refused(context, results)
    shown: Any = results.accepted[0] if len(found) == 1 and results.accepted else results.accepted
    code = trouble.code if trouble else (Exit.REFUSED if results.refused else Exit.OK)
    waiting = (wait_ or watch) and bool(results.accepted)
    if not waiting:
        context.show(shown, output, tables.ACCEPTED)
        return code
    return (
        finish(context, [item["id"] for item in results.accepted], timeout, watch, output, one=len(found) == 1) or code
    )


def finish(
    context: Context,
    ids: Sequence[str],
    timeout: float | None,
    watch: bool,
    output: Output,
    *,
    one: bool,
    state: Awaited = Awaited.FINISHED,
) -> Exit:
    """Wait until the workloads are in that state and show them; OK when all got there, and succeeded if they
    finished."""
    try:
        finished = wait(context, ids, timeout=timeout, watch=watch, state=state)
    except KeyboardInterrupt:
        context.note(f"stopped waiting; the workloads continue: {' '.join(ids[:5])}")
        raise
    context.show(finished[0] if one else finished, output, tables.WORKLOADS)
    return exit_code(finished, state)


def _send(context: Context, found: Sequence[dict[str, Any]], key: str, results: SubmissionResults) -> None:
    if len(found) == 1:
        results.accepted.append(context.api.post("/v1/workloads", found[0], key=key))
        return
    chunks = list(_chunks(found))
    for number, chunk in enumerate(chunks, start=1):
        chunk_key = key if len(chunks) == 1 else f"{key}-{number}"
        for item in context.api.post_lines("/v1/workloads:batch", chunk, key=chunk_key):
            if item.get("workload"):
                results.accepted.append(item["workload"])
            else:
                manifest = chunk[item["line"]] if item.get("line", len(chunk)) < len(chunk) else {}
                results.refused.append((_name(manifest), item.get("problem") or {}))


def _chunks(found: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Batches within the server's limits, each for one customer (an admin's manifests may name several)."""
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


def _report_refused(context: Context, results: SubmissionResults) -> None:
    """Print the refusals; raises RefusedError when all were refused, as for a single manifest."""
    for name, problem in results.refused[:20]:
        status = int(problem.get("status") or 0)
        context.fail(ClientError(f"{name}: {describe(status, problem)}", *field_lines(problem)))
    if len(results.refused) > 20:
        context.note(f"and {len(results.refused) - 20} more were refused")
    if results.refused and not results.accepted:
        raise RefusedError(422, {"title": f"all {len(results.refused)} Workloads were refused"})


def _customer(manifest: dict[str, Any]) -> Any:
    spec = manifest.get("spec")
    return spec.get("customer") if isinstance(spec, dict) else None


def _name(manifest: dict[str, Any]) -> str:
    metadata = manifest.get("metadata")
    return str(metadata.get("name") or "(no name)") if isinstance(metadata, dict) else "(no name)"
