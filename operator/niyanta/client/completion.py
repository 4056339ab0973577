"""Shell completion of workloads: unfinished ones, asked for quickly or not at all."""

from __future__ import annotations

from collections.abc import Iterator

MOST = 100
PATIENCE = 1.0
"""Seconds: a shell must not hang because a server is away."""


def workloads(incomplete: str) -> Iterator[tuple[str, str]]:
    """(name or id, help) of unfinished workloads that begin with what was typed. Never raises, never prints."""
    from contextlib import suppress

    with suppress(Exception):
        yield from _ask(incomplete)


def _ask(incomplete: str) -> Iterator[tuple[str, str]]:
    import httpx

    from niyanta.client.api import trust
    from niyanta.client.config import resolve
    from niyanta.client.lookup import UNFINISHED

    config = resolve({"retry_seconds": 0})
    headers = {"Authorization": f"Bearer {config.key}"} if config.key else {}
    with httpx.Client(base_url=config.url, headers=headers, timeout=PATIENCE, verify=trust(config)) as http:
        answer = http.get("/v1/workloads", params={"status": UNFINISHED, "limit": MOST})
        for item in answer.json()["items"]:
            told = f"{item['phase']} {item['namespace']}/{item['name']}"
            for word in (item["name"], item["id"]):
                # Ids only once one is being typed: a list of names is what people read.
                if word.startswith(incomplete) and (word == item["name"] or incomplete):
                    yield word, told
