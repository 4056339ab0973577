"""Rows are built by column name, and records have the columns that their statements expect."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from importlib.resources import files

import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.store import columns
from niyanta.store.row_mapping import new_row, row_mapper, state_record, workload_row
from tests.store.make import intake

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class _Pair:
    left: int
    right: str


def test_values_find_their_field_whatever_the_order_of_columns() -> None:
    make = row_mapper(_Pair, {"right": "r", "left": "l"}, left=int)
    assert make(("x", "5")) == _Pair(5, "x")
    assert make(("x", "5", "a column more")) == _Pair(5, "x")


def test_a_field_without_a_column_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match="right"):
        row_mapper(_Pair, {"left": "l"})
    with pytest.raises(TypeError, match="more"):
        row_mapper(_Pair, {"left": "l", "right": "r", "more": "m"})


def test_a_workload_has_its_enums() -> None:
    values: dict[str, object] = dict.fromkeys(columns.WORKLOAD, None)
    values |= {"door": "rest", "phase": "HELD", "workers": ["a"], "excluded": {"w": "2026-01-01T00:00:00+00:00"}}
    row = workload_row(tuple(values.values()))
    assert (row.door, row.phase, row.workers) == (Door.REST, Phase.HELD, ("a",))
    assert row.excluded["w"].year == 2026


def test_the_record_of_a_state_has_the_columns_of_its_fragment() -> None:
    text = files("niyanta.store").joinpath("sql/workloads.sql").read_text(encoding="utf-8")
    found = re.search(r"-- fragment: state_record\n(.*?)\n\n", text, re.DOTALL)
    assert found is not None
    declared = {part.split()[0] for part in found[1].replace("\n", " ").split(",")}
    assert declared == set(state_record(new_row(intake(id=str(uuid.uuid4())), 0, 0)))
