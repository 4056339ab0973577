"""The API's documentation from its OpenAPI document: /docs as one HTML page that loads nothing, docs/api.md as text."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430}
code,pre{font:13px/1.45 ui-monospace,monospace;background:#f3f5f8;border-radius:4px}code{padding:.1rem .3rem}
pre{padding:.7rem;overflow:auto}h2{margin-top:2.2rem;border-bottom:1px solid #d8dee8}h3{margin:1.6rem 0 .3rem}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #e3e8ef;padding:.25rem .5rem;text-align:left;
vertical-align:top}.m{font-weight:700;color:#0b5cad}@media(prefers-color-scheme:dark){body{background:#12161c;color:#dbe2ec}
code,pre{background:#1d242e}td,th,h2{border-color:#303a48}.m{color:#7db7f0}}"""


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """(METHOD, path, operation), in the document's order."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _tags(document: Document) -> list[str]:
    return list(dict.fromkeys(operation["tags"][0] for _, _, operation in operations(document)))


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    more = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(more, dict) and more:
        return f"map to {_type(more)}"
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    return str(schema.get("format") or schema.get("type") or "anything")


def _parameters(operation: Document) -> Iterator[tuple[str, str, str, str]]:
    """(name, where, type, meaning)."""
    for item in operation.get("parameters", ()):
        text = item.get("description") or item["schema"].get("description", "")
        default = item["schema"].get("default")
        if default is not None:
            text = f"{text} Default: {default}.".strip()
        yield item["name"], item["in"], _type(item["schema"]), text


def _answers(operation: Document) -> Iterator[tuple[str, str, str]]:
    """(status, type, meaning)."""
    for status, response in sorted(operation["responses"].items()):
        content: Mapping[str, Any] = next(iter(response.get("content", {}).values()), {})
        text = response.get("description", "")
        yield status, _type(content.get("schema", {})), "" if text == "Successful Response" else text


def _models(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Models of answers; the manifest's are in docs/resources.md."""
    seen: list[str] = []
    queue = [
        name
        for _, _, operation in operations(document)
        for status, response in operation["responses"].items()
        for content in response.get("content", {}).values()
        for name in _names(content.get("schema", {}))
    ]
    schemas = document["components"]["schemas"]
    while queue:
        name = queue.pop(0)
        if name not in seen:
            seen.append(name)
            queue += _names(schemas[name])
    for name in sorted(seen):
        yield name, schemas[name]


def _names(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [str(schema["$ref"]).rsplit("/", 1)[-1]] if "$ref" in schema else []
        return own + [name for part in schema.values() for name in _names(part)]
    return [name for part in schema for name in _names(part)] if isinstance(schema, list) else []


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(document: Document) -> str:
    """docs/api.md."""
    lines = [
        "# REST API",
        "",
        "Written by `niyanta api-docs > docs/api.md` from the OpenAPI document, which the server",
    ]
    lines += ["gives at `/openapi.json`; `/docs` shows this page without loading anything from elsewhere.", ""]
    lines += [str(document["info"]["description"]).strip(), ""]
    for tag in _tags(document):
        lines += [f"## {tag}", ""]
        for method, path, operation in operations(document):
            if operation["tags"][0] == tag:
                lines += _markdown_of(method, path, operation)
    lines += ["## Models", ""]
    for name, schema in _models(document):
        lines += [f"### {name}", "", str(schema.get("description", "")).strip(), ""]
        if schema.get("properties"):
            lines += ["| field | type | meaning |", "| --- | --- | --- |"]
            for field, part in schema["properties"].items():
                lines.append(f"| `{field}` | {_cell(_type(part))} | {_cell(part.get('description', ''))} |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _markdown_of(method: str, path: str, operation: Document) -> list[str]:
    lines = [f"### {method} {path}", "", f"{operation['summary']}. {operation.get('description', '')}".strip(), ""]
    if "requestBody" in operation:
        body = operation["requestBody"]
        kinds = ", ".join(f"`{kind}` ({_type(part['schema'])})" for kind, part in body["content"].items())
        lines += [f"Body: {kinds}. {body.get('description', '')}".strip(), ""]
    parameters = list(_parameters(operation))
    if parameters:
        lines += ["| parameter | in | type | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{name}` | {where} | {_cell(kind)} | {_cell(text)} |" for name, where, kind, text in parameters]
        lines.append("")
    lines += ["| status | answer | |", "| --- | --- | --- |"]
    lines += [f"| {status} | {_cell(kind)} | {_cell(text)} |" for status, kind, text in _answers(operation)]
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


# --- HTML ------------------------------------------------------------------------------------------------------------


def page(document: Document) -> str:
    """/docs: plain HTML, no script, nothing to load."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_h(document['info']['title'])} API</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{_h(document['info']['title'])} REST API {_h(document['info']['version'])}</h1>",
        "<p>Machine-readable: <a href='openapi.json'>openapi.json</a></p>",
        *(f"<p>{_h(text)}</p>" for text in str(document["info"]["description"]).strip().split("\n\n")),
    ]
    for tag in _tags(document):
        parts.append(f"<h2>{_h(tag)}</h2>")
        for method, path, operation in operations(document):
            if operation["tags"][0] == tag:
                parts.append(_html_of(method, path, operation))
    parts.append("<h2>Models</h2>")
    for name, schema in _models(document):
        rows = (
            (field, _type(part), part.get("description", "")) for field, part in schema.get("properties", {}).items()
        )
        parts.append(f"<h3 id='{_h(name)}'>{_h(name)}</h3><p>{_h(schema.get('description', ''))}</p>{_table(rows)}")
    return "".join(parts) + "</html>"


def _html_of(method: str, path: str, operation: Document) -> str:
    text = f"<h3><span class=m>{method}</span> <code>{_h(path)}</code></h3>"
    text += f"<p><b>{_h(operation['summary'])}.</b> {_h(operation.get('description', ''))}</p>"
    if "requestBody" in operation:
        kinds = [f"{kind} ({_type(part['schema'])})" for kind, part in operation["requestBody"]["content"].items()]
        text += f"<p>Body: <code>{_h(', '.join(kinds))}</code></p>"
    text += _table((f"{name} ({where})", kind, meaning) for name, where, kind, meaning in _parameters(operation))
    return text + _table(_answers(operation))


def _table(rows: Any) -> str:
    cells = "".join(f"<tr><td><code>{_h(first)}</code><td>{_h(kind)}<td>{_h(meaning)}" for first, kind, meaning in rows)
    return f"<table>{cells}</table>" if cells else ""


def _h(text: object) -> str:
    return html.escape(str(text).replace("`", ""))
