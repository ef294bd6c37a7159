"""The configuration of a proxy to which everything happens, and a server that answers no SYN."""

import socket

from kit.origin import ScriptedOrigin

_CONFIG = """
[listeners.web]
address = "127.0.0.1:{port}"
header_timeout = "DEADLINE"
WEB

[backends.app]
connect_timeout = "DEADLINE"
response_timeout = "DEADLINE"
idle_timeout = "DEADLINE"
servers.a1.url = "http://ORIGIN"
[backends.patient]
servers.a1.url = "http://ORIGIN"
[backends.whole]
exchange_timeout = "700ms"
servers.a1.url = "http://ORIGIN"
[backends.silent]
connect_timeout = "DEADLINE"
servers.s1.url = "http://127.0.0.1:SILENT"
[backends.refusing]
servers.r1.url = "http://127.0.0.1:1"
[backends.none]

[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""
_PREFIXES = ("patient", "whole", "silent", "refusing", "none")


class SilentServer:
    """A listener whose queue is full, so that the kernel drops every further SYN."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._filling = [socket.socket() for _ in range(4)]
        for sock in self._filling:
            sock.setblocking(False)
            sock.connect_ex(self._listener.getsockname())

    def close(self) -> None:
        """Give the port back."""
        for sock in (self._listener, *self._filling):
            sock.close()


def fault_config(origin: ScriptedOrigin, silent: SilentServer | None, deadline: str, web: str = "") -> str:
    """Return a configuration whose prefixes say what becomes of a request.

    /patient waits as long as the defaults say, /whole at most 700 ms for all, /silent cannot connect, /refusing is refused,
    /none has no server; everything else goes to the origin, with `deadline` for each step. `web` are further lines of the
    listener; whole tables may be appended.
    """
    config = _CONFIG.replace("WEB", web).replace("DEADLINE", deadline).replace("ORIGIN", origin.address)
    config = config.replace("SILENT", str(silent.port if silent else 1))
    for name in _PREFIXES:
        config += f'[frontends.{name}]\nroute = "PathPrefix(`/{name}`)"\nbackend = "{name}"\n'
    return config
