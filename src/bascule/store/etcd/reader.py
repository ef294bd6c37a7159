"""Reading one range of keys in etcd: all of it at one revision, and every revision after that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from bascule.store.etcd.client import END, EtcdClient, Link, pause_s, rpc
from bascule.store.etcd.errors import TokenError, TooLargeError, store_error
from bascule.store.etcd.pace import PAUSE_S, Pace
from bascule.store.etcd.pages import Part, next_part
from bascule.store.etcd_page import Page
from bascule.store.interface import (
    Batch,
    CompactedError,
    Entry,
    Event,
    Reading,
    RefusedError,
    StoreError,
    UnavailableError,
)

PAGE_KEYS: Final = 10_000
"""Of the first page; what follows has as many as fit:"""
PAGE_KEYS_MAX: Final = 60_000
PAGE_BYTES: Final = 16 << 20
"""etcd counts everything behind a page again for each page: 300,000 keys take it 3.5 s by 10,000 and 1.7 s by 60,000."""
SLICE_KEYS: Final = 5_000
"""Between two slices of a page others may run: 5,000 take 2 ms."""
TICK_S: Final = 1.0
"""A silent watch is asked for a sign of life this often,"""
TICKS_MAX: Final = 3
"""and given up after so many silent ones."""
CREATE_S: Final = 5.0
ALIVE_S: Final = 5.0
"""A batch without events is given at least this often."""
READS_MAX: Final = 5
ATTEMPT_MAX_S: Final = 60.0


class _PageTooLargeError(Exception):
    """A page has to be asked for again, smaller."""

    def __init__(self, limit: int) -> None:
        self.limit = limit


NameOf = Callable[[bytes], str | None]


def next_limit(limit: int, bytes_each: int) -> int:
    """Return how many keys of this size the page after one of `limit` may have. One that was made smaller stays so."""
    if limit < PAGE_KEYS:
        return limit
    return max(1, min(PAGE_KEYS_MAX, PAGE_BYTES // max(bytes_each, 1)))


class RangeReader:
    """Reads and watches the keys from `start` to (not with) `end`. `name_of` gives an object's key, None to leave it out."""

    def __init__(self, client: EtcdClient, start: bytes, end: bytes, name_of: NameOf, mark: bytes = b"") -> None:
        """`mark` is given when a name simply is what follows `start`, but for the key `mark`."""
        self._mark = mark
        self._client = client
        self._start = start
        self._end = end
        self._name_of = name_of
        self._identity = ""
        """Of the cluster that was read last; with another one, no watch goes on."""
        self._attempt_s = client.attempt_s
        """For one page: longer after each that did not come, so that a list that takes etcd long is read in the end."""
        self._failures = 0
        """Watches in a row that broke before they were set up: what the pause before the next one grows with."""

    # ── everything at one revision ───────────────────────────────────────────────────────────────────────────────

    async def read(self, at: int = 0) -> Reading:
        """Return everything at a revision (0: now), in pages that are all of that one revision."""
        for _ in range(READS_MAX - 1):
            try:
                return await self._read(at)
            except CompactedError:
                if at:
                    raise
                # Compacted between two of our pages: begin again at what is now.
        return await self._read(at)

    async def _read(self, at: int) -> Reading:
        entries: dict[str, Entry] = {}
        limit, identity, revision = PAGE_KEYS, "", at
        part = Part(self._start, self._end, 0)
        asked: asyncio.Future[Page] = asyncio.ensure_future(self._page(part, limit, revision))
        try:
            while True:
                try:
                    page = await asked
                except _PageTooLargeError as error:
                    limit = error.limit
                    asked = asyncio.ensure_future(self._page(part, limit, revision))
                    continue
                if identity and identity != f"{page.cluster_id:016x}":
                    raise UnavailableError("another cluster answered in the middle of a list", "check the endpoints")
                identity = f"{page.cluster_id:016x}"
                revision = revision or page.revision
                if page.more:
                    limit = next_limit(limit, len(page) // max(page.count, 1))
                following = next_part(
                    part, last_key=page.last_key, more=page.more, total=page.total, limit=limit, end=self._end
                )
                if following is not None:
                    part = following
                    asked = asyncio.ensure_future(self._page(part, limit, revision))
                await self._take(page, entries)
                if following is None:
                    self._identity = identity
                    self._attempt_s = self._client.attempt_s
                    return Reading(identity, revision, entries)
        finally:
            asked.cancel()

    async def _page(self, part: Part, limit: int, revision: int) -> Page:
        request = rpc.RangeRequest(key=part.start, range_end=part.end, limit=limit, revision=revision)
        try:
            page: Page = await self._client.call("Pages", "Range", request, attempt_s=self._attempt_s)
        except TooLargeError:
            if limit == 1:
                raise
            raise _PageTooLargeError(max(1, limit // 4)) from None
        except UnavailableError:
            self._attempt_s = min(self._attempt_s * 2, ATTEMPT_MAX_S)
            raise
        return page

    async def _take(self, page: Page, entries: dict[str, Entry]) -> None:
        """Take in a page, while etcd looks for the next one."""
        for first in range(0, page.count, SLICE_KEYS):
            await asyncio.sleep(0)
            if self._mark:
                page.take(entries, first, SLICE_KEYS, start=self._start, mark=self._mark)
            else:
                page.take(entries, first, SLICE_KEYS, name_of=self._name_of)

    # ── every revision after one ─────────────────────────────────────────────────────────────────────────────────

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        """Yield every revision after `after`; see Store.watch.

        Called again after an error it waits by itself, longer each time up to some seconds and never as long as other
        nodes, so that a caller may call again at once and for ever.
        """
        if self._failures:
            await asyncio.sleep(pause_s(self._failures))
        self._failures += 1
        renewed = False
        while True:
            async with self._client.using() as link:
                call = await self._open(link, after)
                stream = _Stream(call, after)
                try:
                    async for batch in self._follow(link, stream):
                        yield batch
                except TokenError as error:
                    after = stream.complete
                    if renewed:
                        raise UnavailableError("etcd refuses a new authentication token", str(error)) from None
                finally:
                    call.cancel()
            renewed = True
            await self._client.authenticate()

    async def _open(self, link: Link, after: int) -> Any:
        """Start the stream and ask for what comes after `after`."""
        metadata = await self._client.metadata()
        self._client.calls["Watch"] = self._client.calls.get("Watch", 0) + 1
        call = link.services["Watch"].Watch(metadata=metadata)
        await self._write(link, call, self._creation(after))
        return call

    def _creation(self, after: int) -> Any:
        """Return the request for what comes after a revision."""
        request = rpc.WatchCreateRequest(
            key=self._start, range_end=self._end, start_revision=after + 1, progress_notify=True, prev_kv=True
        )
        return rpc.WatchRequest(create_request=request)

    async def _write(self, link: Link, call: Any, request: Any) -> None:
        """Send a request on a watch's stream."""
        try:
            await asyncio.wait_for(call.write(request), CREATE_S)
        except TimeoutError:
            call.cancel()
            self._client.leave(link)
            raise UnavailableError(
                f"etcd at {link.endpoint} does not take a watch", "see `etcdctl endpoint health`"
            ) from None
        except Exception as error:
            raise await self._broken(link, call, error) from None

    async def _leave(self, link: Link, stream: _Stream) -> None:
        """Have the watch cancelled, to begin it anew a moment after that is done: see `pace`."""
        stream.leaving = True
        cancel = rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=stream.watch_id))
        await self._write(link, stream.call, cancel)

    async def _come_back(self, link: Link, stream: _Stream) -> None:
        """Begin the watch anew where it has come to; all that the one before had to tell is here."""
        await asyncio.sleep(PAUSE_S)
        stream.leaving = False
        await self._write(link, stream.call, self._creation(stream.complete))

    async def _follow(self, link: Link, stream: _Stream) -> AsyncIterator[Batch]:
        loop = asyncio.get_running_loop()
        given_s = loop.time()
        while True:
            try:
                response = await stream.next()
            except TimeoutError:
                self._client.leave(link)
                raise UnavailableError(
                    f"etcd at {link.endpoint} has been silent for {TICKS_MAX * TICK_S:g} s",
                    "see `etcdctl endpoint health`; the watch goes on at the next endpoint",
                ) from None
            except Exception as error:
                raise await self._broken(link, stream.call, error) from None
            if response.canceled:
                if stream.leaving and not response.compact_revision and not response.cancel_reason:
                    await self._come_back(link, stream)
                    continue
                await self._cancelled(response, link)
            if response.created:
                self._failures = 0
                stream.watch_id = response.watch_id
                header = await self._went_back(response.header, stream.complete)
                if header is not None:
                    yield Batch(identity_of(header), header.revision)
                    raise CompactedError(0)
            batches = await self._batches(stream, response)
            for batch in batches:
                stream.complete = batch.revision
                given_s = loop.time()
                yield batch
            if response.events:
                if not stream.leaving and stream.pace.leave(sum(batch.revisions for batch in batches), loop.time()):
                    await self._leave(link, stream)
            elif not batches and (stream.begins(response) or loop.time() - given_s >= ALIVE_S):
                given_s = loop.time()
                yield Batch(identity_of(response.header), stream.complete)

    async def _went_back(self, header: Any, complete: int) -> Any:
        """Return the header that proves this etcd is another one or a restored older one, None when it is ours.

        etcd itself would wait in silence until its revisions have come as far as ours.
        """
        if self._identity and identity_of(header) != self._identity:
            return header
        if header.revision >= complete:
            return None
        # A member that lags behind its cluster says so, too. A read goes through the leader.
        request = rpc.RangeRequest(key=self._start, count_only=True)
        header = (await self._client.call("KV", "Range", request)).header
        return header if header.revision < complete else None

    async def _cancelled(self, response: Any, link: Link) -> None:
        if response.compact_revision:
            self._failures = 0
            raise CompactedError(response.compact_revision)
        reason = response.cancel_reason or "no reason given"
        meaning = store_error("FAILED_PRECONDITION", reason, str(link.endpoint))
        if isinstance(meaning, RefusedError) and "permission denied" in reason and self._client.may_have_ended():
            raise TokenError(reason)
        raise meaning

    async def _broken(self, link: Link, call: Any, error: Exception) -> StoreError:
        """Return what the end of a stream means. `error` may only say that the stream has ended; the status says why."""
        if isinstance(error, StoreError):
            return error
        with contextlib.suppress(Exception):
            code, details = await asyncio.wait_for(call.code(), 1.0), await asyncio.wait_for(call.details(), 1.0)
            meaning = store_error(code.name, details or "", str(link.endpoint))
            if not isinstance(meaning, UnavailableError | RefusedError | TokenError):
                meaning = UnavailableError(str(meaning))
            if isinstance(meaning, UnavailableError):
                self._client.leave(link)
            return meaning
        return self._client.failed(link, error)

    async def _batches(self, stream: _Stream, response: Any) -> Sequence[Batch]:
        """Take a response apart into whole revisions."""
        header, events = response.header, response.events
        if not events:
            # Progress of this one watch comes through the same queue as its events, so all before it has come. The answer
            # to our own request (watch_id -1) does not: before 3.4.25 and 3.5.8 it overtakes events (etcd #15220).
            if not response.created and response.watch_id == stream.watch_id and header.revision > stream.complete:
                return (Batch(identity_of(header), header.revision),)
            return ()
        batches, first = [], 0
        for index in range(1, len(events) + 1):
            if index < len(events) and events[index].kv.mod_revision == events[first].kv.mod_revision:
                continue
            revision = events[first].kv.mod_revision
            if revision > stream.complete:
                batches.append(Batch(identity_of(header), revision, await self._events(events[first:index])))
            first = index
        if stream.pace.heaps and len(batches) > 1:
            together = tuple(event for batch in batches for event in batch.events)
            return (Batch(batches[-1].identity, batches[-1].revision, together, len(batches)),)
        return batches

    async def _events(self, events: Sequence[Any]) -> tuple[Event, ...]:
        """Translate the events of one revision.

        etcd removes all keys of an ended lease in one revision that does nothing else, and does not say why it removed
        them. So where something was put too (our own removals put a mark), somebody asked; and where the lease still
        lives, somebody removed the key alone. A lease that another program revokes looks like one that ended.
        """
        asked = any(event.type == 0 for event in events)
        ended: dict[int, bool] = {0: False}
        found = []
        for event in events:
            kv = event.kv
            name = self._name_of(kv.key)
            if name is None:
                continue
            if event.type == 0:
                found.append(Event(name, entry_of(name, kv)))
                continue
            lease = event.prev_kv.lease
            if not asked and lease not in ended:
                ended[lease] = await self._has_ended(lease)
            found.append(Event(name, None, not asked and ended[lease]))
        return tuple(found)

    async def _has_ended(self, lease: int) -> bool:
        response = await self._client.call("Lease", "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease))
        return bool(response.TTL <= 0)


class _Stream:
    """One watch's stream, and how far it is complete."""

    def __init__(self, call: Any, after: int) -> None:
        self.call = call
        self.complete = after
        """Every revision up to this one has been given: where a watch goes on. Never the header's revision of a `created`
        or of an answer with events, which may be ahead of what has come."""
        self.watch_id = 0
        """Of the newest watch; a stream's first one is called 0."""
        self.leaving = False
        """Whether the watch is to be cancelled by our word, and etcd has not said yet that it is."""
        self.pace = Pace()
        self._reading: asyncio.Future[Any] | None = None
        self._asking: asyncio.Future[Any] | None = None

    def begins(self, response: Any) -> bool:
        """Tell whether this is the answer to the first creation."""
        return bool(response.created) and response.watch_id == 0

    async def next(self) -> Any:
        """Return the next response; TimeoutError when none comes though we asked for one.

        Counted in turns, not on the clock: a loop that was busy for ten seconds has heard nothing and missed nothing.
        """
        ticks = 0
        try:
            while True:
                if self._reading is None:
                    self._reading = asyncio.ensure_future(self.call.read())
                await asyncio.wait({self._reading}, timeout=TICK_S)
                if self._reading.done():
                    response = self._reading.result()
                    self._reading = None
                    if response is END:
                        raise ConnectionError("the stream has ended")
                    return response
                ticks += 1
                if ticks >= TICKS_MAX:
                    raise TimeoutError
                if self._asking is None or self._asking.done():
                    # Not waited for: it never ends while the server is frozen and its window is full.
                    request = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
                    self._asking = asyncio.ensure_future(self.call.write(request))
                    self._asking.add_done_callback(_heard)
        except BaseException:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None
            if self._asking is not None:
                self._asking.cancel()
            raise


def _heard(asking: asyncio.Future[Any]) -> None:
    """Take note of how a write ended: why a stream broke, reading it says."""
    if not asking.cancelled():
        asking.exception()


def identity_of(header: Any) -> str:
    """Return a cluster's identity. A backup restored in place may keep it: then the revision tells."""
    return f"{header.cluster_id:016x}"


def entry_of(name: str, kv: Any) -> Entry:
    """Return a key-value of etcd as an entry."""
    return Entry(name, kv.value, kv.create_revision, kv.mod_revision, kv.lease)
