"""A large configuration comes back from its compiled images: at once, as it was, changes that came after them and all."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.client import Cut, Ended, get
from kit.origin import ScriptedOrigin
from kit.waiting import until
from process.live import LiveBalancer

FRONTENDS = 6_700
"""With a backend and a server each just enough for images."""
SERVED = "serving the last good configuration until the store is read"
DEADLINE_S = 30.0


class Large(LiveBalancer):
    """A balancer with many routes, all to one origin."""

    def fill(self, port: int, origin: str) -> None:
        """Put everything into the store, around the API."""
        objects = [("listeners/web", b'{"address":"127.0.0.1:%d"}' % port)]
        for number in range(FRONTENDS):
            objects.append((f"backends/b{number}", b"{}"))
            objects.append((f"backends/b{number}/servers/s", json.dumps({"url": f"http://{origin}"}).encode()))
            route = {"route": f"PathPrefix(`/r{number}/`)", "backend": f"b{number}"}
            objects.append((f"frontends/f{number}", json.dumps(route).encode()))
        for first in range(0, len(objects), 5000):
            self.commit_around(objects[first : first + 5000])

    def images(self) -> list[Path]:
        """Return the files of images."""
        return list(self.state.glob("last-good/*.images"))

    def written(self) -> bool:
        """Tell whether everything in force is on disk."""
        return bool(self.images()) and self.status()["last_good"]["pending"] == 0

    def kill(self) -> None:
        """End every process at once, as a power cut does."""
        for pid in {self.process.pid, self.status()["master"]["pid"], *self.until_workers(2).values()}:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def large(tmp_path: Path, port: int, origin: ScriptedOrigin) -> Iterator[Large]:
    with Large(tmp_path / "large") as balancer:
        assert isinstance(balancer, Large)
        balancer.fill(port, origin.address)
        until(lambda: status_of(port, f"/r{FRONTENDS - 1}/") == 200, "the last route", DEADLINE_S, 0.1)
        until(balancer.written, "the images on disk", 2 * DEADLINE_S, 0.1)
        yield balancer


def status_of(port: int, path: str) -> int:
    """Return the status of an answer, 0 when there is none."""
    try:
        return get(("127.0.0.1", port), path).status
    except (OSError, Cut, Ended):
        return 0


def requests_of(large: Large, frontend: str) -> float:
    """Return how many requests the counters say a frontend had."""
    text = large.request("GET", "/metrics")[1].decode()
    lines = (line for line in text.splitlines() if "requests_total" in line and f'frontend="{frontend}"' in line)
    return float(next(lines, "0").rsplit(" ", 1)[-1])


def test_what_was_in_force_is_served_again_at_once(large: Large, port: int) -> None:
    large.put("frontends/late", {"route": "PathPrefix(`/late/`)", "backend": "b5"})
    large.remove("frontends/f7")
    until(lambda: large.status()["last_good"]["pending"] == 0, "the change on disk", DEADLINE_S, 0.1)
    large.kill()
    large.start()
    large.logged(SERVED)
    assert [status_of(port, path) for path in ("/r0/", "/late/", "/r7/")] == [200, 200, 404]
    assert [requests_of(large, name) for name in ("f0", "late", "f1")] == [1, 1, 0], "counters of other objects"
    assert "are not what the last good configuration says" not in large.log()
    large.put("frontends/f7", {"route": "PathPrefix(`/r7/`)", "backend": "b7"})
    large.remove("backends/b9/servers/s")
    large.put("frontends/f11", {"route": "PathPrefix(`/other/`)", "backend": "b11"})
    assert [status_of(port, path) for path in ("/r7/", "/r9/", "/other/", "/r11/")] == [200, 503, 200, 404]


def test_images_that_do_not_fit_are_not_served(large: Large, port: int) -> None:
    large.kill()
    (path,) = large.images()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    large.start()
    large.logged("images is not used: its checksum is wrong")
    assert SERVED not in large.log()
    assert status_of(port, "/r3/") == 200
    until(large.written, "images of the new generation", 2 * DEADLINE_S, 0.1)
    (path,) = large.images()
    base = path.with_suffix("")
    large.kill()
    other = base.with_name("last-good.99")
    base.rename(other)
    path.rename(f"{other}.images")
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    large.start()
    large.logged("images is not used: its checksum is wrong", 2)
    assert SERVED not in large.log()
    assert status_of(port, "/r3/") == 200
