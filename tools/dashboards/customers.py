"""Panels of the customer dashboard; `tools.dashboards.generate` converts them to JSON."""

from __future__ import annotations

from tools.dashboards.expressions import (
    CUSTOMER,
    CUSTOMERS,
    NS,
    TIER,
    TIERS,
    WAIT_STEPS,
    highest,
    quantile,
    rate,
    within,
)
from tools.dashboards.generate import Dashboard, Row, panel

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
