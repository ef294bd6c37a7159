"""The admin API over HTTP: the only file that knows falcon. Decodes a request, asks the endpoint, encodes its answer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from bascule.admin.access import Access
from bascule.admin.api import Api, require
from bascule.admin.endpoint import BODY_BYTES_MAX, Answer, Call, Endpoint, Role
from bascule.admin.endpoints import all_endpoints
from bascule.admin.errors import CONTENT_TYPE, ApiError, ProblemDocument, from_store
from bascule.admin.openapi import document
from bascule.admin.values import NOT_JSON
from bascule.store.interface import StoreError

Request = falcon.asgi.Request
Response = falcon.asgi.Response
PARAMETERS_MAX: Final = 20
DESCRIPTION: Final = "/v1/openapi.json"


def make_app(api: Api, log_failure: Callable[[str], None]) -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application of one master; `log_failure` is told of errors that are ours."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    access = Access(api.tokens)
    endpoints = all_endpoints()
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in [*endpoints, _description(endpoints)]:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    for path, members in by_path.items():
        app.add_route(path, _Resource(api, access, members))
    app.add_error_handler(Exception, functools.partial(_unexpected, log_failure))
    app.add_error_handler(falcon.HTTPError, _falcon_error)
    app.add_error_handler(StoreError, _store_error)
    app.add_error_handler(ApiError, _api_error)
    return app


def _description(endpoints: list[Endpoint]) -> Endpoint:
    @functools.cache
    def text() -> bytes:
        return msgspec.json.encode(document(endpoints))

    async def describe(api: Api, call: Call[Any, Any]) -> Answer:
        """Answer this API's own description."""
        return Answer(content=text())

    return Endpoint(
        method="GET", path=DESCRIPTION, handler=describe, role=Role.VIEWER, summary="Read this API's description."
    )


class _Resource:
    """One path; falcon finds the methods by the names of attributes."""

    def __init__(self, api: Api, access: Access, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            setattr(self, f"on_{endpoint.method.lower()}", _responder(api, access, endpoint))


def _responder(api: Api, access: Access, endpoint: Endpoint) -> Callable[..., Any]:
    async def respond(request: Request, response: Response, **place: str) -> None:
        principal = access.principal(request.scope, request.get_header("Authorization") or "")
        require(principal, endpoint.role, f"{endpoint.method} {endpoint.path}")
        call = Call(
            principal=principal,
            place=place,
            query=_query(request, endpoint),
            body=await _body(request, endpoint),
            if_match=request.get_header("If-Match") or "",
            if_none_match=request.get_header("If-None-Match") or "",
            last_event_id=request.get_header("Last-Event-ID") or "",
            message=_message(request),
        )
        try:
            answer = await endpoint.handler(api, call)
        except asyncio.CancelledError:
            # This master ends, or another one takes over: whether the change was made is for the next one to say.
            raise ApiError(
                503,
                "the master is being replaced",
                "look whether it was done, or ask again",
                headers={"Retry-After": "1"},
            ) from None
        _send(response, answer)

    return respond


# ---- in


def _query(request: Request, endpoint: Endpoint) -> Any:
    try:
        pairs = urllib.parse.parse_qsl(request.query_string, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise ApiError(400, f"more than {PARAMETERS_MAX} query parameters", "leave some out") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise ApiError(400, f"the query parameter {name[:50]!r} is given twice", "send it once")
        values[name] = value or ("true" if name == "dry_run" else "")
    try:
        return msgspec.convert(values, endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(endpoint.query.__struct_fields__) or "none"
        raise ApiError(400, f"the query is wrong: {error}", f"the parameters here are: {known}") from None


async def _body(request: Request, endpoint: Endpoint) -> Any:
    if endpoint.body is None:
        return None
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream:
        total += len(chunk)
        if total > BODY_BYTES_MAX:
            raise _too_large()
        chunks.append(chunk)
    data = b"".join(chunks)
    if not data.strip():
        if endpoint.optional_body:
            return None
        raise ApiError(400, "there is no body", "send JSON")
    try:
        return msgspec.json.decode(data, type=endpoint.body)
    except NOT_JSON as error:
        raise ApiError(400, f"the body is wrong: {error}", f"see {DESCRIPTION} for what is expected") from None


def _message(request: Request) -> str:
    """Return the header Bascule-Message, UTF-8 and at most 1,000 characters."""
    text = request.get_header("Bascule-Message") or ""
    try:
        return text.encode("latin-1").decode("utf-8")[:1000]
    except UnicodeError:
        return text[:1000]


def _too_large() -> ApiError:
    return ApiError(
        413,
        f"the body is longer than {BODY_BYTES_MAX >> 20} MiB",
        "apply it in parts (operations instead of a tree)",
        headers={"Connection": "close"},
    )


# ---- out


def _send(response: Response, answer: Answer) -> None:
    response.status = answer.status
    for name, value in answer.headers.items():
        response.set_header(name, value)
    if answer.events is not None:
        response.set_header("Cache-Control", "no-cache")
        response.sse = _rendered(answer.events)
        return
    response.set_header("Cache-Control", "no-store")
    if answer.status not in (204, 304):
        response.content_type = answer.content_type
        response.data = answer.content if answer.content is not None else msgspec.json.encode(answer.value)


class _Event(falcon.asgi.SSEvent):
    """An event that is rendered already."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._bytes = data

    def serialize(self, handler: Any = None) -> bytes:
        """Return it as it goes over the wire."""
        return self._bytes


async def _rendered(events: AsyncGenerator[bytes, None]) -> AsyncIterator[falcon.asgi.SSEvent]:
    """Give falcon a stream of rendered events; it watches for the client's end beside it."""
    async with contextlib.aclosing(events):
        async for data in events:
            yield _Event(data)


async def _api_error(request: Request, response: Response, error: ApiError, params: Any) -> None:
    _problem(response, error.document, error.headers)


async def _store_error(request: Request, response: Response, error: StoreError, params: Any) -> None:
    translated = from_store(error)
    _problem(response, translated.document, translated.headers)


async def _falcon_error(request: Request, response: Response, error: falcon.HTTPError, params: Any) -> None:
    status = falcon.http_status_to_code(error.status)
    remedy = f"{DESCRIPTION} describes every path and method"
    detail = {404: f"there is nothing at {request.path[:200]}", 405: f"{request.method} is not for this path"}.get(
        status, error.description or error.title or ""
    )
    _problem(response, ApiError(status, detail, remedy).document, dict(error.headers or {}))


async def _unexpected(
    log_failure: Callable[[str], None], request: Request, response: Response, error: Exception, params: Any
) -> None:
    log_failure(f"{request.method} {request.path[:200]}: {error!r}")
    found = ApiError(500, "this is an error in the load balancer itself", "see its log, and report it")
    _problem(response, found.document, {})


def _problem(response: Response, problem: ProblemDocument, headers: dict[str, str]) -> None:
    response.status = problem.status
    for name, value in headers.items():
        response.set_header(name, value)
    response.content_type = CONTENT_TYPE
    response.data = msgspec.json.encode(problem)
