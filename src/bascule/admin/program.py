"""The program itself: status, metrics, the tree in force, reload, tokens."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call, NoQuery, RoleName
from bascule.admin.errors import ApiError
from bascule.admin.tokens import NAME_PATTERN, Token, TokenError, TokenFileError
from bascule.model.quantities import duration_ms
from bascule.model.tree import Duration, tree_to_json

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class TokenBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token to make."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN, description="Whose it is: the author in the history.")]
    role: RoleName
    ttl: Annotated[Duration | None, Meta(description="How long it is good; without it, until it is removed.")] = None


class TokenMade(msgspec.Struct, frozen=True):
    """A new token."""

    token: Token
    secret: str
    """Shown this once; only its hash is kept."""


class TokenList(msgspec.Struct, frozen=True):
    """All tokens, without their secrets."""

    items: tuple[Token, ...]


async def status(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer how processes, revisions and traffic are."""
    return Answer(value=await api.program.status())


async def metrics(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer the same numbers for Prometheus."""
    return Answer(content=await api.program.metrics(), content_type=METRICS_TYPE)


async def config(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer the tree in force, without fields at their defaults."""
    return Answer(content=tree_to_json(api.tree()))


async def reload(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Read the configuration again and wait until every worker has applied it; 422 when everything stays as it was."""
    outcome: Any = await api.program.reload("admin API")
    api.program.audit(call.principal.name, "reload", ok=outcome.ok)
    return Answer(value=outcome, status=200 if outcome.ok else 422)


async def list_tokens(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer all tokens, by name."""
    try:
        return Answer(value=TokenList(tuple(api.tokens.all())))
    except TokenError as error:
        raise ApiError(500, str(error), error.remedy) from None


async def add_token(api: Api, call: Call[NoQuery, TokenBody]) -> Answer:
    """Make a token; its secret is in the answer and nowhere else."""
    body = call.body
    try:
        token, secret = api.tokens.add(body.name, body.role, duration_ms(body.ttl) / 1000 if body.ttl else 0.0)
    except TokenError as error:
        raise ApiError(500 if isinstance(error, TokenFileError) else 409, str(error), error.remedy) from None
    api.program.audit(call.principal.name, "token made", token=token.name, role=token.role)
    return Answer(value=TokenMade(token, secret), status=201)


async def remove_token(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Remove a token: from now on it opens nothing."""
    name = call.place["name"]
    try:
        removed = api.tokens.remove(name)
    except TokenError as error:
        raise ApiError(500, str(error), error.remedy) from None
    if not removed:
        raise ApiError(404, f"there is no token {name[:64]!r}", "list them: bascule token list")
    api.program.audit(call.principal.name, "token removed", token=name)
    return Answer(status=204, content=b"")
