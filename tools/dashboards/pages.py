"""Panels of the dashboards for overview, pools and customers; `tools.dashboards.generate` converts them to JSON.

Gauges that only the leader exports are aggregated with `max`, because two processes may export them for one scrape
interval after a change of leader. Counters stay with the process that counted, so their rates are summed.
"""

from __future__ import annotations

from tools.dashboards.generate import Dashboard, Panel, Row, Variable, panel

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


OVERVIEW = Dashboard(
    "overview",
    "Niyanta / Overview",
    "Health at a glance: leader, queue, wait times, running workloads, workers and the REST door.",
    (
        Row(
            "Now",
            (
                stat(
                    "Leader",
                    "Number of leaders; it must be 1 (runbooks NiyantaNoLeader and NiyantaSeveralLeaders).",
                    f"sum(niyanta_leader{{{NS}}}) or vector(0)",
                    steps=((None, "red"), (1.0, "green"), (2.0, "red")),
                ),
                stat("Queue depth", "Pending workloads.", highest("niyanta_queue_depth")),
                stat(
                    "Longest wait",
                    "Age of the oldest pending workload. The expedited lane aims at 30 minutes.",
                    highest("niyanta_queue_oldest_age_seconds"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                stat("Running", "Workloads running.", highest("niyanta_workloads", f'{NS},phase="Running"')),
                stat(
                    "Held",
                    "Workloads that may not be queued: over a limit, or without a Customer.",
                    highest("niyanta_workloads", f'{NS},phase="Held"'),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Workers not ready",
                    "Workers whose node isn't ready, so that nothing is placed on them.",
                    added("niyanta_pool_workers", f'{NS},state="not_ready"', ""),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Postgres",
                    "up: every process reaches Postgres.",
                    f"min(niyanta_postgres_up{{{NS}}})",
                    mappings=(("1", "up", "green"), ("0", "down", "red")),
                ),
                stat(
                    "REST errors",
                    "Share of the REST door's responses that are 5xx.",
                    f"({rate('niyanta_api_answers_total', FAILED)} or vector(0)) / {rate('niyanta_api_answers_total')}",
                    unit="percentunit",
                    steps=((None, "green"), (0.01, "orange"), (0.05, "red")),
                ),
            ),
        ),
        Row(
            "Queue",
            (
                panel(
                    "Queue depth by tier",
                    "Pending workloads.",
                    (highest("niyanta_tier_queue_depth", NS, "tier"), "{{tier}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait by tier",
                    "Age of each tier's oldest pending workload; the dashed line is the expedited lane's target.",
                    (highest("niyanta_tier_queue_oldest_age_seconds", NS, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Placements",
                    "Placements committed per second, by pool.",
                    (rate("niyanta_placements_total", NS, "pool"), "{{pool}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Workloads by phase",
                    "Unfinished workloads.",
                    (highest("niyanta_workloads", NS, "phase"), "{{phase}}"),
                    stack=True,
                ),
                panel(
                    "Pending workloads by reason",
                    "Workloads that the last cycle could not place, by their most frequent reason.",
                    (highest("niyanta_rejected_workloads", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
                    stack=True,
                ),
                panel(
                    "Time to placement",
                    "Time from queued to placed, of placed workloads.",
                    *percentiles("niyanta_queue_wait_seconds"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Workers and REST door",
            (
                panel(
                    "Fullest resource by pool",
                    "Share in use of each pool's fullest resource.",
                    (highest("niyanta_pool_worker_utilization_ratio", NS, "pool"), "{{pool}}"),
                    unit="percentunit",
                    most=1,
                    steps=SHARE_STEPS,
                ),
                panel(
                    "Workers",
                    "Workers of all pools: ready, cordoned, and not ready.",
                    (added("niyanta_pool_workers", NS, "state"), "{{state}}"),
                    stack=True,
                ),
                panel(
                    "REST door",
                    "Responses per second, by status.",
                    (rate("niyanta_api_answers_total", NS, "status"), "{{status}}"),
                    unit="reqps",
                    stack=True,
                ),
            ),
        ),
    ),
)

POOLS_PAGE = Dashboard(
    "pools",
    "Niyanta / Pools",
    "Each pool: its workers and their utilization, its queue, and the statistics for autoscalers.",
    (
        Row(
            "All pools",
            (
                panel(
                    "Pools",
                    "Workers that each pool has, uses and needs now.",
                    *(
                        highest("niyanta_pool_workers", f'{POOL},state="ready"', "pool"),
                        highest("niyanta_pool_workers_in_use", POOL, "pool"),
                        highest("niyanta_pool_workers_needed", POOL, "pool"),
                        highest("niyanta_pool_running_workloads", POOL, "pool"),
                        highest("niyanta_pool_queue_depth", POOL, "pool"),
                        highest("niyanta_pool_queue_oldest_age_seconds", POOL, "pool"),
                    ),
                    kind="table",
                    width=24,
                    height=7,
                    columns=("Ready", "In use", "Needed", "Running", "Waiting", "Longest wait (s)"),
                ),
            ),
        ),
        Row(
            "Size",
            (
                panel(
                    "Workers",
                    "Workers by state; cordoned ones still run their workloads.",
                    (highest("niyanta_pool_workers", POOL, "pool, state"), "{{pool}} {{state}}"),
                    stack=True,
                ),
                panel(
                    "Needed and ready",
                    "Workers needed to place all workloads that wait for the pool, and workers ready and in use.",
                    (highest("niyanta_pool_workers_needed", POOL, "pool"), "{{pool}} needed"),
                    (highest("niyanta_pool_workers", f'{POOL},state="ready"', "pool"), "{{pool}} ready"),
                    (highest("niyanta_pool_workers_in_use", POOL, "pool"), "{{pool}} in use"),
                ),
                panel(
                    "Demand",
                    "Running and queued slots. An autoscaler aims at this number divided by slotsPerWorker.",
                    (highest("niyanta_pool_demand_slots", POOL, "pool"), "{{pool}}"),
                ),
            ),
        ),
        Row(
            "Utilization",
            tuple(
                panel(
                    f"{title} in use",
                    f"Share in use of the {what} of each pool's workers.",
                    (
                        highest(
                            "niyanta_pool_worker_utilization_ratio", f'{POOL},resource="{resource}"', "pool, region"
                        ),
                        "{{pool}} {{region}}",
                    ),
                    unit="percentunit",
                    most=1,
                    steps=SHARE_STEPS,
                    width=6,
                )
                for title, resource, what in (
                    ("CPU", "cpu", "CPU"),
                    ("Memory", "memory", "memory"),
                    ("GPU", "gpu", "GPUs"),
                    ("Slots", "slots", "slots (pools with slotsPerWorker)"),
                )
            ),
        ),
        Row(
            "Scaling",
            (
                panel(
                    "Decisions",
                    "Recorded scaling decisions of pools with a provider, per hour.",
                    (
                        f"sum by (pool, action) (increase(niyanta_scaling_decisions_total{{{POOL}}}[1h]))",
                        "{{pool}} {{action}}",
                    ),
                ),
                panel(
                    "Draining workers",
                    "Workers chosen for removal that still run workloads.",
                    (highest("niyanta_scaling_leaving_workers", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Blocked",
                    "1: the pool can't be scaled; its condition Scaling has the reason.",
                    (highest("niyanta_scaling_blocked", POOL, "pool"), "{{pool}}"),
                    most=1,
                    steps=((None, "green"), (1.0, "red")),
                ),
            ),
        ),
        Row(
            "Workloads",
            (
                panel(
                    "Queue depth",
                    "Pending workloads that count for the pool; each counts for one pool.",
                    (highest("niyanta_pool_queue_depth", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Longest wait",
                    "Age of the oldest pending workload that counts for the pool.",
                    (highest("niyanta_pool_queue_oldest_age_seconds", POOL, "pool"), "{{pool}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Running",
                    "Scheduled and running workloads.",
                    (highest("niyanta_pool_running_workloads", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Placements",
                    "Placements committed per second.",
                    (rate("niyanta_placements_total", POOL, "pool"), "{{pool}}"),
                    unit="ops",
                ),
                panel(
                    "Age of the statistics",
                    "The leader updates the pool statistics every second; older than 5 s, they are not served.",
                    (highest("niyanta_figures_age_seconds"), "leader"),
                    (highest("niyanta_adapter_figures_age_seconds", NS, "instance"), "adapter {{instance}}"),
                    unit="s",
                    steps=((None, "green"), (5.0, "red")),
                ),
                panel(
                    "Metrics adapter requests",
                    "Responses of the custom metrics adapter per second, by status.",
                    (rate("niyanta_adapter_requests_total", NS, "about, code"), "{{about}} {{code}}"),
                    unit="reqps",
                ),
            ),
        ),
    ),
    (POOLS,),
)

CUSTOMERS_PAGE = Dashboard(
    "customers",
    "Niyanta / Customers",
    "Each customer: waiting and running workloads, wait times, and submissions.",
    (
        Row(
            "Service level",
            (
                panel(
                    "Placed within 5 minutes",
                    "Share of placed workloads that waited for less than 5 minutes, by tier.",
                    (
                        within("300.0"),
                        "{{tier}}",
                    ),
                    unit="percentunit",
                    most=1,
                ),
                panel(
                    "Placed within 30 minutes",
                    "Share of placed workloads that waited for less than 30 minutes, by tier.",
                    (
                        within("1800.0"),
                        "{{tier}}",
                    ),
                    unit="percentunit",
                    most=1,
                ),
                panel(
                    "Time to placement, p95",
                    "95 % of the placed workloads waited for less than this.",
                    (quantile(0.95, "niyanta_queue_wait_seconds", TIER, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Queue depth by tier",
                    "Pending workloads.",
                    (highest("niyanta_tier_queue_depth", TIER, "tier"), "{{tier}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait by tier",
                    "Age of each tier's oldest pending workload; the dashed line is the expedited lane's target.",
                    (highest("niyanta_tier_queue_oldest_age_seconds", TIER, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Placements by tier",
                    "Placements committed per second.",
                    (rate("niyanta_placements_total", TIER, "tier"), "{{tier}}"),
                    unit="ops",
                    stack=True,
                ),
            ),
        ),
        Row(
            "Customers",
            (
                panel(
                    "Customers",
                    "Pending and running workloads of each customer; those beyond metrics_max_customers are `other`.",
                    *(
                        highest("niyanta_customer_queue_depth", CUSTOMER, "customer, tier"),
                        highest("niyanta_customer_running_workloads", CUSTOMER, "customer, tier"),
                        highest("niyanta_customer_queue_oldest_age_seconds", CUSTOMER, "customer, tier"),
                    ),
                    kind="table",
                    width=24,
                    columns=("Waiting", "Running", "Longest wait (s)"),
                ),
                panel(
                    "Queue depth",
                    "The ten customers with most waiting.",
                    (f"topk(10, {highest('niyanta_customer_queue_depth', CUSTOMER, 'customer')})", "{{customer}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait",
                    "The ten customers whose oldest workload has waited longest.",
                    (
                        f"topk(10, {highest('niyanta_customer_queue_oldest_age_seconds', CUSTOMER, 'customer')})",
                        "{{customer}}",
                    ),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Running",
                    "The ten customers with the most running workloads.",
                    (
                        f"topk(10, {highest('niyanta_customer_running_workloads', CUSTOMER, 'customer')})",
                        "{{customer}}",
                    ),
                    stack=True,
                ),
            ),
        ),
        Row(
            "Submissions",
            (
                panel(
                    "Accepted by REST",
                    "Workloads accepted per second.",
                    (rate("niyanta_api_submissions_accepted_total", TIER, "tier"), "{{tier}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Refused by REST",
                    "Workloads refused per second, by problem type (docs/api.md).",
                    (rate("niyanta_api_submissions_refused_total", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Held",
                    "Workloads that may not be queued, by reason.",
                    (highest("niyanta_held_workloads", NS, "reason"), "{{reason}}"),
                    stack=True,
                ),
                panel(
                    "Queue limit",
                    "Waiting workloads, and the limit at which the REST door answers 503 to every submission.",
                    (highest("niyanta_api_queue_depth"), "waiting, held and suspended"),
                    (highest("niyanta_api_queue_limit"), "limit"),
                ),
                panel(
                    "Replayed submissions",
                    "Submissions per second that were answered from their Idempotency-Key.",
                    (rate("niyanta_api_submissions_replayed_total"), "replayed"),
                    unit="ops",
                ),
            ),
        ),
    ),
    (TIERS, CUSTOMERS),
)
