"""The commands for upgrades and removal: their output, exit codes and files."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from typer.testing import CliRunner, Result

from niyanta.cli import main, upgrade
from niyanta.cluster.api import bounded_objects
from niyanta.cluster.api.connection import Connection, Credentials
from niyanta.resources.labels import OUTCOME_FINALIZER, REST_ID
from niyanta.settings import Settings
from niyanta.store.postgres import old_rows
from niyanta.store.postgres.old_rows import OldRow, OldRows
from testing.processes.run_directory import REPO
from tests.fakes.scripted_api_server import fake_api, owner, pod, status

pytestmark = pytest.mark.unit

OLD_DEFINITION = REPO / "testing" / "data" / "crds" / "before-v0.1.0-alpha.1" / "workloads.niyanta.io.yaml"
RUN = CliRunner()


class Cluster:
    """Objects by plural, and the patches that were sent."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {
            "workloads": [],
            "customers": [],
            "workerpools": [],
            "pods": [],
        }
        self.patches: list[str] = []
        self.definition: dict[str, Any] = yaml.safe_load(OLD_DEFINITION.read_text(encoding="utf-8"))
        self.refused = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if self.refused:
            return web.json_response(status(403, "Forbidden", "no rights"), status=403)
        if request.method == "PATCH":
            self.patches.append(request.path)
            return web.json_response({})
        plural = request.path.rsplit("/", 1)[1]
        if plural not in self.objects:
            return web.json_response(self.definition)
        items = self.objects[plural] if "labelSelector" not in request.query else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    def present(self) -> None:
        """Have the present definition."""
        version = self.definition["spec"]["versions"][0]
        fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        fields["backoffLimit"] = fields.pop("maxRetries")


@contextmanager
def _serving(cluster: Cluster) -> Iterator[str]:
    """The address of a server in a thread of its own, because commands run an event loop."""
    ready, address = threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with fake_api(cluster) as api:
            address.append(api.connection.host)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    with _serving(made) as address:
        connection = Connection(address, None, Credentials(lambda: ""))
        monkeypatch.setattr(upgrade, "_connection", lambda _: connection)
        yield made


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[OldRows], None]:
    """Sets the rows that the database has."""
    monkeypatch.setenv("NIYANTA_DSN", "postgresql://db.example/niyanta")

    def have(found: OldRows) -> None:
        monkeypatch.setattr(old_rows, "find_old_rows", lambda _dsn, *, most: found)

    have(OldRows((), 0))
    return have


def run(*args: str) -> Result:
    return RUN.invoke(main.app, list(args))


def workload(name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    owned = {"f:maxRetries": {}} if "maxRetries" in spec else {}
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": name,
            "managedFields": [{"fieldsV1": {"f:spec": owned}}],
            **metadata,
        },
        "spec": spec,
    }


def test_the_check_names_rows_objects_and_definitions(cluster: Cluster, rows: Callable[[OldRows], None]) -> None:
    rows(OldRows((OldRow("team", "job", "id-1", "PENDING"),), 7))
    cluster.objects["workloads"] = [workload("old", {"maxRetries": 3}), workload("new", {"backoffLimit": 1})]
    done = run("migrate", "--check")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:4] == [
        "row team/job id-1 (Pending)",
        "7 rows in the old form: `niyanta migrate` rewrites them",
        "object team/old (spec.maxRetries)",
        "1 Workload objects in the old form: see docs/upgrade.md",
    ]
    assert "kubectl replace -f crds/" in done.stdout


@pytest.mark.parametrize("database_only", [True, False])
def test_the_check_ends_with_0_if_nothing_is_old(
    cluster: Cluster, rows: Callable[[OldRows], None], database_only: bool
) -> None:
    cluster.refused = database_only
    cluster.present()
    assert run("migrate", "--check", *(["--database-only"] if database_only else [])).exit_code == 0
    rows(OldRows((), 1))
    assert run("migrate", "--check", *(["--database-only"] if database_only else [])).exit_code == 1


def test_a_cluster_that_refuses_ends_the_check(cluster: Cluster, rows: Callable[[OldRows], None]) -> None:
    cluster.refused = True
    done = run("migrate", "--check")
    assert (done.exit_code, "no rights" in done.stderr) == (2, True)


