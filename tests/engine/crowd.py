"""Clients that connect and then only wait: crowd.py PORT COUNT; each line of input is answered by how many are still there."""

import json
import resource
import socket
import sys


def is_alive(client: socket.socket) -> bool:
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    """Connect and answer until the standard input ends."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for client in clients:
        client.setblocking(False)
    for _ in sys.stdin:
        print(json.dumps(sum(map(is_alive, clients))), flush=True)


main()
