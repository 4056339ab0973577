"""What every command of the client has: the connection options, the API, the consoles, and one way to fail.

`command` gives a function the options and a Session; the function says what to ask and what to show.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from niyanta.client import output as show
from niyanta.client.errors import ClientError, Exit
from niyanta.client.output import Column, Output

if TYPE_CHECKING:
    from niyanta.client.api import Api

PANEL = "Connection"

CONNECTION: Mapping[str, Any] = {
    "api_url": Annotated[
        str | None, typer.Option(help="Address of the REST door. [NIYANTA_API_URL]", rich_help_panel=PANEL)
    ],
    "api_key": Annotated[
        str | None,
        typer.Option(
            help="API key. Other users of this machine can see it: prefer the variable or the file. [NIYANTA_API_KEY]",
            rich_help_panel=PANEL,
        ),
    ],
    "ca_file": Annotated[
        str | None,
        typer.Option(
            help="Certificates (PEM) to trust instead of the system's. [NIYANTA_CA_FILE]", rich_help_panel=PANEL
        ),
    ],
    "profile": Annotated[
        str | None, typer.Option(help="Profile of the configuration file. [NIYANTA_PROFILE]", rich_help_panel=PANEL)
    ],
    "retry_seconds": Annotated[
        float | None,
        typer.Option(
            help="How long to try again while the server is away or at capacity; default 30. [NIYANTA_RETRY_SECONDS]",
            rich_help_panel=PANEL,
        ),
    ],
}

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to show the result.", show_choices=True)]


class Context:
    """One run of one command."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = dict(flags)
        self._api: Api | None = None
        self.err: Console = show.stderr()
        self.out: Console = show.stdout()

    @property
    def api(self) -> Api:
        """The server; made when first asked for, so that wrong files are found without one."""
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
        """A line for people, on stderr."""
        self.err.print(f"niyanta: {escape(show.clean(message))}", style="yellow")

    def show(self, value: Any, output: Output, columns: Sequence[Column], *, empty: str = "") -> None:
        """A list of items, or one item: as a table, or as data. `empty` is said on stderr for an empty table."""
        items = value if isinstance(value, list) else [value]
        if output in (Output.JSON, Output.YAML):
            self.write(show.dump({"items": value} if isinstance(value, list) else value, output))
        elif output is Output.ID:
            self.write("".join(f"{item_id(item)}\n" for item in items))
        elif not items:
            if empty:
                self.err.print(empty)
        else:
            self.out.print(show.table(items, columns, wide=output is Output.WIDE))

    def write(self, text: str) -> None:
        """Text as it is: no markup, no folding."""
        self.out.file.write(text)
        self.out.file.flush()

    def fail(self, error: ClientError) -> None:
        self.err.print(f"niyanta: {escape(show.clean(str(error)))}", style="red")
        for note in error.notes:
            if note:
                self.err.print(f"  {escape(show.clean(str(note)))}")


def item_id(item: Any) -> str:
    """What names an item: its id, else its name."""
    return show.clean(str(item.get("id") or item.get("name") or "")) if isinstance(item, Mapping) else str(item)


def command(function: Callable[..., Exit | None]) -> Callable[..., None]:
    """Makes a Typer command of `function(session, ...)`: adds the connection options, turns errors into exit codes."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        flags = {name: arguments.pop(name, None) for name in CONNECTION}
        session = Context(flags)
        try:
            code = function(session, **arguments) or Exit.OK
        except ClientError as error:
            session.fail(error)
            code = error.code
        except BrokenPipeError:  # `niyanta list | head`
            code = _silence()
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        finally:
            session.close()
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


def first(values: Iterable[Any]) -> Any:
    """The first that isn't None; None if there is none."""
    return next((value for value in values if value is not None), None)
