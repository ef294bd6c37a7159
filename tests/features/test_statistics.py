"""After a known mix of requests, `bascule status --json` and /metrics say exactly what was sent."""

import json
import re
from collections import Counter
from typing import Any

from kit.client import RawClient, get
from kit.http1 import Message
from kit.origin import OK, OriginConnection, ScriptedOrigin
from kit.proxies import BasculeProcess
from kit.waiting import free_port, until

CONFIG = """
[listeners.web]
address = "127.0.0.1:{port}"
[listeners.side]
address = "127.0.0.1:SIDE"
max_body_bytes = 10
[backends.app]
servers.a1 = {url = "http://ORIGIN", weight = 2}
servers.a2 = {url = "http://ORIGIN", weight = 1}
[backends.dead.servers.d1]
url = "http://127.0.0.1:1"
[backends.patient.servers.p1]
url = "http://ORIGIN"
[frontends.app]
route = "PathPrefix(`/app`)"
backend = "app"
[frontends.dead]
route = "PathPrefix(`/dead`)"
backend = "dead"
[frontends.patient]
route = "PathPrefix(`/patient`)"
backend = "patient"
[frontends.limited]
route = "PathPrefix(`/limited`)"
backend = "app"
middlewares.m = {type = "rate_limit", requests = 1, period = "1h"}
"""
Found = dict[str, dict[str, tuple[int, dict[str, int], dict[str, int]]]]


def reply(connection: OriginConnection, head: Message) -> bool:
    if head.target.startswith(b"/patient"):
        connection.hang_until_closed()
        return False
    if head.target.endswith(b"/created"):
        connection.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    elif head.target.endswith(b"/cut"):
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        return False
    else:
        connection.send(OK)
    return True


def from_status(proxy: BasculeProcess) -> Found:
    """Return requests, statuses and errors by kind and id, as the command says."""
    traffic = json.loads(proxy.run("status", "--json").stdout)["traffic"]
    found: Found = {}
    for kind in ("listener", "frontend", "backend", "server"):
        found[kind] = {row["id"]: (row["requests"], row["statuses"], row["errors"]) for row in traffic[f"{kind}s"]}
        assert all(row["in_flight"] == 0 for row in traffic[f"{kind}s"])
        assert all(sum(row["statuses"].values()) == row["requests"] for row in traffic[f"{kind}s"])
    return found


def from_metrics(text: str) -> Found:
    """Return the same from Prometheus' text."""
    found: Found = {kind: {} for kind in ("listener", "frontend", "backend", "server")}
    rows: dict[tuple[str, str], Any] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"bascule_(listener|frontend|backend|server)_(\w+)\{(.*)\} (\d+)", line)
        if match is None:
            continue
        kind, name, labels, value = match[1], match[2], dict(re.findall(r'(\w+)="([^"]*)"', match[3])), int(match[4])
        id_ = f"{labels['backend']}/{labels['server']}" if kind == "server" else labels[kind]
        row = rows.setdefault((kind, id_), [0, {}, {}])
        if name == "requests_total":
            row[0] = value
        elif name == "responses_total":
            row[1][labels["code"]] = value
        elif name == "errors_total":
            row[2][labels["reason"]] = value
        elif name == "requests_in_flight":
            assert value == 0
        elif name == "request_duration_seconds_count":
            assert value == row[0]
    for (kind, id_), (requests, statuses, errors) in rows.items():
        found[kind][id_] = (requests, statuses, errors)
    return found


def send_the_mix(web: tuple[str, int], side: tuple[str, int], origin: ScriptedOrigin) -> None:
    """30 to /app on keep-alive, 6 to /app/created, 3 refused to connect, 2 limited of 3, a 404, a 400, a 413, a cut, a 499."""
    with RawClient(web) as client:
        for _ in range(30):
            assert client.ask(b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
    assert [get(side, "/app/created").status for _ in range(6)] == [201] * 6
    assert [get(web, "/dead").status for _ in range(3)] == [502] * 3
    assert [get(web, "/limited").status for _ in range(3)] == [200, 429, 429]
    assert get(side, "/nowhere").status == 404
    with RawClient(web) as client:
        assert client.ask(b"GET /app HTTP/1.1\r\n\r\n").status == 400
    with RawClient(side) as client:
        assert client.ask(b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").status == 413
    with RawClient(web) as client:
        client.send(b"GET /app/cut HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"half" in client.reader.until(b"half")
        assert client.closed()
    before = len(origin.requests)
    client = RawClient(web)
    client.send(b"GET /patient HTTP/1.1\r\nHost: a\r\n\r\n")
    origin.wait_requests(before + 1)
    client.reset()


WANTED: Found = {
    "listener": {
        "web": (
            39,
            {"200": 32, "400": 1, "429": 2, "499": 1, "502": 3},
            {"bad_request": 1, "connect_failed": 3, "rate_limited": 2, "response_cut": 1, "client_gone": 1},
        ),
        "side": (8, {"201": 6, "404": 1, "413": 1}, {"no_route": 1, "too_large": 1}),
    },
    "frontend": {
        "app": (37, {"200": 31, "201": 6}, {"response_cut": 1}),
        "dead": (3, {"502": 3}, {"connect_failed": 3}),
        "limited": (3, {"200": 1, "429": 2}, {"rate_limited": 2}),
        "patient": (1, {"499": 1}, {"client_gone": 1}),
    },
    "backend": {
        "app": (40, {"200": 32, "201": 6, "429": 2}, {"response_cut": 1, "rate_limited": 2}),
        "dead": (3, {"502": 3}, {"connect_failed": 3}),
        "patient": (1, {"499": 1}, {"client_gone": 1}),
    },
}


def test_the_counters_are_what_was_sent() -> None:
    side = free_port()
    with ScriptedOrigin() as origin:
        origin.reply = reply
        text = CONFIG.replace("ORIGIN", origin.address).replace("SIDE", str(side))
        proxy = BasculeProcess(config=text, workers=2)
        proxy.start(probe=False)  # a probe would be counted
        try:
            until((proxy.state / "admin.sock").exists, "the admin socket", 20.0)
            until(lambda: proxy.status()["ready"], "a ready balancer", 20.0)
            send_the_mix(("127.0.0.1", proxy.port), ("127.0.0.1", side), origin)
            proxy.assert_quiet()
            compare(proxy)
        finally:
            proxy.kill()
            proxy.cleanup()


def compare(proxy: BasculeProcess) -> None:
    """Hold both answers against what was sent."""
    found = from_status(proxy)
    assert {kind: found[kind] for kind in WANTED} == WANTED
    servers = found["server"]
    assert servers["app/a1"][0] + servers["app/a2"][0] == 38, "what a limit refused met no server"
    assert abs(servers["app/a1"][0] - 2 * servers["app/a2"][0]) <= 6
    assert Counter(servers["app/a1"][1]) + Counter(servers["app/a2"][1]) == Counter({"200": 32, "201": 6})
    assert servers["dead/d1"] == (3, {"502": 3}, {"connect_failed": 3})
    assert servers["patient/p1"] == (1, {"499": 1}, {"client_gone": 1})
    assert from_metrics(proxy.metrics()) == found
