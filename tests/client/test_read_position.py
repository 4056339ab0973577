"""The stored WAL position of the last change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from niyanta.client.api import Api
from niyanta.client.config import Config
from niyanta.client.read_position import KEPT_SECONDS, ReadPosition, state_folder
from niyanta.lsn import HEADER, parse, show

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _api(seen: list[httpx.Request], url: str = "https://door.example", **headers: str) -> Api:
    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={}, headers=headers)

    return Api(Config(url), notify=lambda _: None, transport=httpx.MockTransport(handle))


def test_the_position_of_a_write_is_sent_with_later_reads_of_that_server_alone() -> None:
    seen: list[httpx.Request] = []
    writer = _api(seen, **{HEADER: "1/A0"})
    writer.get("/v1/workloads")
    writer.post("/v1/workloads", {})
    writer.get("/v1/workloads")
    _api(seen).get("/v1/workloads")
    _api(seen, url="https://other.example").get("/v1/workloads")
    assert [request.headers.get(HEADER) for request in seen] == [None, None, "1/A0", "1/A0", None]


def test_an_old_position_is_ignored(home: Path) -> None:
    ReadPosition("u").note("0/1")
    (file,) = (home / "niyanta").iterdir()
    long_ago = file.stat().st_mtime - KEPT_SECONDS - 5
    os.utime(file, (long_ago, long_ago))
    assert ReadPosition("u").position == ""


@pytest.mark.parametrize("text", ["", "nonsense", "0/1\r\nX: y", "\N{SNOWMAN}"])
def test_an_invalid_position_is_neither_stored_nor_sent(home: Path, text: str) -> None:
    position = ReadPosition("u")
    position.note(text)
    assert (position.position, list(home.iterdir())) == ("", [])
    position.note("0/1")
    (file,) = (home / "niyanta").iterdir()
    file.write_text(text)
    assert ReadPosition("u").position == ""


def test_a_folder_that_cannot_be_written_is_not_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "niyanta").write_text("in the way")
    position = ReadPosition("u")
    position.note("0/1")
    assert position.position == "0/1"
    relative: dict[str, Any] = {"XDG_STATE_HOME": "relative"}
    assert state_folder(relative) == Path.home() / ".local/state/niyanta"


def test_without_a_home_directory_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    position = ReadPosition("u", {})
    position.note("0/1")
    assert position.position == "0/1"


def test_positions_are_compared_as_numbers() -> None:
    assert parse("9/FFFFFFFF") < parse("A/0") < parse("10/0")
    assert show(parse("16/b374d848")) == "16/B374D848"
