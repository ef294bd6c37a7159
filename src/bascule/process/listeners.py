"""The keeper's listening sockets: bound once, lent to workers, closed only when their queue is empty."""

from __future__ import annotations

import _socket
import errno
import os
import select
import stat

from bascule.process import addresses, steering, unix_socket
from bascule.process.slots import assign, hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKLOG = 4096
"""Queue length of each slot; the kernel bounds it by net.core.somaxconn."""

UNIX_MODE = 0o666
"""Like a TCP port, a listening socket file is for every local user; its directory can be stricter."""

_TCP_INFO_BYTES = 104
_TCPI_UNACKED_OFFSET = 24  # struct tcp_info, linux/tcp.h: of a listener, the connections that wait in its queue


class BindError(Exception):
    """An address that cannot be listened on; the text says what is wrong, `remedy` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        """See the class."""
        super().__init__(message)
        self.remedy = remedy


class Listener:
    """One configured address and its slots.

    Owner: the keeper. `descriptors` and `owners` run in parallel; the place of a slot in them is its place in the
    kernel's group (steering.py), because the list grows and shrinks at its end alone. The slot at place i has the
    number `first_slot + i`, unique among all slots that a listener id has at a time, so that a re-bound listener can
    overlap with its predecessor in one worker. A Unix listener has one slot, lent to every worker: the kernel has no
    SO_REUSEPORT for stream sockets there.

    States: OPEN -> CLOSING -> closed.

    Places, from 0: [kept: in use) [lendable: leaving, still accepted from) [len: leaving, given back by the workers).
    """

    __slots__ = (
        "address",
        "closing",
        "descriptors",
        "file_identity",
        "first_slot",
        "heir",
        "id",
        "inherited",
        "kept",
        "lendable",
        "ordered",
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
        ordered: bool = True,
    ) -> None:
        """See the class."""
        self.id = listener_id
        self.address = address
        self.descriptors = descriptors
        self.owners: list[int | None] = [None] * len(descriptors)
        self.first_slot = first_slot
        self.path = path
        self.file_identity = _file_identity(path) if path and owned else None
        """Of the socket file that goes with the listener; None when there is none, or it is not ours to remove."""
        self.closing = False
        self.heir: Listener | None = None
        """Who has the sockets too, and goes on with them: they are not emptied when this one closes."""
        self.shared = shared or bool(path)
        """Whether every worker holds the one slot."""
        self.inherited = inherited
        """How many of the first descriptors the service manager holds too: their queues outlive this listener."""
        self.ordered = ordered
        """Whether places are known to be those in the kernel's group. They are not beside strangers that leave it."""
        self.kept = self.lendable = len(descriptors)

    def slot_numbers(self) -> range:
        """Return the numbers of all slots."""
        return range(self.first_slot, self.first_slot + len(self.descriptors))

    def lendable_numbers(self) -> range:
        """Return the numbers of the slots that workers are to hold."""
        return range(self.first_slot, self.first_slot + self.lendable)

    def given_back_numbers(self) -> range:
        """Return the numbers of the slots that no worker is to hold any more."""
        return range(self.first_slot + self.lendable, self.first_slot + len(self.descriptors))

    def assign(self, workers: Sequence[int], owners: Sequence[int | None] | None = None) -> list[int | None]:
        """Return the owner of each slot, given those of now: as `slots.assign` says for the slots in use. Slots that leave are
        held by who has them, and go to the next when that one dies: somebody has to empty their queues."""
        owners = self.owners if owners is None else owners
        used = min(self.kept, self.lendable)
        return [
            *assign(owners[:used], workers),
            *hold(owners[used : self.lendable], workers),
            *[None] * (len(self.descriptors) - self.lendable),
        ]

    def bequeath(self, listener_id: str, address: str, first_slot: int) -> Listener:
        """Return a listener on the same sockets, all of them in use: this one was renamed. It is to be closed, or the
        heir to be given up with `disinherit`. `address` is the same, perhaps written otherwise."""
        heir = Listener(
            listener_id,
            address,
            [os.dup(descriptor) for descriptor in self.descriptors],
            first_slot,
            path=self.path,
            shared=self.shared,
            inherited=self.inherited,
            ordered=self.ordered,
        )
        heir.file_identity, self.file_identity, self.heir = self.file_identity, None, heir
        heir.keep_all()
        return heir

    def disinherit(self) -> None:
        """Go on as if there had been no heir, and close it."""
        if self.heir is not None:
            heir, self.heir = self.heir, None
            self.file_identity, heir.file_identity = heir.file_identity, None
            heir.close()

    # ---- the number of slots

    def grow(self, count: int) -> None:
        """Have `count` slots in all; BindError, and nothing changed, when they cannot be bound. None may be leaving."""
        family, where = addresses.parse(self.address)
        assert not isinstance(where, str)
        added = _bind_more(self.address, family, where, count - len(self.descriptors))
        self.descriptors += added
        self.owners += [None] * len(added)
        self.kept = self.lendable = len(self.descriptors)

    def turn_away(self, kept: int) -> bool:
        """Let no new connection into the queues of the slots from place `kept` on; those in them stay. New ones go to
        the slots before, or are refused when there are none. False when they cannot be steered."""
        if self.path:
            self._unlink()
        elif not kept:
            for descriptor in self.descriptors:
                steering.refuse(descriptor)
        elif kept < len(self.descriptors) and not (self.ordered and steering.steer(self.descriptors[0], kept)):
            return False
        self.kept = kept
        return True

    def keep_all(self) -> None:
        """Undo `turn_away`, unless nothing was to be kept."""
        if not self.path:
            steering.stop_steering(self.descriptors[0])
        self.kept = self.lendable = len(self.descriptors)

    def queued(self, first: int = 0) -> int:
        """Return how many established connections wait to be accepted, over all slots from place `first` on."""
        if self.path:
            return int(_readable(self.descriptors[0]))
        return sum(queue_length(descriptor) for descriptor in self.descriptors[max(self.inherited, first) :])

    def give_back(self) -> None:
        """Have nobody hold the slots that leave, nor any slot of a listener that closes."""
        self.lendable = 0 if self.closing else self.kept
        self.owners[self.lendable :] = [None] * (len(self.descriptors) - self.lendable)

    def shrink(self) -> None:
        """Close the slots that leave, the last first, so that the others keep their places in the group; then let the
        kernel spread connections over all that remain."""
        while len(self.descriptors) > self.kept:
            os.close(self.descriptors.pop())
        del self.owners[self.kept :]
        steering.stop_steering(self.descriptors[0])

    def close(self) -> None:
        """Close the keeper's copies. A queue that is still held by a worker lives on; shutdown() would reset it for
        all."""
        if self.path:
            self._unlink()
        elif self.inherited:
            steering.stop_steering(self.descriptors[0])
        for descriptor in reversed(self.descriptors):
            os.close(descriptor)
        self.descriptors = []
        self.owners = []
        self.kept = self.lendable = 0

    def leave_file(self) -> None:
        """Let a socket file stay where it is: the socket outlives this listener."""
        self.file_identity = None

    def _unlink(self) -> None:
        """Remove the socket file, unless somebody has put another one there since, or it was systemd's from the
        start."""
        if self.file_identity is not None and _file_identity(self.path) == self.file_identity:
            os.unlink(self.path)
        self.file_identity = None  # another one may get the same inode number


