"""The admin API: its resources and how errors look. Every answer is JSON but /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon
import falcon.asgi
import msgspec

if TYPE_CHECKING:
    from bascule.process.control import Control


class Status:
    """GET /v1/status: processes, revisions, traffic."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Ask every worker, then answer with what is known."""
        await self._control.master.publisher.reports()
        _answer(response, await self._control.status())


class Metrics:
    """GET /metrics: the same numbers for Prometheus."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Sum the statistics of all workers."""
        response.content_type = "text/plain; version=0.0.4; charset=utf-8"
        response.data = await self._control.metrics()


class Configuration:
    """GET /v1/config: the tree in force, without fields at their defaults."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """Answer 503 when a new master could not yet load the configuration that its predecessor compiled."""
        in_force = self._control.master.in_force
        if in_force is None:
            raise falcon.HTTPServiceUnavailable(
                title="the configuration in force is not known",
                description="The workers serve the last good snapshot; correct the file (see /v1/status) and reload.",
            )
        from bascule.model.tree import tree_to_json

        response.content_type = falcon.MEDIA_JSON
        response.data = tree_to_json(in_force.tree)


class Reload:
    """POST /v1/reload: read the store again and wait until every worker has applied it."""

    def __init__(self, control: Control) -> None:
        """See the class."""
        self._control = control

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        """200 when it is in force everywhere, 422 with all problems when it is not and everything stays as it was."""
        outcome = await self._control.reload("admin API")
        response.status = falcon.HTTP_200 if outcome.ok else falcon.HTTP_422
        _answer(response, outcome)


def make_app(control: Control) -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application of one master."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    app.add_route("/v1/status", Status(control))
    app.add_route("/v1/config", Configuration(control))
    app.add_route("/v1/reload", Reload(control))
    app.add_route("/metrics", Metrics(control))
    return app


def _answer(response: falcon.asgi.Response, value: Any) -> None:
    response.content_type = falcon.MEDIA_JSON
    response.data = msgspec.json.encode(value)
