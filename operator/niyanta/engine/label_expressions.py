"""Evaluation of label expressions (In, NotIn, Exists, DoesNotExist, Gt, Lt) against one object's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from niyanta.engine.types import Op


def label_matches(labels: Mapping[str, str], key: str, op: Op, values: Sequence[str] | frozenset[str] = ()) -> bool:
    """True when the label `key` satisfies the expression as in Kubernetes: NotIn also matches a missing label."""
    value = labels.get(key)
    match op:
        case Op.IN:
            return value in values
        case Op.NOT_IN:
            return value not in values
        case Op.EXISTS:
            return value is not None
        case Op.DOES_NOT_EXIST:
            return value is None
        case Op.GT | Op.LT:
            return _compares(value, op, values)


def _compares(value: str | None, op: Op, values: Sequence[str] | frozenset[str]) -> bool:
    try:
        found, bound = int(value or ""), int(next(iter(values)))
    except (ValueError, StopIteration):
        return False
    return found > bound if op is Op.GT else found < bound
