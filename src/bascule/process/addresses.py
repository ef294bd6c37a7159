"""Listener addresses: "0.0.0.0:8080", "[::]:8080", "unix:///run/bascule/app.sock"."""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    SocketAddress = tuple[str, int] | str

UNIX_PREFIX = "unix://"
UNIX_PATH_BYTES_MAX = 107


class AddressError(ValueError):
    """Not an address to listen on; the text says why and what to write."""


def parse(text: str) -> tuple[int, SocketAddress]:
    """Return the address family and what `bind` takes; AddressError otherwise. Host names are refused: they can
    move."""
    if text.startswith(UNIX_PREFIX):
        return _socket.AF_UNIX, _unix_path(text)
    host, colon, port_text = text.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise AddressError(f'{text!r} has no port: write "127.0.0.1:8080", "[::1]:8080" or "unix:///path"')
    if host.startswith("[") and host.endswith("]"):
        family, host = _socket.AF_INET6, host[1:-1]
    else:
        family, host = _socket.AF_INET, host or "0.0.0.0"  # noqa: S104 - ":8080" means every interface everywhere
    try:
        _socket.inet_pton(family, host)
    except OSError:
        raise AddressError(f"{host!r} in {text!r} is no IP address: a listener takes an address, not a name") from None
    return family, (host, int(port_text))


def _unix_path(text: str) -> str:
    path = text[len(UNIX_PREFIX) :]
    if not path.startswith("/"):
        raise AddressError(f"{text!r} is no absolute path: write unix:///run/app.sock")
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise AddressError(f"{text!r} is longer than the {UNIX_PATH_BYTES_MAX} bytes a socket path may have")
    return path
