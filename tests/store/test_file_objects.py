"""The file store as a store of objects."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from bascule.store.file import load
from bascule.store.file_objects import FileStore, InvalidFileError, tree_objects
from bascule.store.interface import Store, UnavailableError
from store.acceptance import A1, Harness, ReadOnlyAcceptance, Session, run, server


class FileHarness(Harness):
    """A JSON file; somebody else replaces it by another."""

    writable = False
    past = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "bascule.json"
        self.objects: dict[str, dict[str, Any]] = {}

    def fresh(self) -> None:
        self.objects = {}
        self.write({})

    def open(self) -> Store:
        return FileStore(str(self.file), poll_interval_s=0.05)

    def write(self, puts: Mapping[str, dict[str, Any]], removes: Sequence[str] = ()) -> None:
        self.objects.update(puts)
        for key in removes:
            self.objects.pop(key, None)
        tree: dict[str, Any] = {}
        for key, value in self.objects.items():
            place = tree
            for part in key.split("/"):
                place = place.setdefault(part, {})
            place.update(value)
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(tree))
        os.rename(temporary, self.file)


class TestFile(ReadOnlyAcceptance):
    harness_type = FileHarness

    def test_an_invalid_file_is_no_reading(self, harness: FileHarness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}, A1: server(1)})
            good = await session.store.read()
            harness.file.write_text('{"backends": {"app": {"servers": {"a1": {"url": "ftp://x"}}}}}')
            for _ in range(2):
                with pytest.raises(InvalidFileError) as caught:
                    await session.store.read()
                assert "ftp://x" in str(caught.value)
                assert caught.value.problems[0].line == 1
            await session.write({})
            assert (await session.store.read()) == good

        run(harness, test)

    def test_a_watch_ends_by_an_invalid_or_missing_file(self, harness: FileHarness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            for spoil, error in (
                (lambda: harness.file.write_text("{"), InvalidFileError),
                (harness.file.unlink, UnavailableError),
            ):
                reading = await session.store.read()
                async with aclosing(session.store.watch(reading.revision)) as watch:  # type: ignore[type-var]
                    waiting = asyncio.ensure_future(anext(watch))
                    spoil()
                    with pytest.raises(error) as caught:
                        await waiting
                assert caught.value.remedy
                await session.write({})

        run(harness, test)

    def test_a_touched_file_is_no_revision(self, harness: FileHarness) -> None:
        async def test(session: Session) -> None:
            await session.write({"backends/app": {}})
            first = await session.store.read()
            await session.write({})
            harness.file.write_text(harness.file.read_text() + "\n")
            assert (await session.store.read()).revision == first.revision

        run(harness, test)


def test_objects_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bascule.toml"
    file.write_text(
        """
        [settings]
        workers = 2
        [listeners.web]
        address = "127.0.0.1:8080"
        [backends.app]
        connect_timeout = "1s"
        [backends.app.servers.a1]
        url = "http://127.0.0.1:9001"
        [frontends.app]
        route = 'PathPrefix("/")'
        backend = "app"
        [frontends.app.middlewares.limit]
        type = "rate_limit"
        requests = 10
        period = "1s"
        """
    )
    objects = {key: json.loads(value) for key, value in tree_objects(load(file).tree)}
    assert objects == {
        "settings": {"workers": 2},
        "listeners/web": {"address": "127.0.0.1:8080"},
        "backends/app": {"connect_timeout": "1s"},
        "backends/app/servers/a1": {"url": "http://127.0.0.1:9001"},
        "frontends/app": {"route": 'PathPrefix("/")', "backend": "app"},
        "frontends/app/middlewares/limit": {"type": "rate_limit", "requests": 10, "period": "1s"},
    }
