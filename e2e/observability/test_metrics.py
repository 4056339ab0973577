"""Prometheus scrapes a running environment: docs/metrics.md lists exactly the exposed metrics, every expression of the
dashboards has data, and alerts fire when they should and not before."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import yaml

from e2e.conftest import QUICK, leads
from testing.cluster.build import ToolError, ensure_tools
from testing.cluster.cluster import NodeSpec
from testing.cluster.control_plane import Kind
from testing.environment import CHART, RELEASE, Environment
from testing.processes.niyanta import OPERATOR_NAMESPACE, OperatorProcess
from testing.processes.prometheus import Prometheus
from testing.processes.rest_door import RestDoor, restricted
from testing.processes.run_directory import REPO
from testing.processes.standby import Standby
from testing.scenarios.scaling_timeline import simulated_pool
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

TIERS = ("Free", "Standard", "Premium", "Enterprise")
LABEL = "metrics.test/node"
POOL, SCALED = "gpu", "grown"
WORKERS = 3
VARIABLES = {"namespace": OPERATOR_NAMESPACE, "pool": f"{POOL}|{SCALED}", "customer": "standard", "tier": "Standard"}
RATE_INTERVAL = "5m"
"""Longer than the test, so that rates cover all samples since the first scrape."""


@dataclass
class MonitoredSystem:
    """The environment, its REST door, and the Prometheus that scrapes them."""

    env: Environment
    door: RestDoor
    prometheus: Prometheus

    @property
    def operators(self) -> list[OperatorProcess]:
        return [process for process in self.env.operators if process.identity.startswith("operator")]

    def workloads(self, tier: str) -> Workloads:
        return Workloads(self.env.cluster, OperatorDatabase(self.env.dsn), tier.lower(), POOL)


@pytest.fixture(scope="module")
def system() -> Iterator[MonitoredSystem]:
    try:
        ensure_tools(("prometheus", "promtool"))
    except ToolError as error:
        pytest.skip(str(error))
    with Environment.start("metrics", adapter=True) as env:
        if env.cluster.kind is not Kind.KWOK:
            pytest.skip("the adapter's Service leads to a local process: needs kwokctl")
        standby = Standby.of(env.postgres)
        for number in (1, 2):
            env.start_operator(f"operator-{number}", extra_env=QUICK)
        door = RestDoor(env, "standard", extra_env={"NIYANTA_REPLICA_DSNS": standby.dsn})
        ports = {"operator": [process.metrics_port for process in env.operators if process is not door.process]}
        log = env.log_dir / "prometheus.log"
        labels = {"namespace": OPERATOR_NAMESPACE}
        prometheus = Prometheus.start(env.run, {**ports, "api": [door.process.metrics_port]}, log=log, labels=labels)
        until(lambda: prometheus.healthy_targets() == 3, what="all three are scraped")
        found = MonitoredSystem(env, door, prometheus)
        _create_objects(found)
        yield found
        door.close()
        standby.delete()


def _create_objects(system: MonitoredSystem) -> None:
    """Creates a customer of each tier, a pool with GPUs and slots and its nodes, and a pool of simulated workers."""
    cluster = system.env.cluster
    until(lambda: any(leads(process) for process in system.operators), what="an operator leads")
    for tier in TIERS:
        cluster.create_namespace(tier.lower())
        cluster.api.post(f"{GROUP}/customers", customer_manifest(tier.lower(), tier.lower(), tier=tier))
    pool = pool_manifest(
        *(POOL, system.env.namespace, {LABEL: POOL}),
        region="eu",
        slotsPerWorker=20,
        capabilities=["alone"],
        gpu={"model": "A100", "count": 4},
    )
    cluster.api.post(f"{GROUP}/namespaces/{system.env.namespace}/workerpools", pool)
    grown = simulated_pool(SCALED, system.env.namespace, cpu="8", replicas=1)
    cluster.api.post(f"{GROUP}/namespaces/{system.env.namespace}/workerpools", grown)
    cluster.create_nodes([NodeSpec(f"gpu-{n}", cpu="16", gpus=4, labels={LABEL: POOL}) for n in range(WORKERS)])


def _traffic(system: MonitoredSystem, round_: int) -> None:
    """Creates Workloads of every tier that run or wait, and requests of every kind to the REST door and the adapter."""
    for tier in TIERS:
        made = system.workloads(tier)
        made.create(made.manifest(f"w{round_}-{n}", life={"run_for": "2s"}) for n in range(5))
        made.create([made.manifest(f"big-{round_}", cpu="64")])
    made = system.workloads("Standard")
    alone = {"type": "alone", "affinity": {"anti": [{"types": ["alone"]}]}, "life": {"run_for": "2s"}}
    made.create(made.manifest(f"alone-{round_}-{n}", **alone) for n in range(WORKERS + 1))
    client = system.door.client
    manifest = restricted(made.manifest(f"rest-{round_}", life={"run_for": "1s"}))
    for _ in range(2):
        assert client.post("/v1/workloads", json=manifest, headers={"Idempotency-Key": f"k{round_}"}).status_code == 202
    assert client.post("/v1/workloads", json={"kind": "Nonsense"}).status_code in {400, 422}
    system.door.batch([restricted(made.manifest(f"batch-{round_}-{n}", life={"run_for": "1s"})) for n in range(3)])
    for path in ("/v1/workloads", "/v1/metrics/queue-depth"):
        system.door.get(path)
    about = f"namespaces/{OPERATOR_NAMESPACE}/workerpools.niyanta.io/{POOL}/demand"
    ask = partial(system.env.cluster.kubectl, "get", "--raw", f"/apis/custom.metrics.k8s.io/v1beta2/{about}")
    until(ask, what="the adapter answers", tolerate=True)


# --- Exposed metrics -------------------------------------------------------------------------------------------------


def _exposed(process: OperatorProcess) -> dict[str, str]:
    """Name and type of Niyanta's metrics in the text of /metrics."""
    return dict(re.findall(r"^# TYPE (niyanta_\w+) (\w+)$", process.metrics(), re.MULTILINE))