def test_the_export_is_what_kubectl_can_apply(cluster: Cluster, tmp_path: Path) -> None:
    finished = workload("done", {"backoffLimit": 1}) | {"status": {"phase": "Succeeded"}}
    submission = workload("rest-0123abcd", {"maxRetries": 3}, labels={REST_ID: "0123abcd-0000-4000-8000-0"})
    gpu = workload("old", {"maxRetries": 3, "affinity": {"hard": {"gpu": {"count": 2}}}})
    cluster.objects["workloads"] = [gpu, finished, submission]
    cluster.objects["customers"] = [{"metadata": {"name": "acme", "uid": "1"}, "spec": {"tier": "Free"}, "status": {}}]
    out = tmp_path / "out"
    done = run("migrate", "--export", str(out))
    assert done.exit_code == 0, done.output
    assert "1 objects of REST submissions are left out" in done.stdout
    files = {str(file.relative_to(out)): file.read_text(encoding="utf-8") for file in out.rglob("*.yaml")}
    assert set(files) == {"customers.yaml", "workloads/team.yaml", "finished/team.yaml"}
    (manifest,) = yaml.safe_load_all(files["workloads/team.yaml"])
    assert manifest == {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "old", "namespace": "team"},
        "spec": {"backoffLimit": 3, "gpu": {"count": 2}},
    }
    assert next(yaml.safe_load_all(files["customers.yaml"]))["spec"] == {"tier": "Free"}
    again = run("migrate", "--export", str(out))
    assert (again.exit_code, "isn't empty" in again.stderr) == (2, True)


def test_fields_that_the_present_definition_dropped_stop_the_export(cluster: Cluster, tmp_path: Path) -> None:
    lost = workload("lost", {})
    lost["metadata"]["managedFields"] = [{"fieldsV1": {"f:spec": {"f:maxRetries": {}}}}]
    cluster.objects["workloads"] = [lost]
    assert run("migrate", "--export", str(tmp_path / "complete")).exit_code == 0, "the old definition drops nothing"
    cluster.present()
    done = run("migrate", "--export", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "team/lost (spec.maxRetries)" in done.stdout
    assert "put those of the earlier release back" in done.stderr
    assert not (tmp_path / "out").exists()


def test_unreadable_objects_are_named(
    cluster: Cluster, rows: Callable[[OldRows], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bounded_objects, "MAX_RAW_CONTAINERS", 100)
    wide = workload("wide", {})
    wide["metadata"]["managedFields"] = [{"fieldsV1": {f"f:{number}": {} for number in range(200)}}]
    cluster.objects["workloads"] = [wide, workload("old", {"maxRetries": 3})]
    cluster.present()
    checked = run("migrate", "--check")
    assert checked.exit_code == 1
    assert "unreadable object team/wide (the object has 2" in checked.stdout
    assert "1 Workload objects in the old form" in checked.stdout
    done = run("migrate", "--export", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "unreadable object team/wide (" in done.stdout
    text = (tmp_path / "out" / "workloads" / "team.yaml").read_text(encoding="utf-8")
    assert [found["metadata"]["name"] for found in yaml.safe_load_all(text)] == ["old"]


def test_finalizers_are_released_after_a_dry_run_has_counted_them(cluster: Cluster) -> None:
    ours = pod("a", 1, owners=[owner("w")])
    ours["metadata"]["finalizers"] = [OUTCOME_FINALIZER]
    cluster.objects["pods"] = [ours, pod("b", 1)]
    dry = run("release-finalizers", "--dry-run")
    assert (dry.exit_code, dry.stdout, cluster.patches) == (0, "1 pods of Workloads have the finalizer\n", [])
    done = run("release-finalizers")
    assert done.exit_code == 0
    assert "released: 1, gone meanwhile: 0, failed: 0" in done.stdout
    assert cluster.patches == ["/api/v1/namespaces/ns/pods/a"]


def test_finalizers_are_kept_while_an_operator_runs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def running(_: object) -> list[str]:
        return ["niyanta-system/operator"]

    monkeypatch.setattr("niyanta.cluster.pod_finalizers.running_operators", running)
    done = run("release-finalizers")
    assert (done.exit_code, cluster.patches) == (2, [])
    assert "niyanta-system/operator" in done.stderr
    assert run("release-finalizers", "--force").exit_code == 0


def test_without_a_cluster_the_command_says_how_to_name_one(
    rows: Callable[[OldRows], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = run("migrate", "--check")
    assert (done.exit_code, "--database-only" in done.stderr) == (2, True)


def test_the_client_configuration_of_kubectl_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    context = {"cluster": "c", "user": "u"}
    content = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    assert upgrade._connection(Settings()).host == "http://127.0.0.1:1"
