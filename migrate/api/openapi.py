"""The OpenAPI 3.1 document, made from the routes and their models."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from migrate.api.models import Problem
from migrate.api.routes import PREFIX, Route
from migrate.messages import VERSION

REFERENCES = "#/components/schemas/{model}"
ERRORS = {"401": "who are you", "403": "not allowed", "404": "not found", "409": "refused", "422": "invalid request"}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document as JSON has it."""
    found: dict[type[BaseModel], str] = {Problem: "serialization"}
    for route in routes:
        if route.body is not None:
            found[route.body] = "validation"
        if route.answer is not None:
            found.setdefault(route.answer, "serialization")
    pairs: Any = list(found.items())
    names, schema = models_json_schema(pairs, ref_template=REFERENCES)
    references = {model: names[model, mode] for model, mode in pairs}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", PREFIX + route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "migrate", "version": VERSION, "description": "Moves running processes between hosts."},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schema["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, references: dict[type[BaseModel], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": (route.handler.__doc__ or "").strip().splitlines()[0],
        "description": f"Takes the role `{route.role}`.",
        "tags": [route.path.split("/")[1]],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": {
            str(route.status if route.answer is not None or route.streams else 204): _success(route, references),
            **{status: _problem(text) for status, text in ERRORS.items()},
        },
    }
    if route.body is not None:
        content = {"application/json": {"schema": references[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _success(route: Route, references: dict[type[BaseModel], Any]) -> dict[str, Any]:
    if route.streams:
        return {"description": "a stream of events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    if route.answer is None:
        return {"description": "done"}
    return {"description": "done", "content": {"application/json": {"schema": references[route.answer]}}}


def _problem(text: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCES.format(model="Problem")}
    return {"description": text, "content": {"application/problem+json": {"schema": schema}}}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    properties = route.query.model_json_schema(ref_template=REFERENCES)["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _plain(schema)}
        for name, schema in properties.items()
    ]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what only a JSON body could be: null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    return choices[0] if len(choices) == 1 else {key: value for key, value in schema.items() if key != "title"}


def _headers(route: Route) -> list[dict[str, Any]]:
    if route.method != "POST":
        return []
    text = "The same key again gets the first answer again, and nothing is done twice."
    schema = {"type": "string", "maxLength": 200}
    return [{"name": "Idempotency-Key", "in": "header", "required": False, "description": text, "schema": schema}]
