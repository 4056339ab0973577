"""Writes the Grafana dashboards, charts/niyanta/dashboards/*.json. A module for each of them defines its panels:
`overview`, `pools`, `customers` and `scheduler_internals`.

    python tools/dashboards/generate.py           write them
    python tools/dashboards/generate.py --check   exit 1 when they differ

No dashboard names a data source: each has a variable for it. `$namespace` is the release's namespace; with a scrape
configuration that doesn't set this label, select All.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

FOLDER = REPO / "charts" / "niyanta" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
"""Schema version of Grafana 11; later versions migrate it on import."""
COLUMNS = 24

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """An expression and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel; `kind` is Grafana's type. `steps`: thresholds as (start, colour); the first start is None."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    stack: bool = False
    steps: tuple[tuple[float | None, str], ...] = ()
    most: float | None = None
    mappings: tuple[tuple[str, str, str], ...] = ()
    """(value, text, colour)"""
    columns: tuple[str, ...] = ()
    """Column names of a table, in the order of the queries."""


@dataclass(frozen=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A dashboard variable with the values of a label."""

    name: str
    label: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `slug` names its file."""

    slug: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    refresh: str = "30s"
    tags: tuple[str, ...] = field(default=("niyanta",))


def panel(title: str, description: str, *queries: tuple[str, str] | str, **options: Any) -> Panel:
    """A panel of (expression, legend) pairs."""
    pairs = tuple(Query(*query) if isinstance(query, tuple) else Query(query) for query in queries)
    return Panel(title, description, pairs, **options)


def render(dashboard: Dashboard) -> Json:
    """The dashboard in the JSON that Grafana imports."""
    return {
        "uid": f"niyanta-{dashboard.slug}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": dashboard.refresh,
        "links": [
            {
                "title": "Niyanta",
                "type": "dashboards",
                "tags": ["niyanta"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": _variables(dashboard.variables)},
        "annotations": {"list": []},
        "panels": list(_laid_out(dashboard.rows)),
    }


def _variables(variables: Iterable[Variable]) -> list[Json]:
    source: Json = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    found = [source]
    for variable in (Variable("namespace", "namespace", "niyanta_build_info"), *variables):
        where = "" if variable.name == "namespace" else '{namespace=~"$namespace"}'
        query = f"label_values({variable.metric}{where}, {variable.label})"
        found.append(
            {
                "name": variable.name,
                "label": variable.name.capitalize(),
                "type": "query",
                "datasource": SOURCE,
                "query": {"qryType": 1, "query": query, "refId": "Variable"},
                "definition": query,
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": ["All"], "value": ["$__all"]},
            }
        )
    return found


def _laid_out(rows: Sequence[Row]) -> Iterable[Json]:
    number, y = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        y, x, tallest = y + 1, 0, 0
        for item in row.panels:
            number += 1
            if x + item.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield {"id": number, "gridPos": {"x": x, "y": y, "w": item.width, "h": item.height}, **_panel(item)}
            x, tallest = x + item.width, max(tallest, item.height)
        y += tallest


def _panel(item: Panel) -> Json:
    instant = item.kind in {"stat", "table", "gauge", "bargauge"}
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "instant": instant,
            "range": not instant,
            "format": {"table": "table", "heatmap": "heatmap"}.get(item.kind, "time_series"),
        }
        for number, query in enumerate(item.queries)
    ]
    return {
        "type": item.kind,
        "title": item.title,
        "description": item.description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(item), "overrides": []},
        "options": _options(item),
        "transformations": _transformations(item),
    }


def _defaults(item: Panel) -> Json:
    steps = [{"value": start, "color": colour} for start, colour in item.steps or ((None, "green"),)]
    defaults: Json = {"unit": item.unit, "thresholds": {"mode": "absolute", "steps": steps}, "min": 0}
    if item.most is not None:
        defaults["max"] = item.most
    if item.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if item.stack else 5,
            "showPoints": "never",
            "spanNulls": 90_000,
            "stacking": {"mode": "normal" if item.stack else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if item.steps else "off"},
        }
    elif item.kind in {"stat", "gauge", "bargauge"}:
        defaults["color"] = {"mode": "thresholds"}
    if item.mappings:
        options = {value: {"text": text, "color": colour} for value, text, colour in item.mappings}
        defaults["mappings"] = [{"type": "value", "options": options}]
    return defaults


def _options(item: Panel) -> Json:
    if item.kind == "timeseries":
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if item.kind == "heatmap":
        return {"calculate": False, "color": {"scheme": "Oranges", "mode": "scheme"}, "yAxis": {"unit": item.unit}}
    if item.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options: Json = {"reduceOptions": reduce, "orientation": "auto"}
    if item.kind == "stat":
        options |= {"colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "auto"}
    return options


def _transformations(item: Panel) -> list[Json]:
    if item.kind != "table":
        return []
    names = {f"Value #{chr(ord('A') + number)}": name for number, name in enumerate(item.columns)}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
    ]


def files() -> dict[Path, str]:
    """File of each dashboard -> its expected content."""
    from tools.dashboards.customers import CUSTOMERS_PAGE
    from tools.dashboards.overview import OVERVIEW
    from tools.dashboards.pools import POOLS_PAGE
    from tools.dashboards.scheduler_internals import INTERNALS

    pages = (OVERVIEW, POOLS_PAGE, CUSTOMERS_PAGE, INTERNALS)
    return {FOLDER / f"{item.slug}.json": json.dumps(render(item), indent=1) + "\n" for item in pages}


def main() -> int:
    wanted = files()
    if "--check" in sys.argv[1:]:
        wrong = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
        for path in wrong:
            sys.stderr.write(f"{path} differs: run `python tools/dashboards/generate.py`\n")
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
