"""One etcd for the tests that do it no harm; those that do start their own."""

from collections.abc import Iterator

import pytest

from kit.etcd import Etcd


@pytest.fixture(scope="session")
def shared_etcd() -> Iterator[Etcd]:
    """An etcd that nobody stops, fills or compacts; a test uses a prefix of its own."""
    with Etcd() as server:
        yield server


@pytest.fixture
def server() -> Iterator[Etcd]:
    """An etcd of one's own."""
    with Etcd() as server:
        yield server
