"""Commands that read: get, list, explain, events, wait, queue-depth, customers, workers, pools, decisions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from niyanta.client import completion, tables
from niyanta.client.commands.submit import Timeout, finish
from niyanta.client.commands.wait import Awaited, awaited
from niyanta.client.context import Context, OutputOption, command
from niyanta.client.errors import ClientError, Exit, RefusedError, UsageError
from niyanta.client.lookup import find, find_id
from niyanta.client.output import Output, clean, dump, duration, parse_time, seconds
from niyanta.lifecycle import Phase

Reference = Annotated[
    str,
    typer.Argument(metavar="WORKLOAD", help="Id, name, or namespace/name.", autocompletion=completion.workloads),
]
References = Annotated[
    list[str],
    typer.Argument(metavar="WORKLOAD...", help="Ids, names, or namespace/name.", autocompletion=completion.workloads),
]
Limit = Annotated[int | None, typer.Option(help="Maximum number of items to show; default: all.", min=1)]


@command
def get(context: Context, workloads: References, output: OutputOption = Output.TABLE) -> Exit:
    """Show workloads."""
    found, worst = [], Exit.OK
    for reference in workloads:
        try:
            found.append(find(context.api, reference))
        except RefusedError as error:
            if len(workloads) == 1:
                raise
            context.fail(ClientError(f"{reference}: {error}", *error.notes))
            worst = error.code
    context.show(found[0] if len(workloads) == 1 else found, output, tables.WORKLOADS)
    return worst


@command
def list_(
    context: Context,
    status: Annotated[
        list[Phase] | None, typer.Option("--status", "-s", help="Phase; may be repeated.", case_sensitive=False)
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Workload type.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only workloads of this namespace.")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only workloads of this customer (admin keys).")] = None,
    since: Annotated[
        str | None, typer.Option(help="Created at or after: a time (RFC 3339) or an age such as 90m, 12h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Created before: a time or an age.")] = None,
    limit: Limit = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List workloads, newest first."""
    params: dict[str, Any] = {
        "status": [phase.value for phase in status] if status else None,
        "type": type_,
        "namespace": namespace,
        "customer": customer,
        "createdAfter": moment(since, "--since"),
        "createdBefore": moment(until, "--until"),
    }
    given = {name: value for name, value in params.items() if value is not None}
    found = list(context.api.pages("/v1/workloads", given, limit=limit))
    context.show(found, output, tables.WORKLOADS, empty="no workloads")


@command
def explain(context: Context, workload: Reference, output: OutputOption = Output.TABLE) -> None:
    """Explain a workload's phase: reasons with worker counts, position in the queue, estimated start.

    Where no worker can ever hold it and no pool may add one, the worker that it needs is named instead of a time.
    """
    item = find(context.api, workload)
    found = context.api.get(f"/v1/workloads/{item['id']}/explain")
    if output in (Output.JSON, Output.YAML):
        context.write(dump(found, output))
        return
    before = ""
    for heading, text in tables.explanation(item, found):
        shown = heading if heading != before else ""
        before = heading
        context.out.print(f"[bold]{shown:<18}[/]{escape(clean(text))}", soft_wrap=True)


@command
def events(context: Context, workload: Reference, limit: Limit = None, output: OutputOption = Output.TABLE) -> None:
    """Show the events of a workload, oldest first."""
    id_ = find_id(context.api, workload)
    found = list(context.api.pages(f"/v1/workloads/{id_}/events", limit=limit))
    context.show(found, output, tables.EVENTS, empty="no events")


@command
def wait_(
    context: Context,
    workloads: References,
    for_: Annotated[
        Awaited,
        typer.Option(
            "--for",
            parser=awaited,
            metavar="CONDITION",
            help="finished, succeeded, running or scheduled; also written as condition=Finished, as for kubectl.",
        ),
    ] = Awaited.FINISHED,
    watch: Annotated[bool, typer.Option("--watch", help="Show the workloads' events as they happen.")] = False,
    timeout: Timeout = None,
    output: OutputOption = Output.TABLE,
) -> Exit:
    """Wait until workloads have finished, or another condition.

    Exit code 1 if any did not succeed. With another condition than finished, a workload that failed or was cancelled
    ends the wait for it, because it won't meet the condition any more; one that is past it has met it.
    """
    ids = list(dict.fromkeys(find_id(context.api, reference) for reference in workloads))
    return finish(context, ids, timeout, watch, output, one=len(ids) == 1, state=for_)


@command
def queue_depth(context: Context, output: OutputOption = Output.TABLE) -> None:
    """Show the depth of the queue in total and by tier, customer and pool, and the age of the oldest workload."""
    depth = context.api.get("/v1/metrics/queue-depth")
    if output in (Output.JSON, Output.YAML):
        context.write(dump(depth, output))
        return
    context.show(list(tables.depth_rows(depth)), output, tables.DEPTHS)
    if depth.get("oldestAgeSeconds") is not None:
        context.out.print(f"oldest: {duration(depth['oldestAgeSeconds'])}")


@command
def customers(
    context: Context,
    name: Annotated[str | None, typer.Option("--customer", help="Name of another customer (admin keys).")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the key's customer: tier, limits, waiting and running workloads. Admin keys show all customers."""
    context.show(_customers(context, name), output, tables.CUSTOMERS, empty="no customers")


def _customers(context: Context, name: str | None) -> list[dict[str, Any]]:
    if name is None:
        try:
            found = tables.items_of(context.api.get("/v1/customers"))
        except RefusedError as error:
            if error.status not in (403, 404):
                raise
            found = [context.api.get("/v1/customer")]
    else:
        found = [context.api.get("/v1/customer", {"customer": name})]
    return [{**item, "stats": context.api.get("/v1/customer/stats", {"customer": item["name"]})} for item in found]


@command
def workers(context: Context, limit: Limit = None, output: OutputOption = Output.TABLE) -> None:
    """Show the workers; admin keys also see their usage, and who asked to cordon or drain them."""
    context.show(list(context.api.pages("/v1/workers", limit=limit)), output, tables.WORKERS, empty="no workers")


@command
def pools(context: Context, output: OutputOption = Output.TABLE) -> None:
    """Show the worker pools."""
    context.show(tables.items_of(context.api.get("/v1/pools")), output, tables.POOLS, empty="no pools")


@command
def decisions(
    context: Context,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="Name of the pool.")],
    limit: Limit = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a pool's scaling decisions and their reasons, newest first (admin keys)."""
    found = list(context.api.pages(f"/v1/pools/{quote(pool, safe='')}/decisions", limit=limit))
    context.show(found, output, tables.DECISIONS, empty="no decisions")


def moment(text: str | None, option: str) -> str | None:
    """An ISO 8601 time, from a time or an age."""
    if text is None:
        return None
    if re.fullmatch(r"[\d.]+[smhd]", text):
        return (datetime.now(UTC) - timedelta(seconds=seconds(text))).isoformat()
    found = parse_time(text)
    if found is None:
        raise UsageError(f"{option}: {text!r} is neither a time such as 2026-01-31T12:00:00Z nor an age such as 12h")
    return found.isoformat()
