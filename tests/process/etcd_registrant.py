"""A program that registers itself in etcd, with nothing but etcdctl.

    python etcd_registrant.py ENDPOINT KEY ID TTL_S

It serves its own id on a free port, writes its server as `starting` with a lease, keeps the lease alive, and prints what it does. A
line on its input is a word of it: `ready` (it becomes up), `drain`, `leave` (its key goes, then its lease, and it exits). Killed,
it takes its heartbeats with it.
"""

import http.server
import json
import signal
import subprocess
import sys
import threading

from process.registrant import Handler, Server, say

ENDPOINT, KEY, NAME, TTL_S = sys.argv[1:5] if len(sys.argv) > 4 else ("", "", "", "")


def etcdctl(*arguments: str) -> str:
    command = ["etcdctl", "--endpoints", ENDPOINT, "--command-timeout", "20s", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def main() -> None:
    server: http.server.HTTPServer = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lease = etcdctl("lease", "grant", TTL_S).split()[1]

    def put(state: str) -> None:
        value = {"url": f"http://127.0.0.1:{server.server_address[1]}", "state": state}
        etcdctl("put", f"--lease={lease}", KEY, json.dumps(value))

    put("starting")
    heartbeats = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "etcdctl", "--endpoints", ENDPOINT, "lease", "keep-alive", lease],
        stdout=subprocess.DEVNULL,
    )
    say("registered", lease)
    for line in sys.stdin:
        word = line.strip()
        if word == "ready":
            put("up")
        elif word == "drain":
            put("draining")
        elif word == "leave":
            etcdctl("del", KEY)
            heartbeats.send_signal(signal.SIGTERM)  # a test run in the background has SIGINT ignored
            heartbeats.wait()
            etcdctl("lease", "revoke", lease)
            say("done", word)
            return
        say("done", word)


if __name__ == "__main__":
    main()
