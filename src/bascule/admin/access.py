"""Who may ask: the user at the other end of the Unix socket, or the holder of a bearer token on TCP."""

from __future__ import annotations

import pwd
import time
from collections import OrderedDict
from typing import Any, Final

from bascule.admin.endpoint import Principal, Role
from bascule.admin.errors import ApiError
from bascule.admin.tokens import TokenError, Tokens

PEER_USER: Final = "bascule.peer_user"
"""ASGI extension with the `id` of the user at the other end; only there for the Unix socket."""
FAILURES_MAX: Final = 10
FAILURES_WINDOW_S: Final = 60.0
ADDRESSES_MAX: Final = 4096
_MAKE_ONE: Final = "make a token with: bascule token add NAME --role ROLE (on the machine itself)"


class Failures:
    """Wrong tokens by client address: after ten in a minute further wrong ones get 429 until the minute's end.

    Right ones pass all the same: an address may be shared, and nobody should be able to lock out its other users."""

    def __init__(self) -> None:
        """See the class."""
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """ApiError 429 when an address has guessed too often."""
        count, until_s = self._counts.get(address, (0, 0.0))
        left_s = until_s - time.monotonic()
        if count >= FAILURES_MAX and left_s > 0:
            raise ApiError(
                429,
                f"{FAILURES_MAX} wrong tokens came from this address",
                f"wait {left_s:.0f} s and use a token that is in order",
                headers={"Retry-After": str(int(left_s) + 1)},
            )

    def add(self, address: str) -> None:
        """Count one."""
        now_s = time.monotonic()
        count, until_s = self._counts.pop(address, (0, 0.0))
        if until_s <= now_s:
            count, until_s = 0, now_s + FAILURES_WINDOW_S
        self._counts[address] = (count + 1, until_s)
        if len(self._counts) > ADDRESSES_MAX:
            self._counts.popitem(last=False)


class Access:
    """Decides who a request comes from."""

    def __init__(self, tokens: Tokens) -> None:
        """See the class."""
        self._tokens = tokens
        self._failures = Failures()

    def principal(self, scope: dict[str, Any], authorization: str) -> Principal:
        """Return who asks; ApiError 401 or 429."""
        peer = scope.get("extensions", {}).get(PEER_USER)
        if peer is not None:
            return Principal(user_name(peer["id"]), Role.ADMIN)
        address = str((scope.get("client") or ("?",))[0])
        scheme, _, secret = authorization.partition(" ")
        if not secret:
            raise _unauthorized("this needs a token", "send it as Authorization: Bearer TOKEN; " + _MAKE_ONE)
        found = None
        if scheme.lower() == "bearer":
            try:
                found = self._tokens.principal(secret.strip())
            except TokenError as error:
                raise ApiError(500, str(error), error.remedy) from None
        if found is None:
            self._failures.check(address)
            self._failures.add(address)
            raise _unauthorized("this token is not known, or has expired", _MAKE_ONE)
        return found


def user_name(user: int) -> str:
    """Return the name of a user id for the history, `uid 1000` when it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def _unauthorized(detail: str, remedy: str) -> ApiError:
    return ApiError(401, detail, remedy, headers={"WWW-Authenticate": 'Bearer realm="bascule"'})
