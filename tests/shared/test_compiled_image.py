"""What the snapshot compiler writes is what the verifier accepts, under the identities that the directory gives out."""

from __future__ import annotations

import os

import msgspec

from bascule.change.compile import compile_snapshot
from bascule.model.tree import Tree
from bascule.shared.snapshot import verify
from bascule.shared.statistics import Directory, Reader, create

from . import images

TREE = {
    "listeners": {"web": {"address": "0.0.0.0:8080"}},
    "backends": {
        "app": {"servers": {"a1": {"url": "http://127.0.0.1:9001"}, "a2": {"url": "http://[::1]:9002"}}},
        "sock": {"servers": {"u": {"url": "unix:///run/app.sock"}, "n": {"url": "http://name.example:80"}}},
    },
    "frontends": {
        "shop": {
            "route": "Host(`shop.example`) && PathPrefix(`/v2/<tenant>`)",
            "backend": "app",
            "middlewares": {"limit": {"type": "rate_limit", "requests": 100, "period": "1s", "key": "client.ip"}},
        },
        "rest": {"route": "PathPrefix(`/`)", "backend": "sock"},
        "early": {"route": "Path(`/early`)", "backend": "not-there-yet"},
    },
}


def test_compiled_images_are_accepted_and_consistent() -> None:
    fd = create()
    try:
        directory = Directory(fd)
        tree = msgspec.convert(TREE, Tree)
        compiled = compile_snapshot(tree, revision=42, slot=directory.slot, addresses={})
        assert verify(compiled.image) == 42
        images.assert_consistent(compiled.image)
        identities = {(row.kind, row.id) for row in Reader(fd).totals()}
    finally:
        os.close(fd)
    assert {("listener", "web"), ("backend", "sock"), ("server", "app/a2"), ("frontend", "shop")} <= identities
