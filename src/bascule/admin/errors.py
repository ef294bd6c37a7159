"""How the admin API says no: one JSON document (RFC 9457's members, with a remedy and all problems)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from bascule.model.problems import Problem, dotted
from bascule.store.interface import (
    CompactedError,
    ConflictError,
    LeaseLostError,
    ReadOnlyError,
    RefusedError,
    StoreError,
    UnavailableError,
)

CONTENT_TYPE: Final = "application/problem+json"


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Body of every answer from 400 on."""

    title: str
    status: int
    detail: str = ""
    remedy: str = ""
    """What to do next."""
    problems: tuple[Problem, ...] = ()
    """Everything that is wrong with what was sent."""


class ApiError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        remedy: str = "",
        *,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The title is the status code's own phrase."""
        super().__init__(detail)
        title = HTTPStatus(status).phrase
        self.headers = dict(headers or {})
        self.document = ProblemDocument(
            title=title, status=status, detail=detail, remedy=remedy, problems=tuple(problems)
        )


def etag(modified: int) -> str:
    """Return the ETag of an object last modified by a revision."""
    return f'"{modified}"'


def refused(problems: Sequence[Problem], what: str = "the change") -> ApiError:
    """Return the error for something whose problems are known: 422 with all of them, the first in words."""
    errors = [problem for problem in problems if not problem.warning]
    first = f"{dotted(errors[0].path)}: {errors[0].message}" if errors else ""
    more = f" (and {len(errors) - 1} more, see problems)" if len(errors) > 1 else ""
    remedy = errors[0].remedy if errors else ""
    return ApiError(422, f"{what} is refused, nothing was changed: {first}{more}", remedy, problems=problems)


def conflict(key: str, modified: int) -> ApiError:
    """Return the error of a comparison that failed, with the ETag that would have matched."""
    if modified == 0:
        return ApiError(412, f"{key} does not exist (any more)", "send If-None-Match: * to create it")
    headers = {"ETag": etag(modified)} if modified > 0 else {}
    now = f"; it was last changed by revision {modified}" if modified > 0 else ""
    remedy = "read it again, and repeat the change on what is there"
    return ApiError(412, f"{key} was changed by somebody else{now}", remedy, headers=headers)


def from_store(error: StoreError) -> ApiError:
    """Return what a store's failure is to a client."""
    if isinstance(error, ConflictError):
        return conflict(error.key, error.modified)
    status = 500
    headers = {}
    for kind, code in (
        (ReadOnlyError, 409),
        (RefusedError, 502),
        (UnavailableError, 503),
        (CompactedError, 410),
        (LeaseLostError, 404),
    ):
        if isinstance(error, kind):
            status = code
            break
    if status == 503:
        headers["Retry-After"] = "1"
    detail = str(error)
    if isinstance(error, CompactedError) and error.oldest:
        detail += f"; the oldest that is kept is {error.oldest}"
    return ApiError(status, detail, error.remedy, headers=headers)
