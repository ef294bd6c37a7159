"""A balancer whose configuration lives in the embedded store, changed through its admin API as a user would."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.waiting import until
from process.balancer import START_DEADLINE_S, Balancer


class LiveBalancer(Balancer):
    """`bascule run --store embedded` on a state directory of its own."""

    def __init__(self, directory: Path, *, workers: int = 2, arguments: Sequence[str] = (), **options: Any) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, {}, workers=workers, arguments=arguments, **options)

    def write(self, tree: Mapping[str, Any]) -> None:
        """There is no file."""

    def spawn(self) -> None:
        command = [*self.program, "run", "--state", str(self.state)]
        if "--store" not in self.arguments:
            command += ["--store", "embedded"]
        command += ["--workers", str(self.workers_at_start), *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self.environment, cwd=self.directory)

    def put(self, key: str, value: Any) -> Any:
        """Put an object and wait until it is in force in every worker."""
        status, answer = self.ask("PUT", f"/v1/{key}?wait=applied&timeout=20s", value)
        assert status == 200, answer
        assert answer["applied"], answer
        return answer

    def remove(self, key: str) -> Any:
        """Remove an object and wait until that is in force."""
        status, answer = self.ask("DELETE", f"/v1/{key}?wait=applied&timeout=20s")
        assert status == 200, answer
        return answer

    def apply(self, tree: Any, **more: Any) -> Any:
        """Apply a tree and wait until it is in force."""
        status, answer = self.ask("POST", "/v1/apply?wait=applied&timeout=20s", {"tree": tree, **more})
        assert status == 200, answer
        assert answer["applied"], answer
        return answer

    def commit_around(self, operations: Sequence[tuple[str, bytes | None]]) -> None:
        """Write to the store as anybody can who has it: past the admin API, unlooked at."""
        script = (
            "import asyncio, sys, json, base64\n"
            "from bascule.store.embedded import EmbeddedStore\n"
            "from bascule.store.interface import Put, Remove, Transaction\n"
            "async def main():\n"
            "    store = EmbeddedStore(sys.argv[1])\n"
            "    pairs = json.load(sys.stdin)\n"
            "    await store.commit(Transaction(tuple(\n"
            "        Put(k, base64.b64decode(v)) if v is not None else Remove(k, below=False) for k, v in pairs)))\n"
            "    await store.close()\n"
            "asyncio.run(main())\n"
        )
        import base64

        pairs = [(key, None if value is None else base64.b64encode(value).decode()) for key, value in operations]
        subprocess.run(
            [sys.executable, "-c", script, str(self.state / "store.sqlite")],
            input=json.dumps(pairs).encode(),
            check=True,
            timeout=60,
        )

    def states(self) -> dict[str, Any]:
        """Return what is not plainly in force, by key."""
        status, answer = self.ask("GET", "/v1/objects")
        assert status == 200, answer
        return {item["key"]: item for item in answer["items"]}

    def until_state(self, key: str, state: str) -> Any:
        """Wait until an object stands so."""
        return until(lambda: self.states().get(key, {}).get("state") == state, f"{key} {state}", START_DEADLINE_S, 0.05)
