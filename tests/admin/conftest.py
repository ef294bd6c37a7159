"""Fixtures of the API's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.local import LocalAdmin


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalAdmin]:
    """An empty store behind its admin API, on a Unix socket."""
    with LocalAdmin(tmp_path) as running:
        yield running


@pytest.fixture
def app(api: LocalAdmin) -> LocalAdmin:
    """The same with one backend `app` with server `a1`, and a frontend `app`."""
    tree = {
        "listeners": {"web": {"address": "127.0.0.1:8080"}},
        "backends": {"app": {"servers": {"a1": {"url": "http://127.0.0.1:9001"}}}},
        "frontends": {"app": {"route": "PathPrefix(`/`)", "backend": "app"}},
    }
    reply = api.ask("POST", "/v1/apply", {"tree": tree})
    assert reply.status == 200, reply.data
    return api
