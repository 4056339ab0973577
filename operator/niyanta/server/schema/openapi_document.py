"""The OpenAPI document: FastAPI's own, plus the manifest's schema and the problems of each endpoint."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from niyanta import __version__
from niyanta.resources.models.workload import Workload
from niyanta.server.problems import KINDS, MEDIA_TYPE
from niyanta.server.schema.models import ProblemView

_REF = "#/components/schemas/"
MANIFEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": f"{_REF}WorkloadManifest"}}},
}
BATCH_BODY: dict[str, Any] = {
    "required": True,
    "description": "One manifest (WorkloadManifest) per line, at most 1,000.",
    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
}
IDEMPOTENCY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
    "description": "A repeated key within 24 hours returns the first answer, or 409 if the body differs.",
}
DESCRIPTION = """Submit and watch workloads without Kubernetes credentials.

Send `Authorization: Bearer nyt_<customer>_<secret>`; `niyanta apikey create` makes keys. Errors are problem details
(RFC 9457) whose `type` is stable. 429 and 503 carry `Retry-After`. A resource of another customer answers 404.

If Postgres has read replicas, lists, explanations, events and counts may be a few seconds old
(`NIYANTA_MAX_REPLICA_LAG`). To see your own changes, send the header `Niyanta-Position` of the response to your last
change with your reads: they then include that change, whichever process answers. Without the header, reads include the
changes that you made through the same process (usually several processes share one address). A workload can be read by
its id as soon as it is accepted.
"""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: the problems it may return."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [f"`{kind.uri}`" for kind in KINDS if kind.status == status]
        found[status] = {
            "description": ", ".join(kinds),
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_REF}ProblemView"}}},
        }
    return found


def schema_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document, generated once."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(title="Niyanta", version=__version__, description=DESCRIPTION, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _add(schemas, "ProblemView", ProblemView.model_json_schema(by_alias=True, ref_template=_REF + "{model}"))
    _add(schemas, "WorkloadManifest", Workload.model_json_schema(by_alias=True, ref_template=_REF + "{model}"))
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None) if _is_default(operation) else None
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}]
    app.openapi_schema = document
    return document


def _is_default(operation: dict[str, Any]) -> bool:
    """True when the operation's 422 is FastAPI's default."""
    content = operation["responses"].get("422", {}).get("content", {})
    return "HTTPValidationError" in str(content)


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
