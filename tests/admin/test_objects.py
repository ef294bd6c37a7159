"""Single objects and lists of them."""

import threading

import pytest

from admin.local import LocalAdmin, user
from bascule.change.live import ObjectState
from bascule.store.interface import Put, Transaction

A1 = "/v1/backends/app/servers/a1"
OBJECTS = [
    ("listeners/web", {"address": "127.0.0.1:8080"}),
    ("backends/app", {"connect_timeout": "1s"}),
    ("backends/app/servers/a1", {"url": "http://127.0.0.1:9001"}),
    ("frontends/app", {"route": "PathPrefix(`/`)", "backend": "app"}),
    ("frontends/app/middlewares/few", {"type": "concurrency_limit", "max": 10}),
    ("settings", {"workers": 2}),
]


def test_every_kind_is_put_read_listed_and_removed(api: LocalAdmin) -> None:
    for key, value in OBJECTS:
        reply = api.ask("PUT", f"/v1/{key}", value)
        assert reply.status == 200, reply.data
        assert reply.json["changes"][0]["path"] == key.split("/")
        found = api.ask("GET", f"/v1/{key}")
        assert found.json == {
            "key": key, "modified": reply.json["revision"], "value": value, "state": "in_force", "lease": None,
        }  # fmt: skip
        assert found.headers["ETag"] == reply.headers["ETag"] == f'"{reply.json["revision"]}"'
        if "/" in key:
            listed = api.ask("GET", f"/v1/{key.rpartition('/')[0]}").json
            assert [item["key"] for item in listed["items"]] == [key]
    for key, _ in reversed(OBJECTS[:-1]):
        assert api.ask("DELETE", f"/v1/{key}").status == 200
        assert api.ask("GET", f"/v1/{key}").status == 404
    assert api.ask("GET", "/v1/tree").json["tree"] == {"settings": {"workers": 2}}


def test_an_owner_goes_with_what_is_below_it(app: LocalAdmin) -> None:
    app.ask("PUT", "/v1/backends/app2", {})
    assert app.ask("DELETE", "/v1/frontends/app").status == 200
    assert app.ask("DELETE", "/v1/backends/app").status == 200
    tree = app.ask("GET", "/v1/tree").json["tree"]
    assert tree == {"backends": {"app2": {}}, "listeners": {"web": {"address": "127.0.0.1:8080"}}}


def test_conditions(app: LocalAdmin) -> None:
    value = {"url": "http://127.0.0.1:9002"}
    read = app.ask("GET", A1)
    tag = read.headers["ETag"]
    assert app.ask("GET", A1, If_None_Match=tag).status == 304
    refused = app.ask("PUT", A1, value, If_Match='"999"')
    assert (refused.status, refused.headers["ETag"]) == (412, tag)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json["remedy"]
    assert app.ask("PUT", A1, value, If_None_Match="*").status == 412
    assert app.ask("DELETE", A1, If_Match='"999"').status == 412
    assert app.ask("PATCH", A1, {"weight": 2}, If_Match='"999"').status == 412
    written = app.ask("PUT", A1, value, If_Match=f'"999", {tag}')
    assert written.status == 200
    assert app.ask("PUT", A1, value, If_Match=tag).status == 412, "the tag has been used up"
    assert app.ask("PUT", A1, value, If_Match="*").status == 200
    assert app.ask("PUT", "/v1/backends/none", {}, If_Match="*").status == 412
    assert app.ask("PUT", "/v1/backends/new", {}, If_None_Match="*").status == 200
    assert app.ask("PUT", A1, value, If_Match="xyz").status == 400


def test_patch_merges(app: LocalAdmin) -> None:
    assert app.ask("PATCH", A1, {"weight": 7, "version": "2"}).status == 200
    assert app.ask("PATCH", A1, {"version": None}).status == 200
    assert app.ask("GET", A1).json["value"] == {"url": "http://127.0.0.1:9001", "weight": 7}
    assert app.ask("PATCH", "/v1/backends/app/servers/a2", {}).status == 404
    assert app.ask("PATCH", "/v1/settings", {"workers": 3}).status == 200
    assert app.ask("GET", "/v1/settings").json["value"] == {"workers": 3}


