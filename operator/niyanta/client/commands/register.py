"""Registers the client's commands."""

from __future__ import annotations

import typer

from niyanta.client.commands import act, query, submit, top

PANEL = "Client commands (REST API)"


def register(app: typer.Typer) -> None:
    """Adds the client's commands to an app."""
    for name, function in (
        ("submit", submit.submit),
        ("get", query.get),
        ("list", query.list_),
        ("explain", query.explain),
        ("events", query.events),
        ("wait", query.wait_),
        ("cancel", act.cancel),
        ("suspend", act.suspend),
        ("resume", act.resume),
        ("top", top.top),
        ("queue-depth", query.queue_depth),
        ("customers", query.customers),
        ("workers", query.workers),
        ("pools", query.pools),
        ("decisions", query.decisions),
        ("drain", act.drain),
    ):
        app.command(name, rich_help_panel=PANEL)(function)
