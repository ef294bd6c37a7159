"""A program that registers itself with the balancer, as one without an etcd client does it: over the admin socket.

    python registrant.py ADMIN_SOCKET BACKEND ID [TTL_S] [SERVER_JSON]

It serves its own id on a free port, registers with a lease, sends heartbeats, and prints what it does. A line on its
input is a word of it: `ready`, `leave` (drain, wait until that is in force, end the lease, exit), `mute` (no
heartbeats any more), or `healthy STATUS` for what /health answers from then on.
"""

import contextlib
import http.client
import http.server
import json
import socket
import sys
import threading
from typing import Any


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def say(*words: object) -> None:
    print(*words, flush=True)


def ask(method: str, path: str, body: Any = None) -> Any:
    connection = Unix(sys.argv[1])
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text!r}")
        return json.loads(text) if text else None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    health = 200

    def do_GET(self) -> None:
        status = Handler.health if self.path == "/health" else 200
        body = sys.argv[3].encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512


def main() -> None:
    backend, name = sys.argv[2:4]
    ttl_s = float(sys.argv[4]) if len(sys.argv) > 4 else 3.0
    record = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = f"backends/{backend}/servers/{name}"
    value = {"url": f"http://127.0.0.1:{server.server_address[1]}", **record}
    answer = ask(
        "POST", "/v1/leases?wait=applied&timeout=20s", {"ttl": f"{ttl_s:g}s", "put": [{"key": key, "value": value}]}
    )
    lease = answer["lease"]
    say("registered", lease)
    stopping = threading.Event()

    def heartbeats() -> None:
        while not stopping.wait(ttl_s / 4):
            ask("PUT", f"/v1/leases/{lease}")

    threading.Thread(target=heartbeats, daemon=True).start()
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "ready":
            ask("POST", f"/v1/servers/{backend}/{name}/ready?wait=applied&timeout=20s")
        elif word == "healthy":
            Handler.health = int(rest[0])
        elif word == "mute":
            stopping.set()
        elif word == "leave":
            ask("POST", f"/v1/servers/{backend}/{name}/drain?wait=applied&timeout=20s")
            stopping.set()
            ask("DELETE", f"/v1/leases/{lease}")
            say("done", word)
            return
        say("done", word)


if __name__ == "__main__":
    main()
