"""The object table: what is stored, what of it is in force, and the edits from one to the other."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.change.objects import Changes, ObjectTable
from bascule.model import limits
from bascule.model.keys import format_key
from bascule.store.interface import Entry, Event

SERVER = {"url": "http://127.0.0.1:9001"}


class Bench:
    """A table, and a store's word to it."""

    def __init__(self) -> None:
        self.table = ObjectTable()
        self.revision = 0

    def say(self, **values: Any) -> Changes:
        """Apply one revision: keys with `__` for a slash, None for removed, bytes as they are."""
        return self.tell({key.replace("__", "/"): value for key, value in values.items()})

    def tell(self, values: dict[str, Any]) -> Changes:
        self.revision += 1
        events = []
        for key, value in values.items():
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            events.append(Event(key, None if value is None else Entry(key, text, self.revision, self.revision)))
        return self.table.apply(events, self.revision)

    def states(self) -> dict[str, str]:
        return {state.key: state.state for state in self.table.states()}


def edits(changes: Changes) -> list[str]:
    """Return the edits as text: `+key` for put, `-key` for removed."""
    return [
        ("-" if edit.record is None else "+") + format_key(edit.kind, edit.id, edit.owner) for edit in changes.edits
    ]


@pytest.fixture
def bench() -> Bench:
    """A backend with a server and a frontend, in force."""
    bench = Bench()
    bench.say(backends__b={}, backends__b__servers__s=SERVER, frontends__f={"route": "PathPrefix(`/`)", "backend": "b"})
    assert bench.states() == {}
    return bench


def test_owners_come_before_what_stands_below_or_leads_to_them() -> None:
    bench = Bench()
    changes = bench.say(
        frontends__f__middlewares__m={"type": "concurrency_limit", "max": 5},
        frontends__f={"route": "Path(`/`)", "backend": "b"},
        backends__b__servers__s=SERVER,
        backends__b={},
    )
    assert edits(changes) == ["+backends/b", "+backends/b/servers/s", "+frontends/f", "+frontends/f/middlewares/m"]


@pytest.mark.parametrize(
    "text", [b"{}", b' { "balance":"wrr" }\n', b'{"connect_timeout":"5s","balance":"wrr"}', b'{"slow_start": "0s"}']
)
def test_another_text_of_the_same_meaning_is_no_difference(bench: Bench, text: bytes) -> None:
    assert edits(bench.say(backends__b=text)) == []
    assert bench.table.in_force("backends/b") == text


def test_a_refused_form_leaves_the_last_good_one_in_force(bench: Bench) -> None:
    before = bench.table.in_force("frontends/f")
    changes = bench.say(frontends__f={"route": 7, "colour": "blue"})
    assert edits(changes) == []
    assert bench.states() == {"frontends/f": "quarantined"}
    (state,) = bench.table.states()
    assert {problem.path for problem in state.problems} >= {("frontends", "f", "route"), ("frontends", "f", "colour")}
    assert all(problem.remedy for problem in state.problems)
    assert bench.table.in_force("frontends/f") == before
    assert edits(bench.say(frontends__f={"route": "Path(`/x`)", "backend": "b"})) == ["+frontends/f"]
    assert bench.states() == {}


def test_a_refused_new_object_is_not_in_force_and_can_be_removed(bench: Bench) -> None:
    assert edits(bench.say(backends__c=b"\xff")) == []
    assert edits(bench.say(backends__c=None)) == []
    assert bench.states() == {}


def test_a_frontend_that_changes_to_a_missing_backend_keeps_the_one_it_had(bench: Bench) -> None:
    assert edits(bench.say(frontends__f={"route": "Path(`/x`)", "backend": "later"})) == []
    assert bench.states() == {"frontends/f": "waiting"}
    assert edits(bench.say(backends__later={})) == ["+backends/later", "+frontends/f"]
    assert bench.states() == {}


def test_what_stands_below_a_removed_owner_waits_and_comes_back_with_it(bench: Bench) -> None:
    assert edits(bench.say(backends__b=None)) == ["-backends/b"]
    assert bench.states() == {"backends/b/servers/s": "waiting", "frontends/f": "waiting"}
    assert edits(bench.say(backends__b={})) == ["+backends/b", "+backends/b/servers/s"]
    assert bench.states() == {}


def test_removed_and_put_again_in_one_revision_is_no_difference(bench: Bench) -> None:
    assert edits(bench.say(backends__b={})) == []


def test_two_listeners_cannot_have_one_address_and_may_swap_theirs() -> None:
    bench = Bench()
    one, two = {"address": "127.0.0.1:8001"}, {"address": "127.0.0.1:8002"}
    bench.say(listeners__a=one, listeners__b=one)
    assert bench.states() == {"listeners/b": "quarantined"}
    assert edits(bench.say(listeners__a=two)) == ["+listeners/a", "+listeners/b"]
    assert sorted(edits(bench.say(listeners__a=one, listeners__b=two))) == ["+listeners/a", "+listeners/b"]
    assert bench.states() == {}
    assert edits(bench.say(listeners__c=two)) == []
    assert edits(bench.say(listeners__b=None)) == ["-listeners/b", "+listeners/c"]


