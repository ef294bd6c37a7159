"""How many files a process may still open."""

from __future__ import annotations

import os
import resource

PLENTY = 1 << 20


def left() -> int:
    """Return how many descriptors this process can still open; PLENTY where /proc does not tell."""
    try:
        used = len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return PLENTY
    except OSError:
        return 0  # not even for reading the directory
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PLENTY if soft == resource.RLIM_INFINITY else max(soft - used, 0)
