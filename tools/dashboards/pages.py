"""What is on the Grafana dashboards; `tools.dashboards.generate` makes JSON of it.

Gauges that the leader alone shows are taken by `max`: for one scrape interval after a change of leaders two processes
may show them. Counters stay where they were counted, so their rates are added up.
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
    """Expression of the share of placements, by tier, that had waited for less than a bucket's bound."""
    placed = rate("niyanta_queue_wait_seconds_bucket", f'{TIER},le="{seconds}"', "tier")
    return f"{placed} / {rate('niyanta_queue_wait_seconds_count', TIER, 'tier')}"


def stat(title: str, description: str, expr: str, **options: object) -> Panel:
    """A single number."""
    return panel(title, description, expr, kind="stat", width=3, height=4, **options)


def shares(metric: str, where: str = NS, by: str = "") -> tuple[tuple[str, str], ...]:
    """Median and two tails of a histogram."""
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple((quantile(q, metric, where, by), f"p{round(q * 100)}{legend}") for q in (0.5, 0.95, 0.99))


OVERVIEW = Dashboard(
    "overview",
    "Niyanta / Overview",
    "Is it well: who leads, what waits and for how long, what runs, and what the doors answer.",
    (
        Row(
            "Now",
            (
                stat(
                    "Leader",
                    "Operator processes that lead; it must be 1. The runbook of NiyantaNoLeader says what to do.",
                    f"sum(niyanta_leader{{{NS}}}) or vector(0)",
                    steps=((None, "red"), (1.0, "green"), (2.0, "red")),
                ),
                stat("Queue depth", "Workloads waiting to be placed.", highest("niyanta_queue_depth")),
                stat(
                    "Longest wait",
                    "Age of the workload that has waited longest. The expedited lane aims at 30 minutes.",
                    highest("niyanta_queue_oldest_age_seconds"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                stat("Running", "Workloads running.", highest("niyanta_workloads", f'{NS},phase="Running"')),
                stat(
                    "Held",
                    "Workloads that may not be queued: over a limit, or of no customer.",
                    highest("niyanta_workloads", f'{NS},phase="Held"'),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Workers not ready",
                    "Workers on which nothing can be placed because their node isn't ready.",
                    added("niyanta_pool_workers", f'{NS},state="not_ready"', ""),
                    steps=((None, "green"), (1.0, "orange")),
                ),
                stat(
                    "Postgres",
                    "Whether Postgres answers every process.",
                    f"min(niyanta_postgres_up{{{NS}}})",
                    mappings=(("1", "up", "green"), ("0", "away", "red")),
                ),
                stat(
                    "REST errors",
                    "Share of the REST door's answers that are 5xx.",
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
                    "Workloads waiting to be placed.",
                    (highest("niyanta_tier_queue_depth", NS, "tier"), "{{tier}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait by tier",
                    "Age of each tier's oldest waiting workload; the dashed line is what the expedited lane aims at.",
                    (highest("niyanta_tier_queue_oldest_age_seconds", NS, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Placements",
                    "Placements committed each second, by pool.",
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
                    "Why workloads wait",
                    "Workloads that the last cycle could not place, by their most frequent reason.",
                    (highest("niyanta_rejected_workloads", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
                    stack=True,
                ),
                panel(
                    "Wait until placed",
                    "From queued to placed, of what was placed.",
                    *shares("niyanta_queue_wait_seconds"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Workers and doors",
            (
                panel(
                    "Fullest resource by pool",
                    "Taken share of each pool's fullest resource.",
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
                    "Requests answered each second, by status.",
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
    "Each pool: its workers, how full they are, what waits for it, and what the autoscaler is told.",
    (
        Row(
            "All pools",
            (
                panel(
                    "Pools",
                    "What each pool has, uses and needs now.",
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
                    "Workers by state; cordoned ones finish what they run.",
                    (highest("niyanta_pool_workers", POOL, "pool, state"), "{{pool}} {{state}}"),
                    stack=True,
                ),
                panel(
                    "Needed and ready",
                    "Workers needed once everything that waits for the pool is placed, beside those that are ready.",
                    (highest("niyanta_pool_workers_needed", POOL, "pool"), "{{pool}} needed"),
                    (highest("niyanta_pool_workers", f'{POOL},state="ready"', "pool"), "{{pool}} ready"),
                    (highest("niyanta_pool_workers_in_use", POOL, "pool"), "{{pool}} in use"),
                ),
                panel(
                    "Demand",
                    "Slots running and queued: divided by slotsPerWorker, what an autoscaler aims at.",
                    (highest("niyanta_pool_demand_slots", POOL, "pool"), "{{pool}}"),
                ),
            ),
        ),
        Row(
            "How full",
            tuple(
                panel(
                    f"{title} taken",
                    f"Taken share of the {what} of each pool's workers.",
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
                    "Recorded decisions about the workers of pools with a provider, each hour.",
                    (
                        f"sum by (pool, action) (increase(niyanta_scaling_decisions_total{{{POOL}}}[1h]))",
                        "{{pool}} {{action}}",
                    ),
                ),
                panel(
                    "On their way out",
                    "Workers that were chosen to go and finish what they run.",
                    (highest("niyanta_scaling_leaving_workers", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Blocked",
                    "1: something keeps the pool from being scaled; its condition Scaling says what.",
                    (highest("niyanta_scaling_blocked", POOL, "pool"), "{{pool}}"),
                    most=1,
                    steps=((None, "green"), (1.0, "red")),
                ),
            ),
        ),
        Row(
            "Work",
            (
                panel(
                    "Queue depth",
                    "Workloads waiting that count for the pool; each counts for one pool.",
                    (highest("niyanta_pool_queue_depth", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Longest wait",
                    "Age of the one that has waited longest.",
                    (highest("niyanta_pool_queue_oldest_age_seconds", POOL, "pool"), "{{pool}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Running",
                    "Workloads placed or running.",
                    (highest("niyanta_pool_running_workloads", POOL, "pool"), "{{pool}}"),
                ),
                panel(
                    "Placements",
                    "Placements committed each second.",
                    (rate("niyanta_placements_total", POOL, "pool"), "{{pool}}"),
                    unit="ops",
                ),
                panel(
                    "Age of the figures",
                    "Autoscalers are answered from figures made each second by the leader; beyond 5 s they get none.",
                    (highest("niyanta_figures_age_seconds"), "made by the leader"),
                    (highest("niyanta_adapter_figures_age_seconds", NS, "instance"), "as read by {{instance}}"),
                    unit="s",
                    steps=((None, "green"), (5.0, "red")),
                ),
                panel(
                    "Questions by autoscalers",
                    "Answers of the custom metrics adapter each second, by status.",
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
    "Each customer's share: what waits, what runs, how long it waits, and what was refused.",
    (
        Row(
            "Service",
            (
                panel(
                    "Placed within 5 minutes",
                    "Share of the workloads placed that had waited for less than 5 minutes, by tier.",
                    (
                        within("300.0"),
                        "{{tier}}",
                    ),
                    unit="percentunit",
                    most=1,
                ),
                panel(
                    "Placed within 30 minutes",
                    "Share of the workloads placed that had waited for less than 30 minutes, by tier.",
                    (
                        within("1800.0"),
                        "{{tier}}",
                    ),
                    unit="percentunit",
                    most=1,
                ),
                panel(
                    "Wait until placed, p95",
                    "95 % of what was placed had waited for less than this.",
                    (quantile(0.95, "niyanta_queue_wait_seconds", TIER, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Queue depth by tier",
                    "Workloads waiting to be placed.",
                    (highest("niyanta_tier_queue_depth", TIER, "tier"), "{{tier}}"),
                    stack=True,
                ),
                panel(
                    "Longest wait by tier",
                    "Age of each tier's oldest waiting workload; the dashed line is what the expedited lane aims at.",
                    (highest("niyanta_tier_queue_oldest_age_seconds", TIER, "tier"), "{{tier}}"),
                    unit="s",
                    steps=WAIT_STEPS,
                ),
                panel(
                    "Placements by tier",
                    "Placements committed each second.",
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
                    "What each customer has waiting and running now; customers beyond the bound are added up as other.",
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
                    "The ten customers with most on workers.",
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
                    "Workloads accepted each second.",
                    (rate("niyanta_api_submissions_accepted_total", TIER, "tier"), "{{tier}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Refused by REST",
                    "Workloads refused each second, by the type of the problem (docs/api.md).",
                    (rate("niyanta_api_submissions_refused_total", NS, "reason") + " > 0 or vector(0)", "{{reason}}"),
                    unit="ops",
                    stack=True,
                ),
                panel(
                    "Held",
                    "Workloads that may not be queued now, by reason.",
                    (highest("niyanta_held_workloads", NS, "reason"), "{{reason}}"),
                    stack=True,
                ),
                panel(
                    "Room in the queue",
                    "What waits beside what may wait before the REST door answers 503 to everybody.",
                    (highest("niyanta_api_queue_depth"), "waiting, held and suspended"),
                    (highest("niyanta_api_queue_limit"), "limit"),
                ),
                panel(
                    "Answered again",
                    "Submissions each second that were answered from their Idempotency-Key.",
                    (rate("niyanta_api_submissions_replayed_total"), "replayed"),
                    unit="ops",
                ),
            ),
        ),
    ),
    (TIERS, CUSTOMERS),
)
