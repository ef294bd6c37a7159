"""What etcd's and gRPC's errors mean to whoever asked (etcd: api/v3rpc/rpctypes/error.go)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bascule.store.interface import CompactedError, LeaseLostError, RefusedError, StoreError, UnavailableError

UNREACHABLE: Final = "check the endpoints, the network and `etcdctl endpoint health`; what is in force stays in force"


class TokenError(StoreError):
    """The authentication token is no longer good: authenticate again, once. Never leaves this package."""


class TooLargeError(StoreError):
    """An answer is longer than what we take: ask for less at once. Never leaves this package."""


def _compacted(_message: str, _remedy: str) -> StoreError:
    return CompactedError(0)


_Make = Callable[[str, str], StoreError]

# What the error's text holds, what it is to us, what it is called, and what to do. The first that fits counts.
_TEXTS: Final[tuple[tuple[str, _Make, str, str], ...]] = (
    ("invalid auth token", TokenError, "the authentication token has ended", ""),
    ("revision of auth store is old", TokenError, "the authentication token has ended", ""),
    ("has been compacted", _compacted, "", ""),
    ("future revision", RefusedError, "etcd has no such revision yet", "use a revision that the history shows"),
    ("lease not found", LeaseLostError, "the lease has ended", "grant another one and put everything again"),
    (
        "database space exceeded",
        RefusedError,
        "etcd's space quota is used up, it takes no writes",
        "compact and defragment it, then `etcdctl alarm disarm`; or raise --quota-backend-bytes",
    ),
    (
        "too many operations",
        RefusedError,
        "more operations than etcd takes in one transaction",
        "apply it in parts (`bascule apply` some objects at a time), or start etcd with a larger --max-txn-ops",
    ),
    (
        "request is too large",
        RefusedError,
        "more bytes than etcd takes in one transaction",
        "apply it in parts (`bascule apply` some objects at a time), or start etcd with a larger --max-request-bytes",
    ),
    ("CLIENT: Received message larger", TooLargeError, "the answer is too large", ""),
    ("Received message larger than max", TooLargeError, "the answer is too large", ""),
    (
        "larger than max",
        RefusedError,
        "more bytes than etcd takes in one transaction",
        "apply it in parts (`bascule apply` some objects at a time), or start etcd with a larger --max-request-bytes",
    ),
    ("duplicate key", RefusedError, "a key is written twice in one transaction", "write each key once"),
    (
        "user name is empty",
        RefusedError,
        "etcd asks for a user name and a password",
        "set username and password_file in [store]",
    ),
    (
        "authentication failed",
        RefusedError,
        "etcd refuses the user name or the password",
        "put the right ones into username and password_file of [store]",
    ),
    (
        "permission denied",
        RefusedError,
        "this etcd user may not do that",
        "grant its role readwrite on <prefix>/ and <prefix>.history/ (`etcdctl role grant-permission --prefix=true`)",
    ),
    ("too many requests", UnavailableError, "etcd is overloaded", UNREACHABLE),
    (
        "CERTIFICATE_VERIFY_FAILED",
        UnavailableError,
        "etcd's certificate is not signed by a CA that is trusted here, or is for another name",
        "set ca_file to the CA of etcd's certificates, and use endpoint names that the certificate has",
    ),
    (
        "handshake failed",
        UnavailableError,
        "no TLS connection to etcd",
        "check https:// in the endpoints, ca_file, cert_file and key_file",
    ),
)
_UNAVAILABLE_CODES: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "UNKNOWN", "INTERNAL"}
)


def store_error(code: str, details: str, place: str) -> StoreError:
    """Return the error that says the same as a gRPC status (its code's name, its text) from the etcd at `place`."""
    lowered = details.lower()
    for part, make, message, remedy in _TEXTS:
        if part.lower() in lowered:
            return make(f"{message} ({place})", remedy) if message else make("", "")
    if code in _UNAVAILABLE_CODES:
        return UnavailableError(f"etcd at {place} does not answer: {_said(code, details)}", UNREACHABLE)
    if code == "UNAUTHENTICATED":
        return TokenError("the authentication token has ended")
    if code == "UNIMPLEMENTED":
        return RefusedError(f"what answers at {place} is no etcd with the v3 API", "check the endpoints")
    return RefusedError(f"etcd at {place} refuses: {_said(code, details)}", "see etcd's log")


def _said(code: str, details: str) -> str:
    """Return a status for people, in one line and not without end."""
    first = details.strip().splitlines()[0] if details.strip() else code
    return f"{first[:200]} ({code})"
