"""A TCP relay that stands for a network: it can be cut (connections break) and frozen (nothing arrives any more)."""

import contextlib
import selectors
import socket
import threading

BLOCK_BYTES = 65536


class Relay:
    """Forwards connections to a port of 127.0.0.1, in a thread of its own. Use it as a context."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._lock = threading.Lock()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._frozen = False
        self._refusing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._refusing = True
        self._poke()
        with self._lock:
            for peer in self._peers:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Carry again, after cut or freeze."""
        self._refusing = self._frozen = False
        self._poke()

    def freeze(self) -> None:
        """Carry nothing, break nothing."""
        self._frozen = True
        self._poke()

    def _poke(self) -> None:
        self._wake.send(b"x")

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while not self._ended:
            for ready, _ in selector.select(0.2 if self._frozen else None):
                source = ready.fileobj
                assert isinstance(source, socket.socket)
                if source is self._woken:
                    self._woken.recv(BLOCK_BYTES)
                elif self._frozen:
                    threading.Event().wait(0.02)
                elif source is self._listener:
                    self._accept(selector)
                else:
                    self._forward(selector, source)
        selector.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        if self._refusing:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            client.close()
            return
        with self._lock:
            self._peers[client], self._peers[server] = server, client
        for end in (client, server):
            selector.register(end, selectors.EVENT_READ)

    def _forward(self, selector: selectors.BaseSelector, source: socket.socket) -> None:
        peer = self._peers.get(source)
        if peer is None:
            return
        try:
            data = source.recv(BLOCK_BYTES)
            if data:
                peer.sendall(data)
                return
        except OSError:
            pass
        with self._lock:
            for end in (source, peer):
                self._peers.pop(end, None)
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(end)
                end.close()

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._frozen = False
        self._poke()
        self._thread.join(10)
        for end in (*self._peers, self._listener, self._wake, self._woken):
            end.close()
