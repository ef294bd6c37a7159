"""Registration for programs without an etcd client: a lease, what lives by it, its heartbeat, and leaving."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call, NoQuery, WriteQuery
from bascule.admin.errors import ApiError
from bascule.admin.objects import body_object, known_key, lease_ms
from bascule.admin.writes import carry_out
from bascule.model.tree import Duration
from bascule.store.interface import LEASE_MAX, Put

PUTS_MAX = 100


class LeasePut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object that lives by the lease."""

    key: str
    value: msgspec.Raw


class LeaseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is registered, and for how long without a heartbeat."""

    ttl: Annotated[Duration, Meta(description='"1s" to "24h"; send a heartbeat every third of it.')]
    put: Annotated[tuple[LeasePut, ...], Meta(min_length=1, max_length=PUTS_MAX)]
    message: Annotated[str, Meta(max_length=1000, description="Why, for the history.")] = ""


class Heartbeat(msgspec.Struct, frozen=True):
    """A lease that goes on."""

    lease: str
    ttl_ms: int
    """From now on."""


async def grant(api: Api, call: Call[WriteQuery, LeaseBody]) -> Answer:
    """Register objects: they vanish when no heartbeat comes for the lease's time."""
    ttl_ms = lease_ms(call.body.ttl)
    for put in call.body.put:
        known_key(put.key)
    values = [(put.key, body_object(put.value)) for put in call.body.put]
    if call.query.dry_run:
        written = await carry_out(api, call, [Put(key, value) for key, value in values])
        return Answer(value=written)
    store = api.store()
    lease = await store.grant(ttl_ms)
    try:
        operations = [Put(key, value, lease) for key, value in values]
        written = await carry_out(api, call, operations, message=call.body.message)
    except BaseException:
        await store.revoke(lease)
        raise
    return Answer(value=msgspec.structs.replace(written, lease=str(lease)), status=201)


async def heartbeat(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Begin the lease's time anew. 404 when it has ended: register again."""
    lease = _lease(call.place["id"])
    return Answer(value=Heartbeat(str(lease), await api.store().keep_alive(lease)))


async def leave(api: Api, call: Call[NoQuery, None]) -> Answer:
    """End a lease by its owner's word: its objects have left, and no gate keeps them in force."""
    lease = _lease(call.place["id"])
    await api.store().revoke(lease)
    api.program.audit(call.principal.name, "lease ended", lease=str(lease))
    return Answer(status=204, content=b"")


def _lease(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 20 and 0 < int(text) <= LEASE_MAX):
        raise ApiError(404, f"{text[:50]!r} is no lease", "send the `lease` that the registration answered")
    return int(text)
