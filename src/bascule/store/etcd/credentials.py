"""Endpoints, certificates and passwords: read when they are needed, so that what is replaced on disk comes into use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from bascule.model.tree import EtcdOptions
from bascule.store.interface import RefusedError

PASSWORD_VARIABLE = "BASCULE_ETCD_PASSWORD"  # noqa: S105 - its name, not its value


class Endpoint(NamedTuple):
    """One member's address."""

    address: str
    """`host:port`"""
    tls: bool

    def __str__(self) -> str:
        """For people."""
        return f"{'https' if self.tls else 'http'}://{self.address}"


class Certificates(NamedTuple):
    """PEM texts; None for what is not given."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


def endpoints_of(options: EtcdOptions) -> tuple[Endpoint, ...]:
    """Return the endpoints; one without a scheme speaks TLS when certificates are given."""
    found = []
    for text in options.endpoints:
        scheme, separator, address = text.rpartition("://")
        tls = scheme == "https" if separator else bool(options.ca_file or options.cert_file)
        found.append(Endpoint(address.rstrip("/"), tls))
    return tuple(found)


def certificates_of(options: EtcdOptions) -> Certificates:
    """Read the certificates; RefusedError when a file cannot be read."""
    return Certificates(
        *(_content(name) if name else None for name in (options.ca_file, options.cert_file, options.key_file))
    )


def password_of(options: EtcdOptions) -> str:
    """Read the password: from its file, or else from the environment. It is kept nowhere and printed nowhere."""
    if options.password_file:
        return _content(options.password_file).decode("utf-8", "surrogateescape").rstrip("\r\n")
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise RefusedError(
            f"there is no password for etcd's user {options.username}",
            f"set password_file in [store], or {PASSWORD_VARIABLE} in the environment",
        )
    return password


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise RefusedError(f"{name} cannot be read: {error.strerror}", "check the file and its permissions") from error
