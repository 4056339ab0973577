"""Shell completion of the names and ids of unfinished workloads."""

from __future__ import annotations

from collections.abc import Iterator

MAX_WORKLOADS = 100
TIMEOUT_SECONDS = 1.0
"""Short, because the shell waits for it."""


def workloads(incomplete: str) -> Iterator[tuple[str, str]]:
    """(name or id, help) of unfinished workloads that start with `incomplete`. Never raises, never prints."""
    from contextlib import suppress

    with suppress(Exception):
        yield from _ask(incomplete)


def _ask(incomplete: str) -> Iterator[tuple[str, str]]:
    import httpx

    from niyanta.client.api import certificates
    from niyanta.client.config import resolve
    from niyanta.client.lookup import UNFINISHED

    config = resolve({"retry_seconds": 0})
    headers = {"Authorization": f"Bearer {config.key}"} if config.key else {}
    with httpx.Client(
        base_url=config.url, headers=headers, timeout=TIMEOUT_SECONDS, verify=certificates(config)
    ) as http:
        answer = http.get("/v1/workloads", params={"status": UNFINISHED, "limit": MAX_WORKLOADS})
        for item in answer.json()["items"]:
            help_ = f"{item['phase']} {item['namespace']}/{item['name']}"
            for word in (item["name"], item["id"]):
                # Ids only once something is typed: an empty word completes only to names.
                if word.startswith(incomplete) and (word == item["name"] or incomplete):
                    yield word, help_
