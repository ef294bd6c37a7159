"""The description is valid, and says what the API does."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from admin.local import LocalAdmin
from bascule.admin.endpoints import all_endpoints


@pytest.fixture
def description(api: LocalAdmin) -> Any:
    return api.ask("GET", "/v1/openapi.json").json


def test_it_is_valid(description: Any) -> None:
    OpenAPIV31SpecValidator(description).validate()
    ids = [operation["operationId"] for path in description["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_every_path_of_the_contract_is_there(description: Any) -> None:
    named = {(endpoint.method.lower(), endpoint.path) for endpoint in all_endpoints()}
    described = {(method, path) for path, methods in description["paths"].items() for method in methods}
    assert described == named
    for wanted in ("/v1/apply", "/v1/backends/{backend}/servers/{server}", "/v1/leases/{id}", "/v1/events", "/metrics"):
        assert wanted in description["paths"]


def schema(description: Any, method: str, path: str) -> Draft202012Validator:
    content = description["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**content, "components": description["components"]}
    return Draft202012Validator(json.loads(json.dumps(whole)))


def test_answers_are_as_described(app: LocalAdmin, description: Any) -> None:
    app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": 3})
    for method, template, path, body in [
        ("get", "/v1/backends", "/v1/backends", None),
        ("get", "/v1/backends/{backend}", "/v1/backends/app", None),
        ("put", "/v1/backends/{backend}", "/v1/backends/app", {}),
        ("post", "/v1/apply", "/v1/apply", {"tree": {"backends": {"x": {}}}}),
        ("get", "/v1/history", "/v1/history", None),
        ("get", "/v1/history/{revision}", "/v1/history/2", None),
        ("get", "/v1/tree", "/v1/tree", None),
        ("get", "/v1/objects", "/v1/objects", None),
        ("get", "/v1/upgrades", "/v1/upgrades", None),
        ("get", "/v1/tokens", "/v1/tokens", None),
        ("post", "/v1/freeze", "/v1/freeze", None),
        ("post", "/v1/unfreeze", "/v1/unfreeze", None),
    ]:
        reply = app.ask(method.upper(), path, body)
        assert reply.status == 200, reply.data
        schema(description, method, template).validate(reply.json)
    problem = app.ask("GET", "/v1/backends/none").json
    reference = description["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"]
    Draft202012Validator({**reference, "components": description["components"]}).validate(problem)


def test_bodies_are_described_by_the_configuration_s_own_types(description: Any) -> None:
    body = description["paths"]["/v1/backends/{backend}/servers/{server}"]["put"]["requestBody"]
    reference = body["content"]["application/json"]["schema"]["$ref"]
    assert re.search(r"\bServer$", reference)
    assert "weight" in description["components"]["schemas"]["Server"]["properties"]
