"""What an endpoint of the admin API is: a plain function of structs, and a line in a table.

A handler gets the `Api` (what it may ask the master) and a `Call` (who asks for what), and returns an `Answer` or
raises `ApiError`. It knows nothing of HTTP's library: `app.py` is the only file that does. `openapi.py` renders the same
lines as the API's description, so the two cannot differ.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from bascule.model.tree import Duration

if TYPE_CHECKING:
    from bascule.admin.api import Api

Query = TypeVar("Query")
Body = TypeVar("Body")
RoleName = Literal["viewer", "operator", "author", "admin"]
BODY_BYTES_MAX: Final = 8 << 20
"""Longest request body; docs/admin-api.md says so."""
PAGE_MAX: Final = 1000
REVISION_MAX: Final = (1 << 62) - 1
"""The one after it still is a number in every store."""


class Role(enum.IntEnum):
    """What somebody may do; each may do what the one before may."""

    VIEWER = 1
    """Read everything but secrets."""
    OPERATOR = 2
    """Drain, freeze, adopt: what keeps traffic well."""
    AUTHOR = 3
    """Write objects, apply, roll back, register."""
    ADMIN = 4
    """Tokens and the program's settings."""


class Principal(msgspec.Struct, frozen=True):
    """Who asks: a token's name, or the user at the other end of the Unix socket."""

    name: str
    role: Role
    token_sha256: str = ""
    """Of the token's secret; empty for the Unix socket. Never in an answer."""


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters."""


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Items in one answer.")] = 100
    after: Annotated[str, Meta(max_length=512, description="Begin behind this one: `next` of the page before.")] = ""
    revision: Annotated[
        int, Meta(ge=0, le=REVISION_MAX, description="The state at this revision, so that all pages agree; 0: now.")
    ] = 0


class WaitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a write waits."""

    wait: Annotated[
        Literal["", "applied"], Meta(description="applied: answer when every worker of this node has it in force.")
    ] = ""
    timeout: Annotated[Duration, Meta(description='How long to wait, at most "60s".')] = "5s"


class WriteQuery(WaitQuery, frozen=True, forbid_unknown_fields=True):
    """How a write is done."""

    dry_run: Annotated[bool, Meta(description="Only say what would change, and what would be wrong.")] = False


class PutQuery(WriteQuery, frozen=True, forbid_unknown_fields=True):
    """How one object is set."""

    ttl: Annotated[
        Duration | None, Meta(description="Let it live by a new lease of this length; heartbeats keep it.")
    ] = None


class Call(msgspec.Struct, Generic[Query, Body], frozen=True, kw_only=True):
    """One request, decoded."""

    principal: Principal
    place: Mapping[str, str]
    """Values of the path's placeholders."""
    query: Query
    body: Body
    if_match: str = ""
    if_none_match: str = ""
    last_event_id: str = ""
    message: str = ""
    """Why, for the history: the header Bascule-Message."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler returns: a value to encode as JSON, bytes of another type, or a stream of events."""

    value: Any = None
    status: int = 200
    headers: Mapping[str, str] = {}
    content: bytes | None = None
    content_type: str = "application/json"
    events: AsyncGenerator[bytes, None] | None = None


Handler = Callable[["Api", Call[Any, Any]], Awaitable[Answer]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the API: where, who may, what goes in and out, and the function that answers."""

    method: Literal["GET", "PUT", "POST", "PATCH", "DELETE"]
    path: str
    """With placeholders: /v1/backends/{id}."""
    handler: Handler
    role: Role
    summary: str
    query: type[msgspec.Struct] = NoQuery
    body: Any = None
    """Type of the body; None: there is none. msgspec.Raw: any JSON, looked at by the handler."""
    schema: Any = None
    """What the description says of the body when `body` is Raw."""
    optional_body: bool = False
    answer: Any = None
    """Type of the answer; None: `content_type` says what comes."""
    content_type: str = "application/json"
    conditional: bool = False
    """Looks at If-Match and If-None-Match."""