def test_too_many_siblings_are_refused_one_by_one(bench: Bench) -> None:
    limit = {"type": "concurrency_limit", "max": 5}
    most = limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX
    for number in range(most):
        bench.tell({f"frontends/f/middlewares/m{number}": limit})
    assert bench.states() == {}
    assert edits(bench.say(frontends__f__middlewares__more=limit)) == []
    assert bench.states() == {"frontends/f/middlewares/more": "quarantined"}
    assert edits(bench.say(frontends__f__middlewares__m0=None)) == [
        "-frontends/f/middlewares/m0",
        "+frontends/f/middlewares/more",
    ]


def test_keys_that_no_object_has_hurt_nobody(bench: Bench) -> None:
    changes = bench.tell({"x": {}, "backends//s": {}, "listeners/": {}, "frontends/f/servers/s": {}, "hosts/a": {}})
    assert edits(changes) == []
    assert set(bench.states().values()) == {"quarantined"}
    assert len(bench.states()) == 5


def test_a_rejected_route_goes_back_to_the_form_before(bench: Bench) -> None:
    changes = bench.say(frontends__f={"route": "Path(", "backend": "b"})
    before = changes.before["frontends/f"]
    bench.table.reject("frontends/f", (), changes)
    assert bench.table.in_force("frontends/f") == before
    assert bench.states() == {"frontends/f": "quarantined"}
    assert edits(bench.say(frontends__f=before)) == []
    assert bench.states() == {}


def test_counts_are_those_of_what_is_in_force(bench: Bench) -> None:
    bench.say(backends__c={}, backends__c__servers__s=b"{", listeners__a={"address": "127.0.0.1:1"})
    found = {kind: bench.table.count(kind) for kind in ("listener", "backend", "server", "frontend")}
    assert found == {"listener": 1, "backend": 2, "server": 1, "frontend": 1}


VALUES: dict[str, list[Any]] = {
    "backends/a": [None, {}, {"connect_timeout": "1s"}, b"{"],
    "backends/b": [None, {}, {"colour": 1}],
    "backends/a/servers/s": [None, SERVER, {"url": "x"}],
    "frontends/f": [None, *({"route": "Path(`/`)", "backend": name} for name in "abc"), b"[]"],
    "frontends/f/middlewares/m": [None, {"type": "concurrency_limit", "max": 5}, {"type": "x"}],
    "listeners/a": [None, {"address": "127.0.0.1:8001"}, {"address": "127.0.0.1:8002"}, {}],
    "listeners/b": [None, {"address": "127.0.0.1:8001"}, {"address": "127.0.0.1:8002"}],
}
STEPS = st.lists(
    st.lists(
        st.sampled_from([(key, n) for key, values in VALUES.items() for n in range(len(values))]),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(VALUES)), st.integers(0, 5)))
def test_a_whole_store_is_loaded_as_if_it_had_come_object_by_object(chosen: dict[str, int]) -> None:
    values = {key: VALUES[key][number % len(VALUES[key])] for key, number in chosen.items()}
    entries = {}
    for key, value in values.items():
        if value is not None:
            entries[key] = Entry(key, value if isinstance(value, bytes) else json.dumps(value).encode(), 1, 1)
    loaded, told = ObjectTable(), ObjectTable()
    loaded.load(entries, "store", 1)
    told.apply([Event(key, entry) for key, entry in entries.items()], 1)
    assert loaded.tree() == told.tree()
    assert dict(loaded.forms()) == dict(told.forms())
    assert loaded.states() == told.states()
    assert loaded.ledger.digest.value == told.ledger.digest.value
    for kind in ("listener", "backend", "server", "frontend", "middleware"):
        assert loaded.count(kind) == told.count(kind)
    removed = [Event(key, None) for key in entries if key.startswith("backends/a")]
    assert loaded.apply(removed, 2).edits == told.apply(removed, 2).edits
    assert loaded.states() == told.states()


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_edits_alone_lead_to_what_is_in_force(steps: list[list[tuple[str, int]]]) -> None:
    """Whoever follows the edits has what the table says is in force, after any history."""
    bench = Bench()
    followed: dict[str, Any] = {}
    for step in steps:
        changes = bench.tell({key: VALUES[key][number] for key, number in step})
        for edit in changes.edits:
            key = format_key(edit.kind, edit.id, edit.owner)
            if edit.record is not None:
                assert not edit.owner or key.rsplit("/", 2)[0] in followed, "an owner comes first"
                followed[key] = edit.record
            else:
                followed = {k: v for k, v in followed.items() if k != key and not k.startswith(key + "/")}
        in_force = {key: bench.table.record(key) for key, _ in bench.table.forms()}
        assert followed == in_force
        assert bench.table.counts()["waiting"] + bench.table.counts()["quarantined"] == len(bench.states())
