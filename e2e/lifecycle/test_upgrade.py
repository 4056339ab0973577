"""Objects and rows of a release with other field names are upgraded by the commands of docs/upgrade.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.types.json import Jsonb

from e2e.conftest import NODE_LABEL, QUICK, leads
from niyanta.store.postgres.migrate import migrate, migrations
from testing.cluster.cluster import Kind, NodeSpec
from testing.cluster.control_plane import which_kind
from testing.environment import Environment
from testing.processes.niyanta import OperatorProcess
from testing.processes.rest_door import restricted
from testing.processes.run_directory import REPO
from testing.scenarios.page_commands import Reader, commands
from testing.scenarios.placement import POOLS
from testing.scenarios.workloads import GROUP, OperatorDatabase, Workloads, customer_manifest, pool_manifest
from testing.waiting import until

pytestmark = pytest.mark.e2e

NAME = "upgraded"
"""Name of the Customer, its namespace and the pool."""
OLD = REPO / "testing" / "data" / "crds" / "before-v0.1.0-alpha.1"
ROW = "0123abcd-0000-4000-8000-000000000000"


@pytest.fixture
def env() -> Iterator[Environment]:
    """An environment of its own, because definitions and schema are those of an earlier release."""
    if which_kind() is Kind.EXISTING:
        pytest.skip("replaces the definitions: needs a cluster of its own")
    with Environment.start("upgrade") as environment:
        yield environment


@pytest.fixture
def work(env: Environment) -> Workloads:
    """Workloads under the old definition, and a pending submission in the old schema."""
    cluster = env.cluster
    cluster.create_namespace(NAME)
    cluster.create_nodes([NodeSpec(f"upgraded-{number}", labels={NODE_LABEL: NAME}) for number in range(2)])
    cluster.api.post(f"{GROUP}/customers", customer_manifest(NAME, NAME))
    cluster.api.post(POOLS, pool_manifest(NAME, env.namespace, {NODE_LABEL: NAME}))
    cluster.kubectl("replace", "-f", str(OLD))
    made = Workloads(cluster, OperatorDatabase(env.dsn), NAME, NAME)
    manifests = [
        made.manifest("named", hard={"workerIds": ["upgraded-1"]}, maxRetries=1),
        made.manifest("plain", ttlSecondsAfterFinished=60),
    ]

    def stored() -> bool:
        """True once the API server has taken up the old definition, so that it keeps the old fields."""
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))
        return "maxRetries" in (made.find("named") or {})["spec"]

    until(stored, what="the old definition is served", tolerate=True)
    migrate(env.dsn, known=[migration for migration in migrations() if migration.version < 10])
    rest = made.manifest("rest", hard={"workerIds": ["upgraded-0"]}, maxRetries=2, customer=NAME)
    spec = restricted(rest)["spec"]
    with psycopg.connect(env.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO workloads (id, door, namespace, name, customer_id, generation, spec, class_id, replicas)"
            " VALUES (%s, 'rest', %s, 'rest', %s, 1, %s, 'c', 1)",
            [ROW, NAME, NAME, Jsonb(spec)],
        )
        connection.execute(
            "INSERT INTO workload_state (id, customer_id, class_id, status, priority, tier_weight, queue_key,"
            " queued_at, created_at, door) VALUES (%s, %s, 'c', 'PENDING', 10, 1, 0, now(), now(), 'rest')",
            [ROW, NAME],
        )
        connection.execute("INSERT INTO queue_counters (customer_id, class_id, pending) VALUES (%s, 'c', 1)", [NAME])
    return made


def refusal(env: Environment) -> str:
    """The log of an operator that refuses to start."""
    number = len(env.operators) + 1
    log = env.log_dir / f"refused-{number}.log"
    operator = OperatorProcess.start(
        run=env.run,
        identity=f"refused-{number}",
        dsn=env.dsn,
        kubeconfig=env.operator_kubeconfig(),
        namespace=env.namespace,
        log=log,
    )
    env.operators.append(operator)
    assert operator.wait_exit(timeout=60) == 1
    text = log.read_text(encoding="utf-8")
    assert "the operator refuses to start" in text
    return text


def test_the_page_upgrades_objects_and_rows(env: Environment, work: Workloads, tmp_path: Path) -> None:
    reader = Reader(env, tmp_path)
    assert "run `niyanta migrate` (0010_api_names.sql" in refusal(env)
    for step in commands("upgrade.md"):
        if step.startswith("helm upgrade"):
            continue  # the operator of this test is a local process
        done = reader.run(step)
        if step == "niyanta migrate --check" and "old form: " in done.output:
            assert done.code == 1
            assert f"row {NAME}/rest {ROW} (Pending)" in done.output
            assert f"object {NAME}/named (spec.maxRetries, spec.affinity.hard.workerIds)" in done.output
            continue
        assert done.code == 0, f"{step}: {done.output}"
        if step == "niyanta migrate":
            assert "0010_api_names.sql" in done.output
    operator = env.start_operator(extra_env=QUICK)
    until(lambda: leads(operator), what="the operator leads")
    assert work.wait("named", "Running")["assignments"][0]["nodeName"] == "upgraded-1"
    spec = (work.find("named") or {})["spec"]
    assert (spec["backoffLimit"], "ttlSecondsAfterFinished" in spec) == (1, False)
    work.wait("plain", "Running")
    assert (work.find("plain") or {})["spec"]["ttlSecondsAfterFinished"] == 60
    assert work.database.wait_status(ROW, "RUNNING")["workers"] == ["upgraded-0"]


def test_an_operator_refuses_old_definitions_and_objects(env: Environment, work: Workloads, tmp_path: Path) -> None:
    reader = Reader(env, tmp_path)
    assert reader.run("niyanta migrate").code == 0
    assert "CustomResourceDefinitions in the cluster are those of an earlier release" in refusal(env)
    assert reader.run("kubectl replace -f crds/").code == 0
    until(
        lambda: "maxRetries" not in (work.find("named") or {})["spec"],
        what="the present definition is served",
    )
    assert f"{NAME}/named (spec.maxRetries, spec.affinity.hard.workerIds)" in refusal(env)
    lost = reader.run("niyanta migrate --export lost")
    assert (lost.code, "put those of the earlier release back" in lost.output) == (2, True)
