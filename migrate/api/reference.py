"""docs/api.md: the OpenAPI document as a page to read. `python -m migrate.api.reference` prints it."""

import sys
from collections.abc import Iterator
from typing import Any, Final

INTRODUCTION: Final = """# API reference

<!-- made by `python -m migrate.api.reference >docs/api.md` of the same routes and models that the server uses -->

`migrate serve` answers below `/api/v1`; `/openapi.json` is this page for programs, `/docs` has it to try out, and
`migrate.api.client.Client` is a typed client for Python. `/healthz`, `/readyz` and `/metrics` stand outside.

Who asks says so by `Authorization: Bearer TOKEN` or a client certificate; on loopback nobody is asked, unless
`--auth token` is given. A *viewer* looks, an *operator* starts, cancels and drains, an *admin* changes hosts, tokens.
An error is a `Problem` (`application/problem+json`) with a hint. A POST with an `Idempotency-Key` is done once, however
often it is sent. Answers have an `ETag`; `If-None-Match` spares those that did not change. Times are ISO 8601 in UTC,
sizes bytes, durations seconds."""


def reference(spec: dict[str, Any]) -> str:
    """The page for an OpenAPI document of ours."""
    lines, tag = [INTRODUCTION], ""
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                lines += ["", f"## {tag.capitalize()}"]
            lines += ["", *_operation(f"{method.upper()} {path}", operation)]
    lines += ["", "## Models"]
    for name, schema in sorted(spec["components"]["schemas"].items()):
        lines += ["", *_model(name, schema)]
    return "\n".join(lines) + "\n"


def _operation(head: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### {head}"
    yield ""
    yield f"{operation['summary']} {operation['description']}"
    asked = [f"`{each['name']}`" for each in operation["parameters"] if each["in"] == "query"]
    if asked:
        yield f"Query: {', '.join(asked)}."
    if "requestBody" in operation:
        yield f"Body: {_type(operation['requestBody']['content']['application/json']['schema'])}."
    status, answer = next(iter(operation["responses"].items()))
    for kind, content in answer.get("content", {}).items():
        what = "server-sent events" if kind == "text/event-stream" else _type(content["schema"])
        yield f"Answer: {status}, {what}."
    if "content" not in answer:
        yield f"Answer: {status}, empty."


def _model(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield " ".join(schema.get("description", "").split())
    if "enum" in schema:
        yield f"One of {', '.join(f'`{value}`' for value in schema['enum'])}."
        return
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    for field, of in schema.get("properties", {}).items():
        needed = "" if field not in schema.get("required", ()) else " (required)"
        usual = f" Default: `{of['default']}`." if of.get("default") not in (None, "", [], {}) else ""
        examples = f" For example `{of['examples'][0]}`." if of.get("examples") else ""
        said = f"{of.get('description', '')}{'.' if of.get('description') else ''}{usual}{examples}".strip()
        yield f"| `{field}`{needed} | {_type(of)} | {said.replace('|', chr(92) + '|')} |"


def _type(schema: dict[str, Any]) -> str:
    """As a person would say it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"map to {_type(schema['additionalProperties'])}"
        case "string" if "format" in schema:
            return "time" if schema["format"] == "date-time" else str(schema["format"])
        case str() as kind:
            return kind
        case _:
            return "anything"


if __name__ == "__main__":
    from migrate.api.app import ROUTES
    from migrate.api.openapi import document

    sys.stdout.write(reference(document(ROUTES)))
