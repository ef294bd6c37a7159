"""A whole balancer on a real etcd with a vulcand tree in it, under load."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.client import get
from kit.etcd import Etcd
from kit.origin import ScriptedOrigin
from kit.waiting import free_port, until
from process.balancer import Load, serves
from process.live import LiveBalancer

ARRIVES_S = 40.0


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as running:
        yield running


def test_a_vulcand_tree_is_served_as_its_programs_change_it(tmp_path: Path, origin: ScriptedOrigin) -> None:
    """What an operator does who knows vulcand: point at its etcd, and see traffic flow."""
    port = free_port()
    server = {"URL": f"http://{origin.address}"}
    frontend = {"Type": "http", "BackendId": "app", "Route": 'PathRegexp("/.*")', "Settings": {"PassHostHeader": True}}
    objects = {
        "listeners/web": {"Protocol": "http", "Address": {"Network": "tcp", "Address": f"127.0.0.1:{port}"}},
        "backends/app/backend": {"Type": "http"},
        "backends/app/servers/a1": server,
        "backends/app/servers/a2": server,
        "frontends/app/frontend": frontend,
    }
    with Etcd() as etcd:
        etcd.transact({f"/vulcand/{key}": json.dumps(value) for key, value in objects.items()})
        arguments = ["--store", "vulcand", "--etcd", f"127.0.0.1:{etcd.member.client_port}"]
        balancer = LiveBalancer(tmp_path / "live", arguments=arguments, start=False)
        try:
            balancer.start()
            until(lambda: serves(port), f"a served request: {balancer.log()}", ARRIVES_S)
            with Load(port) as load:
                lease = etcd.grant(2)
                etcd.put("/vulcand/backends/app/servers/a3", json.dumps(server), lease)
                etcd.put("/vulcand/backends/none/backend", '{"Type": "http"}')
                exact = frontend | {"BackendId": "none", "Route": 'Path("/v2/<id>") && Method("GET")'}
                etcd.put("/vulcand/frontends/exact/frontend", json.dumps(exact))
                until(lambda: get(("127.0.0.1", port), "/v2/x").status == 503, "the new route", ARRIVES_S, 0.05)
                assert get(("127.0.0.1", port), "/v2/x/").status == 200
                etcd.delete("/vulcand/backends/app/servers/a2")
                etcd.put("/vulcand/frontends/app/middlewares/cb1", '{"Type": "cbreaker", "Middleware": {}}')
                until(lambda: "circuit breakers" in str(balancer.status()["warnings"]), "what is left out", ARRIVES_S)
                bad = frontend | {"Route": "Host(a)"}
                etcd.put("/vulcand/frontends/bad/frontend", json.dumps(bad))
                balancer.until_state("frontends/bad", "quarantined")
                assert "expected a string" in json.dumps(balancer.states())
                load.more(200)
                assert load.failures == []
            status, answer = balancer.ask("PUT", "/v1/backends/x", {})
            assert status >= 400
            assert "vctl" in json.dumps(answer)
        finally:
            balancer.__exit__(None, None, None)
