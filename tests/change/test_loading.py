"""A table that is filled in one go is the table that is filled object by object."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.change import loading
from bascule.change.ledger import owner_of
from bascule.change.loading import load
from bascule.change.objects import ObjectTable
from bascule.model.tree import Settings
from bascule.store.interface import Entry, Event
from fuzz.values import bystanders, victims

PLAIN = bystanders() | victims()
BROKEN = {
    "frontends/v0": b'{"route":"Path(`/`)","backend":"missing"}',
    "frontends/v1": b'{"route":"Path(`/`)"',
    "frontends/v2": b'{"route":"Path(`/`)","backend":"v2","middlewares":{"m":{"type":"rate_limit"}}}',
    "backends/v0": b'{"servers":{"a":{"url":"http://127.0.0.1:1"}}}',
    "backends/gone/servers/a": b'{"url":"http://127.0.0.1:1"}',
    "listeners/v": b'{"address":"127.0.0.1:8080"}',
    "nonsense": b"{}",
    "frontends/v3": b"[" * 5000,
    "hosts/a.test": b"{}",
    "settings": b'{"workers":-1}',
}


def entries(values: dict[str, bytes]) -> dict[str, Entry]:
    return {key: Entry(key, value, 1, 1) for key, value in values.items()}


def one_by_one(values: dict[str, bytes]) -> ObjectTable:
    table = ObjectTable()
    table.identity = "id"
    table.apply([Event(key, entry) for key, entry in entries(values).items()], 1)
    return table


def loaded(values: dict[str, bytes]) -> ObjectTable:
    table = ObjectTable()
    table.load(entries(values), "id", 1)
    return table


def same(one: ObjectTable, other: ObjectTable) -> None:
    assert len(one.ledger) == len(other.ledger)
    assert one.tree() == other.tree()
    assert one.states() == other.states()
    assert +one._counted == +other._counted
    backends = {name for table in (one, other) for name in table.tree().backends} | {"missing", "v0", "v2"}
    assert all(sorted(one._users.of(name)) == sorted(other._users.of(name)) for name in backends)
    assert len(one._users) == len(other._users)
    assert one.listeners() == other.listeners()
    assert one.ledger.digest.value == other.ledger.digest.value
    owners = {owner_of(key) for key in (*one.ledger, *other.ledger)}
    assert all(one.ledger.below(owner) == other.ledger.below(owner) for owner in owners if owner)
    assert one.ledger._top == other.ledger._top
    assert dict(one.ledger.items()) == dict(other.ledger.items())
    assert one.revision == other.revision


def test_everything_in_order_is_loaded_in_one_go() -> None:
    found = load(entries(PLAIN), Settings())
    assert found is not None
    assert not found.doubtful
    same(loaded(PLAIN), one_by_one(PLAIN))


@given(st.sets(st.sampled_from(sorted(PLAIN))), st.sets(st.sampled_from(sorted(BROKEN)), max_size=2))
def test_both_ways_give_the_same_table(missing: set[str], broken: set[str]) -> None:
    values = {key: value for key, value in PLAIN.items() if key not in missing}
    values |= {key: BROKEN[key] for key in sorted(broken)}
    same(loaded(values), one_by_one(values))


def test_a_rule_that_cannot_bear_a_value_stops_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one_by_one(PLAIN)

    def unbearable(*_: object, **__: object) -> None:
        raise OverflowError("never thought of")

    monkeypatch.setattr(loading, "validate", unbearable)
    assert load(entries(PLAIN), Settings()) is None
    same(loaded(PLAIN), wanted)


def test_what_is_not_plain_and_what_depends_on_it_are_left_to_the_usual_way() -> None:
    for key, value in BROKEN.items():
        found = load(entries(PLAIN | {key: value}), Settings())
        assert found is not None, key
        assert key in found.doubtful
        assert len(found.doubtful) < len(PLAIN) / 2, key


def test_one_doubtful_object_does_not_slow_the_others_down() -> None:
    values = {"listeners/web": b'{"address":"127.0.0.1:8080"}'}
    for number in range(3000):
        values |= {
            f"backends/b{number}": b"{}",
            f"backends/b{number}/servers/s": b'{"url":"http://127.0.0.1:1"}',
            f"frontends/f{number}": b'{"route":"PathPrefix(`/%d/`)","backend":"b%d"}' % (number, number),
            f"frontends/f{number}/middlewares/m": b'{"type":"rate_limit","requests":1,"period":"1s","key":"client.ip"}',
        }
    values |= {
        "backends/b7": b"{",
        "frontends/f9": b'{"route":"Path(`/`)","backend":"missing"}',
        "frontends/f10/middlewares/m": b"[]",
    }
    found = load(entries(values), Settings())
    assert found is not None
    assert found.doubtful == {
        *("backends/b7", "backends/b7/servers/s", "frontends/f7", "frontends/f7/middlewares/m"),
        *("frontends/f9", "frontends/f9/middlewares/m", "frontends/f10/middlewares/m"),
    }
    same(loaded(values), one_by_one(values))


def test_changes_after_a_load_change_what_they_do_elsewhere() -> None:
    one, other = loaded(PLAIN), one_by_one(PLAIN)
    events = [
        Event("backends/v0", None),
        Event("frontends/v1", Entry("frontends/v1", b'{"route":"Path(`/x`)","backend":"v2"}', 1, 2)),
        Event("backends/v2/servers/t", Entry("backends/v2/servers/t", b'{"url":"http://127.0.0.1:5"}', 2, 2)),
        Event("listeners/v", None),
    ]
    assert msgspec.to_builtins(one.apply(events, 2).edits) == msgspec.to_builtins(other.apply(events, 2).edits)
    same(one, other)
