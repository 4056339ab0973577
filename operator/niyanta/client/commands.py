"""The commands, under their names."""

from __future__ import annotations

import typer

from niyanta.client import actions, reads, submit, top

PANEL = "Over REST"


def register(app: typer.Typer) -> None:
    """Adds the client's commands to an app."""
    for name, function in (
        ("submit", submit.submit),
        ("get", reads.get),
        ("list", reads.list_),
        ("explain", reads.explain),
        ("events", reads.events),
        ("wait", reads.wait_),
        ("cancel", actions.cancel),
        ("suspend", actions.suspend),
        ("resume", actions.resume),
        ("top", top.top),
        ("queue-depth", reads.queue_depth),
        ("customers", reads.customers),
        ("workers", reads.workers),
        ("pools", reads.pools),
        ("decisions", reads.decisions),
        ("drain", actions.drain),
    ):
        app.command(name, rich_help_panel=PANEL)(function)