def test_patches_at_once_lose_nothing(app: LocalAdmin) -> None:
    statuses: list[int] = []

    def patch(name: str, value: object) -> None:
        statuses.append(app.ask("PATCH", "/v1/backends/app", {name: value}).status)

    fields = {"connect_timeout": "1s", "response_timeout": "2s", "idle_timeout": "3s", "max_idle_connections": 4}
    threads = [threading.Thread(target=patch, args=pair) for pair in fields.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert app.ask("GET", "/v1/backends/app").json["value"] == fields


def test_wrong_objects_are_refused_with_everything_that_is_wrong(app: LocalAdmin) -> None:
    reply = app.ask("PUT", "/v1/listeners/two", {"adress": "x", "header_timeout": "soon"})
    assert reply.status == 422
    problems = reply.json["problems"]
    assert {tuple(problem["path"]) for problem in problems} >= {
        ("listeners", "two", "adress"),
        ("listeners", "two", "header_timeout"),
    }
    assert all(problem["remedy"] for problem in problems)
    assert app.ask("GET", "/v1/listeners/two").status == 404
    for body in ("", "{", "[1]", '"x"', "[" * 100_000, "\xff".encode("latin-1")):
        assert app.ask("PUT", "/v1/listeners/two", body).status == 400, body[:10]


def test_dry_run_changes_nothing(app: LocalAdmin) -> None:
    before = app.ask("GET", "/v1/tree").json
    reply = app.ask("PUT", A1 + "?dry_run=true", {"url": "http://127.0.0.1:9001", "weight": 3})
    assert reply.json["dry_run"]
    assert reply.json["changes"][0]["fields"] == [{"field": "weight", "old": 1, "new": 3}]
    assert app.ask("DELETE", A1 + "?dry_run").json["changes"][0]["action"] == "removed"
    assert app.ask("PUT", A1 + "?dry_run=true", {"url": 1}).status == 422
    assert app.ask("PUT", A1 + "?dry_run=true", {"url": "http://h:1"}, If_Match='"1"').status == 412
    assert app.ask("GET", "/v1/tree").json == before


def test_what_is_missing_is_said_with_the_nearest(app: LocalAdmin) -> None:
    reply = app.ask("GET", "/v1/backends/ap")
    assert (reply.status, reply.json["remedy"]) == (404, 'did you mean "backends/app"?')
    assert app.ask("GET", "/v1/backends/none/servers").status == 404
    assert app.ask("GET", "/v1/frontends/app/middlewares").json["items"] == []


def test_pages_agree(api: LocalAdmin) -> None:
    names = [f"b{number:02}" for number in range(25)]
    operations = [{"op": "put", "key": f"backends/{name}", "value": {}} for name in names]
    api.ask("POST", "/v1/apply", {"operations": operations})
    found: list[str] = []
    after, revision = "", 0
    while after is not None:
        page = api.ask("GET", f"/v1/backends?limit=10&after={after}&revision={revision}").json
        if not revision:
            api.ask("PUT", "/v1/backends/b005", {})
        revision = page["revision"]
        found += [item["key"] for item in page["items"]]
        after = page["next"]
    assert found == [f"backends/{name}" for name in names]
    for query in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "page=2"):
        assert api.ask("GET", f"/v1/backends?{query}").status == 400
    assert api.ask("GET", "/v1/backends?revision=999999").status == 404


def test_states_are_shown(app: LocalAdmin) -> None:
    app.live.object_states = [ObjectState("backends/app", "quarantined", 1)]
    assert app.ask("GET", "/v1/backends/app").json["state"] == "quarantined"
    listed = app.ask("GET", "/v1/objects").json
    assert [(item["key"], item["state"]) for item in listed["items"]] == [("backends/app", "quarantined")]
    assert app.ask("GET", "/v1/objects?state=held").json["items"] == []


def test_garbage_of_others_is_shown_and_can_be_removed(app: LocalAdmin) -> None:
    store = app.live.store
    assert store is not None
    garbage = [b"no json", b"\xff", b'{"a":' * 2000, b"[]"]
    puts = tuple(Put(f"backends/x{number}", value) for number, value in enumerate(garbage))
    app.run(lambda: store.commit(Transaction(puts)))
    items = app.ask("GET", "/v1/backends?after=app").json["items"]
    assert [item["value"] for item in items] == ["no json", "\ufffd", '{"a":' * 2000, []]
    assert app.ask("GET", "/v1/tree").json["tree"]["backends"]["x0"] == "no json"
    assert app.ask("PATCH", "/v1/backends/x0", {}).status == 422
    assert app.ask("DELETE", "/v1/backends/x1").status in (200, 422)


def test_a_write_waits_and_is_honest_about_time_running_out(app: LocalAdmin) -> None:
    app.live.waits.clear()
    reply = app.ask("PATCH", A1 + "?wait=applied&timeout=50ms", {"weight": 2})
    assert reply.status == 200
    assert (reply.json["applied"], reply.json["lagging"]) == (False, [1])
    waiting = threading.Thread(target=lambda: replies.append(app.ask("PATCH", A1 + "?wait=applied&timeout=20s", {})))
    replies: list[object] = []
    waiting.start()
    app.run(lambda: app.live.waits.set())
    waiting.join()
    assert replies[0].json["applied"]  # type: ignore[attr-defined]
    assert app.ask("PATCH", A1 + "?wait=soon", {}).status == 400


def test_the_author_and_the_message_are_in_the_history(app: LocalAdmin) -> None:
    app.ask("PATCH", A1, {"weight": 2}, Bascule_Message="größer".encode().decode("latin-1"))
    record = app.ask("GET", "/v1/history?limit=1").json["items"][0]
    assert (record["author"], record["message"]) == (user(), "größer")
    assert ("admin: change", user()) in [(event, fields.get("by")) for event, fields in app.live.logged]


@pytest.mark.parametrize("path", ["/v1", "/v1/backend", "/", "/v1/servers/app/a1", "/v1/backends/app/servers/a1/x"])
def test_unknown_paths_are_problem_documents(api: LocalAdmin, path: str) -> None:
    reply = api.ask("GET", path)
    assert reply.status == 404
    assert {"title", "status", "detail", "remedy"} <= reply.json.keys()
    assert api.ask("POST", "/v1/tree").status == 405


def test_without_a_store_writes_are_refused_with_the_way_out(api: LocalAdmin) -> None:
    store, api.live.store = api.live.store, None
    try:
        for method, path, body in [
            ("PUT", "/v1/backends/a", {}),
            ("PATCH", "/v1/backends/fixed", {}),
            ("DELETE", "/v1/backends/fixed", None),
            ("POST", "/v1/apply", {"operations": []}),
            ("POST", "/v1/freeze", None),
            ("POST", "/v1/adopt", None),
            ("POST", "/v1/rollback", {"revision": 1}),
            ("GET", "/v1/history", None),
            ("GET", "/v1/tree?revision=1", None),
        ]:
            reply = api.ask(method, path, body)
            assert reply.status == 409, (path, reply.data)
            assert "bascule run" in reply.json["remedy"]
        assert [item["key"] for item in api.ask("GET", "/v1/backends").json["items"]] == ["backends/fixed"]
        assert api.ask("GET", "/v1/status").status == 200
    finally:
        api.live.store = store
