"""Hooks of the whole test run, whatever folders it covers: its report, and its distribution over processes."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from testing.trace import absence

ONE_CLUSTER = ("e2e/chart/",)
"""Folders whose tests share a control plane of their own."""


class FileScheduling(LoadScopeScheduling):
    """Sends the tests of a file, or of a folder in ONE_CLUSTER, to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in ONE_CLUSTER if nodeid.startswith(folder)), None)
        return folder or nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """`--dist loadfile` is file by file, except for folders that share a control plane."""
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly when the real trace's tests had to use the sample."""
    if message := absence():
        terminalreporter.section("openb trace", sep="!", yellow=True, bold=True)
        terminalreporter.write_line(message, yellow=True)
