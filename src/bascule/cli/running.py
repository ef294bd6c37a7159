"""Finding a running load balancer: its state directory holds a pid file that stays locked while the keeper lives."""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from bascule.cli.output import Failure
from bascule.process.state_directory import ADMIN_SOCKET, PID_FILE, default_path

_PROXY_PREFIX = "bascule-proxy-"


class Running(NamedTuple):
    """One running load balancer."""

    directory: str
    pid: int

    @property
    def admin_socket(self) -> str:
        """Path of the admin API's Unix socket."""
        return os.path.join(self.directory, ADMIN_SOCKET)

    def alive(self) -> bool:
        """Whether this very keeper still runs (not another one that took its place)."""
        return _running(self.directory) == self


def find_running(directory: str | None) -> Running:
    """Return the load balancer of a state directory, or the only one at the default places; Failure if none."""
    if directory is not None:
        found = _running(directory)
        if found is None:
            raise Failure(
                f"nothing runs on the state directory {directory}", "start it with: bascule run --state " + directory
            )
        return found
    default = default_path("bascule")
    found = _running(default)
    if found is not None:
        return found
    proxies = [found for path in _proxy_directories(default) if (found := _running(path)) is not None]
    if len(proxies) == 1:
        return proxies[0]
    if proxies:
        listed = " or ".join(f"--state {proxy.directory}" for proxy in proxies)
        raise Failure(f"{len(proxies)} proxies are running", f"say which one: {listed}")
    raise Failure(
        f"no load balancer is running ({default} has none)", "start one with bascule run, or name its --state directory"
    )


def _proxy_directories(default: str) -> list[str]:
    return sorted(map(str, Path(default).parent.glob(f"{_PROXY_PREFIX}*")))


def _running(directory: str) -> Running | None:
    try:
        descriptor = os.open(os.path.join(directory, PID_FILE), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return Running(directory, int(text)) if text.isdecimal() else None
    finally:
        os.close(descriptor)
    return None
