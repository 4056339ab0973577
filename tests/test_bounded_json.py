"""Bounds on JSON from outside."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyanta import bounded_json
from niyanta.bounded_json import MAX_DEPTH, MAX_INTEGER, BoundedJsonError

pytestmark = pytest.mark.unit


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_the_deepest_allowed_document_is_decoded_and_one_level_more_is_refused() -> None:
    bounded_json.decode(nested(MAX_DEPTH))
    with pytest.raises(BoundedJsonError, match="at most 64 levels"):
        bounded_json.decode(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("depth", [260, 1_100, 100_000])
def test_depths_that_end_encoders_and_decoders_are_refused(depth: int) -> None:
    with pytest.raises(BoundedJsonError):
        bounded_json.decode(nested(depth))


def test_a_violation_names_its_path() -> None:
    with pytest.raises(BoundedJsonError, match=r"^spec\.list\[1\]\.big: integers"):
        bounded_json.decode(b'{"spec": {"list": [0, {"big": 18446744073709551615}]}}')
    with pytest.raises(BoundedJsonError, match="64 bits"):
        bounded_json.decode(b'{"a": 36893488147419103232}')
    for text in (b'{"a": 1e300}', b'{"a": 2E19}', b'{"a": -36893488147419103232}', b"9" * 19):
        with pytest.raises(BoundedJsonError, match="64 bits"):
            bounded_json.decode(text)
    assert bounded_json.decode(b'["1e300", 1e3, 9007199254740993]') == ["1e300", 1e3, 9007199254740993]
    assert bounded_json.violation({"a": [1, -(2**70)]}) == "a[1]: integers need 64 bits at most"
    bounded_json.check({"a": [True, MAX_INTEGER, 1.5, "x", None]})


def test_a_document_over_the_size_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BoundedJsonError, match="20 bytes; at most 10"):
        bounded_json.decode(b"[" * 20, max_bytes=10)


TEXT = st.text(st.characters(exclude_categories=("Cs",)))
"""Without lone surrogates, which no decoder returns."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda child: st.lists(child) | st.dictionaries(TEXT, child),
)


@given(JSON)
def test_what_is_within_the_bounds_can_be_encoded_again(value: object) -> None:
    if bounded_json.violation(value) is None:
        assert bounded_json.decode(orjson.dumps(value)) is not Ellipsis


@given(JSON)
def test_the_fast_walk_finds_what_the_slow_one_finds(value: object) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bounded_json, "_within", lambda *_: False)
        slow = bounded_json.violation(value, max_depth=3)
    assert (bounded_json.violation(value, max_depth=3)) == slow
    assert bounded_json._within(value, 3) == (slow is None)


def test_the_number_of_values_is_bounded_at_all_levels_together() -> None:
    value = {"a": [[]] * 5, "b": {"c": "text"}}  # with itself: 9 values
    assert bounded_json.violation(value, max_values=9) is None
    found = bounded_json.violation(value, max_values=8)
    assert found is not None
    assert found.startswith("the document: at most 8 values")
