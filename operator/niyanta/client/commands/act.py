"""Commands that change workloads: cancel, suspend, resume."""

from __future__ import annotations

from typing import Any

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