def open_listener(
    listener_id: str,
    address: str,
    slots: int,
    *,
    first_slot: int = 0,
    inherited: Sequence[int] = (),
    exclusive: bool = True,
    ordered: bool = True,
) -> Listener:
    """Bind an address as `slots` listening sockets; BindError with a remedy, and nothing left open, when it cannot.

    `inherited` are listening sockets of the same address from socket activation: they become the first slots.
    `exclusive` refuses an address that another process listens on with SO_REUSEPORT, which the kernel would silently
    share; `ordered` is False when somebody does.
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
    listener = _open_tcp(listener_id, address, family, where, slots, first_slot, list(inherited[:slots]))
    listener.ordered = listener.ordered and ordered
    return listener


def adopt_listener(listener_id: str, address: str, descriptors: list[int], first_slot: int) -> Listener:
    """Return the listener whose slots these are, in their order: they were bound by a keeper before, and survived it."""
    _, where = addresses.parse(address)
    path = where if isinstance(where, str) else ""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        if not path:
            steering.take_handshakes(descriptor)  # of a worker that left without its keeper
    listener = Listener(listener_id, address, descriptors, first_slot, path=path)
    listener.keep_all()
    return listener


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
    for descriptor in inherited:
        _allow_siblings(descriptor)
    try:
        added = _bind_more(address, family, where, slots - len(inherited))
    except BindError:
        if not inherited:
            raise
        return Listener(listener_id, address, inherited[:1], first_slot, shared=True, inherited=1)
    # Of several that somebody else has bound it is not known which was first; and one may be bound elsewhere.
    ordered = not inherited or (len(inherited) == 1 and same_address(local_address(inherited[0]), address))
    return Listener(listener_id, address, [*inherited, *added], first_slot, inherited=len(inherited), ordered=ordered)


def _bind_more(address: str, family: int, where: tuple[str, int], count: int) -> list[int]:
    """Bind `count` sockets to an address; BindError, and none is left open, when one cannot be."""
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            descriptors.append(_explained(address, lambda: _bind_tcp(family, where)))
    except BindError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


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


def _readable(descriptor: int) -> bool:
    """Whether somebody waits to be accepted. The queue of a Unix socket has no length that could be asked for."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


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
        return addresses.UNIX_PREFIX + unix_socket.path_of(name)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def same_address(one: str, other: str) -> bool:
    """Whether two addresses, as configurations write them, are one to the kernel: ":80" is "0.0.0.0:80"."""
    try:
        return one == other or addresses.parse(one) == addresses.parse(other)
    except addresses.AddressError:
        return False


def _bind_tcp(family: int, where: tuple[str, int]) -> int:
    """Return one listening socket.

    TCP_NODELAY is inherited by accepted sockets, which saves a system call per connection. TCP_DEFER_ACCEPT is left
    off: it hides half-open clients from the accept queue, which is what a closing slot is measured by.
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
    _refuse_live(path)
    return unix_socket.listen(path, mode=UNIX_MODE, backlog=BACKLOG)


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
    finally:
        sock.close()
    steering.take_handshakes(descriptor)  # of a worker that left without its keeper


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
