"""A client of the admin API: HTTP with JSON over the Unix socket in the state directory, or over TCP with a token."""

import http.client
import ipaddress
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import msgspec

PLAIN: Final = "BASCULE_ADMIN_PLAIN"
"""Environment variable: the counterpart of the load balancer's --admin-plain."""
START_PATIENCE_S: Final = 5.0
"""A load balancer serves before its admin socket is open: a command right behind `bascule run &` waits so long."""


class AdminError(Exception):
    """The admin API could not be asked, or refused; `remedy` says what to do, `problems` everything that is wrong."""

    def __init__(
        self, message: str, remedy: str = "", *, status: int = 0, problems: tuple[dict[str, Any], ...] = ()
    ) -> None:
        """`status` is the answer's, 0 when there was none."""
        super().__init__(message)
        self.remedy = remedy
        self.status = status
        self.problems = problems


class Answer(msgspec.Struct, frozen=True):
    """One answer of the API."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any] | None:
        """Return the JSON object of the body; None when it is none."""
        try:
            document = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return document if isinstance(document, dict) else None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over AF_UNIX."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks one admin API. Subclasses say how it is reached."""

    place = ""
    """For messages."""

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        raise NotImplementedError

    def headers(self) -> dict[str, str]:
        """Return what goes with every request."""
        return {}

    def unreachable(self, error: OSError) -> AdminError:
        """Return what an error of connecting means."""
        return AdminError(f"{self.place}: {error}", "see whether the load balancer runs, and where its admin API is")

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """Return an answer, whatever it says; AdminError when there is none."""
        try:
            target = urllib.parse.quote(path) + ("?" + urllib.parse.urlencode(query) if query else "")
            data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        except UnicodeEncodeError:  # an argument with bytes that are no text (PEP 383)
            raise AdminError("an argument is not UTF-8 text", "check the terminal's encoding: locale") from None
        with closing(self.connection(timeout_s)) as connection:
            try:
                connection.request(method, target, data, {**self.headers(), **(headers or {})})
                response = connection.getresponse()
                return Answer(response.status, response.reason, dict(response.headers), response.read())
            except TimeoutError:
                raise AdminError(
                    f"{self.place}: no answer within {timeout_s:g} s", "look at the log of the load balancer"
                ) from None
            except OSError as error:
                raise self.unreachable(error) from None
            except http.client.HTTPException as error:
                raise self.unreachable(OSError(f"{type(error).__name__} {error}".strip())) from None

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """Return the JSON object of a good answer, empty when it has none; AdminError for all others."""
        answer = self.call(method, path, **more)
        document = answer.document()
        if answer.status < 300 and (document is not None or not answer.body):
            return document or {}
        raise refused(f"{method} {path}", answer, document)

    def follow(self, path: str, *, headers: Mapping[str, str], silence_s: float) -> Iterator[bytes]:
        """Yield the lines of an answer that does not end; AdminError when it does, or says nothing for too long."""
        with closing(self.connection(silence_s)) as connection:
            try:
                connection.request("GET", path, headers={**self.headers(), **headers})
                response = connection.getresponse()
                if response.status != 200:
                    answer = Answer(response.status, response.reason, {}, response.read())
                    raise refused(f"GET {path}", answer, answer.document())
                while line := response.readline():
                    yield line.rstrip(b"\r\n")
            except (OSError, http.client.HTTPException) as error:
                raise AdminError(f"{self.place}: the connection has ended: {error}") from None


class UnixClient(Client):
    """The admin socket of a load balancer on this machine."""

    def __init__(self, path: str) -> None:
        """Wait a little for a load balancer that is just starting."""
        self.place = path
        deadline_s = time.monotonic() + START_PATIENCE_S
        while not os.path.exists(path) and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """See `Client`."""
        return _UnixConnection(self.place, timeout_s)

    def unreachable(self, error: OSError) -> AdminError:
        """See `Client`."""
        if isinstance(error, FileNotFoundError):
            return AdminError(
                f"{self.place} does not exist",
                "the load balancer is still starting, or runs on another --state directory",
            )
        if isinstance(error, PermissionError):
            owner = os.stat(self.place).st_uid
            return AdminError(f"{self.place} belongs to user {owner}", "run this as that user, or with sudo")
        return AdminError(f"{self.place}: {error}", "the master is being replaced; try again in a moment")


class RemoteClient(Client):
    """An admin API on TCP."""

    def __init__(self, url: str, token: str, ca_file: str = "") -> None:
        """AdminError when the URL makes no sense, or the token would cross a network in the clear."""
        wrong = AdminError(f"{url!r} is not the address of an admin API", "write --admin https://10.0.0.1:8181")
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not self._host or parts.path.strip("/"):
            raise wrong
        self.place = f"{parts.scheme}://{parts.netloc}"
        self._tls = parts.scheme == "https"
        if token and not self._tls and not _is_loopback(self._host) and os.environ.get(PLAIN) != "anywhere":
            raise AdminError(
                f"{self.place}: the token would cross the network in the clear",
                f"write https://{parts.netloc}; or {PLAIN}=anywhere in the environment, where something else encrypts",
            )
        self._token = token
        self._ca_file = ca_file

    def headers(self) -> dict[str, str]:
        """See `Client`."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """See `Client`."""
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port or 80, timeout=timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise AdminError(f"{self._ca_file}: {error}", "name a PEM file of certificates with --ca-file") from None
        return http.client.HTTPSConnection(self._host, self._port or 443, timeout=timeout_s, context=context)

    def unreachable(self, error: OSError) -> AdminError:
        """See `Client`."""
        if isinstance(error, ssl.SSLCertVerificationError):
            remedy = _REMEDIES.get(error.verify_code, "name who signed it with --ca-file FILE")
            return AdminError(f"{self.place}: its certificate is refused: {error.verify_message}", remedy)
        if isinstance(error, ssl.SSLError):
            text = f"{self.place}: no TLS connection: {error.reason or error}"
            return AdminError(text, "where the load balancer has no --admin-cert it speaks plain http://")
        if isinstance(error, ConnectionResetError) and not self._tls:  # http.client.RemoteDisconnected too
            text = f"{self.place}: the connection was closed without an answer"
            return AdminError(text, "where the load balancer has an --admin-cert, write https://")
        return super().unreachable(error)


_ENDED: Final = "have the load balancer's --admin-cert renewed, and see whether this machine's clock is right"
_ANOTHER: Final = "ask by a name that is in the certificate, or have one issued with this name (subjectAltName)"
_REMEDIES: Final = {9: _ENDED, 10: _ENDED, 62: _ANOTHER, 64: _ANOTHER}
"""By OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH; what is left is a
signature of somebody unknown."""


def _is_loopback(host: str) -> bool:
    """Tell whether what is sent to a host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refused(what: str, answer: Answer, document: dict[str, Any] | None) -> AdminError:
    """Return what an answer that is no good one means."""
    if document is None or not isinstance(document.get("detail"), str):
        return AdminError(
            f"{what}: {answer.status} {answer.reason}", "look at the log of the load balancer", status=answer.status
        )
    problems = tuple(problem for problem in document.get("problems", ()) if isinstance(problem, dict))
    remedy = str(document.get("remedy", ""))
    return AdminError(document["detail"], remedy, status=answer.status, problems=problems)
