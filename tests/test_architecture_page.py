"""The architecture page and the tree agree: files, folders and functions it names exist, and its map is complete."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tools.flow_hops.flows import FLOWS
from tools.flow_hops.tracer import Chain, Stage, Step, trunk, walk

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "operator" / "niyanta"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")

NAMED = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|toml|sql|yaml)))`")
"""Folders (with a final slash) and files in code spans."""

HOP = re.compile(r"^\| `([\w/]+\.py)` \| `([\w.]+)` \|", re.MULTILINE)
"""A row of a flow's table: file and function."""

LAYER_ROW = re.compile(r"^\| (\d+) \| `([\w]+)(?:/|\.py)` \|", re.MULTILINE)

ELSEWHERE = frozenset({"niyanta.io/"})
"""Code spans with a slash at their end that are no folders."""


def test_every_file_and_folder_that_the_page_names_exists() -> None:
    named = set(NAMED.findall(PAGE)) - ELSEWHERE
    assert len(named) > 80
    missing = sorted(name for name in named if not (REPOSITORY / name).exists() and not (PACKAGE / name).exists())
    assert not missing


def test_every_link_of_the_page_leads_to_a_file() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link}
    assert links
    assert not sorted(link for link in links if not (REPOSITORY / "docs" / link).exists())


def test_every_folder_of_the_package_is_in_the_map() -> None:
    mapped = set(re.findall(r"^\| \d* ?\| `([\w/]+/)` \|", PAGE, re.MULTILINE))
    folders = {
        f"{folder.relative_to(PACKAGE)}/"
        for folder in PACKAGE.rglob("*")
        if folder.is_dir() and folder.name != "__pycache__" and any(file.is_file() for file in folder.iterdir())
    }
    assert mapped == folders


def test_every_top_folder_is_in_the_map() -> None:
    tops = set(re.findall(r"^\| `(\w+)/(?:niyanta/)?` \|", PAGE, re.MULTILINE))
    assert tops == {entry.name for entry in REPOSITORY.iterdir() if _is_source_folder(entry)}


def _is_source_folder(entry: Path) -> bool:
    if not entry.is_dir() or entry.name.startswith(".") or entry.name in ("dist", "build"):
        return False
    return any(file.is_file() and "__pycache__" not in file.parts for file in entry.rglob("*"))


def test_layers_of_the_map_are_those_of_the_contract() -> None:
    contract = re.search(r"^layers = \[(.*)\]$", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert contract is not None
    layers = [set(re.findall(r"\w+", row)) for row in re.findall(r'"([^"]+)"', contract[1])]
    mapped: dict[int, set[str]] = {}
    for number, name in LAYER_ROW.findall(PAGE):
        mapped.setdefault(int(number), set()).add(name)
    assert [mapped[number] for number in sorted(mapped)] == layers


@pytest.mark.parametrize(("file", "function"), sorted(set(HOP.findall(PAGE))))
def test_each_hop_of_a_flow_exists(file: str, function: str) -> None:
    assert function in _functions(PACKAGE / file)


def test_each_stage_that_is_counted_exists() -> None:
    known = {function for file in PACKAGE.rglob("*.py") for function in _functions(file)}
    for _, stages in FLOWS.values():
        for stage in stages:
            for name in (*stage.functions, *stage.without, *filter(None, [stage.until])):
                assert name.split(".<locals>")[0] in known, name


@cache
def _functions(file: Path) -> frozenset[str]:
    """Qualified names of a module's functions and methods."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (m.name for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{method}" for method in methods}
    return frozenset(found)


# --- how moves are counted -------------------------------------------------------------------------------------------


def chain(*places: str) -> Chain:
    """A stack, innermost first, from "file:function"."""
    return tuple((place.split(":")[0], place.split(":")[1]) for place in places)


def call_and_return(*places: str) -> list[Step]:
    return [Step(True, chain(*places)), Step(False, chain(*places))]


def test_a_call_and_its_return_are_two_moves_of_which_one_leads_back() -> None:
    found = walk([Step(True, chain("a:f")), *call_and_return("b:g", "a:f")])
    assert (found.moves, found.returns, found.files) == (2, 1, {"a", "b"})


def test_a_repeated_call_counts_once() -> None:
    found = walk([Step(True, chain("a:f")), *call_and_return("b:g", "a:f"), *call_and_return("b:g", "a:f")])
    assert found.moves == 2


def test_calls_inside_a_file_are_no_moves() -> None:
    assert walk([Step(True, chain("a:f")), *call_and_return("a:g", "a:f")]).moves == 0


def test_the_trunk_has_no_leaf_calls_but_the_last() -> None:
    steps = [
        Step(True, chain("a:f")),
        *call_and_return("helper:g", "a:f"),
        Step(True, chain("b:h", "a:f")),
        *call_and_return("c:i", "b:h", "a:f"),
        Step(False, chain("b:h", "a:f")),
        Step(True, chain("queue:put", "a:f")),
    ]
    assert [file for file, _ in walk(trunk(steps)).places] == ["a", "b", "a", "queue"]


def test_a_stage_ends_with_its_last_call_and_says_which_function_was_never_called() -> None:
    steps = [Step(True, chain("a:f")), *call_and_return("b:put", "a:f"), Step(True, chain("c:late", "a:f"))]
    assert Stage(("f",), until="put").select(steps) == steps[:2]
    with pytest.raises(LookupError, match="never called: gone"):
        Stage(("f", "gone")).select(steps)
