"""The chart's README has a row for every value, with the comment that values.yaml has above it."""

from __future__ import annotations

import pytest
import yaml

from tools.chart_readme import VALUES, read, whole
from tools.chart_readme import main as readme_main

pytestmark = pytest.mark.unit

TEXT = """\
# Not a description.

plain: 1
# Of a map,
# on two lines.
server:
  # The a|b of it.
  port: 80
  limits:
    cpu: 1
    memory: 2
  # Together.
  probe:
    period: 5
  policy:
    # On or off.
    enabled: true
    from: []
# Any.
settings: {}
"""


def rows(text: str) -> dict[str, tuple[str, object]]:
    return {".".join(row.path): (row.description, row.default) for row in read(text)}


def test_comments_describe_the_value_below_them() -> None:
    assert rows(TEXT) == {
        "plain": ("", 1),
        "server": ("Of a map, on two lines.", None),
        "server.port": ("The a|b of it.", 80),
        "server.limits": ("", {"cpu": 1, "memory": 2}),
        "server.probe": ("Together.", {"period": 5}),
        "server.policy.enabled": ("On or off.", True),
        "server.policy.from": ("", []),
        "settings": ("Any.", {}),
    }


def test_every_value_is_in_a_row() -> None:
    def leaves(value: object, path: str = "") -> set[str]:
        if not isinstance(value, dict) or not value:
            return {path}
        return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".strip("."))}

    listed = rows(VALUES.read_text())
    for leaf in leaves(yaml.safe_load(VALUES.read_text())):
        assert any(
            leaf == row or leaf.startswith(f"{row}.") for row, (_, default) in listed.items() if default is not None
        )


def test_the_readme_is_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["chart_readme.py", "--check"])
    assert readme_main() == 0


def test_a_bar_in_a_comment_ends_no_cell() -> None:
    for line in whole().splitlines():
        if line.startswith("| `"):
            assert line.replace("\\|", "").count("|") == 4, line
