"""Reads manifests from files or standard input; a file may have several documents."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from niyanta.client.errors import UsageError

MAX_BYTES = 64 * 1024 * 1024


def read(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Every Workload in `sources` (paths, or `-` for standard input), in order.

    A `kind: List` is expanded. The fields are validated by the server.

    Raises:
        UsageError: a source is unreadable, isn't YAML, has other kinds than Workload, or is empty.
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        documents = list(_documents(source))
        found += documents
        if not documents:
            raise UsageError(f"{_shown(source)} contains no Workload")
    return found


def _documents(source: str) -> Iterator[dict[str, Any]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for number, document in enumerate(yaml.load_all(_text(source), Loader=loader), start=1):
            if document is not None:
                yield from _workloads(document, f"{_shown(source)}, document {number}")
    except yaml.YAMLError as error:
        raise UsageError(f"{_shown(source)} is not valid YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{_shown(source)} is nested too deeply") from None


def _workloads(document: Any, where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected a Workload, found {type(document).__name__}")
    kind = document.get("kind")
    if kind == "List" and isinstance(document.get("items"), list):
        for index, item in enumerate(document["items"]):
            yield from _workloads(item, f"{where}, items[{index}]")
        return
    if kind != "Workload" or not str(document.get("apiVersion", "")).startswith("niyanta.io/"):
        raise UsageError(
            f"{where}: kind {kind} of {document.get('apiVersion')} can't be submitted, only Workloads of niyanta.io "
            "(use kubectl apply for other kinds)"
        )
    yield _plain(document, where)


def _plain(document: dict[str, Any], where: str) -> dict[str, Any]:
    """The document as JSON values: dates become strings; other values that JSON lacks are errors."""
    import json

    try:
        plain: dict[str, Any] = json.loads(json.dumps(document, default=_text_of, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from None
    return plain


def _text_of(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} has no equivalent in JSON")


def _text(source: str) -> str:
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if source == "-" else _file(Path(source))
        if len(data) > MAX_BYTES:
            raise UsageError(f"{_shown(source)} is larger than {MAX_BYTES >> 20} MiB")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{_shown(source)}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{_shown(source)} is not UTF-8") from None


def _file(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(MAX_BYTES + 1)


def _shown(source: str) -> str:
    return "standard input" if source == "-" else source
