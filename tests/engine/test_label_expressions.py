"""Label expressions match as in Kubernetes."""

from __future__ import annotations

import pytest

from niyanta.engine.label_expressions import label_matches
from niyanta.engine.types import Op

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("op", "values", "matching"),
    [
        (Op.IN, ("5", "x"), {"5"}),
        (Op.NOT_IN, ("5", "x"), {"7", "text", None}),
        (Op.EXISTS, (), {"5", "7", "text"}),
        (Op.DOES_NOT_EXIST, (), {None}),
        (Op.GT, ("5",), {"7"}),
        (Op.LT, ("7",), {"5"}),
        (Op.GT, (), set()),
        (Op.GT, ("none",), set()),
    ],
)
def test_an_expression_matches_these_values(op: Op, values: tuple[str, ...], matching: set[str | None]) -> None:
    candidates: tuple[str | None, ...] = ("5", "7", "text", None)
    labels = {value: {} if value is None else {"key": value} for value in candidates}
    assert {value for value in candidates if label_matches(labels[value], "key", op, values)} == matching
