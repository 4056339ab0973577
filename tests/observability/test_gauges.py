"""Gauges that vanish, and names of objects as bounded label values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from niyanta.observability.gauges import OTHER, LabelLimit, LiveGauge, render

pytestmark = pytest.mark.unit


@pytest.fixture
def gauge() -> Iterator[LiveGauge]:
    made = LiveGauge("test_live_depth", "Of this test", ["pool"])
    yield made
    REGISTRY.unregister(made)


def samples() -> list[str]:
    return [line for line in render().decode().splitlines() if line.startswith("test_live_depth")]


def test_a_live_gauge_shows_what_was_said_last_and_nothing_after_clear(gauge: LiveGauge) -> None:
    assert samples() == []
    gauge.show({("a",): 1, ("b",): 2})
    gauge.show({("b",): 3})
    assert samples() == ['test_live_depth{pool="b"} 3.0']
    gauge.clear()
    assert samples() == []


def test_a_live_gauge_asks_at_each_scrape_until_told_otherwise(gauge: LiveGauge) -> None:
    now = iter(range(10))
    gauge.ask(lambda: {("a",): next(now)})
    assert [samples(), samples()] == [['test_live_depth{pool="a"} 0.0'], ['test_live_depth{pool="a"} 1.0']]
    gauge.clear()
    assert samples() == []


def test_the_page_has_no_second_series_that_only_tells_when_a_counter_began() -> None:
    assert "_created" not in render().decode()


def test_names_beyond_the_bound_are_other() -> None:
    seats = LabelLimit(2)
    assert [seats.label(name) for name in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]


def test_the_heaviest_newcomers_take_what_is_free() -> None:
    assert LabelLimit(2).assign({"idle": 0, "small": 1, "large": 5, "middle": 3}) == {
        "idle": OTHER,
        "small": OTHER,
        "large": "large",
        "middle": "middle",
    }


def test_a_holder_keeps_its_seat_while_it_has_anything() -> None:
    seats = LabelLimit(1)
    seats.assign({"first": 1})
    assert seats.assign({"first": 1, "second": 1000}) == {"first": "first", "second": OTHER}
    assert seats.assign({"first": 0}) == {"first": "first"}  # no new name needs the label value
    assert seats.assign({"first": 0, "second": 1}) == {"first": OTHER, "second": "second"}


def test_who_is_gone_gives_its_seat_to_who_needs_it() -> None:
    seats = LabelLimit(1)
    seats.assign({"first": 1})
    assert seats.assign({"second": 1}) == {"second": "second"}


Weights = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3))


@given(st.integers(1, 4), st.lists(Weights, max_size=12))
def test_never_more_labels_than_seats_and_no_series_of_a_busy_holder_breaks_off(
    most: int, turns: list[dict[str, int]]
) -> None:
    seats = LabelLimit(most)
    before: dict[str, str] = {}
    for weights in turns:
        labels = seats.assign(weights)
        assert labels.keys() == weights.keys()
        assert len(set(labels.values()) - {OTHER}) <= most
        assert all(label in (name, OTHER) for name, label in labels.items())
        for name, label in before.items():
            if label == name and weights.get(name):
                assert labels[name] == name
        before = labels
