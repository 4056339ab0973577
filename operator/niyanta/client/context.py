"""Context of a client command: connection options, API client, consoles, and error handling.

`command` makes a Typer command of a function that takes a Context and its own options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from niyanta.client import output as show
from niyanta.client.errors import ClientError, Exit
from niyanta.client.lookup import WORKLOADS
from niyanta.client.output import Column, Output

if TYPE_CHECKING:
    from niyanta.client.api import Api

PANEL = "Connection"

CONNECTION: Mapping[str, Any] = {
    "api_url": Annotated[
        str | None, typer.Option(help="Address of the REST API. [NIYANTA_API_URL]", rich_help_panel=PANEL)
    ],
    "api_key": Annotated[
        str | None,
        typer.Option(
            help="API key. Other users of the machine can see flags: prefer variable or file. [NIYANTA_API_KEY]",
            rich_help_panel=PANEL,
        ),
    ],
    "ca_file": Annotated[
        str | None,
        typer.Option(
            help="File of CA certificates (PEM) to trust instead of the system's. [NIYANTA_CA_FILE]",
            rich_help_panel=PANEL,
        ),
    ],
    "profile": Annotated[
        str | None, typer.Option(help="Profile of the configuration file. [NIYANTA_PROFILE]", rich_help_panel=PANEL)
    ],
    "retry_seconds": Annotated[
        float | None,
        typer.Option(
            help="Time to retry while the server is unreachable or at capacity; default 30. [NIYANTA_RETRY_SECONDS]",
            rich_help_panel=PANEL,
        ),
    ],
}

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Output format.", show_choices=True)]


class Context:
    """State of one run of a command."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = dict(flags)
        self._api: Api | None = None
        self.err: Console = show.stderr()
        self.out: Console = show.stdout()

    @property
    def api(self) -> Api:
        """The API client, created on first use, so that invalid manifests are reported without a server."""
        if self._api is None:
            from niyanta.client.api import Api
            from niyanta.client.config import resolve

            names = {"url": "api_url", "key": "api_key", "ca_file": "ca_file", "retry_seconds": "retry_seconds"}
            config = resolve(
                {name: self._flags.get(flag) for name, flag in names.items()}, profile=self._flags.get("profile")
            )
            for warning in config.warnings:
                self.note(f"warning: {warning}")
            self._api = Api(config, notify=self.note)
        return self._api

    def close(self) -> None:
        if self._api is not None:
            self._api.close()

    def note(self, message: str) -> None:
        """Print a notice to stderr."""
        self.err.print(f"niyanta: {escape(show.clean(message))}", style="yellow")

    def show(self, value: Any, output: Output, columns: Sequence[Column], *, empty: str = "") -> None:
        """Print a list of items, or one item, in the output format; for an empty table print `empty` to stderr."""
        items = value if isinstance(value, list) else [value]
        if output in (Output.JSON, Output.YAML):
            self.write(show.dump({"items": value} if isinstance(value, list) else value, output))
        elif output is Output.ID:
            self.write("".join(f"{item_id(item)}\n" for item in items))
        elif output is Output.NAME:
            self.write("".join(f"{item_name(item)}\n" for item in items))
        elif not items:
            if empty:
                self.err.print(empty)
        else:
            self.out.print(show.table(items, columns, wide=output is Output.WIDE))

    def write(self, text: str) -> None:
        """Write text to stdout without markup or folding."""
        self.out.file.write(text)
        self.out.file.flush()

    def fail(self, error: ClientError) -> None:
        self.err.print(f"niyanta: {escape(show.clean(str(error)))}", style="red")
        for note in error.notes:
            if note:
                self.err.print(f"  {escape(show.clean(str(note)))}")


def item_id(item: Any) -> str:
    """The item's id, or its name if it has no id."""
    return show.clean(str(item.get("id") or item.get("name") or "")) if isinstance(item, Mapping) else str(item)


def item_name(item: Any) -> str:
    """A workload as `workloads.niyanta.io/NAME`, with the name of its object as far as it has one; any other item's
    name or id."""
    if not isinstance(item, Mapping):
        return str(item)
    name = show.clean(str(item.get("objectName") or item.get("name") or item.get("id") or ""))
    return f"{WORKLOADS}{name}" if "phase" in item else name


def command(function: Callable[..., Exit | None]) -> Callable[..., None]:
    """Makes a Typer command of `function(context, ...)`: adds the connection options, converts errors to exit codes."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        flags = {name: arguments.pop(name, None) for name in CONNECTION}
        context = Context(flags)
        try:
            code = function(context, **arguments) or Exit.OK
        except ClientError as error:
            context.fail(error)
            code = error.code
        except BrokenPipeError:  # `niyanta list | head`
            code = _silence()
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        finally:
            context.close()
        raise typer.Exit(int(code))

    kind = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=None, annotation=annotation) for name, annotation in CONNECTION.items()
    ]
    parameters = [parameter.replace(kind=kind) for parameter in own] + options
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


def _silence() -> Exit:
    import os
    import sys

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK
