"""Groups of NDJSON lines depend on the bytes alone, and are bounded in lines, bytes and memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.server.problems import Problem
from niyanta.server.submit import ndjson
from niyanta.server.submit.body import MAX_MANIFEST_BYTES
from niyanta.server.submit.ndjson import LineGroup, line_groups

pytestmark = pytest.mark.unit


async def parts(*given_parts: bytes) -> AsyncIterator[bytes]:
    for part in given_parts:
        yield part


async def groups(*given_parts: bytes) -> list[LineGroup]:
    return [group async for group in line_groups(parts(*given_parts))]


@settings(deadline=None)
@given(body=st.lists(st.sampled_from([b"{}", b"\n", b" ", b"a\n\n", b"[" * 30]), max_size=40), cuts=st.data())
async def test_groups_do_not_depend_on_the_parts(body: list[bytes], cuts: st.DataObject) -> None:
    text = b"".join(body)
    whole = await groups(text)
    at = sorted(cuts.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    assert await groups(*pieces) == whole
    found = [(number, line) for group in whole for number, line in group.lines]
    assert found == [(number, line) for number, line in enumerate(text.split(b"\n")) if line.strip()]


async def test_a_group_has_at_most_500_lines_a_mebibyte_or_8_mebibytes_of_memory() -> None:
    found = await groups(b"{}\n" * 1000 + b"\n")
    assert [(group.number, len(group.lines), group.last) for group in found] == [
        (0, 500, False),
        (1, 500, True),
    ]
    long_line = b'"' + b"x" * 200_000 + b'"\n'
    assert [len(group.lines) for group in await groups(long_line * 12)] == [5, 5, 2]
    dense = b"[" + b"[]," * 20_000 + b"1]\n"
    assert [len(group.lines) for group in await groups(dense * 7)] == [3, 3, 1]


async def test_the_digest_tells_bodies_apart() -> None:
    bodies = [b"a", b"b", b"a\nb", b"\na", b"a\n" * 500, b"a\n" * 501]
    digests = [(await groups(body))[0].digest for body in bodies]
    assert len(set(digests)) == len(bodies)
    assert (await groups(b"a\n\n\n"))[0].digest == digests[0], "empty lines at the end don't count"


async def test_the_end_of_a_long_line_counts_but_is_not_kept() -> None:
    first = (await groups(b"x" * (2 * MAX_MANIFEST_BYTES) + b"1"))[0]
    second = (await groups(b"x" * (2 * MAX_MANIFEST_BYTES) + b"2"))[0]
    assert first.lines == second.lines
    assert len(first.lines[0][1]) == MAX_MANIFEST_BYTES + 1
    assert first.digest != second.digest


@pytest.mark.parametrize("text", [b"{}\n" * (ndjson.MAX_ITEMS + 1), b"\n" * (ndjson.MAX_LINES + 1)])
async def test_too_many_lines_are_refused(text: bytes) -> None:
    with pytest.raises(Problem, match="too-large"):
        await groups(text)
