"""Bearer tokens of the admin API on TCP: made once, shown once, kept only as hashes in a file of mode 0600.

A secret is 256 random bits, so a plain SHA-256 is enough: there is no dictionary to try. Comparison takes the same time
wherever the first difference is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bascule.admin.endpoint import Principal, Role, RoleName
from bascule.change.last_good_file import replace_file

TOKENS_MAX: Final = 1000
NAME_PATTERN: Final = r"^[A-Za-z0-9._@-]{1,64}$"
_PREFIX: Final = "bascule_"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without its secret."""

    name: str
    role: RoleName
    created_at_s: float
    expires_at_s: float = 0.0
    """Unix time; 0: never."""


class StoredToken(Token, frozen=True, kw_only=True):
    """One token as the file has it."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def public(self) -> Token:
        """Return what may be shown."""
        return Token(name=self.name, role=self.role, created_at_s=self.created_at_s, expires_at_s=self.expires_at_s)


class TokenError(Exception):
    """The token cannot be made; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class TokenFileError(TokenError):
    """The file cannot be read or written."""


class Tokens:
    """The tokens in one file. The master alone writes it; a successor finds what its predecessor wrote."""

    def __init__(self, path: str) -> None:
        """See the class. The file is read when it is needed, and again when it has changed."""
        self.path = path
        self._stamp = (0, 0, 0)
        self._tokens: dict[str, StoredToken] = {}

    def all(self) -> list[Token]:
        """Return every token that has not expired, by name."""
        self._refresh()
        now_s = time.time()
        return [token.public() for _, token in sorted(self._tokens.items()) if _alive(token, now_s)]

    def add(self, name: str, role: RoleName, ttl_s: float = 0.0) -> tuple[Token, str]:
        """Make a token that lives `ttl_s` seconds (0: for ever); return it and its secret, which is kept nowhere."""
        self._refresh()
        now_s = time.time()
        if not re.match(NAME_PATTERN, name):
            raise TokenError(f"{name!r} cannot be the name of a token", "use 1 to 64 of A-Z a-z 0-9 . _ @ -")
        if name in self._tokens and _alive(self._tokens[name], now_s):
            raise TokenError(
                f"there is a token {name!r} already", f"remove it first: bascule token rm {name}; or use another name"
            )
        kept = {other: token for other, token in self._tokens.items() if _alive(token, now_s)}
        if len(kept) >= TOKENS_MAX:
            raise TokenError(f"there are {TOKENS_MAX} tokens already", "remove some: bascule token rm NAME")
        secret = _PREFIX + secrets.token_urlsafe(32)
        token = StoredToken(
            name=name,
            role=role,
            created_at_s=round(now_s, 3),
            expires_at_s=round(now_s + ttl_s, 3) if ttl_s else 0.0,
            sha256=_hash(secret),
        )
        kept[name] = token
        self._write(kept)
        return token.public(), secret

    def remove(self, name: str) -> bool:
        """Remove a token; False when there was none."""
        self._refresh()
        if name not in self._tokens:
            return False
        self._write({other: token for other, token in self._tokens.items() if other != name})
        return True

    def principal(self, secret: str) -> Principal | None:
        """Return whose secret it is; None when it is nobody's, or has expired."""
        self._refresh()
        found = None
        digest = _hash(secret)
        for token in self._tokens.values():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None or not _alive(found, time.time()):
            return None
        return Principal(found.name, Role[found.role.upper()], found.sha256)

    def stands(self, principal: Principal) -> bool:
        """Tell whether somebody who was let in still would be: for what goes on for longer than one answer."""
        if not principal.token_sha256:
            return True
        try:
            self._refresh()
        except TokenError:
            return False
        token = self._tokens.get(principal.name)
        return token is not None and token.sha256 == principal.token_sha256 and _alive(token, time.time())

    def _refresh(self) -> None:
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            self._stamp, self._tokens = (0, 0, 0), {}
            return
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if stamp == self._stamp:
            return
        try:
            with open(self.path, "rb") as file:
                tokens = msgspec.json.decode(file.read(), type=list[StoredToken])
        except (OSError, msgspec.MsgspecError) as error:
            raise TokenFileError(
                f"{self.path} cannot be read: {error}", "restore it, or remove it and make the tokens anew"
            ) from None
        self._stamp, self._tokens = stamp, {token.name: token for token in tokens}

    def _write(self, tokens: dict[str, StoredToken]) -> None:
        """Replace the file in one step, durably; it is never open to others, not even for a moment. TokenFileError leaves
        the old one."""
        text = msgspec.json.format(msgspec.json.encode(list(tokens.values()))) + b"\n"
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            replace_file(self.path, text)
        except OSError as error:
            raise TokenFileError(
                f"{self.path} cannot be written: {error.strerror or error}; nothing was changed",
                f"make room and let its owner write there: df {os.path.dirname(self.path)}",
            ) from None
        self._refresh()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _alive(token: Token, now_s: float) -> bool:
    return not token.expires_at_s or token.expires_at_s > now_s
