"""The stream of events, and the gates."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from admin.local import QUEUE_MAX, LocalAdmin
from bascule.admin import events
from bascule.admin.api import EVENT_CLIENTS_MAX
from bascule.change.live import Notice
from kit.waiting import until


class Stream:
    """One client of /v1/events."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def next(self) -> dict[str, str]:
        """Return the fields of the next block; comments under ""."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode()
            if line in ("\n", ""):
                return fields
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name.rstrip(":")] = value

    def event(self) -> tuple[str, int, Any]:
        """Return type, id and data of the next event, past heartbeats."""
        while "event" not in (fields := self.next()):
            assert fields, "the stream has ended"
        return fields["event"], int(fields["id"]), json.loads(fields["data"])


@contextlib.contextmanager
def following(api: LocalAdmin, **headers: str) -> Iterator[Stream]:
    with api.connection() as connection:
        connection.request(
            "GET", "/v1/events", headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        response = connection.getresponse()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        stream = Stream(response)
        assert "retry" in stream.next()
        yield stream
        response.close()


def notify(api: LocalAdmin, revision: int, **data: Any) -> None:
    until(lambda: api.live.queues, "somebody follows", 10)
    api.run(lambda: api.live.notify(Notice("applied", revision, time.time(), data)))


def test_what_happens_is_told(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    with following(api) as stream:
        notify(api, 7, workers=[1, 2], text="a\nb")
        kind, revision, data = stream.event()
        assert (kind, revision, data["data"]) == ("applied", 7, {"workers": [1, 2], "text": "a\nb"})
    until(lambda: not api.live.queues and not api.server.api.event_clients.taken, "nobody follows any more", 30)


def test_silence_is_filled_with_heartbeats(api: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.02)
    with following(api) as stream:
        assert [stream.next() for _ in range(3)] == [{"": "still here"}] * 3
        notify(api, 1)
        assert stream.event()[1] == 1


def test_who_comes_back_gets_what_was_missed(app: LocalAdmin) -> None:
    revision = app.ask("GET", "/v1/tree").json["revision"]
    for weight in (2, 3):
        app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": weight})
    with following(app, Last_Event_ID=str(revision)) as stream:
        seen = [stream.event() for _ in range(2)]
        assert [kind for kind, _, _ in seen] == ["change", "change"]
        assert [data["data"]["changes"][0]["fields"][0]["new"] for _, _, data in seen] == [2, 3]
        assert [number for _, number, _ in seen] == [revision + 1, revision + 2]
        app.run(lambda: app.live.notify(Notice("change", revision + 2, 0.0, {})))
        notify(app, revision + 2)
        assert stream.event()[0] == "applied", "no change is told twice"


def test_a_client_that_is_too_slow_is_told_and_let_go(api: LocalAdmin) -> None:
    with following(api) as stream:
        until(lambda: api.live.queues, "somebody follows", 10)

        def flood() -> None:
            for number in range(QUEUE_MAX + 10):
                api.live.notify(Notice("applied", number, 0.0, {}))

        api.run(flood)
        kinds = []
        with contextlib.suppress(AssertionError):
            while True:
                kinds.append(stream.event()[0])
        assert kinds[-1] == "lost"


def test_clients_are_bounded(api: LocalAdmin) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(EVENT_CLIENTS_MAX):
            stack.enter_context(following(api))
        reply = api.ask("GET", "/v1/events")
        assert reply.status == 503
        assert reply.headers["Retry-After"]


def test_streams_end_with_the_master(tmp_path: Any) -> None:
    with LocalAdmin(tmp_path) as api:
        connection = api.connection().__enter__()
        connection.request("GET", "/v1/events")
        response = connection.getresponse()
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    assert b"retry" in response.read()
    connection.close()


def test_freeze_unfreeze_adopt(app: LocalAdmin) -> None:
    frozen = app.ask("POST", "/v1/freeze", {"reason": "audit"})
    assert frozen.json["reason"] == "audit"
    assert app.ask("GET", "/v1/objects").json["freeze"]["reason"] == "audit"
    written = app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": 2}).json
    assert (written["applied"], written["held"]) == (False, ["audit"])
    assert app.ask("POST", "/v1/unfreeze").status == 200
    assert app.ask("GET", "/v1/objects").json["freeze"] is None
    assert app.ask("POST", "/v1/freeze").status == 200, "the body may be left out"
    assert app.ask("POST", "/v1/adopt").status == 200
    actions = [event for event, _ in app.live.logged]
    assert {"admin: freeze", "admin: unfreeze", "admin: adopt"} <= set(actions)
    history = app.ask("GET", "/v1/history").json
    assert [action["action"] for action in history["actions"][:4]] == ["adopt", "freeze", "unfreeze", "freeze"]
    assert history["actions"][3]["details"] == {"reason": "audit"}
    assert history["actions"][3]["author"] == history["items"][0]["author"]
    assert "change" not in {action["action"] for action in history["actions"]}, "the store's history has it"
    assert app.ask("GET", f"/v1/history?before={history['items'][0]['revision']}").json["actions"] == []
