"""Commands that change workers: cordon, uncordon, drain. The server records requests, the leader carries them out."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from niyanta.client.commands.submit import Timeout
from niyanta.client.context import Context, OutputOption, command
from niyanta.client.errors import Exit, RequestEndedError, WaitTimeoutError
from niyanta.client.output import Output, clean

TIMEOUT_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.3
LONGEST_PAUSE_SECONDS = 3.0
DONE = "Done"

Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Name of the worker.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Don't wait until it is done.")]


@command
def cordon(
    context: Context,
    worker: Worker,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Cordon a worker: no workload is placed on it any more, those that run there continue (admin keys)."""
    return _request(context, worker, "cordon", "", None if no_wait else timeout, output)


@command
def uncordon(
    context: Context,
    worker: Worker,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Uncordon a worker, whoever has cordoned it, and end a drain of it (admin keys)."""
    return _request(context, worker, "uncordon", "", None if no_wait else timeout, output)


@command
def drain(
    context: Context,
    worker: Worker,
    evict_after: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="Put workloads that still run after this time back into the queue; 0: at once. Default: wait for "
            "their end, however long that takes.",
            min=0,
        ),
    ] = None,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Cordon a worker and wait until no workload runs there any more (admin keys).

    Nothing is evicted without --evict-after. The drain goes on after --timeout, until `niyanta uncordon`.
    """
    query = "" if evict_after is None else f"?evictAfterSeconds={evict_after}"
    return _request(context, worker, "drain", query, None if no_wait else timeout, output)


def _request(context: Context, worker: str, verb: str, query: str, timeout: float | None, output: Output) -> Exit:
    """Make a request, wait for its end for `timeout` seconds (None: not at all), and show it. Raises RequestEndedError
    for a request that wasn't carried out."""
    path = f"/v1/workers/{quote(worker, safe='')}"
    found = context.api.post(f"{path}/{verb}{query}")
    if timeout is not None:
        found = _wait(context, f"{path}/requests/{found['id']}", found, timeout)
    if output in (Output.JSON, Output.YAML, Output.ID):
        context.show(found, output, ())
    elif found.get("doneAt") is None:
        context.write(f"{clean(worker)}: {verb} requested; `niyanta workers` shows its state\n")
    elif found.get("outcome") == DONE:
        context.write(f"{clean(worker)}: {clean(str(found.get('message')))}\n")
    if found.get("doneAt") is not None and found.get("outcome") != DONE:
        raise RequestEndedError(f"the {verb} of {worker} was not carried out: {found.get('message')}")
    return Exit.OK


def _wait(context: Context, path: str, found: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The request when it has ended. Progress goes to stderr. Raises WaitTimeoutError."""
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE_SECONDS
    shown = ""
    while found.get("doneAt") is None:
        message = str(found.get("message") or "")
        if message != shown:
            context.err.print(f"{clean(str(found['worker']))}: {clean(message)}", markup=False)
            shown = message
        left = deadline - time.monotonic()
        if left <= 0:
            what = f"the {found['action']} of {found['worker']} is not done after {timeout:g} s"
            raise WaitTimeoutError(what, f"it goes on; its state: {message or 'not begun'}")
        time.sleep(min(pause, left))
        pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
        found = context.api.get(path)
    return found
