"""The keeper's listening sockets: bound once, lent to workers, closed only when their queue is empty."""

from __future__ import annotations

import _socket
import errno
import os
import stat

from bascule.process import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKLOG = 4096
"""Queue length of each slot; the kernel bounds it by net.core.somaxconn."""

UNIX_MODE = 0o666
"""Like a TCP port, a listening socket file is for every local user; its directory can be stricter."""

EMPTYING_MAX_S = 5.0
"""How long a listener that closes may take to empty its queue; what is left then is reset."""

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_TCP_INFO_BYTES = 104
_TCPI_UNACKED_OFFSET = 24  # struct tcp_info, linux/tcp.h: of a listener, the connections that wait in its queue

# Classic BPF, struct sock_filter {code, jt, jf, k}, over the TCP header: drop a segment whose flags say SYN and not
# ACK. New connections are then neither refused nor queued (the client repeats its SYN after a second), while the
# handshakes that have begun end normally.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN
    (0x06, 0, 0, 0),  # ret #0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep
)


class BindError(Exception):
    """An address that cannot be listened on; the text says what is wrong, `remedy` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class Listener:
    """One configured address and its slots.

    Owner: the keeper. `descriptors` and `owners` run in parallel; slot i has the number `first_slot + i`, which is
    unique among all the slots a listener id ever had, so that a re-bound listener can overlap with its predecessor in
    one worker. A Unix listener has one slot, lent to every worker: the kernel has no SO_REUSEPORT for stream sockets
    there. States: OPEN -> CLOSING (steered away, queue being emptied) -> closed. There is no way back.
    """

    __slots__ = (
        "_file",
        "address",
        "bequeathed",
        "closing",
        "descriptors",
        "first_slot",
        "id",
        "inherited",
        "owners",
        "path",
        "shared",
    )

    def __init__(
        self,
        listener_id: str,
        address: str,
        descriptors: list[int],
        first_slot: int,
        *,
        path: str = "",
        owned: bool = True,
        shared: bool = False,
        inherited: int = 0,
    ) -> None:
        """See the class."""
        self.id = listener_id
        self.address = address
        self.descriptors = descriptors
        self.owners: list[int | None] = [None] * len(descriptors)
        self.first_slot = first_slot
        self.path = path
        self._file = _file_identity(path) if path and owned else None
        self.closing = False
        self.bequeathed = False
        self.shared = shared or bool(path)
        """Whether every worker holds the one slot."""
        self.inherited = inherited
        """How many of the first descriptors the service manager holds too: their queues outlive this listener."""

    def slot_numbers(self) -> range:
        """Return the numbers of all slots."""
        return range(self.first_slot, self.first_slot + len(self.descriptors))

    def bequeath(self, listener_id: str, first_slot: int) -> Listener:
        """Return a listener of another id on the same sockets: the listener was renamed. This one is to be closed."""
        heir = Listener(
            listener_id,
            self.address,
            [os.dup(descriptor) for descriptor in self.descriptors],
            first_slot,
            path=self.path,
            shared=self.shared,
            inherited=self.inherited,
        )
        heir._file, self._file, self.bequeathed = self._file, None, True
        return heir

    def stop_handshakes(self) -> None:
        """Let no new connection into the queues; those in them stay. Best effort: without it a close may reset some."""
        if self.path:
            self._unlink()
            return
        for descriptor in self.descriptors[self.inherited :]:
            stop_handshakes(descriptor)

    def queued(self) -> int:
        """Return how many established connections wait to be accepted, over all slots."""
        if self.path:
            return 0
        return sum(queue_length(descriptor) for descriptor in self.descriptors[self.inherited :])

    def close(self) -> None:
        """Close the keeper's copies. A queue that is still held by a worker lives on; shutdown() would reset it for
        all."""
        if self.path:
            self._unlink()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []

    def _unlink(self) -> None:
        """Remove the socket file, unless somebody has put another one there since, or it was systemd's from the
        start."""
        if self._file is not None and _file_identity(self.path) == self._file:
            os.unlink(self.path)


def open_listener(
    listener_id: str,
    address: str,
    slots: int,
    *,
    first_slot: int = 0,
    inherited: Sequence[int] = (),
    exclusive: bool = True,
) -> Listener:
    """Bind an address as `slots` listening sockets; BindError with a remedy, and nothing left open, when it cannot.

    `inherited` are listening sockets of the same address from socket activation: they become the first slots.
    `exclusive` refuses an address that another process listens on with SO_REUSEPORT, which the kernel would silently
    share.
    """
    try:
        family, where = addresses.parse(address)
    except addresses.AddressError as error:
        raise BindError(str(error), "correct the address of the listener") from None
    for descriptor in inherited:
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
    if isinstance(where, str):
        descriptors = list(inherited[:1]) or [_explained(address, lambda: _bind_unix(where))]
        return Listener(listener_id, address, descriptors, first_slot, path=where, owned=not inherited)
    if exclusive and not inherited:
        _explained(address, lambda: _probe(family, where))
    return _open_tcp(listener_id, address, family, where, slots, first_slot, list(inherited[:slots]))


def _open_tcp(
    listener_id: str,
    address: str,
    family: int,
    where: tuple[str, int],
    slots: int,
    first_slot: int,
    inherited: list[int],
) -> Listener:
    """Bind the slots that are not inherited. Inherited sockets that cannot get siblings are shared by all workers."""
    descriptors = list(inherited)
    for descriptor in inherited:
        _allow_siblings(descriptor)
    try:
        while len(descriptors) < slots:
            descriptors.append(_explained(address, lambda: _bind_tcp(family, where)))
    except BindError:
        for descriptor in descriptors[len(inherited) :]:
            os.close(descriptor)
        if not inherited:
            raise
        return Listener(listener_id, address, inherited[:1], first_slot, shared=True, inherited=1)
    return Listener(listener_id, address, descriptors, first_slot, inherited=len(inherited))


def queue_length(descriptor: int) -> int:
    """Return how many connections wait in the accept queue of a listening TCP socket (tcpi_unacked)."""
    sock = _socket.socket(fileno=descriptor)  # no duplicate: this has to work when no descriptor is left
    try:
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    finally:
        sock.detach()
    return int.from_bytes(info[_TCPI_UNACKED_OFFSET : _TCPI_UNACKED_OFFSET + 4], "little")


def local_address(descriptor: int) -> str:
    """Return the address that a socket is bound to, as a configuration writes it; empty for what is no listener."""
    sock = _socket.socket(fileno=os.dup(descriptor))
    try:
        if not sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            return ""
        name = sock.getsockname()
    except OSError:
        return ""
    finally:
        sock.close()
    if isinstance(name, str):
        return addresses.UNIX_PREFIX + name
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _bind_tcp(family: int, where: tuple[str, int]) -> int:
    """Return one listening socket.

    TCP_NODELAY is inherited by accepted sockets, which saves a system call per connection. TCP_DEFER_ACCEPT is left
    off: it hides half-open clients from the accept queue, which is what a shrinking listener is measured by.
    """
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        if family == _socket.AF_INET6:  # "0.0.0.0:80" and "[::]:80" are two listeners, and must not collide
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        return sock.detach()
    finally:
        sock.close()


def _probe(family: int, where: tuple[str, int]) -> None:
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    finally:
        sock.close()


def _bind_unix(path: str) -> int:
    """Bind beside the path and rename over it: a stale file is replaced, and clients never see a socket not yet
    listening."""
    _refuse_live(path)
    temporary = f"{path}.{os.getpid()}"
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        sock.bind(temporary)
        try:
            os.chmod(temporary, UNIX_MODE)
            sock.listen(BACKLOG)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        return sock.detach()
    finally:
        sock.close()


def _refuse_live(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file of this name, and it is no socket")
    except FileNotFoundError:
        return
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except OSError as error:
        if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
            return
        if error.errno != errno.EAGAIN:  # EAGAIN: somebody listens, and the queue is full
            raise
    finally:
        sock.close()
    raise OSError(errno.EADDRINUSE, "another process listens on it")


def _file_identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _allow_siblings(descriptor: int) -> None:
    """Set SO_REUSEPORT on a socket that is bound already: the kernel forms the group when the next one is bound.

    systemd leaves the option out unless the unit says ReusePort=yes. Siblings also need the same user: a socket that
    root bound for a service of another user stays alone.
    """
    sock = _socket.socket(fileno=os.dup(descriptor))
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        sock.setsockopt(_socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)  # of a worker that left without its keeper
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        sock.close()


def stop_handshakes(descriptor: int) -> None:
    """Drop new SYNs to a listening TCP socket, for every process that holds it; handshakes under way end normally."""
    import array  # and with it `collections`: 3 ms of CPU that a start does not need

    program = b"".join(
        code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")
        for code, if_true, if_false, value in _DROP_SYN
    )
    code = array.array("B", program)
    address = code.buffer_info()[0]
    # struct sock_fprog {unsigned short len; struct sock_filter *filter}, the pointer 8-byte aligned
    argument = len(_DROP_SYN).to_bytes(8, "little") + address.to_bytes(8, "little")
    sock = _socket.socket(fileno=os.dup(descriptor))
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
    except OSError:
        return
    finally:
        sock.close()


_REMEDIES = {
    errno.EADDRINUSE: "stop the process that listens there (`ss -ltnp` shows it), or choose another port",
    errno.EACCES: "use a port above 1023, give the service the capability CAP_NET_BIND_SERVICE, lower "
    "net.ipv4.ip_unprivileged_port_start, or (for a socket file) make its directory writable",
    errno.EADDRNOTAVAIL: "no interface has this address: see `ip address`, or listen on 0.0.0.0 or [::]",
    errno.ENOENT: "create the directory of the socket file first",
    errno.EEXIST: "remove the file, or choose another path",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE= of the unit, `ulimit -Hn`)",
}


def _explained(address: str, action: Callable[[], int | None]) -> int:
    try:
        return action() or 0
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "see `man 7 ip` for this error of bind()")
        raise BindError(f"cannot listen on {address}: {reason}", remedy) from None
