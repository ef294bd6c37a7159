"""Single objects and lists of them: listeners, hosts, backends, servers, frontends, middlewares, and the settings."""

from __future__ import annotations

import bisect
from typing import Any, Literal

import msgspec

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call, NoQuery, PageQuery, PutQuery, WriteQuery
from bascule.admin.errors import ApiError, etag
from bascule.admin.values import NOT_JSON, merge_patch, shown
from bascule.admin.writes import absent, amend, carry_out, compares_of
from bascule.change.live import Live, State
from bascule.model.keys import SETTINGS, parse_key
from bascule.model.quantities import duration_ms
from bascule.store.interface import Entry, Put, Reading, Remove

TTL_MIN_MS = 1_000
TTL_MAX_MS = 24 * 3600 * 1000
ItemState = State | Literal["pending"]
"""pending: stored, and not yet in force because it is newer than what is."""


class Item(msgspec.Struct, frozen=True):
    """One object as stored, and how the master stands to it."""

    key: str
    modified: int
    """Revision that put it last: its ETag."""
    value: msgspec.Raw
    state: ItemState
    lease: str | None = None
    """Lease that it lives by."""


class Page(msgspec.Struct, frozen=True):
    """Part of a list, by key."""

    revision: int
    items: tuple[Item, ...]
    next: str | None = None
    """Where the next page begins (`after`); null on the last."""


def key_of(path: str, place: dict[str, str]) -> str:
    """Return the key that a path with placeholders names."""
    return path.removeprefix("/v1/").format(**place)


def item(live: Live, entry: Entry, states: dict[str, ItemState]) -> Item:
    """Return one object for an answer."""
    state = states.get(entry.key) or ("pending" if entry.modified > live.revision else "in_force")
    return Item(entry.key, entry.modified, shown(entry.value), state, str(entry.lease) if entry.lease else None)


def states_of(live: Live) -> dict[str, ItemState]:
    """Return the state of every object that is not plainly in force, by key."""
    return {state.key: state.state for state in live.states()}


def page(live: Live, reading: Reading, collection: str, query: PageQuery) -> Page:
    """Return one page of the objects directly in a collection (`backends`, `backends/app/servers`)."""
    depth = collection.count("/") + 1
    keys = sorted(key for key in reading.entries if key.startswith(collection + "/") and key.count("/") == depth)
    begin = bisect.bisect_right(keys, f"{collection}/{query.after}") if query.after else 0
    chosen = keys[begin : begin + query.limit]
    states = states_of(live)
    more = begin + query.limit < len(keys)
    items = tuple(item(live, reading.entries[key], states) for key in chosen)
    return Page(reading.revision, items, chosen[-1].rpartition("/")[2] if more else None)


async def list_objects(api: Api, call: Call[PageQuery, None], collection: str) -> Answer:
    """Answer one page of a collection. A collection of something that does not exist is a 404, not an empty list."""
    reading = await api.reading(call.query.revision)
    owner = collection.rpartition("/")[0]
    if owner and owner not in reading.entries and not any(key.startswith(collection + "/") for key in reading.entries):
        raise absent(owner, reading.entries)
    return Answer(value=page(api.live, reading, collection, call.query))


async def get_object(api: Api, call: Call[NoQuery, None], key: str) -> Answer:
    """Answer one object; 304 when If-None-Match names what is there."""
    reading = await api.reading()
    entry = reading.entries.get(key)
    if entry is None:
        if key == SETTINGS:
            entry = Entry(SETTINGS, b"{}", 0, 0)
        else:
            raise absent(key, reading.entries)
    headers = {"ETag": etag(entry.modified)}
    if call.if_none_match and etag(entry.modified) in [tag.strip() for tag in call.if_none_match.split(",")]:
        return Answer(status=304, headers=headers, content=b"")
    return Answer(value=item(api.live, entry, states_of(api.live)), headers=headers)


async def put_object(api: Api, call: Call[PutQuery, msgspec.Raw], key: str) -> Answer:
    """Set one object, whatever was there. Without `ttl` it lives by itself from then on."""
    value = body_object(call.body)
    compares = []
    if call.if_match or call.if_none_match:
        compares = compares_of(call, key, (await api.reading()).entries.get(key))
    ttl_ms = 0 if call.query.ttl is None else lease_ms(call.query.ttl)
    if not ttl_ms or call.query.dry_run:
        written = await carry_out(api, call, [Put(key, value)], compares=compares)
        return Answer(value=written, headers={"ETag": etag(written.revision)})
    store = api.store()
    lease = await store.grant(ttl_ms)
    try:
        written = await carry_out(api, call, [Put(key, value, lease)], compares=compares)
    except BaseException:
        await store.revoke(lease)
        raise
    written = msgspec.structs.replace(written, lease=str(lease))
    return Answer(value=written, headers={"ETag": etag(written.revision)})


async def patch_object(api: Api, call: Call[WriteQuery, msgspec.Raw], key: str) -> Answer:
    """Change single fields of an object: a JSON merge patch, where null removes a field (RFC 7396)."""
    patch = msgspec.json.decode(body_object(call.body))
    written = await amend(api, call, key, lambda value: merge_patch(value, patch), create=key == SETTINGS)
    return Answer(value=written, headers={"ETag": etag(written.revision)})


async def delete_object(api: Api, call: Call[WriteQuery, None], key: str) -> Answer:
    """Remove an object and what is below it: a backend goes with its servers, a frontend with its middlewares."""
    reading = await api.reading()
    if key not in reading.entries and not any(other.startswith(key + "/") for other in reading.entries):
        raise absent(key, reading.entries)
    compares = compares_of(call, key, reading.entries.get(key))
    return Answer(value=await carry_out(api, call, [Remove(key)], compares=compares))


def body_object(body: msgspec.Raw) -> bytes:
    """Return a body that is a JSON object as compact JSON; ApiError 400 otherwise."""
    try:
        document: Any = msgspec.json.decode(body)
    except NOT_JSON as error:
        raise ApiError(400, f"the body is not JSON: {error}", "send the object's value as JSON") from None
    if not isinstance(document, dict):
        raise ApiError(400, "the body is not a JSON object", 'send the object\'s value, such as {"weight": 2}')
    return msgspec.json.format(bytes(body), indent=-1)


def lease_ms(ttl: str) -> int:
    """Return the length of a lease, ms; ApiError 422 unless it is one that a program can keep alive."""
    ttl_ms = duration_ms(ttl)
    if not TTL_MIN_MS <= ttl_ms <= TTL_MAX_MS:
        raise ApiError(422, f"a ttl of {ttl} is outside 1s to 24h", "choose one between; 10s is usual")
    return ttl_ms


def known_key(key: str) -> None:
    """ApiError 422 unless an object can have such a key."""
    if parse_key(key) is None:
        raise ApiError(422, f"{key[:200]!r} is no key of an object", "see docs/live-configuration.md for the keys")
