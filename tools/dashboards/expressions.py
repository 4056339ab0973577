"""PromQL expressions and constants that the dashboards share.

Gauges that only the leader exports are aggregated with `max`, because two processes may export them for one scrape
interval after a change of leader. Counters stay with the process that counted, so their rates are summed.
"""

from __future__ import annotations

from tools.dashboards.generate import Panel, Variable, panel

NS = 'namespace=~"$namespace"'
POOL = f'{NS},pool=~"$pool"'
CUSTOMER = f'{NS},customer=~"$customer",tier=~"$tier"'
TIER = f'{NS},tier=~"$tier"'
FAILED = f'{NS},status=~"5.."'
RATE = "$__rate_interval"
WAIT_STEPS = ((None, "green"), (900.0, "orange"), (1800.0, "red"))
SHARE_STEPS = ((None, "green"), (0.8, "orange"), (0.95, "red"))
TIERS = Variable("tier", "tier", "niyanta_tier_queue_depth")
POOLS = Variable("pool", "pool", "niyanta_pool_workers")
CUSTOMERS = Variable("customer", "customer", "niyanta_customer_queue_depth")


def quantile(share: float, metric: str, where: str = NS, by: str = "") -> str:
    """Expression of a quantile over a histogram's buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def rate(metric: str, where: str = NS, by: str = "") -> str:
    """Expression of a counter's rate."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric}{{{where}}}[{RATE}]))"


def highest(metric: str, where: str = NS, by: str = "") -> str:
    """Expression of a leader's gauge."""
    return f"max by ({by}) ({metric}{{{where}}})" if by else f"max({metric}{{{where}}})"


def added(metric: str, where: str, by: str) -> str:
    """Expression of the sum of a leader's gauge over pools."""
    return (
        f"sum by ({by}) (max by (pool, {by}) ({metric}{{{where}}}))" if by else f"sum({highest(metric, where, 'pool')})"
    )


def within(seconds: str) -> str:
    """Expression of the share of placements, by tier, that waited for less than a bucket's bound."""
    placed = rate("niyanta_queue_wait_seconds_bucket", f'{TIER},le="{seconds}"', "tier")
    return f"{placed} / {rate('niyanta_queue_wait_seconds_count', TIER, 'tier')}"


def stat(title: str, description: str, expr: str, **options: object) -> Panel:
    """A panel with a single number."""
    return panel(title, description, expr, kind="stat", width=3, height=4, **options)


def percentiles(metric: str, where: str = NS, by: str = "") -> tuple[tuple[str, str], ...]:
    """Expressions of the p50, p95 and p99 of a histogram."""
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple((quantile(q, metric, where, by), f"p{round(q * 100)}{legend}") for q in (0.5, 0.95, 0.99))
