"""The command `niyanta`: entry point of every process and tool.

Each command imports its own modules, so that client commands start quickly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niyanta import __version__
from niyanta.cli import api
from niyanta.client.commands import register

if TYPE_CHECKING:
    from niyanta.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Place batch and GPU workloads on the right workers.")
SERVER_PANEL = "Server commands"
"""Heading of the commands in `--help` that processes and administrators run; the client's come before them."""

register.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Place batch and GPU workloads on the right workers."""


def load_settings() -> Settings:
    """Settings from the environment; an invalid one ends the command with a readable message."""
    from pydantic import ValidationError

    from niyanta.observability import log
    from niyanta.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "NIYANTA_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"niyanta: {name}={problem.get('input')!r}: {problem['msg']}", file=sys.stderr)
        raise typer.Exit(2) from None
    log.configure(settings.log_format, settings.log_level)
    return settings


def with_dsn(settings: Settings, own: str = "") -> Settings:
    """Settings with a DSN: `own`, the process's own one, if it has one; starts the embedded Postgres only if the
    settings request it."""
    if own:
        return settings.model_copy(update={"dsn": own})
    from niyanta.store.errors import StoreUnavailableError
    from niyanta.store.postgres.embedded import MissingDsnError, resolve_dsn

    try:
        return settings.model_copy(update={"dsn": resolve_dsn(settings)})
    except (MissingDsnError, StoreUnavailableError) as error:
        print(f"niyanta: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _door_settings() -> Settings:
    given = load_settings()
    return with_dsn(given, given.api_dsn)


api.register(
    app,
    load=load_settings,
    load_with_dsn=lambda: with_dsn(load_settings()),
    load_door=_door_settings,
    panel=SERVER_PANEL,
)


@app.command(rich_help_panel=SERVER_PANEL)
def operator() -> None:
    """Run the operator: watch the custom resources, and place workloads while it is the leader."""
    import uvloop

    from niyanta.manager import operate

    settings = with_dsn(load_settings())
    raise typer.Exit(uvloop.run(operate(settings)))


@app.command(rich_help_panel=SERVER_PANEL)
def migrate(
    door_role: Annotated[str, typer.Option(help="Role of the REST door to grant rights to.")] = "",
    operator_role: Annotated[str, typer.Option(help="Role of the operator to grant rights to.")] = "",
    check: Annotated[
        bool,
        typer.Option("--check", help="Change nothing; list rows and objects of earlier releases, exit with 1 if any."),
    ] = False,
    database_only: Annotated[
        bool, typer.Option("--database-only", help="With --check: look at the database, not at the cluster.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Change nothing; write the cluster's objects as manifests of this release there."
        ),
    ] = None,
) -> None:
    """Apply the SQL migrations and grant the roles' rights (safe to repeat and to run concurrently)."""
    from niyanta.cli import upgrade

    given = load_settings()
    if export is not None:
        raise typer.Exit(upgrade.export(given, export))
    settings = with_dsn(given, given.migrate_dsn)
    if check:
        raise typer.Exit(upgrade.check(given, dsn=settings.dsn, database_only=database_only))
    _apply_migrations(settings, door_role=door_role, operator_role=operator_role)


def _apply_migrations(settings: Settings, *, door_role: str, operator_role: str) -> None:
    from niyanta.store.errors import StoreError
    from niyanta.store.postgres.migrate import migrate as apply
    from niyanta.store.postgres.roles import grant_roles

    roles = {"door": door_role or settings.door_role, "operator": operator_role or settings.operator_role}
    try:
        applied = apply(settings.dsn)
        print(f"migrated: {', '.join(map(str, applied)) if applied else 'nothing to do'}")
        grant_roles(settings.dsn, **roles)
    except StoreError as error:
        print(f"niyanta: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    for part, role in roles.items():
        if role:
            print(f"granted: rights of the {part} to {role}")


@app.command("release-finalizers", rich_help_panel=SERVER_PANEL)
def release_finalizers(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print the number of pods.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while pods of the operator run.")] = False,
) -> None:
    """Remove the finalizer of Niyanta's pods, after the operator was stopped for good (see docs/uninstall.md)."""
    from niyanta.cli import upgrade

    raise typer.Exit(upgrade.release_finalizers(load_settings(), dry_run=dry_run, force=force))


@app.command(rich_help_panel=SERVER_PANEL)
def crds(
    out: Annotated[Path, typer.Option(help="Folder of the CRDs.")] = Path("crds"),
    chart: Annotated[Path, typer.Option(help="Folder of the chart's copies, which are templates.")] = Path(
        "charts/niyanta/templates/crds"
    ),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if files differ.")] = False,
) -> None:
    """Generate the CustomResourceDefinitions from the models."""
    from niyanta.resources.schema import crds as definitions

    if check:
        drift = definitions.drift(out, chart)
        for name in drift:
            print(f"niyanta: {name} differs from the models; run `make crds`", file=sys.stderr)
        raise typer.Exit(1 if drift else 0)
    definitions.write(out)
    definitions.write_chart(chart)


@app.command(rich_help_panel=SERVER_PANEL)
def settings() -> None:
    """Print docs/settings.md: every setting with its default and meaning."""
    print(settings_page(), end="")


def settings_page() -> str:
    """Every setting as a Markdown table: environment variable, default, meaning."""
    from niyanta.settings import Settings

    lines = [
        "# Settings",
        "",
        "Environment variables of every `niyanta` process. Durations are seconds. The chart takes each of them under",
        "`settings`, in camelCase (`cycleInterval: 0.1`). `niyanta settings > docs/settings.md` writes this page.",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory is not None else field.get_default()
        shown = "" if default == "" else f"`{default}`"
        lines.append(f"| `NIYANTA_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


@app.command("metrics-docs", hidden=True)
def metrics_docs() -> None:
    """Print docs/metrics.md."""
    from niyanta.observability.metrics_page import by_process, page

    print(page(by_process()), end="")


@app.command(rich_help_panel=SERVER_PANEL)
def reference() -> None:
    """Print docs/cli.md: every command with its options."""
    from niyanta.client.reference import render

    print(render(app), end="")


@app.command("resource-docs", hidden=True)
def resource_docs() -> None:
    """Print docs/resources.md: every field of the custom resources."""
    from niyanta.resources.schema.reference import render_reference

    print(render_reference(), end="")


@app.command(rich_help_panel=SERVER_PANEL)
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
