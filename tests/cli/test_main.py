"""The command's own options, and the order of its commands."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from niyanta import __version__
from niyanta.cli import main

pytestmark = pytest.mark.unit


def test_version_is_an_option_too() -> None:
    done = CliRunner().invoke(main.app, ["--version"])
    assert (done.exit_code, done.stdout.strip()) == (0, __version__)


def test_help_lists_commands_of_users_first() -> None:
    shown = CliRunner().invoke(main.app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).stdout
    places = [shown.index(text) for text in ("submit", "Server commands", "operator ", "release-finalizers", "apikey")]
    assert places == sorted(places)
