"""Who may do what: the Unix socket's user, bearer tokens and their roles on TCP, TLS, and how tokens are kept."""

import contextlib
import json
import os
import resource
import shutil
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.local import LocalAdmin
from bascule.admin import events, handshakes
from bascule.admin.access import FAILURES_MAX
from bascule.admin.address import AddressError, check_admin, parse_address
from bascule.admin.endpoint import Role
from bascule.admin.endpoints import all_endpoints
from bascule.admin.tokens import TokenError, Tokens
from kit.waiting import free_port, until


class Remote:
    """The API on TCP, and a token of each role."""

    def __init__(self, api: LocalAdmin, port: int) -> None:
        self.api = api
        self.address = ("127.0.0.1", port)
        self.secrets: dict[str, str] = {}
        until(self.listens, "the API listens on TCP", 20)
        for role in ("viewer", "operator", "author", "admin"):
            reply = api.ask("POST", "/v1/tokens", {"name": f"a-{role}", "role": role})
            assert reply.status == 201
            self.secrets[role] = reply.json["secret"]

    def listens(self) -> bool:
        try:
            self.api.ask("GET", "/v1/status", address=self.address)
        except OSError:
            return False
        return True

    def ask(self, role: str, method: str, path: str, body: object = None) -> int:
        token = self.secrets.get(role, role)
        return self.api.ask(method, path, body, address=self.address, Authorization=f"Bearer {token}").status


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    port = free_port()
    with LocalAdmin(tmp_path, admin=[f"127.0.0.1:{port}"]) as api:
        yield Remote(api, port)


def test_roles(remote: Remote) -> None:
    remote.api.ask("PUT", "/v1/backends/app", {})
    remote.api.ask("PUT", "/v1/backends/app/servers/a1", {"url": "http://127.0.0.1:1"})
    for role, allowed in [("viewer", 1), ("operator", 2), ("author", 3), ("admin", 4)]:
        for needed, method, path, body in [
            (1, "GET", "/v1/backends", None),
            (1, "GET", "/metrics", None),
            (2, "POST", "/v1/servers/app/a1/drain", None),
            (2, "POST", "/v1/unfreeze", None),
            (3, "PUT", "/v1/backends/app", {}),
            (3, "POST", "/v1/apply", {"tree": {"backends": {}}}),
            (3, "POST", "/v1/rollback?dry_run", {"revision": 2}),
            (4, "PUT", "/v1/settings", {}),
            (4, "POST", "/v1/apply", {"tree": {"settings": {"workers": allowed}}}),
            (4, "GET", "/v1/tokens", None),
        ]:
            status = remote.ask(role, method, path, body)
            assert (status == 403) == (allowed < needed), (role, method, path, status)
            assert status in (200, 403)


def test_only_reading_is_for_viewers() -> None:
    for endpoint in all_endpoints():
        assert (endpoint.role == Role.VIEWER) <= (endpoint.method == "GET"), endpoint.path


def test_wrong_tokens(remote: Remote) -> None:
    assert remote.api.ask("GET", "/v1/status", address=remote.address).status == 401
    reply = remote.api.ask("GET", "/v1/status", address=remote.address, Authorization="Basic eDp5")
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Bearer realm="bascule"')
    statuses = [remote.ask("guess", "GET", "/v1/status") for _ in range(FAILURES_MAX)]
    assert statuses[-1] == 429
    assert set(statuses) == {401, 429}
    assert remote.ask("viewer", "GET", "/v1/status") == 200, "a right one passes all the same"


def test_the_author_is_the_token(remote: Remote) -> None:
    assert remote.ask("author", "PUT", "/v1/backends/app", {}) == 200
    assert remote.api.ask("GET", "/v1/history").json["items"][0]["author"] == "a-author"


def test_a_removed_token_opens_nothing(remote: Remote) -> None:
    assert remote.ask("admin", "DELETE", "/v1/tokens/a-viewer") == 204
    assert remote.ask("viewer", "GET", "/v1/status") == 401
    assert remote.ask("admin", "DELETE", "/v1/tokens/a-viewer") == 404
    assert remote.ask("admin", "POST", "/v1/tokens", {"name": "a-author", "role": "viewer"}) == 409
    assert remote.ask("admin", "POST", "/v1/tokens", {"name": "x", "role": "king"}) == 400


def test_a_removed_token_ends_its_stream_of_events(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    streams = {}
    with contextlib.ExitStack() as stack:
        for role in ("viewer", "operator"):
            connection = stack.enter_context(remote.api.connection(remote.address))
            connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {remote.secrets[role]}"})
            streams[role] = connection.getresponse()
            assert streams[role].status == 200
            assert b"retry" in streams[role].readline()
        assert remote.ask("admin", "DELETE", "/v1/tokens/a-viewer") == 204
        assert remote.ask("admin", "POST", "/v1/tokens", {"name": "a-viewer", "role": "viewer"}) == 201
        streams["viewer"].read()  # comes back when it has ended
        for _ in range(5):
            assert streams["operator"].readline(), "nobody else's ends"


def test_a_full_disk_takes_no_token_and_loses_none(tmp_path: Path) -> None:
    tokens = Tokens(str(tmp_path / "tokens.json"))
    _, secret = tokens.add("one", "admin")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(tokens.path).st_size + 20, hard))
    try:
        with pytest.raises(TokenError) as caught:
            tokens.add("two", "viewer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert caught.value.remedy
    assert Tokens(tokens.path).principal(secret) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]
    assert tokens.remove("one")
    assert tokens.principal(secret) is None


