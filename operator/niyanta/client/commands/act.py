"""Commands that change workloads and workers: cancel, suspend, resume, drain."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from niyanta.client import tables
from niyanta.client.commands.query import References
from niyanta.client.context import Context, OutputOption, command
from niyanta.client.errors import ClientError, Exit, UnavailableError
from niyanta.client.lookup import find_id
from niyanta.client.output import Output


@command
def cancel(context: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Cancel workloads: pending ones never start, running ones are stopped."""
    return _act(context, "cancel", workloads, output)


@command
def suspend(context: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Suspend workloads: stop running ones and keep pending ones out of the queue until they are resumed."""
    return _act(context, "suspend", workloads, output)


@command
def resume(context: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Resume suspended workloads: put them back in the queue."""
    return _act(context, "resume", workloads, output)


@command
def drain(
    context: Context,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Name of the worker.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Cordon a worker: no workload is placed on it any more, running ones continue (admin keys)."""
    found = context.api.post(f"/v1/workers/{quote(worker, safe='')}/drain")
    if output in (Output.JSON, Output.YAML, Output.ID):
        context.show(found, output, ())
    else:
        context.out.print(f"drain of {worker} requested; `niyanta workers` shows Cordoned when it is done")


def _act(context: Context, verb: str, references: list[str], output: Output) -> Exit:
    """Apply `verb` to each workload; a failure of one doesn't stop the others. Returns the highest exit code."""
    done: list[dict[str, Any]] = []
    worst = Exit.OK
    for reference in references:
        try:
            id_ = find_id(context.api, reference)
            done.append(context.api.post(f"/v1/workloads/{id_}/{verb}"))
        except UnavailableError:
            raise
        except ClientError as error:
            failure = error if len(references) == 1 else ClientError(f"{reference}: {error}", *error.notes)
            context.fail(failure)
            worst = max(worst, error.code)
    if done:
        context.show(done[0] if len(references) == 1 else done, output, tables.WORKLOADS)
    return worst
