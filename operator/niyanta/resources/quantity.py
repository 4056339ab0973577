"""Kubernetes quantities to integers in base units: cpu in millicores, everything else in whole units (bytes, devices).

`kubernetes.utils.quantity.parse_quantity` does the arithmetic. The grammar is checked first, because that function
accepts what Python's Decimal accepts ("NaN", "1_000"). Results are cached, because every submission needs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from niyanta.engine.types import CPU
from niyanta.resources.models.base import PRESERVE, InvalidManifestError

PATTERN = r"^[+]?([0-9]{1,19}([.][0-9]{0,9})?|[.][0-9]{1,9})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
"""Grammar of a non-negative quantity, with a bounded number of digits."""

MAX_CHARACTERS = 40
"""Longest text of a quantity; PATTERN allows no longer one."""

OPEN_SCHEMA: Mapping[str, Any] = {PRESERVE: True, "pattern": PATTERN, "minimum": 0, "maxItems": 0, "maxProperties": 0}
"""Schema of a quantity in a pod template. Not int-or-string: pods accept `cpu: 0.5`. The pattern applies to strings,
the minimum to numbers, the other bounds to lists and objects; booleans are refused when it is parsed."""

_BYTES = frozenset({"memory", "ephemeral-storage"})
_BINARY = tuple((suffix, 2 ** (10 * power)) for power, suffix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")))
_GRAMMAR = re.compile(PATTERN)
LARGEST = 2**63 - 1
"""Largest quantity: Kubernetes caps them at int64 as well."""


def valid(value: object) -> bool:
    """True when `value` is a non-negative quantity: an integer, a finite float or a string that matches PATTERN."""
    text = _text(value)
    return text is not None and _GRAMMAR.fullmatch(text) is not None


def _text(value: object) -> str | None:
    """A bounded text for `value`; None if it can't be a quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, int) and not 0 <= value <= LARGEST:
        return None  # Python refuses to convert integers of thousands of digits to text
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_CHARACTERS else None


@lru_cache(maxsize=8192)
def _units(text: str, scale: int) -> int | None:
    """`text` times `scale`, rounded up; None if it isn't a quantity or doesn't fit int64."""
    if not _GRAMMAR.fullmatch(text):
        return None
    # Floats are converted through text: Decimal(0.1) is a little more than 0.1 and would round up to 101 millicores.
    amount: Decimal = parse_quantity(text) * scale  # type: ignore[no-untyped-call]
    return int(amount.to_integral_value(ROUND_CEILING)) if amount <= LARGEST else None


def to_text(resource: str, units: int) -> str:
    """The quantity of so many base units, as Kubernetes writes it: `1500m` of cpu, `2Gi` of memory, `8` devices."""
    if resource == CPU:
        return f"{units}m" if units % 1000 else str(units // 1000)
    if resource in _BYTES or resource.startswith("hugepages-"):
        for suffix, size in _BINARY:
            if units and units % size == 0:
                return f"{units // size}{suffix}"
    return str(units)


def base_units(resource: str, value: object, field: str) -> int:
    """`value` of `resource` in base units, rounded up. Raises InvalidManifestError with `field` and the value."""
    text = _text(value)
    if text is not None:
        units = _units(text, 1000 if resource == CPU else 1)
        if units is not None:
            return units
    raise InvalidManifestError(field, value, 'must be a non-negative quantity, such as 2, "500m" or "1Gi"')


def quantities(values: Mapping[str, Any] | None, field: str) -> dict[str, int]:
    """Resource name -> base units for a `requests`, `limits` or `allocatable` map. Raises InvalidManifestError."""
    return {name: base_units(name, value, f"{field}.{name}") for name, value in (values or {}).items()}
