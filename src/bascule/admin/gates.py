"""What keeps changes out of force, and what is not plainly in force."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bascule.admin.api import Api
from bascule.admin.endpoint import PAGE_MAX, Answer, Call, NoQuery
from bascule.change.live import Freeze, ObjectState, State


class ObjectsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of them."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Items in one answer.")] = 100
    after: Annotated[str, Meta(max_length=512, description="Begin behind this key.")] = ""
    state: Annotated[State | None, Meta(description="Only those in this state.")] = None


class Objects(msgspec.Struct, frozen=True):
    """What is not plainly in force."""

    revision: int
    """In force."""
    freeze: Freeze | None
    """Why nothing new comes into force; null: it does."""
    items: tuple[ObjectState, ...]
    next: str | None = None


class FreezeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why."""

    reason: Annotated[str, Meta(max_length=1000)] = ""


async def list_states(api: Api, call: Call[ObjectsQuery, None]) -> Answer:
    """Answer every object that waits, is quarantined or held, by key."""
    query = call.query
    found = sorted(
        (item for item in api.live.states() if query.state in (None, item.state) and item.key > query.after),
        key=lambda item: item.key,
    )
    items = tuple(found[: query.limit])
    following = items[-1].key if len(found) > query.limit else None
    return Answer(value=Objects(api.live.revision, api.live.freeze_state(), items, following))


async def freeze(api: Api, call: Call[NoQuery, FreezeBody | None]) -> Answer:
    """Keep every change out of force; the store goes on."""
    api.store()  # without one there is nothing to keep out
    reason = (call.body.reason if call.body else "") or call.message
    state = await api.live.freeze(reason, call.principal.name)
    api.program.audit(call.principal.name, "freeze", reason=reason)
    return Answer(value=state)


async def unfreeze(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Bring into force what the store says now, through all gates."""
    api.store()
    applied = await api.live.unfreeze(call.principal.name)
    api.program.audit(call.principal.name, "unfreeze", revision=applied.revision)
    return Answer(value=applied)


async def adopt(api: Api, call: Call[NoQuery, None]) -> Answer:
    """Accept what the gates hold back: the store is right as it is."""
    api.store()
    applied = await api.live.adopt(call.principal.name)
    api.program.audit(call.principal.name, "adopt", revision=applied.revision)
    return Answer(value=applied)
