"""A client of the admin API: HTTP with JSON over the Unix socket in the state directory."""

import http.client
import os
import socket
import time
from typing import Any

import msgspec

START_PATIENCE_S = 5.0
"""A load balancer serves before its admin socket is open: a command right behind `bascule run &` waits so long."""


class AdminError(Exception):
    """The admin API could not be asked, or refused; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class _Connection(http.client.HTTPConnection):
    """HTTP over AF_UNIX."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(socket_path: str, method: str, path: str, *, timeout_s: float) -> dict[str, Any]:
    """Return the JSON object of an answer; AdminError when there is none, or it is an error without a JSON object."""
    _await_socket(socket_path)
    connection = _Connection(socket_path, timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        raise AdminError(f"no answer within {timeout_s:g} s", "look at the log of the load balancer") from None
    except FileNotFoundError:
        raise AdminError(
            f"{socket_path} does not exist", "the load balancer is still starting, or runs on another --state directory"
        ) from None
    except PermissionError:
        owner = os.stat(socket_path).st_uid
        raise AdminError(f"{socket_path} belongs to user {owner}", "run this as that user, or with sudo") from None
    except (OSError, http.client.HTTPException) as error:
        raise AdminError(f"{socket_path}: {error}", "the master is being replaced; try again in a moment") from None
    finally:
        connection.close()
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise AdminError(
            f"{method} {path}: {response.status} {response.reason}", "look at the log of the load balancer"
        )
    return answer


def _await_socket(socket_path: str) -> None:
    deadline_s = time.monotonic() + START_PATIENCE_S
    while not os.path.exists(socket_path) and time.monotonic() < deadline_s:
        time.sleep(0.05)
