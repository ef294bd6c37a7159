"""`bascule demo`: two origins, the balancer and traffic; live changes by etcdctl and by `bascule apply`, each timed; then an
upgrade of the balancer itself under the same traffic, and the switch back."""

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bascule.cli.admin import UnixClient
from bascule.cli.upgrade import receipt_lines
from bascule.demo.echo import PAUSE_S, Echo
from bascule.demo.etcd import Etcd, installed
from bascule.demo.events import Applied
from bascule.demo.traffic import Traffic

BASCULE: Final = (sys.executable, "-P", "-m", "bascule")
_START_DEADLINE_S: Final = 20.0
_STOP_DEADLINE_S: Final = 10.0
_TEMPLATE: Final = """# Written by `bascule demo`: change it while the demo runs (bascule demo --keep), apply it, and watch.
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
    process: asyncio.subprocess.Process | None = None

    def value(self) -> dict[str, str]:
        """Return the server as an object of the store."""
        return {"url": f"http://127.0.0.1:{self.port}", "version": self.version}

    def toml(self) -> str:
        """Return the server's table."""
        fields = "\n".join(f'{name} = "{text}"' for name, text in self.value().items())
        return f"[backends.app.servers.{self.name}]\n{fields}\n"


@dataclass
class Change:
    """One live change and how long it took."""

    by: str
    what: str
    revision: int
    in_force_ms: float
    """From when the store had it until every worker had it."""


