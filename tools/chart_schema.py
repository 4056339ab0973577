"""Writes the `settings` part of charts/niyanta/values.schema.json from Niyanta's Settings.

    python tools/chart_schema.py           write it
    python tools/chart_schema.py --check   exit 1 when it differs

With it, helm refuses unknown settings and invalid values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from niyanta.settings import Settings

SCHEMA = Path(__file__).resolve().parent.parent / "charts" / "niyanta" / "values.schema.json"

SET_BY_CHART = frozenset(
    {
        "dsn",
        "replica_dsns",
        "embedded_postgres",
        "kubeconfig",
        "namespace",
        "identity",
        "service_account",
        "metrics_port",
        "metrics_adapter",
        "metrics_adapter_port",
        "metrics_adapter_service",
        "api_port",
        "api_tls_cert",
        "api_tls_key",
        "default_customer",
        "enable_scaling",
        "require_namespace_label",
        "require_authors_policy",
        "require_policies",
        "api_dsn",
        "migrate_dsn",
        "door_role",
        "operator_role",
        "metrics_token_file",
    }
)
"""Settings that are derived from other values, or that don't apply in a cluster."""

KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "items", "description")


def camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def value_schema(field: dict[str, Any]) -> dict[str, Any]:
    """Schema of a setting. Numbers may be strings, because `helm --set` makes a string of 0.5."""
    schema = {key: field[key] for key in KEPT if key in field}
    if schema.get("type") == "number":
        schema |= {"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?$"}
    return schema


def settings_schema() -> dict[str, Any]:
    """JSON schema of the chart's `settings`: an object with the settings in camelCase and no other keys."""
    fields = Settings.model_json_schema()["properties"]
    known = {camel_case(name): value_schema(field) for name, field in fields.items() if name not in SET_BY_CHART}
    return {
        "type": "object",
        "description": "Settings of the operator and the REST door",
        "additionalProperties": False,
        "properties": known,
    }


def render() -> str:
    """The whole values schema, with the `settings` part regenerated."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        if SCHEMA.read_text() != render():
            sys.stderr.write(f"{SCHEMA} differs from the settings: run `python tools/chart_schema.py`\n")
            return 1
        return 0
    SCHEMA.write_text(render())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
