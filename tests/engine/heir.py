"""A process that takes over connections: heir.py WORKER STATISTICS LIMITS IMAGE SOCKET; run by handing.HeirProcess.

Each line on its standard input is a command, answered by the engine's state as JSON: `turn` (once), `state`, `run` (until
the next), or `limit N` (so many descriptors more).
"""

import json
import os
import resource
import select
import sys

from bascule.engine.engine import Engine


def main() -> None:
    """Serve until the standard input ends."""
    worker, statistics, limits, image, sock = (int(word) for word in sys.argv[1:6])
    engine = Engine(worker=worker, statistics_fd=statistics, limits_fd=limits)
    engine.adopt(image)
    engine.inherit(sock)
    running = False
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), *([engine.fileno()] if running else [])], [], [], 1)
        if engine.fileno() in ready:
            engine.turn()
        if sys.stdin.fileno() in ready:
            command = sys.stdin.readline().strip()
            if not command:
                engine.close()
                return
            running = command == "run"
            if command.startswith("limit "):
                lowest = os.dup(0)
                os.close(lowest)
                resource.setrlimit(
                    resource.RLIMIT_NOFILE, (lowest + int(command[6:]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
                )
            if command == "turn":
                select.select([engine.fileno()], [], [], 10)
                engine.turn()
            print(json.dumps(engine.state()), flush=True)


main()
