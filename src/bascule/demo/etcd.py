"""A private etcd for the demonstration, where etcd is installed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

OLDEST: Final = (3, 4)
_START_DEADLINE_S: Final = 15.0


def installed() -> bool:
    """Tell whether etcd and etcdctl are there, and new enough."""
    if shutil.which("etcd") is None or shutil.which("etcdctl") is None:
        return False
    try:
        text = subprocess.run(["etcd", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = re.search(r"etcd Version: (\d+)\.(\d+)", text)
    return match is not None and (int(match[1]), int(match[2])) >= OLDEST


class Etcd:
    """One member on free ports of 127.0.0.1, its data in a folder of the demonstration."""

    def __init__(self, directory: Path, client_port: int, peer_port: int) -> None:
        self.directory = directory
        self.endpoint = f"127.0.0.1:{client_port}"
        self._peer = f"http://127.0.0.1:{peer_port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> bool:
        """Start it and wait until it answers; False when it does not, its log is in the folder then."""
        client = f"http://{self.endpoint}"
        with (self.directory / "etcd.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                "etcd", "--name", "demo", "--data-dir", str(self.directory / "etcd"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer,
                "--initial-cluster", f"demo={self._peer}",
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < end and self.process.returncode is None:
            if (await self.control("endpoint", "health"))[0] == 0:
                return True
            await asyncio.sleep(0.05)
        return False

    async def put(self, key: str, value: object) -> int:
        """Put a key with etcdctl and return the revision that it made; 0 when that failed."""
        status, output = await self.control("put", key, json.dumps(value), "-w", "json")
        return int(json.loads(output)["header"]["revision"]) if status == 0 else 0

    async def control(self, *words: str) -> tuple[int, bytes]:
        """Run etcdctl; return its exit status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            "etcdctl", "--endpoints", self.endpoint, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "ETCDCTL_API": "3"},
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output
