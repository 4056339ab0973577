"""Workload objects as compressed text, for lists of all of them: users choose their number and their size, and decoded,
an object takes up to 20 times its size as text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_PACKED = ("spec", "status")
_ANNOTATIONS = "annotations"


class PackedManifest(Mapping[str, Any]):
    """An object whose spec and status are decoded anew by each access, and whose annotations are dropped."""

    __slots__ = ("_packed", "_plain", "size")

    def __init__(self, obj: Mapping[str, Any]) -> None:
        """`obj` is one that `bounded_objects` read, so it can be encoded."""
        self.size = 0
        """Bytes of spec and status as text."""
        self._packed: dict[str, bytes] = {}
        for key in _PACKED:
            if key in obj:
                text = orjson.dumps(obj[key])
                self.size += len(text)
                self._packed[key] = zlib.compress(text, 1)
        self._plain = {key: value for key, value in obj.items() if key not in _PACKED}
        if _ANNOTATIONS in obj.get("metadata", {}):
            self._plain["metadata"] = {key: part for key, part in obj["metadata"].items() if key != _ANNOTATIONS}

    def __getitem__(self, key: str) -> Any:
        packed = self._packed.get(key)
        return self._plain[key] if packed is None else orjson.loads(zlib.decompress(packed))

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._packed

    def __len__(self) -> int:
        return len(self._plain) + len(self._packed)
