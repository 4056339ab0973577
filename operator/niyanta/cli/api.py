"""`niyanta api`, `niyanta apikey ...` and `niyanta api-docs`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from niyanta.settings import Settings
    from niyanta.store.rest.api_keys import ApiKey, ApiKeys

T = TypeVar("T")

KEY_DAYS = 90.0
"""Default lifetime of an API key."""

Load = Callable[[], "Settings"]
Customer = Annotated[str, typer.Option(help="Customer that the key belongs to.")]


def register(app: typer.Typer, *, load: Load, load_with_dsn: Load, load_door: Load, panel: str) -> None:
    """Add the commands, under the heading `panel`. `load` returns the settings, `load_with_dsn` the settings with a
    DSN, `load_door` with that of the REST door."""

    @app.command(rich_help_panel=panel)
    def api() -> None:
        """Run the REST door (the server of the REST API). It needs Postgres, and no access to Kubernetes."""
        import uvloop

        from niyanta.server.main import serve

        raise typer.Exit(uvloop.run(serve(load_door())))

    @app.command("api-docs", hidden=True)
    def api_docs() -> None:
        """Print docs/api.md."""
        from niyanta.server.app import create_app
        from niyanta.server.schema.docs_pages import markdown

        print(markdown(create_app(load()).openapi()), end="")

    app.add_typer(_keys(load_with_dsn), name="apikey", help="Create, list and revoke API keys.", rich_help_panel=panel)


def _keys(load: Load) -> typer.Typer:
    keys = typer.Typer(no_args_is_help=True)

    @keys.command()
    def create(
        customer: Customer,
        role: Annotated[
            str, typer.Option(help="customer: its own workloads; admin: all; metrics: only pool statistics.")
        ] = "customer",
        name: Annotated[str, typer.Option(help="Description of the key's use.")] = "",
        days: Annotated[float, typer.Option(help="Days until the key expires; 0: never.", min=0)] = KEY_DAYS,
    ) -> None:
        """Create a key and print it to stdout. It can't be shown again: Postgres stores only its hash."""
        from niyanta.store.rest.api_keys import Role

        if role not in {item.value for item in Role}:
            _end(f"--role must be one of {', '.join(item.value for item in Role)}")
        lifetime = days or None
        try:
            key, token = _run(
                load, lambda chain: chain.create(customer, Role(role), name=name, expires_in_days=lifetime)
            )
        except ValueError as error:
            _end(str(error))
        print(token)
        print(f"niyanta: key {key.id} of {key.customer} ({key.role.value}); it can't be shown again", file=sys.stderr)

    @keys.command("list")
    def list_(customer: Annotated[str | None, typer.Option(help="Only keys of this customer.")] = None) -> None:
        """List keys, including revoked and expired ones."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None)
        for title in ("Id", "Customer", "Role", "Name", "Prefix", "Created", "Expires", "Revoked"):
            table.add_column(title, no_wrap=title in ("Id", "Prefix"))
        for key in _run(load, lambda chain: chain.all(customer)):
            table.add_row(*_cells(key))
        Console(width=None if sys.stdout.isatty() else 250).print(table)

    @keys.command()
    def revoke(
        key: Annotated[str, typer.Argument(metavar="KEY", help="Id or prefix (see `niyanta apikey list`).")],
    ) -> None:
        """Revoke a key; it stops working within a second."""
        revoked = _run(load, lambda chain: chain.revoke(key))
        if not revoked:
            _end(f"there is no active key {key}")
        for found in revoked:
            print(f"revoked {found.id} of {found.customer}")

    return keys


def _cells(key: ApiKey) -> list[str]:
    moments = (key.created_at, key.expires_at, key.revoked_at)
    shown = ("" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in moments)
    return [key.id, key.customer, key.role.value, key.name, key.prefix, *shown]


def _run(load: Load, use: Callable[[ApiKeys], Awaitable[T]]) -> T:
    from niyanta.store.errors import StoreError
    from niyanta.store.postgres.pool import open_pool
    from niyanta.store.rest.api_keys import ApiKeys

    async def work() -> T:
        async with await open_pool(load().model_copy(update={"db_pool_min": 1})) as pool:
            return await use(ApiKeys(pool))

    try:
        return asyncio.run(work())
    except StoreError as error:
        _end(str(error))


def _end(message: str) -> NoReturn:
    print(f"niyanta: {message}", file=sys.stderr)
    raise typer.Exit(2)