def _listed(process: str) -> dict[str, str]:
    """Name and type of the metrics that docs/metrics.md lists for a process."""
    rows = re.findall(r"^\| `(niyanta_\w+)` \| (\w+) \|[^|]*\|[^|]*\| ([^|]*) \|", METRICS_PAGE, re.MULTILINE)
    return {name: kind for name, kind, processes in rows if process in processes.replace("leader", "operator")}


METRICS_PAGE = (REPO / "docs" / "metrics.md").read_text()


def test_the_processes_expose_exactly_what_the_page_lists(system: MonitoredSystem) -> None:
    for process in system.operators:
        assert _exposed(process) == _listed("operator")
    assert _exposed(system.door.process) == _listed("api")


def test_promtool_accepts_names_and_help(system: MonitoredSystem) -> None:
    promtool = ensure_tools(("promtool",)) / "promtool"
    for process in (*system.operators, system.door.process):
        text = "\n".join(line for line in process.metrics().splitlines() if "niyanta_" in line) + "\n"
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_leader_exposes_metrics_of_the_leader(system: MonitoredSystem) -> None:
    (leader,) = [process for process in system.operators if leads(process)]
    (other,) = [process for process in system.operators if process is not leader]
    until(lambda: "\nniyanta_pool_workers{" in leader.metrics(), what="the leader shows the pool")
    shown = re.findall(r"^(niyanta_\w+)(?:{.*})? ", other.metrics(), re.MULTILINE)
    only = re.findall(r"^\| `(niyanta_\w+)` \|[^|]*\|[^|]*\|[^|]*\| leader \|", METRICS_PAGE, re.MULTILINE)
    assert len(only) > 15
    assert not set(only) & set(shown)


# --- Dashboards ------------------------------------------------------------------------------------------------------


def _substituted(expression: str, variables: dict[str, str]) -> str:
    text = expression.replace("$__rate_interval", RATE_INTERVAL)
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    assert "$" not in text, text
    return text


def _dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}


