"""Reports for the whole test run, whatever folders it covers."""

from __future__ import annotations

import pytest

from testing.trace import absence


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly when the real trace's tests had to use the sample."""
    if message := absence():
        terminalreporter.section("openb trace", sep="!", yellow=True, bold=True)
        terminalreporter.write_line(message, yellow=True)