def test_secrets_are_nowhere_but_in_the_first_answer(remote: Remote) -> None:
    api = remote.api
    file = api.directory / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = json.dumps(api.live.logged) + file.read_text() + api.ask("GET", "/v1/tokens").data.decode()
    assert remote.secrets
    assert not any(secret in said for secret in remote.secrets.values())
    assert "sha256" not in api.ask("GET", "/v1/tokens").data.decode()


def test_tokens_expire_and_survive_restarts(tmp_path: Path) -> None:
    tokens = Tokens(str(tmp_path / "tokens.json"))
    _, secret = tokens.add("one", "viewer", 0.05)
    _, lasting = tokens.add("two", "operator")
    assert [token.name for token in Tokens(tokens.path).all()] in (["one", "two"], ["two"])
    until(lambda: tokens.principal(secret) is None, "the token has expired", 10)
    found = Tokens(tokens.path).principal(lasting)
    assert found is not None
    assert (found.name, found.role) == ("two", Role.OPERATOR)
    tokens.add("one", "viewer")
    assert len(tokens.all()) == 2
    with pytest.raises(TokenError):
        tokens.add("two", "viewer")
    Path(tokens.path).write_text("{")
    with pytest.raises(TokenError):
        Tokens(tokens.path).all()


def test_the_unix_socket_is_the_owners(api: LocalAdmin) -> None:
    assert stat.S_IMODE(os.stat(api.path).st_mode) == 0o600
    assert api.ask("GET", "/v1/tokens", Authorization="Bearer nonsense").status == 200


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("openssl is missing: apt-get install openssl")
    certificate, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificate))
    options = {"admin": [f"127.0.0.1:{port}"], "admin_cert": str(certificate), "admin_key": str(key)}
    with LocalAdmin(tmp_path, **options) as api:
        secret = api.ask("POST", "/v1/tokens", {"name": "t", "role": "viewer"}).json["secret"]
        until(lambda: "the admin API is on TCP" in [event for event, _ in api.live.logged], "TCP is served", 20)
        address = ("127.0.0.1", port)
        reply = api.ask("GET", "/v1/status", address=address, tls=context, Authorization=f"Bearer {secret}")
        assert reply.status == 200
        with pytest.raises((OSError, ssl.SSLError, ValueError, Exception)):
            api.ask("GET", "/v1/status", address=address)
        # Who never says a word is let go, and as many as may wait keep nobody else out for longer.
        monkeypatch.setattr(handshakes, "CONNECTIONS_MAX", 5)
        monkeypatch.setattr(handshakes, "HEAD_TIMEOUT_S", 1.0)
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(20)]
            assert [client.recv(1) for client in silent] == [b""] * 20
            reply = api.ask("GET", "/v1/status", address=address, tls=context, Authorization=f"Bearer {secret}")
            assert reply.status == 200


def test_an_address_in_use_is_waited_for(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with LocalAdmin(tmp_path, admin=[f"127.0.0.1:{port}"]) as api:
            until(lambda: api.live.logged, "the log says so", 20)
            assert api.live.logged[0][0] == "the admin API cannot listen"
            assert api.ask("GET", "/v1/status").status == 200
            holder.close()
            until(lambda: len(api.live.logged) > 1, "it listens", 20)
            assert api.ask("GET", "/v1/status", address=("127.0.0.1", port)).status == 401


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8181", ("127.0.0.1", 8181)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:8181", ("::1", 8181)),
        (":8181", ("::", 8181)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "8181", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "host:1", "::1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(AddressError) as error:
        parse_address(text)
    assert error.value.remedy


def test_tokens_do_not_cross_a_network_in_the_clear() -> None:
    check_admin([], "", "", "")
    check_admin(["127.0.0.1:1", "[::1]:1"], "", "", "loopback")
    check_admin([":1"], "cert", "key", "loopback")
    check_admin([":1"], "", "", "anywhere")
    for wrong in (
        ([":1"], "", "", "loopback"),
        (["127.0.0.1:1", "10.0.0.1:1"], "", "", ""),
        ([":1"], "cert", "", ""),
        ([], "cert", "key", ""),
    ):
        with pytest.raises(AddressError):
            check_admin(*wrong)


def test_expiry_is_in_the_list(api: LocalAdmin) -> None:
    api.ask("POST", "/v1/tokens", {"name": "t", "role": "viewer", "ttl": "1h"})
    token = api.ask("GET", "/v1/tokens").json["items"][0]
    assert 3500 < token["expires_at_s"] - time.time() < 3601
