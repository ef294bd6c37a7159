"""Addresses of the admin API on TCP (`--admin`), and whether they may be opened as asked. Imports next to nothing: the
keeper asks at its start."""

from __future__ import annotations

import ipaddress


class AddressError(Exception):
    """The address cannot be used so; `remedy` says what to write."""

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


def parse_address(text: str) -> tuple[str, int]:
    """Return host (a literal address) and port of `127.0.0.1:8181`, `[::1]:8181` or `:8181` (all addresses)."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not (port.isascii() and port.isdigit()) or not 0 <= int(port) <= 65535:
        raise AddressError(f"--admin {text}: this is no ADDRESS:PORT", "write --admin 127.0.0.1:8181")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104 - what `:8181` means, looked at by `check_plain`
    except ValueError:
        raise AddressError(f"--admin {text}: {host!r} is no IP address", "write --admin 127.0.0.1:8181") from None
    return host or "::", int(port)


def check_admin(addresses: list[str], certificate: str, key: str, plain: str) -> None:
    """AddressError unless these may be opened: TLS by certificate and key, or plain HTTP on loopback alone, or anywhere
    when `plain` is "anywhere"."""
    if bool(certificate) != bool(key):
        raise AddressError("--admin-cert and --admin-key belong together", "give both, or neither")
    if certificate and not addresses:
        raise AddressError("--admin-cert is of no use without --admin", "add --admin ADDRESS:PORT")
    for text in addresses:
        host, _ = parse_address(text)
        if not certificate and plain != "anywhere" and not ipaddress.ip_address(host).is_loopback:
            raise AddressError(
                f"--admin {text}: without TLS, tokens would cross the network in the clear",
                "add --admin-cert FILE --admin-key FILE, or listen on 127.0.0.1, or, where something else encrypts, "
                "add --admin-plain anywhere",
            )
