"""The stream of events: server-sent events (WHATWG HTML, section 9.2), one client at a time, bounded.

`id` is the store revision. A client that comes back with Last-Event-ID gets the changes of the history after it as `change` events, as
far as they are kept; when some are missing it gets `lost` first, and should read the state again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call, NoQuery
from bascule.admin.values import changes_of
from bascule.change.live import Notice
from bascule.process.receipt import summary
from bascule.store.interface import Record, StoreError, large

HEARTBEAT_S: Final = 10.0
REPLAY_MAX: Final = 1000
UPGRADE_FRESH_S: Final = 10.0
_RETRY_MS: Final = 1000


async def follow(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Answer with the stream of what happens from now on, and what was missed since Last-Event-ID."""
    api.event_clients.check()
    text = call.last_event_id
    known = text.isascii() and text.isdigit() and len(text) < 19 and api.live.store is not None
    events = _stream(api, int(text) if known else None, lambda: api.tokens.stands(call.principal))
    return Answer(content_type="text/event-stream", events=events)


async def _stream(api: Api, after: int | None, stands: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """`stands` tells whether the client still may have what comes: a token that is removed or has expired ends the stream."""
    with api.event_clients.one():
        notices = api.live.notices().__aiter__()
        closing = asyncio.ensure_future(api.closing.wait())
        upcoming: asyncio.Future[Notice] = asyncio.ensure_future(_next(notices))
        seen = 0
        try:
            yield b"retry: %d\n: revision %d is in force\n\n" % (_RETRY_MS, api.live.revision)
            for notice in await _ended_upgrade(api):
                yield event(notice)
            if after is not None:  # read only now: what happens from here on is in `notices`
                for notice in await _missed(api, after):
                    seen = max(seen, notice.revision)
                    yield event(notice)
            while not closing.done():
                await asyncio.wait((upcoming, closing), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if not stands():
                    return
                if not upcoming.done():
                    yield b": still here\n\n"
                    continue
                error = upcoming.exception()
                if error is not None:
                    if not isinstance(error, StopAsyncIteration):
                        yield event(_lost(api.live.revision, "this client was too slow"))
                    return
                notice = upcoming.result()
                upcoming = asyncio.ensure_future(_next(notices))
                if notice.type != "change" or notice.revision > seen:
                    yield event(notice)
        finally:
            closing.cancel()
            upcoming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await upcoming
            if hasattr(notices, "aclose"):
                await notices.aclose()


async def _next(notices: AsyncIterator[Notice]) -> Notice:
    return await notices.__anext__()


async def _missed(api: Api, after: int) -> list[Notice]:
    """Return the changes after a revision, oldest first."""
    try:
        records: Sequence[Record] = await api.store().history(REPLAY_MAX, 0)
    except StoreError as error:
        return [_lost(after, str(error))]
    found = [record for record in records if record.revision > after]
    notices = [
        Notice(
            "change", record.revision, record.at_s, {"author": record.author, "changes": changes_of(record.alterations)}
        )
        for record in reversed(found)
    ]
    if len(found) == REPLAY_MAX or (large(records) and len(found) == len(records)):
        notices.insert(0, _lost(after, f"more than {len(found)} changes were missed"))
    return notices


async def _ended_upgrade(api: Api) -> list[Notice]:
    """Return the end of an upgrade that was a moment ago: the upgrade itself has cut this client's stream before."""
    receipts = await api.program.receipts()
    ended_s = receipts[-1].get("at", 0.0) + receipts[-1].get("took_s", 0.0) if receipts else 0.0
    if time.time() - ended_s > UPGRADE_FRESH_S:
        return []
    return [Notice("upgrade", api.live.revision, ended_s, summary(receipts[-1]))]


class _Lost(msgspec.Struct, frozen=True):
    type: str
    revision: int
    at_s: float
    data: Mapping[str, Any]


def _lost(revision: int, reason: str) -> Any:
    return _Lost("lost", revision, time.time(), {"reason": reason, "remedy": "read the state again: GET /v1/tree"})


def event(notice: Notice) -> bytes:
    """Return one event as it goes over the wire; JSON has no line breaks of its own."""
    data = msgspec.json.encode(notice)
    return b"event: %s\nid: %d\ndata: %s\n\n" % (notice.type.encode(), notice.revision, data)
