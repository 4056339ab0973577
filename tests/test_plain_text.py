"""Text from outside is stored and shown in one bounded line without control characters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.plain_text import plain

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("node n1 is gone", "node n1 is gone"),
        ("two\nlines\r\nand\ttabs", "two lines and tabs"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("nul\x00 and \u202eturned", "nul and turned"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("", ""),
    ],
)
def test_it_is_one_line_without_control_characters(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_text_is_cut_visibly() -> None:
    assert plain("a" * 50, 10) == "a" * 9 + "…"
    assert plain(" " * 1000 + "a", 10) == "…"


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=200))
def test_the_result_is_bounded_and_stays_as_it_is(text: str) -> None:
    shown = plain(text, 40)
    assert len(shown) <= 40
    assert plain(shown, 40) == shown
