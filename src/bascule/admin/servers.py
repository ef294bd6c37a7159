"""The state of a server: taken out softly, taken back, said to be ready."""

from __future__ import annotations

from typing import Any

from bascule.admin.api import Api
from bascule.admin.endpoint import Answer, Call, WriteQuery
from bascule.admin.errors import etag
from bascule.admin.writes import amend


async def drain(api: Api, call: Call[WriteQuery, None]) -> Answer:
    """Let a server finish what it has and get nothing new. It does not wait for other changes."""
    return await _set_state(api, call, "draining")


async def undrain(api: Api, call: Call[WriteQuery, None]) -> Answer:
    """Give a server traffic again."""
    return await _set_state(api, call, "up")


async def ready(api: Api, call: Call[WriteQuery, None]) -> Answer:
    """Say that a registered server may get traffic, whatever its health checks know so far."""
    return await _set_state(api, call, "up")


async def _set_state(api: Api, call: Call[Any, Any], state: str) -> Answer:
    key = f"backends/{call.place['backend']}/servers/{call.place['server']}"
    written = await amend(api, call, key, lambda value: {**value, "state": state})
    return Answer(value=written, headers={"ETag": etag(written.revision)})
