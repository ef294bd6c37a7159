"""The API's description (OpenAPI 3.1), made from the table of endpoints and the types they take and give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bascule import __version__
from bascule.admin.endpoint import Endpoint
from bascule.admin.errors import CONTENT_TYPE, ProblemDocument

_REFERENCE: Final = "#/components/schemas/{name}"
_DESCRIPTION: Final = (
    "Objects are JSON; an object's ETag is the revision that put it last, in quotes. Every write is one transaction of "
    "the store and can wait until all workers of this node have it in force. On the Unix socket the peer is admin; TCP "
    "needs a bearer token."
)


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the description of some endpoints as plain data."""
    types = _types(endpoints)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bascule admin API", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "TCP only."}},
            "responses": {
                "Problem": {
                    "description": "What is wrong, and what to do.",
                    "content": {CONTENT_TYPE: {"schema": schema_of[id(ProblemDocument)]}},
                }
            },
        },
    }


def _types(endpoints: Sequence[Endpoint]) -> list[Any]:
    found: dict[int, Any] = {id(ProblemDocument): ProblemDocument}
    for endpoint in endpoints:
        for kind in (endpoint.query, _body(endpoint), endpoint.answer):
            if kind is not None:
                found[id(kind)] = kind
    return list(found.values())


def _body(endpoint: Endpoint) -> Any:
    return endpoint.schema if endpoint.schema is not None else endpoint.body


def _operation(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", endpoint.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    parameters += _query(endpoint)
    if endpoint.conditional:
        parameters += [
            {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
            for name in (("If-None-Match",) if endpoint.method == "GET" else ("If-Match", "If-None-Match"))
        ]
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "description": f"{_first_paragraph(endpoint)} Role: {endpoint.role.name.lower()}.",
        "parameters": parameters,
        "responses": _responses(endpoint, schema_of),
    }
    if endpoint.body is not None:
        content_type = "application/merge-patch+json" if endpoint.method == "PATCH" else "application/json"
        content = {"schema": schema_of[id(_body(endpoint))]}
        operation["requestBody"] = {
            "required": not endpoint.optional_body,
            "content": dict.fromkeys(dict.fromkeys((content_type, "application/json")), content),
        }
    return operation


def _query(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(endpoint.query)
    name = endpoint.query.__name__
    properties = schema["$defs"][name]["properties"]
    return [
        {
            "name": field,
            "in": "query",
            "required": False,
            "description": rule.get("description", ""),
            "schema": {key: value for key, value in rule.items() if key != "description"},
        }
        for field, rule in properties.items()
    ]


def _responses(endpoint: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.answer is not None:
        content = {"content": {"application/json": {"schema": schema_of[id(endpoint.answer)]}}}
    elif endpoint.content_type != "application/json":
        content = {"content": {endpoint.content_type.partition(";")[0]: {"schema": {"type": "string"}}}}
    responses: dict[str, Any] = {_success(endpoint): {"description": endpoint.summary, **content}}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    return responses


def _success(endpoint: Endpoint) -> str:
    if endpoint.answer is None and endpoint.content_type == "application/json":
        return "204"
    return "201" if endpoint.method == "POST" and endpoint.path in ("/v1/leases", "/v1/tokens") else "200"


def _operation_id(endpoint: Endpoint) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", endpoint.path.removeprefix("/v1").lower()) if word]
    return "_".join([endpoint.method.lower(), *words])


def _first_paragraph(endpoint: Endpoint) -> str:
    text = (endpoint.handler.__doc__ or endpoint.summary).split("\n\n")[0]
    return " ".join(text.split())
