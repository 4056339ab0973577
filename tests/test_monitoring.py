"""Dashboards, alerts and runbooks fit together, and name only what docs/metrics.md lists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dashboards.generate import main as dashboards_main

pytestmark = pytest.mark.unit

REPO = Path(__file__).parent.parent
CHART = REPO / "charts" / "niyanta"
RUNBOOKS = REPO / "docs" / "runbooks"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
GROUPS: list[dict[str, Any]] = yaml.safe_load((CHART / "alerts" / "alerts.yaml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
LISTED = set(re.findall(r"^\| `(niyanta_\w+)`", (REPO / "docs" / "metrics.md").read_text(), re.MULTILINE))


def metrics_in(expression: str) -> set[str]:
    """Names of Niyanta's metrics in an expression, without the suffixes of histograms."""
    found = set(re.findall(r"\bniyanta_\w+", expression))
    return {name if name in LISTED else re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_dashboards_are_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dashboards.py", "--check"])
    assert dashboards_main() == 0


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported_anywhere(path: Path) -> None:
    """The data source is a variable, and panels have unique ids and don't overlap."""
    dashboard = load(path)
    assert dashboard["uid"] == f"niyanta-{path.stem}"
    assert dashboard["schemaVersion"] >= 39
    assert [item["name"] for item in dashboard["templating"]["list"]][:2] == ["datasource", "namespace"]
    sources = {json.dumps(item) for item in _values_of(dashboard, "datasource")}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_is_described_and_asks_for_listed_metrics(path: Path) -> None:
    for panel in load(path)["panels"]:
        if panel["type"] == "row":
            continue
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert metrics_in(target["expr"]) <= LISTED, panel["title"]
            assert 'namespace=~"$namespace"' in target["expr"], panel["title"]


def test_every_metric_is_on_a_dashboard_except_those_for_debugging() -> None:
    shown = {name for path in DASHBOARDS for name in metrics_in(path.read_text())}
    unshown = LISTED - shown
    # Metrics that repeat others, or that matter only for debugging.
    assert unshown == {
        "niyanta_adapter_certificate_expiry_timestamp_seconds",
        "niyanta_adapter_registered",
        "niyanta_postgres_pool_connections_lost_total",
        "niyanta_postgres_pool_max_connections",
        "niyanta_postgres_pool_request_errors_total",
        "niyanta_postgres_pool_requests_total",
        "niyanta_postgres_reads_on_primary_total",
        "niyanta_postgres_replica_in_use",
        "niyanta_postgres_replica_up",
        "niyanta_watch_unreadable_total",
    }


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_how_bad_it_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert re.fullmatch(r"\d+(s|m|h)", alert["for"])
    assert set(alert["annotations"]) == {"summary", "description"}
    assert len(alert["annotations"]["summary"]) < 120
    assert metrics_in(alert["expr"]) <= LISTED
    assert metrics_in(alert["expr"])
    selectors = re.findall(r"niyanta_\w+(\{)?", alert["expr"])
    assert all(selectors), "every series is picked by its namespace"
    assert alert["expr"].count('namespace="$namespace"') == len(selectors)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_page_that_says_what_to_do(alert: dict[str, Any]) -> None:
    page = (RUNBOOKS / f"{alert['alert']}.md").read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["Meaning", "Impact", "Check", "Fix"]
    check = page.split("## Check")[1].split("## Fix")[0]
    assert "```" in check, "exact commands"
    assert metrics_in(page) <= LISTED
    assert f"[{alert['alert']}]({alert['alert']}.md)" in (RUNBOOKS / "README.md").read_text()


def test_every_page_belongs_to_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("Niyanta*.md")), ids=lambda page: page.stem)
def test_log_texts_quoted_by_a_page_exist(page: Path) -> None:
    said = "\n".join(path.read_text() for path in (REPO / "operator" / "niyanta").rglob("*.py"))
    looked_for = re.findall(r"log(?:'s last lines)? says(?: why \()? ?\"([^\"]+)\"", " ".join(page.read_text().split()))
    looked_for += re.findall(r"grep '([a-z ]+)'", page.read_text())
    for words in looked_for:
        assert words in said


def _values_of(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        own = [value[key]] if key in value and isinstance(value[key], dict) else []
        return own + [found for item in value.values() for found in _values_of(item, key)]
    return [found for item in value for found in _values_of(item, key)] if isinstance(value, list) else []
