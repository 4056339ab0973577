"""Manifests: reading files, and errors found before anything is sent."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from niyanta.client import manifests
from niyanta.client.errors import UsageError

pytestmark = pytest.mark.unit

ONE = "apiVersion: niyanta.io/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec: {priority: 5}\n"


def write(folder: Path, text: str) -> str:
    file = folder / "w.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def names(found: list[dict[str, dict[str, str]]]) -> list[str]:
    return [item["metadata"]["name"] for item in found]


def test_documents_lists_and_files_come_in_order(tmp_path: Path) -> None:
    two = f"{ONE}---\n---\n{ONE.replace('name: a', 'name: b')}"
    listed = json.dumps({"kind": "List", "apiVersion": "v1", "items": [json.loads(json.dumps(manifest("c")))]})
    (tmp_path / "list.json").write_text(listed)
    assert names(manifests.read([write(tmp_path, two), str(tmp_path / "list.json")])) == ["a", "b", "c"]


def manifest(name: str) -> dict[str, object]:
    return {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "spec": {}}


def test_standard_input_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ONE.encode())))
    assert names(manifests.read(["-"])) == ["a"]


def test_dates_become_strings_as_the_api_server_reads_them(tmp_path: Path) -> None:
    text = ONE + "status: {at: 2026-01-31}\n"
    assert manifests.read([write(tmp_path, text)])[0]["status"] == {"at": "2026-01-31"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no Workload"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object:os.system x", "is not valid YAML"),
        ("- 1", "expected a Workload, found list"),
        ("apiVersion: v1\nkind: Pod", "kind Pod of v1 can't be submitted, only Workloads"),
        ("apiVersion: scheduling.k8s.io/v1\nkind: Workload", "can't be submitted"),
        (ONE + "---\nkind: Workload\n", "document 2: kind Workload of None"),
        (ONE + "status: {a: .nan}", "document 1"),
        (ONE + "status: {a: !!set {b}}", "has no equivalent in JSON"),
        ("\x00", "is not valid YAML"),
    ],
)
def test_documents_other_than_workloads_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        manifests.read([write(tmp_path, text)])
    assert words in str(refusal.value)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        manifests.read([str(tmp_path / "none.yaml")])
    with pytest.raises(UsageError, match="Is a directory"):
        manifests.read([str(tmp_path)])
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        manifests.read([str(tmp_path / "b")])