def _expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every query of every panel."""
    for slug, dashboard in _dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield f"{slug}: {panel['title']} {target['refId']}", target["expr"]


def test_every_expression_of_the_dashboards_has_data(system: MonitoredSystem) -> None:
    """With its variables set to one pool, customer and tier, and to all."""
    for round_ in range(3):
        _traffic(system, round_)
    database = OperatorDatabase(system.env.dsn)
    busy = "SELECT count(*) AS n FROM workload_state WHERE status IN ('SCHEDULED', 'RUNNING')"
    until(lambda: database.query(busy)[0]["n"] == 0, what="no workload runs")
    for variables in (VARIABLES, dict.fromkeys(VARIABLES, ".*")):
        missing = {where: _substituted(expression, variables) for where, expression in _expressions()}
        assert len(missing) > 80

        def all_have_data(missing: dict[str, str] = missing) -> bool:
            for where, expression in list(missing.items()):
                if system.prometheus.query(expression):
                    del missing[where]
            return not missing

        try:
            until(all_have_data, what="every expression has data", timeout=60, interval=1)
        except AssertionError:
            pytest.fail("no data:\n" + "\n".join(f"{where}\n    {what}" for where, what in missing.items()))


def test_the_variables_of_the_dashboards_have_values(system: MonitoredSystem) -> None:
    seen = {}
    for dashboard in _dashboards().values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
                assert found is not None
                selector = _substituted(found[1], VARIABLES)
                seen[variable["name"]] = set(system.prometheus.label_values(found[2], selector))
    assert seen["namespace"] == {OPERATOR_NAMESPACE}
    assert seen["pool"] == {POOL, SCALED}
    assert seen["tier"] == set(TIERS)
    assert seen["customer"] >= {tier.lower() for tier in TIERS}


# --- Alerts ----------------------------------------------------------------------------------------------------------


def _groups(system: MonitoredSystem, **alerts: Any) -> list[dict[str, Any]]:
    """Rule groups of the PrometheusRule that the chart renders."""
    needed = {"postgres.dsn": "x", "image.repository": "none", "alerts.runbookBaseUrl": "none"}
    values = {**needed, "alerts.enabled": "true", **alerts}
    text = system.env.cluster.helm(
        *("template", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, "--kube-version", "1.37.2"),
        *("--show-only", "templates/monitoring/alerts.yaml"),
        *(word for name, value in values.items() for word in ("--set", f"{name}={value}")),
    )
    groups: list[dict[str, Any]] = yaml.safe_load(text)["spec"]["groups"]
    return groups


def _quick(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same groups with alerts that fire within seconds."""
    for group in groups:
        for rule in group["rules"]:
            rule["for"] = "2s"
            rule["expr"] = rule["expr"].replace("[15m:1m]", "[15s:1s]")
    return groups


def test_promtool_accepts_the_alerts(system: MonitoredSystem) -> None:
    file = system.prometheus.folder / "check.yaml"
    file.write_text(yaml.safe_dump({"groups": _groups(system)}))
    promtool = ensure_tools(("promtool",)) / "promtool"
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_fires_in_normal_operation_and_all_have_data(system: MonitoredSystem) -> None:
    """With comparisons that return 0 or 1, the expression of every alert has data: its series exist."""
    groups = _groups(system)
    system.prometheus.use_rules(groups)
    names = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    until(
        lambda: all(system.prometheus.rules().get(name, {}).get("health") == "ok" for name in names),
        what="every rule was evaluated",
    )
    blind = []
    for name, expression in names.items():
        always = re.sub(r"(==|[<>]) *(?=[\d.])", r"\1 bool ", expression).replace(":1m]", ":1s]")
        assert always != expression, name
        if not system.prometheus.query(always):
            blind.append(name)
    assert blind == []
    # Workloads of the tests wait for ever, so that this alert is right.
    states = {name: rule["state"] for name, rule in system.prometheus.rules().items()}
    assert {name for name, state in states.items() if state != "inactive"} <= {"NiyantaNothingPlaced"}


def test_alerts_of_starvation_and_a_growing_queue_fire_and_end(system: MonitoredSystem) -> None:
    groups = _quick(_groups(system, **{"settings.maxQueueWait": 3, "alerts.queueDepth": 15}))
    system.prometheus.use_rules(groups)
    made = system.workloads("Premium")
    names = iter(range(1000))

    def more_waits() -> bool:
        made.create([made.manifest(f"waits-{next(names)}", cpu="64")])
        return {"NiyantaStarvationRisk", "NiyantaQueueGrowing"} <= system.prometheus.firing()

    until(more_waits, what="both alerts fire", timeout=90, interval=0.3)
    for tier in TIERS:
        system.env.cluster.kubectl("delete", "workloads.niyanta.io", "--all", "-n", tier.lower(), "--wait=false")
    until(
        lambda: not {"NiyantaStarvationRisk", "NiyantaQueueGrowing"} & system.prometheus.firing(),
        what="neither alert fires any more",
        timeout=90,
    )


def test_the_alert_of_a_missing_leader_fires_and_ends(system: MonitoredSystem) -> None:
    system.prometheus.use_rules(_quick(_groups(system)))
    assert "NiyantaNoLeader" not in system.prometheus.firing()
    for process in system.operators:
        process.sigkill()
    until(lambda: "NiyantaNoLeader" in system.prometheus.firing(), what="the alert fires")
    again = system.env.start_operator("operator-3", extra_env=QUICK)
    system.prometheus.scrape({**system.prometheus.jobs, "operator": [again.metrics_port]})
    until(lambda: "NiyantaNoLeader" not in system.prometheus.firing(), what="the alert is over", timeout=90)
