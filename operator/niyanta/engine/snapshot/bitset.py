"""Sets of worker rows as Python integers: bit i stands for row i of the snapshot's columns.

And/or over 5,000 rows costs about 0.06 us this way (numpy bool arrays: 0.5 us) and a count about 0.4 us, so the masks
live here and become numpy arrays only where numbers are compared. All functions are pure.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = int
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]


def minus(left: Bits, right: Bits) -> Bits:
    """Rows of `left` that are not in `right` (three times as fast as `left & ~right` on long integers)."""
    return left ^ (left & right)


def to_bool(bits: Bits, width: int) -> BoolArray:
    """Array of bool, shape (width,); width is a multiple of 8 and no row of `bits` lies beyond it."""
    raw = np.frombuffer(bits.to_bytes(width >> 3, "little"), np.uint8)
    return np.unpackbits(raw, bitorder="little").view(np.bool_)


def from_bool(mask: BoolArray) -> Bits:
    """The inverse of `to_bool`."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def to_rows(bits: Bits, width: int) -> NDArray[np.intp]:
    """Row numbers in ascending order, shape (bits.bit_count(),)."""
    return to_bool(bits, width).nonzero()[0]


def iterate(bits: Bits) -> list[int]:
    """Row numbers in ascending order as Python ints; meant for few rows."""
    rows = []
    while bits:
        low = bits & -bits
        rows.append(low.bit_length() - 1)
        bits ^= low
    return rows
