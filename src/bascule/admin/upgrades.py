"""Upgrades of the running program: how they stand, and the receipts of those that were."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call

LIMIT_MAX = 200


class UpgradesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many receipts."""

    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="Receipts in the answer.")] = 20


class Upgrades(msgspec.Struct, frozen=True):
    """What serves, and what came of it."""

    state: dict[str, Any]
    """generation, version, phase (empty: none is under way), resting (the generation that can be switched back to, null when there
    is none), probation_left_s, lost_because (why there is no way back any more), baseline (how the generation before did)."""
    items: tuple[dict[str, Any], ...]
    """Receipts of upgrades and switch backs, newest first: docs/upgrade.md."""


async def list_upgrades(api: Api, call: Call[UpgradesQuery, None]) -> Answer:
    """Answer the generation that serves, the one that rests, and the receipts of upgrades and switch backs, newest first."""
    receipts = await api.program.receipts()
    newest = tuple(reversed(receipts[-call.query.limit :]))
    return Answer(value=Upgrades(api.program.upgrade_state(), newest))
