"""Whole trees and lists of operations, the history of them, and the way back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.local import LocalAdmin
from bascule.admin.history import way_back
from bascule.admin.transactions import difference
from bascule.admin.values import merge_patch, objects_of, tree_of
from bascule.model.keys import parse_key
from bascule.store import embedded_database, interface
from bascule.store.interface import Entry, Put, Reading, Remove, Transaction


def put(key: str, value: object) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value}


def tree(api: LocalAdmin) -> Any:
    return api.ask("GET", "/v1/tree").json["tree"]


def test_a_tree_is_one_revision_and_an_equal_one_is_none(api: LocalAdmin) -> None:
    wanted = {
        "backends": {"app": {"servers": {"a1": {"url": "http://127.0.0.1:1"}, "a2": {"url": "http://127.0.0.1:2"}}}},
        "frontends": {"app": {"route": "PathPrefix(`/`)", "backend": "app"}},
    }
    first = api.ask("POST", "/v1/apply?wait=applied", {"tree": wanted, "message": "first"})
    assert first.json["applied"]
    assert tree(api) == wanted
    again = api.ask("POST", "/v1/apply", {"tree": {**wanted, "store": {"type": "file"}}})
    assert (again.json["revision"], again.json["changes"]) == (first.json["revision"], [])
    wanted["backends"]["app"]["servers"]["a1"]["weight"] = 1  # type: ignore[index]
    assert api.ask("POST", "/v1/apply", {"tree": wanted}).json["changes"] == [], "a default written out"
    assert len(api.ask("GET", "/v1/history").json["items"]) == 1


def test_prune_removes_what_is_not_named_but_not_what_is_registered(app: LocalAdmin) -> None:
    put_lease = {"key": "backends/app/servers/l1", "value": {"url": "http://127.0.0.1:7"}}
    assert app.ask("POST", "/v1/leases", {"ttl": "60s", "put": [put_lease]}).status == 201
    app.ask("PUT", "/v1/settings", {"workers": 2})
    wanted = {"backends": {"other": {}}}
    assert "listeners" in tree(app)
    dry = app.ask("POST", "/v1/apply?dry_run", {"tree": wanted, "prune": True}).json
    assert ["-" + "/".join(change["path"]) for change in dry["changes"] if change["action"] == "removed"]
    assert app.ask("POST", "/v1/apply", {"tree": wanted, "prune": True}).status == 200
    assert tree(app) == {
        "backends": {"other": {}, "app": {"servers": {"l1": {"url": "http://127.0.0.1:7"}}}},
        "settings": {"workers": 2},
    }


def test_operations_are_all_or_nothing(app: LocalAdmin) -> None:
    before = tree(app)
    wrong = [put("backends/x", {}), put("backends/x/servers/s", {"url": "nonsense"})]
    assert app.ask("POST", "/v1/apply", {"operations": wrong}).status == 422
    stale = {"operations": [put("backends/x", {})], "compares": [{"key": "backends/app", "modified": 0}]}
    assert app.ask("POST", "/v1/apply", stale).status == 412
    assert tree(app) == before
    fresh = {**stale, "compares": [{"key": "backends/x", "modified": 0}]}
    fresh["operations"] = [*fresh["operations"], {"op": "remove", "key": "frontends/app"}]
    assert app.ask("POST", "/v1/apply", fresh).status == 200
    assert "x" in tree(app)["backends"]
    assert "frontends" not in tree(app)


def test_prune_spares_what_was_registered_in_between(app: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"key": "backends/app/servers/late", "value": {"url": "http://127.0.0.1:7"}}
    reading, store = app.live.reading, app.live.store
    raced = []

    async def then_somebody_registers(at_least: int = 0) -> Reading:
        found = await reading(at_least)
        if not raced:
            raced.append(await store.grant(60_000))
            value = json.dumps(server["value"]).encode()
            await store.commit(Transaction((Put(str(server["key"]), value, raced[0]),)))
        return found

    monkeypatch.setattr(app.live, "reading", then_somebody_registers)
    reply = app.ask("POST", "/v1/apply", {"tree": {"listeners": {"w": {"address": "127.0.0.1:1"}}}, "prune": True})
    assert reply.status == 200, reply.data
    assert tree(app)["backends"] == {"app": {"servers": {"late": server["value"]}}}


def test_an_owner_goes_with_what_is_below_it_named_or_not(app: LocalAdmin) -> None:
    remove = {"op": "remove", "key": "backends/app"}
    put_below = put("backends/app/servers/a2", {"url": "http://127.0.0.1:7"})
    for query in ("", "?dry_run"):
        reply = app.ask("POST", f"/v1/apply{query}", {"operations": [remove, put_below]})
        assert reply.status == 422
        assert "backends/app/servers/a2" in reply.json["detail"]
    below = {"op": "remove", "key": "backends/app/servers/a1"}
    assert app.ask("POST", "/v1/apply", {"operations": [below, remove]}).status == 200
    assert "backends" not in tree(app)


def test_numbers_beyond_those_of_any_store(app: LocalAdmin) -> None:
    for lease in (1 << 63, 10**19 - 1):
        body = {"operations": [{**put("backends/x", {}), "lease": str(lease)}]}
        assert app.ask("POST", "/v1/apply", body).status == 404
    for path in ("/v1/history?before={}", "/v1/tree?revision={}", "/v1/backends?revision={}", "/v1/history/{}"):
        for number in (1 << 62, 1 << 63, 10**30):
            assert app.ask("GET", path.format(number)).status in (400, 404)
    assert app.ask("POST", "/v1/rollback", {"revision": 1 << 63}).status == 400


def test_the_tree_shows_what_others_have_put_wherever_it_is(app: LocalAdmin) -> None:
    for value in (b'{"servers": 5}', b'{"servers": []}', b"5", b"\xff"):
        app.run(lambda value=value: app.live.store.commit(Transaction((Put("backends/app", value),))))
        assert app.ask("GET", "/v1/tree").status == 200
        assert app.ask("GET", "/v1/backends/app").status == 200


def test_bodies_that_make_no_sense(api: LocalAdmin) -> None:
    for status, body in [
        (400, {}),
        (400, {"tree": {}, "operations": []}),
        (400, {"operations": [], "prune": True}),
        (400, {"tree": {}, "bogus": 1}),
        (422, {"tree": {"backend": {}}}),
        (422, {"tree": {"backends": []}}),
        (422, {"tree": {"backends": {"a/b": {}}}}),
        (422, {"operations": [put("nothing", {})]}),
        (422, {"operations": [put("backends/a", {}), {"op": "remove", "key": "backends/a"}]}),
        (400, {"operations": [put("backends/a", 1)]}),
    ]:
        reply = api.ask("POST", "/v1/apply", body)
        assert reply.status == status, (body, reply.data)
        assert reply.json["remedy"] or reply.json["problems"]


def test_rollback_restores_by_a_new_transaction(app: LocalAdmin) -> None:
    revision = app.ask("GET", "/v1/tree").json["revision"]
    before = tree(app)
    app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": 9})
    app.ask("DELETE", "/v1/frontends/app")
    app.ask("PUT", "/v1/backends/new", {})
    app.ask("PUT", "/v1/backends/new/servers/n", {"url": "http://127.0.0.1:5"})
    partly = app.ask("POST", "/v1/rollback", {"revision": revision, "keys": ["frontends/app"]})
    assert [change["path"] for change in partly.json["changes"]] == [["frontends", "app"]]
    dry = app.ask("POST", "/v1/rollback?dry_run=true", {"revision": revision})
    assert dry.json["dry_run"]
    assert tree(app) != before
    whole = app.ask("POST", "/v1/rollback", {"revision": revision})
    assert whole.json["revision"] > partly.json["revision"]
    assert tree(app) == before
    assert app.ask("GET", "/v1/history?limit=1").json["items"][0]["message"] == f"rollback to revision {revision}"
    assert app.ask("POST", "/v1/rollback", {"revision": revision}).json["changes"] == []
    assert app.ask("POST", "/v1/rollback", {"revision": 1 << 40}).status == 404
    assert app.ask("POST", "/v1/rollback", {"revision": revision, "keys": ["x"]}).status == 422


def test_a_page_of_history_holds_no_more_than_memory_bears(app: LocalAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (interface, embedded_database):
        monkeypatch.setattr(module, "HISTORY_BYTES_MAX", 300)
    before = app.ask("GET", "/v1/tree").json["revision"]
    for weight in range(1, 21):
        app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": weight + 1})
    found, sizes, query = [], [], ""
    while True:
        page = app.ask("GET", f"/v1/history?limit=50{query}").json
        sizes.append(len(page["items"]))
        found += [item["revision"] for item in page["items"]]
        if page["next"] is None:
            break
        query = f"&before={page['next']}"
    assert [revision for revision in found if revision > before] == list(range(before + 20, before, -1))
    assert 1 <= max(sizes) < 20


def test_history_goes_back_page_by_page(app: LocalAdmin) -> None:
    for weight in range(1, 6):
        app.ask("PATCH", "/v1/backends/app/servers/a1", {"weight": weight}, Bascule_Message=str(weight))
    page = app.ask("GET", "/v1/history?limit=2").json
    assert [item["message"] for item in page["items"]] == ["5", "4"]
    assert page["items"][0]["changes"][0]["fields"] == [{"field": "weight", "old": 4, "new": 5}]
    older = app.ask("GET", f"/v1/history?limit=100&before={page['next']}").json
    assert [item["message"] for item in older["items"]][:2] == ["3", "2"]
    assert older["next"] is None
    detail = app.ask("GET", f"/v1/history/{page['next']}").json
    assert detail["alterations"][0]["after"]["weight"] == 4
    assert app.ask("GET", "/v1/history/999999").status == 404
    assert app.ask("GET", "/v1/history/x").status == 404


# ---- properties

ids = st.sampled_from(["a", "b", "c"])
values = st.fixed_dictionaries({}, optional={"x": st.integers(0, 3), "y": st.text(max_size=2)})
keys = st.one_of(
    st.builds(lambda name: f"backends/{name}", ids),
    st.builds(lambda owner, name: f"backends/{owner}/servers/{name}", ids, ids),
    st.builds(lambda name: f"listeners/{name}", ids),
)
trees = st.dictionaries(keys, values, max_size=10)
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def entries(objects: dict[str, Any], leased: set[str] = frozenset()) -> dict[str, Entry]:  # type: ignore[assignment]
    import json

    return {key: Entry(key, json.dumps(value).encode(), 1, 1, int(key in leased)) for key, value in objects.items()}


def carried_out(before: dict[str, Entry], operations: list[Put | Remove]) -> dict[str, Any]:
    import json

    after = {key: json.loads(entry.value) for key, entry in before.items()}
    written: set[str] = set()
    for operation in operations:
        assert operation.key not in written
        written.add(operation.key)
        if isinstance(operation, Put):
            after[operation.key] = json.loads(operation.value)
            continue
        for key in list(after):
            if key == operation.key or (operation.below and key.startswith(operation.key + "/")):
                assert key not in written - {operation.key}, "no key is written twice"
                del after[key]
    return after


@settings(max_examples=100, deadline=None)
@given(trees, trees, st.sets(keys))
def test_difference_leads_from_any_state_to_any_other(
    before: dict[str, Any], after: dict[str, Any], leased: set[str]
) -> None:
    """The way back is the same with the readings' leases; both leave alone what lives by a lease."""
    now = entries(before, leased)
    wanted = {key: entry.value for key, entry in entries(after).items()}
    result = carried_out(now, difference(now, wanted, prune=True))
    kept = {key: value for key, value in before.items() if key in leased and key not in after}
    assert result == {**after, **kept}
    operations, compares = way_back(Reading("i", 2, now), Reading("i", 1, entries(after)), ())
    kept = {key: value for key, value in before.items() if key in leased}
    assert carried_out(now, operations) == {**after, **kept}
    assert {compare.key for compare in compares} <= {*before, *after}


@settings(max_examples=50, deadline=None)
@given(trees)
def test_a_tree_taken_apart_and_put_together_is_the_same(objects: dict[str, Any]) -> None:
    stored = entries(objects)
    again, problems = objects_of(tree_of(stored))
    assert problems == []
    owners = {f"backends/{place.owner}" for key in objects if (place := parse_key(key)) and place.owner}
    assert set(again) == {*objects, *owners}
    import json

    assert {key: json.loads(again[key]) for key in objects} == objects


@settings(max_examples=50, deadline=None)
@given(JSON, JSON)
def test_merge_patch_is_rfc_7396(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    if not isinstance(patch, dict):
        assert once == patch
    else:
        assert isinstance(once, dict)
        for name, value in patch.items():
            assert (name not in once) == (value is None)
