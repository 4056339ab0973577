"""Sets of workers as Python integers: bit i stands for worker i of the snapshot.

And/or over 5,000 workers costs about 0.06 us this way (numpy bool arrays: 0.5 us) and a count about 0.4 us, so sets
become numpy arrays only where numbers are compared. All functions are pure.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = int
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]


def minus(left: Bits, right: Bits) -> Bits:
    """Workers of `left` that are not in `right` (three times as fast as `left & ~right` on long integers)."""
    return left ^ (left & right)


def to_bool(bits: Bits, capacity: int) -> BoolArray:
    """Array of bool, shape (capacity,); capacity is a multiple of 8 and no worker of `bits` lies beyond it."""
    raw = np.frombuffer(bits.to_bytes(capacity >> 3, "little"), np.uint8)
    return np.unpackbits(raw, bitorder="little").view(np.bool_)


def from_bool(mask: BoolArray) -> Bits:
    """The inverse of `to_bool`."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def to_indices(bits: Bits, capacity: int) -> NDArray[np.intp]:
    """Worker numbers in ascending order, shape (bits.bit_count(),)."""
    return to_bool(bits, capacity).nonzero()[0]


def iterate(bits: Bits) -> list[int]:
    """Worker numbers in ascending order as Python ints; meant for few workers."""
    workers = []
    while bits:
        low = bits & -bits
        workers.append(low.bit_length() - 1)
        bits ^= low
    return workers
