"""Registers the client's commands."""

from __future__ import annotations

import typer

from niyanta.client.commands import act, query, submit, top, workers

PANEL = "Commands"
"""Panel of `niyanta --help`. It is the default one, which comes first; commands of the server have a panel of their
own."""

COMMANDS = {
    "submit": submit.submit,
    "get": query.get,
    "list": query.list_,
    "explain": query.explain,
    "events": query.events,
    "wait": query.wait_,
    "cancel": act.cancel,
    "suspend": act.suspend,
    "resume": act.resume,
    "top": top.top,
    "queue-depth": query.queue_depth,
    "customers": query.customers,
    "workers": query.workers,
    "cordon": workers.cordon,
    "uncordon": workers.uncordon,
    "drain": workers.drain,
    "pools": query.pools,
    "decisions": query.decisions,
}


def register(app: typer.Typer) -> None:
    """Adds the client's commands to an app."""
    for name, function in COMMANDS.items():
        app.command(name, rich_help_panel=PANEL)(function)
