"""Listening on a Unix path: bound beside it and renamed over it.

So a stale file is replaced, and no client ever meets a socket that does not listen yet, or that it may not yet open.
"""

from __future__ import annotations

import _socket
import os
import struct

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_TEMPORARY = ".new"
_SHORT = "~"
_NAME_MAX = 107
"""A socket is bound as PATH.PID.new, or as PATH~ where that were longer than the 107 bytes of unix(7). The kernel goes on calling it
by this first name when the file has another."""


def listen(path: str, *, mode: int, backlog: int, kind: int = _socket.SOCK_STREAM) -> int:
    """Return the descriptor of a non-blocking socket that listens on `path`, whoever listened there before; OSError.

    `kind` is SOCK_STREAM or SOCK_SEQPACKET; `mode` says who may connect.
    """
    temporary = f"{path}.{os.getpid()}{_TEMPORARY}"
    if len(os.fsencode(temporary)) > _NAME_MAX:
        temporary = path + _SHORT
    sock = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        _remove(temporary)  # in a container, a process before this one may have had the same pid
        sock.bind(temporary)
        try:
            os.chmod(temporary, mode)
            sock.listen(backlog)
            os.rename(temporary, path)
        except OSError:
            _remove(temporary)
            raise
        return sock.detach()
    finally:
        sock.close()


def peer_of(descriptor: int) -> tuple[int, int]:
    """Return pid and user of the process at the other end of a connected Unix socket: of a client when it connected, of a
    server when it began to listen (unix(7): SO_PEERCRED). The kernel says so, not the process."""
    sock = _socket.socket(fileno=descriptor)
    try:
        found = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
    finally:
        sock.detach()
    pid, user, _ = _CREDENTIALS.unpack(found)
    return pid, user


def path_of(name: str) -> str:
    """Return the path of a socket from what the kernel says of its name, which is the one it was bound to."""
    if name.endswith(_SHORT):
        return name.removesuffix(_SHORT)
    path, _, pid = name.removesuffix(_TEMPORARY).rpartition(".")
    return path if name.endswith(_TEMPORARY) and pid.isdigit() else name


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