class Demo:
    """The processes of one demonstration and what has been printed about it."""

    def __init__(self, *, seconds: float, workers: int, store: str, json_output: bool) -> None:
        self.seconds = seconds
        self.workers = workers
        self.json_output = json_output
        self.directory = Path(tempfile.mkdtemp(prefix="bascule-demo-"))
        self.config = self.directory / "demo.toml"
        self.state = self.directory / "state"
        self.port = free_port()
        self.servers = [Server("a", "1.0.0", free_port()), Server("b", "1.0.0", free_port())]
        self.etcd = Etcd(self.directory, free_port(), free_port()) if wants_etcd(store) else None
        self.balancer: asyncio.subprocess.Process | None = None
        self.applied = Applied(str(self.state / "admin.sock"))
        self.changes: list[Change] = []
        self.receipts: list[dict[str, Any]] = []
        self.traffic = Traffic("127.0.0.1", self.port)
        self.echo = Echo("127.0.0.1", self.port)
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
        return len(self.failures())

    def failures(self) -> list[str]:
        """Return every request that failed, and how the WebSocket did."""
        return self.traffic.totals.failures + ([self.echo.failure] if self.echo.failure else [])

    async def start(self) -> None:
        """Start the origins, the store and the balancer, apply the first tree, and wait until a request goes through."""
        for server in self.servers:
            await self.start_origin(server)
        await self.start_balancer()
        self.write_tree()
        await self.bascule("apply", "-f", str(self.config), what="a listener, a backend of two servers, a route")
        await self.wait_answer()
        self.say(f"balancer with {self.workers} workers on http://127.0.0.1:{self.port}/ over origins a and b")
        self.say(f"  open     http://127.0.0.1:{self.port}/ in a browser")
        self.say(f"  look in  bascule status --state {self.state}")
        self.say(f"  change   bascule apply --prune -f {self.config} --state {self.state}")
        self.say(f"  after an edit of {self.config}")

    async def start_balancer(self) -> None:
        """Start it over a private etcd where there is one, else over its embedded store."""
        command = ["run", "--store", "embedded"]
        if self.etcd is not None:
            if not await self.etcd.start():
                log = (self.directory / "etcd.log").read_text(errors="replace")[-1000:]
                raise DemoError(f"etcd does not start; try --store embedded. Its log ends with:\n{log}")
            command = ["run", "--store", "etcd", "--etcd", self.etcd.endpoint]
            self.say(f"etcd on {self.etcd.endpoint} holds the configuration, below /bascule")
        else:
            self.say("the embedded store holds the configuration (etcd is not installed, or not asked for)")
        with (self.directory / "bascule.log").open("ab") as log_file:
            self.balancer = await asyncio.create_subprocess_exec(
                *BASCULE, *command, "--state", str(self.state), "--workers", str(self.workers),
                stdout=log_file, stderr=log_file, start_new_session=True, cwd=self.directory,
            )  # fmt: skip
        try:
            await self.applied.start(_START_DEADLINE_S)
        except TimeoutError:
            raise DemoError(f"The balancer does not start. Its log ends with:\n{self.log()}") from None

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

    # ---- changes

    def write_tree(self) -> None:
        """Write the whole tree as it should be now."""
        text = _TEMPLATE.format(port=self.port, servers="\n".join(server.toml() for server in self.servers))
        self.config.write_text(text)

    async def bascule(self, *words: str, what: str) -> None:
        """Change something with a command of ours, which waits until it is in force, and print how long that took."""
        begin = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *BASCULE, *words, "--json", "--state", str(self.state),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        if process.returncode:
            raise DemoError(f"bascule {' '.join(words)} failed:\n{errors.decode(errors='replace')}")
        revision = int(json.loads(output)["revision"])
        took_ms = (time.monotonic() - begin) * 1000
        stored_s = await self.stored_s(revision)
        self.say(f"bascule {words[0]}: {what}")
        await self.note(
            f"bascule {words[0]}",
            what,
            revision,
            stored_s,
            f"the command took {took_ms:.0f} ms with the start of Python",
        )

    async def put(self, server: Server) -> None:
        """Add a server around the balancer: with etcdctl; without etcd, with a command of ours."""
        key = f"backends/app/servers/{server.name}"
        what = f"origin {server.name} ({server.version}) joins"
        if self.etcd is None:
            fields = [f"{name}={text}" for name, text in server.value().items()]
            await self.bascule("set", key, *fields, what=what)
            return
        self.say(f"etcdctl put /bascule/{key}: {what}")
        revision = await self.etcd.put(f"/bascule/{key}", server.value())
        if not revision:
            raise DemoError(f"etcdctl put failed; see {self.directory}/etcd.log.")
        await self.note("etcdctl put", what, revision, time.time(), "counted from when etcdctl had its answer")

    async def stored_s(self, revision: int) -> float:
        """Return when the store took a transaction of ours (Unix time)."""
        client = UnixClient(str(self.state / "admin.sock"))
        record = await asyncio.to_thread(client.ask, "GET", f"/v1/history/{revision}")
        return float(record["at_s"])

    async def note(self, by: str, what: str, revision: int, stored_s: float, remark: str) -> None:
        """Wait until a revision is in force in every worker; print and remember how long that took."""
        try:
            applied_s = await self.applied.at_s(revision, _START_DEADLINE_S)
        except TimeoutError:
            raise DemoError(f"Revision {revision} did not come into force. The log ends with:\n{self.log()}") from None
        in_force_ms = max((applied_s - stored_s) * 1000, 0.0)
        self.changes.append(Change(by, what, revision, round(in_force_ms, 1)))
        self.say(f"  in force in every worker {in_force_ms:.0f} ms after it was stored ({remark})")

    def log(self) -> str:
        """Return the end of the balancer's log."""
        return (self.directory / "bascule.log").read_text(errors="replace")[-2000:]

    # ---- the show

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
        raise DemoError(f"The balancer does not answer on port {self.port}. Its log ends with:\n{self.log()}")

    async def show(self) -> None:
        """Let traffic flow, add origin c, drain and remove origin b, upgrade the balancer, switch back, flow on."""
        self.say(f"traffic: {self.traffic.connections} connections, GET and POST, every answer checked")
        self.traffic.start()
        part = self.seconds / 5
        await self.report(part)
        old = self.servers[1]
        new = Server("c", "2.0.0", free_port())
        await self.start_origin(new)
        self.servers.append(new)
        await self.put(new)
        await self.report(part)
        await self.bascule("drain", f"app/{old.name}", what=f"origin {old.name} gets nothing new")
        await self.wait_drained(old)
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(old.process.wait(), _STOP_DEADLINE_S)
        self.say(f"origin {old.name} has stopped")
        self.servers.remove(old)
        self.write_tree()
        await self.bascule("apply", "-f", str(self.config), "--prune", what=f"the tree without origin {old.name}")
        await self.report(part)
        await self.open_echo()
        await self.replace(what="the balancer is replaced by the version on disk, under this traffic")
        await self.report(part)
        await self.replace("--back", what="and back to the processes before, which still wait")
        await self.report(part)

    async def open_echo(self) -> None:
        """Open a WebSocket that stays open over the upgrade."""
        try:
            await self.echo.start()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise DemoError(f"No WebSocket: {error}. The balancer's log ends with:\n{self.log()}") from None
        self.say(f"a WebSocket sends a number every {PAUSE_S * 1000:.0f} ms, and each has to come back")

    async def replace(self, *words: str, what: str) -> None:
        """Run `bascule upgrade` and print the receipt."""
        self.say(f"bascule upgrade {' '.join(words)}".rstrip() + f": {what}")
        process = await asyncio.create_subprocess_exec(
            *BASCULE, "upgrade", *words, "--json", "--state", str(self.state),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        if process.returncode:
            text = (output or errors).decode(errors="replace")
            raise DemoError(f"bascule upgrade {' '.join(words)} failed:\n{text}\nThe log ends with:\n{self.log()}")
        receipt = json.loads(output)
        self.receipts.append(receipt)
        for line in receipt_lines(receipt):
            self.say(f"  {line}")

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
        await self.echo.stop()
        await self.applied.stop()
        etcd = self.etcd.process if self.etcd is not None else None
        for process in (self.balancer, etcd, *(server.process for server in self.servers)):
            if process is not None:
                await end_process(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def summary(self) -> None:
        """Print the totals."""
        totals, failures = self.traffic.totals, self.failures()
        if self.json_output:
            summary = {
                "requests": totals.requests,
                "failed": len(failures),
                "failures": failures[:20],
                "by_origin": dict(totals.by_origin),
                "store": "etcd" if self.etcd is not None else "embedded",
                "changes": [asdict(change) for change in self.changes],
                "upgrades": self.receipts,
                "echoes": self.echo.echoed,
            }
            print(json.dumps(summary, indent=2))
            return
        for text, count in Counter(failures).most_common(5):
            self.say(f"failed {count} times: {text}")
        for change in self.changes:
            self.say(f"{change.in_force_ms:6.0f} ms  {change.by}: {change.what}")
        for receipt in self.receipts:
            what = "switch back" if receipt["kind"] == "back" else "upgrade"
            self.say(f"{receipt['took_s'] * 1000:6.0f} ms  {what}, generation {receipt['to']['generation']} serves")
        how = "broken" if self.echo.failure else "unbroken"
        self.say(f"one WebSocket over both: {self.echo.echoed} echoes, {how}")
        self.say(f"total: {totals.requests} requests, {len(failures)} failed")


def wants_etcd(store: str) -> bool:
    """Tell whether to run over etcd; DemoError when it is asked for and not there."""
    there = store != "embedded" and installed()
    if store == "etcd" and not there:
        raise DemoError("etcd or etcdctl is not installed: apt-get install etcd-server etcd-client.")
    return there


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


def demo(
    *, seconds: float = 20.0, workers: int = 2, store: str = "auto", keep: bool = False, json_output: bool = False
) -> int:
    """Run the demonstration; return 0 when no request failed, 1 otherwise."""
    try:
        show = Demo(seconds=seconds, workers=workers, store=store, json_output=json_output)
        return 1 if asyncio.run(show.run(keep=keep)) else 0
    except DemoError as error:
        print(f"bascule demo: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
