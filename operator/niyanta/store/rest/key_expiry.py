"""The leader's report of API keys that expire soon: a metric for an alert, before their users get 401."""

from __future__ import annotations

import asyncio

from niyanta.observability import log
from niyanta.observability.gauges import LeaderGauge
from niyanta.store.errors import StoreError
from niyanta.store.rest.api_keys import ApiKeys

logger = log.get(__name__)

SOON_DAYS = 7.0

INTERVAL_SECONDS = 300.0
"""Time between two counts."""

KEYS_EXPIRING = LeaderGauge("niyanta_api_keys_expiring", "API keys that expire within 7 days")


async def report_expiring_keys(keys: ApiKeys) -> None:
    """Count the keys again and again until cancelled; the metric vanishes at the end."""
    try:
        while True:
            try:
                KEYS_EXPIRING.set(await keys.expiring(SOON_DAYS))
            except StoreError as error:
                logger.warning("the API keys were not counted", error=str(error))
            await asyncio.sleep(INTERVAL_SECONDS)
    finally:
        KEYS_EXPIRING.clear()
