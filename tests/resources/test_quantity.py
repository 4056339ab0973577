"""Quantities become integers in base units, rounded up; all other values are rejected."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.quantity import LARGEST, PATTERN, base_units, quantities, to_text, valid
from tests.resources.repeated import repeated

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("resource", "value", "units"),
    [
        ("cpu", "100m", 100),
        ("cpu", "0.1", 100),
        ("cpu", 0.1, 100),
        ("cpu", 0.5, 500),
        ("cpu", ".5", 500),
        ("cpu", "2.", 2000),
        ("cpu", 2, 2000),
        ("cpu", "1e3", 1_000_000),
        ("cpu", "1E3", 1_000_000),
        ("cpu", "0.0001", 1),
        ("cpu", "1u", 1),
        ("cpu", "1n", 1),
        ("cpu", "0", 0),
        ("cpu", "+1", 1000),
        ("memory", "128974848", 128974848),
        ("memory", 128974848, 128974848),
        ("memory", "129M", 129_000_000),
        ("memory", "123Mi", 128974848),
        ("memory", "1Gi", 1 << 30),
        ("memory", "1.5Gi", 3 << 29),
        ("memory", "500m", 1),
        ("memory", "1E", 10**18),
        ("memory", "1Ei", 1 << 60),
        ("memory", 1e3, 1000),
        ("ephemeral-storage", "1k", 1000),
        ("nvidia.com/gpu", "2", 2),
        ("nvidia.com/gpu", "1500m", 2),
        ("memory", str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_quantity_in_base_units(resource: str, value: object, units: int) -> None:
    assert base_units(resource, value, "f") == units


@pytest.mark.parametrize(
    ("resource", "units", "text"),
    [
        ("cpu", 0, "0"),
        ("cpu", 1500, "1500m"),
        ("cpu", 2000, "2"),
        ("memory", 0, "0"),
        ("memory", 1, "1"),
        ("memory", 1500 * 2**20, "1500Mi"),
        ("memory", 2**31, "2Gi"),
        ("memory", 2**50, "1024Ti"),
        ("ephemeral-storage", 2**10, "1Ki"),
        ("hugepages-2Mi", 4 * 2**20, "4Mi"),
        ("nvidia.com/gpu", 1024, "1024"),
    ],
)
def test_base_units_as_a_quantity(resource: str, units: int, text: str) -> None:
    assert to_text(resource, units) == text
    assert base_units(resource, text, "f") == units


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            "1 Gi",
            "1gi",
            "1ki",
            "Gi",
            "-1",
            "-0.1",
            "NaN",
            "Infinity",
            "1_000",
            "1e",
            "1e3Ki",
            "0x10",
            "\u0661",
        ),
        *("\u0661", "1\n", "1e99", "9Ei", str(2**63), "m", "1mi", "--1", "1.2.3", True, None, [], {}, -1),
        *(float("nan"), float("inf")),
    ],
)
def test_a_value_that_is_not_a_quantity_is_rejected_with_its_field(value: object) -> None:
    with pytest.raises(InvalidManifestError) as refusal:
        base_units("memory", value, "spec.x")
    assert refusal.value.field == "spec.x"
    assert refusal.value.value is value


def test_values_of_any_size_are_refused_with_a_short_message() -> None:
    huge = [10**5000, -(10**5000), 1e300, "9" * 10_000_000, "1e" + "9" * 1_000_000, "1" + "0" * 41, "\ud800", "1\0"]
    for value in [*huge, [huge], {"a": huge}]:
        with pytest.raises(InvalidManifestError) as refusal:
            base_units("memory", value, "spec.x")
        assert len(str(refusal.value)) < 300


def test_the_error_of_a_map_names_the_key() -> None:
    assert quantities({"cpu": "1", "memory": "1Ki"}, "f") == {"cpu": 1000, "memory": 1024}
    assert quantities(None, "f") == {}
    with pytest.raises(InvalidManifestError, match=r"^f\.memory: .*'lots'"):
        quantities({"memory": "lots"}, "f")


@settings(deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_rounding_goes_up_by_less_than_one_unit(number: int, suffix: str) -> None:
    powers = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}
    scale = Decimal(10) ** powers[suffix] if suffix in powers else Decimal(1024) ** ("KMG".index(suffix[0]) + 1)
    exact = number * scale
    if exact <= 2**63 - 1:
        assert 0 <= base_units("memory", f"{number}{suffix}", "f") - exact < 1


ANYTHING = st.one_of(
    st.from_regex(re.compile(PATTERN), fullmatch=True),
    st.text(max_size=60),
    st.text(alphabet="0123456789.eE+-munkMGTPEi\u0661\uff11", max_size=45),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.builds(lambda digits, power: f"{digits}e{power}", st.integers(0, 10**19), st.integers(-(10**9), 10**9)),
)


@pytest.mark.poison
@pytest.mark.timeout(1200)
def test_any_value_is_a_quantity_or_refused() -> None:
    """Nothing else is raised, and the results fit 64 bits."""

    @settings(deadline=None)
    @given(ANYTHING, st.sampled_from(["cpu", "memory"]))
    def check(value: object, resource: str) -> None:
        accepted = valid(value)
        try:
            units = base_units(resource, value, "f")
        except InvalidManifestError:
            return
        assert accepted
        assert 0 <= units <= LARGEST

    repeated(check)
