"""Output: durations, tables that are safe for terminals, and docs/cli.md."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from typer.testing import CliRunner

from niyanta.cli.main import app
from niyanta.client import output, tables
from niyanta.client.commands import top
from niyanta.client.config import VARIABLES
from niyanta.client.context import CONNECTION
from niyanta.client.errors import MEANINGS, Exit
from niyanta.client.reference import render
from testing.processes.run_directory import REPO

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (312, "5m12s"), (3600, "1h"), (11_400, "3h10m"), (86_400, "1d"),
     (187_200, "2d4h"), (-5, "0s"), (None, "")],
)  # fmt: skip
def test_a_duration_is_shown_as_kubectl_does(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text


def test_durations_are_read_with_units() -> None:
    assert [output.seconds(text) for text in ("90", "90s", "1.5m", "2h", "1d")] == [90, 90, 90, 7200, 86_400]
    with pytest.raises(ValueError, match="is not a duration"):
        output.seconds("soon")


def test_an_age_is_computed_from_a_time_in_any_zone() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert output.age("2026-01-01T11:58:00Z", now=now) == "2m"
    assert output.age("2026-01-01T13:58:00+02:00", now=now) == "2m"
    assert output.age(None) == output.age("never") == ""
    assert output.age((datetime.now(UTC) - timedelta(hours=2)).isoformat()) == "2h"


def test_names_and_messages_cannot_control_the_terminal() -> None:
    item = {"name": "[red]x[/red]", "message": "\x1b[2Jgone\r\nnext", "phase": "Failed"}
    console = Console(width=1000, force_terminal=False)
    with console.capture() as capture:
        console.print(output.table([item], tables.WORKLOADS, wide=True))
    text = capture.get()
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_usage_of_a_worker_is_shown_or_empty_if_hidden() -> None:
    worker = {"name": "w", "allocatable": {"cpu": 4000, "nvidia.com/gpu": 8}, "slots": 10, "ready": True}
    busy = {**worker, "used": {"cpu": 1000, "nvidia.com/gpu": 6}, "slotsUsed": 3}
    cells = {column.title: column.cell for column in tables.WORKERS}
    shown = ("CPU", "GPU", "Slots", "Memory")
    assert [cells[title](busy) for title in shown] == ["25%", "6/8", "3/10", ""]
    hidden = {**worker, "used": None, "slotsUsed": None}
    assert [cells[title](hidden) for title in shown] == ["", "8", "", ""]
    assert (top.bar(0.5), top.bar(None), top.bar(7)) == ("########........", "", "#" * 16)


def test_a_worker_shows_who_asked_for_its_state() -> None:
    cells = {column.title: column.cell for column in tables.WORKERS}
    asked = {"action": "drain", "requestedBy": "acme/k", "message": "cordoned; 1 workloads still run there"}
    shown = [
        (cells["State"](worker), cells["Requested by"](worker))
        for worker in (
            {"ready": True, "cordoned": True, "draining": True, "request": asked},
            {"ready": True, "cordoned": True, "draining": False, "request": None},
            {"ready": True, "cordoned": False, "draining": False, "request": {**asked, "action": "uncordon"}},
        )
    ]
    assert shown == [("Draining", "acme/k"), ("Cordoned", ""), ("Ready", "")]


def test_commands_of_users_come_first_in_the_help() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert text.index(" submit ") < text.index(" drain ") < text.index(" operator ")
    assert text.index("Commands") < text.index("Server commands")


def test_an_event_is_one_line() -> None:
    event = {"at": None, "fromPhase": "Pending", "toPhase": "Scheduled", "nodeNames": ["n1"], "reason": "Placed"}
    assert tables.event_line({"name": "a"}, event) == "--:--:-- a Pending -> Scheduled on n1 (Placed)"
    assert tables.event_line({"name": "a"}, {"toPhase": "Pending"}) == "--:--:-- a Pending"


def test_docs_cli_md_is_up_to_date() -> None:
    page = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == render(app), "run `.venv/bin/niyanta reference > docs/cli.md`"


def test_every_exit_code_and_variable_is_on_the_page() -> None:
    assert set(MEANINGS) == set(Exit)
    page = render(app)
    helps = " ".join(str(annotation.__metadata__[0].help) for annotation in CONNECTION.values())
    for variable in VARIABLES.values():
        assert f"[{variable}]" in helps
        assert variable in page
