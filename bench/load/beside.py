"""Bascule as `scale.py change` wants it: a proxy for a file of routes, and one route more.

    scale.py change --sizes 10,10000 haproxy-rt \\
      "bascule=python -m bench.load.beside start {routes} {port} {dir}" --change "bascule=sh bench/load/beside.sh {routes} {dir}"

`start` puts the routes (lines of PREFIX HOST:PORT) into the embedded store and becomes `bascule run` on it; beside.sh puts the last line's
route through the admin API and waits until it is in force in every worker.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from bascule.store.embedded import EmbeddedStore
from bascule.store.interface import Put, Transaction


def objects(routes: Path, port: str) -> list[Put]:
    """The tree of a routes file: one backend for every address, one frontend a line."""
    found = [Put("listeners/web", json.dumps({"address": f"127.0.0.1:{port}"}).encode())]
    backends: set[str] = set()
    for number, line in enumerate(routes.read_text().splitlines()):
        prefix, address = line.split()
        backend = address.replace(":", "-")
        if backend not in backends:
            backends.add(backend)
            found.append(Put(f"backends/{backend}", b"{}"))
            found.append(Put(f"backends/{backend}/servers/s", json.dumps({"url": f"http://{address}"}).encode()))
        value = {"route": f"PathPrefix(`{prefix}`)", "backend": backend}
        found.append(Put(f"frontends/f{number}", json.dumps(value).encode()))
    return found


async def fill(path: Path, puts: list[Put]) -> None:
    """Puts everything into the store in one transaction."""
    store = EmbeddedStore(str(path))
    await store.commit(Transaction(tuple(puts)))
    await store.close()


def main() -> None:
    """`start ROUTES PORT DIRECTORY`."""
    _, routes, port, directory = sys.argv[1:]
    state = Path(directory) / "bascule"
    state.mkdir(mode=0o700, exist_ok=True)
    asyncio.run(fill(state / "store.sqlite", objects(Path(routes), port)))
    arguments = ["run", "--store", "embedded", "--state", str(state), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "bascule", *arguments])


if __name__ == "__main__":
    main()
