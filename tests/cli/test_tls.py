"""Commands over TCP: a token and a certificate that is what it should be, and every way in which it is not."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from admin.local import LocalAdmin
from bascule.cli.main import main
from kit.etcd import make_certificates
from kit.waiting import free_port, until

Ask = Callable[..., tuple[int, str, str]]


class Remote:
    """An admin API on TCP with a certificate, and the file of a token for it."""

    def __init__(self, api: LocalAdmin, directory: Path, port: int, certificates: dict[str, Path]) -> None:
        self.port = port
        self.ca = str(certificates["ca"])
        until(lambda: "the admin API is on TCP" in [event for event, _ in api.live.logged], "TCP is served", 20)
        secret = api.ask("POST", "/v1/tokens", {"name": "deploy", "role": "viewer"}).json["secret"]
        self.token = directory / "token"
        self.token.write_text(secret + "\n")

    def words(self, scheme: str = "https", host: str = "127.0.0.1", ca: str = "") -> list[str]:
        found = ["--admin", f"{scheme}://{host}:{self.port}", "--token-file", str(self.token)]
        return [*found, "--ca-file", ca or self.ca] if scheme == "https" else found


@contextmanager
def remote(directory: Path, **certificate: Any) -> Iterator[Remote]:
    certificates = make_certificates(directory, **certificate)
    port = free_port()
    files = {"admin_cert": str(certificates["cert"]), "admin_key": str(certificates["key"])}
    with LocalAdmin(directory, admin=[f"127.0.0.1:{port}"], **files) as api:
        yield Remote(api, directory, port, certificates)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run a command; gives exit status, standard output, standard error."""
    for name in ("BASCULE_ADMIN", "BASCULE_TOKEN", "BASCULE_TOKEN_FILE", "BASCULE_ADMIN_PLAIN"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["get", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_right_certificate_and_who_may_not_sign_it(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    another = make_certificates(tmp_path / "another")
    with remote(tmp_path) as there:
        assert ask(*there.words())[0] == 0
        assert ask(*there.words(host="localhost"))[0] == 0
        status, _, err = ask(*there.words(ca=str(another["ca"])))
        assert status == 1
        assert "its certificate is refused" in err
        assert "--ca-file" in err
        system = [word for word in there.words() if word not in ("--ca-file", there.ca)]
        status, _, err = ask(*system)
        assert status == 1
        assert "--ca-file" in err
        status, _, err = ask(*there.words(ca=str(tmp_path / "missing.pem")))
        assert status == 1
        assert "missing.pem" in err
        there.token.write_text("bascule_nonsense")
        status, _, err = ask(*there.words())
        assert status == 1
        assert "token" in err
        assert "nonsense" not in err


def test_a_certificate_of_another_name(ask: Ask, tmp_path: Path) -> None:
    with remote(tmp_path, names_of_it="DNS:edge.example.com") as there:
        for host in ("127.0.0.1", "localhost"):
            status, _, err = ask(*there.words(host=host))
            assert status == 1
            assert "mismatch" in err
            assert "subjectAltName" in err


def test_a_certificate_that_has_ended(ask: Ask, tmp_path: Path) -> None:
    with remote(tmp_path, days=-1) as there:
        status, _, err = ask(*there.words())
        assert status == 1
        assert "expired" in err
        assert "renewed" in err


def test_plain_http_where_tls_is_spoken_and_tls_where_it_is_not(ask: Ask, tmp_path: Path) -> None:
    with remote(tmp_path) as there:
        status, _, err = ask(*there.words(scheme="http"))
        assert status == 1
        assert "write https://" in err
        certificates = make_certificates(tmp_path)
        port = free_port()
        (tmp_path / "plain").mkdir()
        with LocalAdmin(tmp_path / "plain", admin=[f"127.0.0.1:{port}"]) as api:
            plain = Remote(api, tmp_path / "plain", port, certificates)
            assert ask(*plain.words(scheme="http"))[0] == 0
            status, _, err = ask(*plain.words())
            assert status == 1
            assert "plain http://" in err


def test_no_token_leaves_this_machine_in_the_clear(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("bascule_secret")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was connected to")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for url in ("http://192.0.2.1:8181", "192.0.2.1:8181", "http://edge.example.com:8181"):
        status, _, err = ask("--admin", url, "--token-file", str(token))
        assert status == 1
        assert "in the clear" in err
        assert "https://" in err
        assert "secret" not in err
    monkeypatch.setenv("BASCULE_ADMIN_PLAIN", "anywhere")
    with pytest.raises(AssertionError, match="connected"):
        ask("--admin", "http://192.0.2.1:8181", "--token-file", str(token))
