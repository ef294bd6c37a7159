"""Users, passwords, tokens and certificates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.store.etcd.credentials import PASSWORD_VARIABLE
from bascule.store.etcd.store import EtcdStore
from bascule.store.interface import Put, RefusedError, Transaction, UnavailableError
from kit.etcd import Etcd, make_certificates
from kit.following import Follower

PASSWORD = "correct-horse"
PUT = Transaction((Put("backends/a", b"1"),))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Etcd]:
    """An etcd that asks for a password and forgets a token after two seconds without use."""
    with Etcd(flags=["--auth-token-ttl", "2", "--bcrypt-cost", "4"]) as server:
        server.enable_users(PASSWORD)
        yield server


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


def store_of(server: Etcd, password_file: Path, **more: Any) -> EtcdStore:
    return EtcdStore(server.options(username="bascule", password_file=str(password_file), **more))


def forget(store: EtcdStore) -> None:
    """Make the store's token one that etcd does not know, as if it had ended."""
    store.client._token = "never.1"


def test_an_ended_token_is_renewed_once_and_the_call_repeated(guarded: Etcd, password_file: Path) -> None:
    async def go() -> None:
        store = store_of(guarded, password_file)
        await store.commit(PUT)
        assert store.client.calls["Authenticate"] == 1
        await asyncio.sleep(5)  # etcd looks for ended tokens once a second
        assert (await store.read()).entries["backends/a"].value == b"1"
        assert store.client.calls["Authenticate"] == 2
        forget(store)
        await store.commit(PUT)
        assert store.client.calls["Authenticate"] == 3
        await store.close()

    asyncio.run(go())


def test_a_watch_and_calls_survive_a_restart_that_forgets_all_tokens(guarded: Etcd, password_file: Path) -> None:
    async def go() -> None:
        store = store_of(guarded, password_file)
        async with Follower(store) as follower:
            await store.commit(PUT)
            guarded.member.kill()
            await follower.until(lambda: follower.errors, "the end is noticed")
            guarded.member.start()
            await asyncio.to_thread(guarded.wait, f"root:{PASSWORD}")
            await store.commit(Transaction((Put("backends/a", b"2"),)))
            await follower.until_entry("backends/a", b"2")
            assert follower.readings == 1
        await store.close()

    asyncio.run(go())


def test_a_watch_that_begins_with_an_ended_token_renews_it(guarded: Etcd, password_file: Path) -> None:
    async def go() -> None:
        store = store_of(guarded, password_file)
        revision = (await store.read()).revision
        forget(store)
        async for batch in store.watch(revision):
            assert batch.revision == revision
            break
        assert store.client.calls["Authenticate"] == 2
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize("what", ["wrong", "none", "nobody", "elsewhere"])
def test_who_may_not_is_told_what_to_do_without_a_secret(
    guarded: Etcd, password_file: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2")
    stores = {
        "wrong": (lambda: store_of(guarded, wrong), "password_file"),
        "none": (lambda: EtcdStore(guarded.options(username="bascule")), PASSWORD_VARIABLE),
        "nobody": (lambda: EtcdStore(guarded.options()), "username"),
        "elsewhere": (lambda: store_of(guarded, password_file, prefix="/other"), "grant"),
    }
    make, remedy = stores[what]

    async def go() -> None:
        store = make()
        for attempt in (store.read(), store.commit(PUT), anext(aiter(store.watch(1)))):
            with pytest.raises(RefusedError) as caught:
                await attempt
            assert remedy in caught.value.remedy
            for secret in (PASSWORD, "hunter2"):
                assert secret not in f"{caught.value}{caught.value.remedy}{store.place}{store.client.options!r}"
        await store.close()

    asyncio.run(go())


def test_a_password_from_the_environment(guarded: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)

    async def go() -> None:
        store = EtcdStore(guarded.options(username="bascule"))
        assert (await store.read()).revision
        await store.close()

    asyncio.run(go())


def test_a_user_where_nobody_is_asked_for_one(shared_etcd: Etcd, password_file: Path) -> None:
    async def go() -> None:
        store = store_of(shared_etcd, password_file)
        await store.read()
        await store.read()
        assert store.client.calls["Authenticate"] == 1
        await store.close()

    asyncio.run(go())


def test_users_that_are_switched_on_while_we_run(server: Etcd, password_file: Path) -> None:
    async def go() -> None:
        store = store_of(server, password_file)
        async with Follower(store) as follower:
            await store.commit(PUT)
            server.enable_users(PASSWORD)
            await store.commit(Transaction((Put("backends/a", b"2"),)))
            await follower.until_entry("backends/a", b"2")
        await store.close()

    asyncio.run(go())


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd with TLS that asks for certificates."""
    with Etcd(tls=make_certificates(tmp_path_factory.mktemp("certificates"))) as server:
        yield server


def test_tls_with_a_client_certificate(encrypted: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(encrypted.options())
        async with Follower(store) as follower:
            await store.commit(PUT)
            await follower.until_entry("backends/a", b"1")
        await store.close()
        assert store.place.startswith("https://")

    asyncio.run(go())


@pytest.mark.parametrize("without", ["ca_file", "cert_file"])
def test_tls_without_the_right_certificates_is_no_connection(encrypted: Etcd, without: str) -> None:
    more = {"ca_file": ""} if without == "ca_file" else {"cert_file": "", "key_file": ""}

    async def go() -> None:
        store = EtcdStore(encrypted.options(timeout_ms=1500, **more))
        expected = "ca_file" if without == "ca_file" else ""
        for _ in range(5):  # a handshake that was not through in time says nothing of certificates
            with pytest.raises(UnavailableError) as caught:
                await store.read()
            assert caught.value.remedy
            if expected in caught.value.remedy:
                break
        assert expected in caught.value.remedy
        await store.close()

    asyncio.run(go())


def test_a_certificate_file_that_is_not_there(encrypted: Etcd) -> None:
    async def go() -> None:
        store = EtcdStore(encrypted.options(ca_file="/nowhere/ca.pem"))
        with pytest.raises(RefusedError, match=r"/nowhere/ca\.pem"):
            await store.read()
        await store.close()

    asyncio.run(go())
