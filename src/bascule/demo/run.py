"""`bascule demo`: two origins, the balancer and traffic; then one origin is drained, stopped and replaced under way."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bascule.demo.traffic import Traffic

_START_DEADLINE_S: Final = 15.0
_STOP_DEADLINE_S: Final = 10.0
_TEMPLATE: Final = """# Written by `bascule demo`: change it while the demo runs (bascule demo --keep) and watch.
[listeners.web]
address = "127.0.0.1:{port}"

[backends.app]
balance = "wrr"
{servers}
[frontends.app]
route = "PathPrefix(`/`)"
backend = "app"
"""


class DemoError(Exception):
    """The demo cannot go on; the text says what to do."""


@dataclass
class Server:
    """One example origin and its line in the configuration."""

    name: str
    version: str
    port: int
    state: str = "up"
    process: asyncio.subprocess.Process | None = None

    def toml(self) -> str:
        """Return the server's table."""
        state = f'state = "{self.state}"\n' if self.state != "up" else ""
        url = f"http://127.0.0.1:{self.port}"
        return f'[backends.app.servers.{self.name}]\nurl = "{url}"\nversion = "{self.version}"\n{state}'


class Demo:
    """The processes of one demonstration and what has been printed about it."""

    def __init__(self, *, seconds: float, workers: int, json_output: bool) -> None:
        self.seconds = seconds
        self.workers = workers
        self.json_output = json_output
        self.directory = Path(tempfile.mkdtemp(prefix="bascule-demo-"))
        self.config = self.directory / "bascule.toml"
        self.state = self.directory / "state"
        self.port = free_port()
        self.servers = [Server("a", "1.0.0", free_port()), Server("b", "1.0.0", free_port())]
        self.balancer: asyncio.subprocess.Process | None = None
        self.traffic = Traffic("127.0.0.1", self.port)
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line with the time since the start; to stderr when stdout is for the JSON summary."""
        line = f"{time.monotonic() - self.started:5.1f} s  {text}"
        print(line, file=sys.stderr if self.json_output else sys.stdout, flush=True)

    async def run(self, *, keep: bool) -> int:
        """Show everything; return the number of failed requests."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await self.start()
            await self.show()
            if keep:
                self.say("still running; Ctrl-C ends it")
                await self.report_until_interrupted()
        finally:
            await self.stop()
        self.summary()
        return len(self.traffic.totals.failures)

    async def start(self) -> None:
        """Start the origins and the balancer, and wait until a request goes through."""
        for server in self.servers:
            await self.start_origin(server)
        self.write_config()
        log = (self.directory / "bascule.log").open("ab")
        command = ["run", "-c", str(self.config), "--state", str(self.state), "--workers", str(self.workers)]
        self.balancer = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bascule", *command, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        await self.wait_answer()
        self.say(f"balancer with {self.workers} workers on http://127.0.0.1:{self.port}/ over origins a and b")
        self.say(f"  open     http://127.0.0.1:{self.port}/ in a browser")
        self.say(f"  look in  bascule status --state {self.state}")
        self.say(f"  edit     {self.config}")

    async def start_origin(self, server: Server) -> None:
        """Start one origin and wait until it listens."""
        server.process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bascule.demo.origin",
            "--name", server.name, "--version", server.version, "--port", str(server.port),
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert server.process.stdout is not None
        line = await asyncio.wait_for(server.process.stdout.readline(), _START_DEADLINE_S)
        if not line:
            raise DemoError(f"Origin {server.name} did not start on port {server.port}. Run the demo again.")
        self.say(f"origin {server.name}, version {server.version}, on 127.0.0.1:{server.port}")

    def write_config(self) -> None:
        """Write the configuration in one step: the balancer notices by itself."""
        temporary = self.config.with_suffix(".new")
        text = _TEMPLATE.format(port=self.port, servers="\n".join(server.toml() for server in self.servers))
        temporary.write_text(text)
        temporary.rename(self.config)

    async def wait_answer(self) -> None:
        """Wait until the balancer answers with 200."""
        end = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < end:
            assert self.balancer is not None
            if self.balancer.returncode is not None:
                break
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, IndexError, TimeoutError):
                async with asyncio.timeout(1):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(b"GET /api HTTP/1.1\r\nHost: demo.test\r\nConnection: close\r\n\r\n")
                    answer = await reader.read()
                    writer.close()
                if answer.split(b" ", 2)[1] == b"200":
                    return
            await asyncio.sleep(0.05)
        log = (self.directory / "bascule.log").read_text(errors="replace")[-2000:]
        raise DemoError(f"The balancer does not answer on port {self.port}. Its log ends with:\n{log}")

    async def show(self) -> None:
        """Let traffic flow, replace origin b by origin c, and let traffic flow on."""
        self.say(f"traffic: {self.traffic.connections} connections, GET and POST, every answer checked")
        self.traffic.start()
        part = self.seconds / 4
        await self.report(part)
        old = self.servers[1]
        new = Server("c", "2.0.0", free_port())
        await self.start_origin(new)
        self.say(f"change: origin {old.name} drains, origin {new.name} ({new.version}) takes its place")
        old.state = "draining"
        self.servers.append(new)
        self.write_config()
        await self.report(part)
        await self.wait_drained(old)
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(old.process.wait(), _STOP_DEADLINE_S)
        self.say(f"origin {old.name} has stopped")
        self.servers.remove(old)
        self.write_config()
        self.say(f"change: origin {old.name} leaves the configuration")
        await self.report(part * 2)

    async def wait_drained(self, server: Server) -> None:
        """Wait until no request has reached a server for half a second; DemoError when requests keep coming."""
        key = f"{server.name} {server.version}"
        end = time.monotonic() + _STOP_DEADLINE_S
        before = -1
        while (count := self.traffic.totals.by_origin[key]) != before:
            if time.monotonic() > end:
                raise DemoError(
                    f"Origin {server.name} still gets requests {_STOP_DEADLINE_S:g} s after it was drained."
                )
            before = count
            await asyncio.sleep(0.5)
        self.say(f"origin {server.name} has drained: {count} requests served, none coming")

    async def report(self, seconds: float) -> None:
        """Print one line a second."""
        end = time.monotonic() + seconds
        before = Counter(self.traffic.totals.by_origin)
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(1.0, left))
            now = Counter(self.traffic.totals.by_origin)
            parts = [f"{name}: {now[name] - before[name]:5d}" for name in sorted(now) if now[name] - before[name]]
            failed = len(self.traffic.totals.failures)
            self.say(f"{self.traffic.totals.requests:7d} requests, {failed} failed   " + "   ".join(parts))
            before = now

    async def report_until_interrupted(self) -> None:
        """Print a line every second until SIGINT or SIGTERM."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        while not stop.is_set():
            await self.report(1.0)

    async def stop(self) -> None:
        """Stop the traffic first, then the balancer and the origins; whatever does not end in time is killed."""
        await self.traffic.stop()
        for process in (self.balancer, *(server.process for server in self.servers)):
            if process is not None:
                await end_process(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def summary(self) -> None:
        """Print the totals."""
        totals = self.traffic.totals
        if self.json_output:
            summary = {
                "requests": totals.requests,
                "failed": len(totals.failures),
                "failures": totals.failures[:20],
                "by_origin": dict(totals.by_origin),
            }
            print(json.dumps(summary, indent=2))
            return
        for text, count in Counter(totals.failures).most_common(5):
            self.say(f"failed {count} times: {text}")
        self.say(f"total: {totals.requests} requests, {len(totals.failures)} failed")


async def end_process(process: asyncio.subprocess.Process) -> None:
    """End a process with SIGTERM, and its whole group with SIGKILL at the deadline."""
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_DEADLINE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def demo(*, seconds: float = 20.0, workers: int = 2, keep: bool = False, json_output: bool = False) -> int:
    """Run the demonstration; return 0 when no request failed, 1 otherwise."""
    try:
        return 1 if asyncio.run(Demo(seconds=seconds, workers=workers, json_output=json_output).run(keep=keep)) else 0
    except DemoError as error:
        print(f"bascule demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
