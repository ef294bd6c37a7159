"""Leases, and the states of servers."""

import time

from admin.local import LocalAdmin
from kit.waiting import until

SERVER = {"key": "backends/app/servers/l1", "value": {"url": "http://127.0.0.1:7"}}
L1 = "/v1/backends/app/servers/l1"


def register(api: LocalAdmin, ttl: str = "60s") -> str:
    reply = api.ask("POST", "/v1/leases", {"ttl": ttl, "put": [SERVER]})
    assert reply.status == 201, reply.data
    lease: str = reply.json["lease"]
    return lease


def test_registered_heartbeat_and_leave(app: LocalAdmin) -> None:
    lease = register(app)
    assert app.ask("GET", L1).json["lease"] == lease
    beat = app.ask("PUT", f"/v1/leases/{lease}").json
    assert (beat["lease"], beat["ttl_ms"]) == (lease, 60_000)
    assert app.ask("DELETE", f"/v1/leases/{lease}").status == 204
    assert app.ask("GET", L1).status == 404
    gone = app.ask("PUT", f"/v1/leases/{lease}")
    assert gone.status == 404
    assert gone.json["remedy"]
    for wrong in ("x", "0", "99999999999999999999", "-1"):
        assert app.ask("PUT", f"/v1/leases/{wrong}").status == 404


def test_without_heartbeats_it_vanishes(app: LocalAdmin) -> None:
    register(app, "1s")
    until(lambda: app.ask("GET", L1).status == 404, "the server has vanished", 20)


def test_heartbeats_keep_it(app: LocalAdmin) -> None:
    lease = register(app, "2s")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert app.ask("PUT", f"/v1/leases/{lease}").status == 200
        time.sleep(0.1)
    assert app.ask("GET", L1).status == 200


def test_a_refused_registration_leaves_nothing_behind(app: LocalAdmin) -> None:
    wrong = {"key": "backends/app/servers/l1", "value": {"url": "nonsense"}}
    before = app.ask("GET", "/v1/tree").json
    for body in (
        {"ttl": "60s", "put": [wrong]},
        {"ttl": "100ms", "put": [SERVER]},
        {"ttl": "60s", "put": [{**SERVER, "key": "x"}]},
    ):
        assert app.ask("POST", "/v1/leases", body).status == 422
    assert app.ask("POST", "/v1/leases", {"ttl": "soon", "put": [SERVER]}).status == 400
    assert app.ask("POST", "/v1/leases", {"ttl": "60s", "put": []}).status == 400
    assert app.ask("POST", "/v1/leases?dry_run", {"ttl": "60s", "put": [SERVER]}).json["dry_run"]
    assert app.ask("GET", "/v1/tree").json == before


def test_put_with_ttl(app: LocalAdmin) -> None:
    reply = app.ask("PUT", L1 + "?ttl=60s", SERVER["value"])
    assert app.ask("GET", L1).json["lease"] == reply.json["lease"]
    assert app.ask("PUT", f"/v1/leases/{reply.json['lease']}").status == 200
    assert app.ask("PUT", L1, SERVER["value"]).status == 200
    assert app.ask("GET", L1).json["lease"] is None, "set without ttl, it lives by itself"
    for ttl in ("100ms", "25h", "999999999h"):
        for query in ("", "&dry_run"):
            assert app.ask("PUT", f"{L1}?ttl={ttl}{query}", SERVER["value"]).status == 422


def test_drain_and_undrain_keep_the_lease(app: LocalAdmin) -> None:
    lease = register(app)
    reply = app.ask("POST", "/v1/servers/app/l1/drain?wait=applied")
    assert reply.json["changes"][0]["fields"] == [{"field": "state", "old": "up", "new": "draining"}]
    found = app.ask("GET", L1).json
    assert (found["value"]["state"], found["lease"]) == ("draining", lease)
    assert app.ask("POST", "/v1/servers/app/l1/undrain").status == 200
    assert app.ask("GET", L1).json["value"]["state"] == "up"
    assert app.ask("POST", "/v1/servers/app/l1/ready").status == 200
    assert app.ask("POST", "/v1/servers/app/nobody/drain").status == 404
