"""Commands that change something: cancel, suspend, resume, drain."""

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
def cancel(session: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Cancel workloads: those that wait never start, those that run are stopped."""
    return _act(session, "cancel", workloads, output)


@command
def suspend(session: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Suspend workloads: stop them, or don't start them, until they are resumed."""
    return _act(session, "suspend", workloads, output)


@command
def resume(session: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Resume suspended workloads; they go back to the queue."""
    return _act(session, "resume", workloads, output)


@command
def drain(
    session: Context,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Name of the worker.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Cordon a worker: nothing new is placed on it, what runs goes on (admin keys)."""
    found = session.api.post(f"/v1/workers/{quote(worker, safe='')}/drain")
    if output in (Output.JSON, Output.YAML, Output.ID):
        session.show(found, output, ())
    else:
        session.out.print(f"drain of {worker} was asked for; `niyanta workers` shows it as Cordoned when it is done")


def _act(session: Context, verb: str, references: list[str], output: Output) -> Exit:
    """Each by itself: one that can't be found or moved doesn't keep the others from it."""
    done: list[dict[str, Any]] = []
    worst = Exit.OK
    for reference in references:
        try:
            id_ = find_id(session.api, reference)
            done.append(session.api.post(f"/v1/workloads/{id_}/{verb}"))
        except UnavailableError:
            raise
        except ClientError as error:
            told = error if len(references) == 1 else ClientError(f"{reference}: {error}", *error.notes)
            session.fail(told)
            worst = max(worst, error.code)
    if done:
        session.show(done[0] if len(references) == 1 else done, output, tables.WORKLOADS)
    return worst
