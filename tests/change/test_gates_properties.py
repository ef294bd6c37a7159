"""What must hold of the gates whatever happens to a pool and a tree."""

from hypothesis import given
from hypothesis import strategies as st

from bascule.change.gates import Gates
from bascule.store.interface import Event
from change.gate_tables import Table, gone, left, pool, put, server

SIZE = 12
Step = tuple[str, list[int], float]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["vanish", "leave", "put"]),
        st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE, unique=True),
        st.floats(0, 30),
    ),
    max_size=25,
)


def play(steps: list[Step]) -> tuple[Gates, Table, set[str]]:
    """Carry out steps as a store would; return the gates, what is in force, and what the store holds."""
    table, store, now = Table(pool(SIZE)), set(pool(SIZE)), [0.0]
    gates = Gates(table, monotonic=lambda: now[0])
    for kind, numbers, pause_s in steps:
        now[0] += pause_s
        keys = [server(number) for number in numbers]
        if kind == "put":
            events = [put(key) for key in keys]
            store.update(keys)
        else:
            make = gone if kind == "vanish" else left
            events = [make(key) for key in keys if key in store]
            store.difference_update(keys)
        before = sum(table.servers("app").values())
        verdict = gates.judge(events)
        table.apply(verdict.events)
        table.apply(gates.review().events)
        check(gates, table, store)
        if kind == "vanish" and before:
            assert sum(table.servers("app").values()) * 3 >= before * 2, "a vanishing takes no more than a third"
    return gates, table, store


def check(gates: Gates, table: Table, store: set[str]) -> None:
    """In force is what the store holds and what is held, nothing else; nothing is held that the store has."""
    assert set(table.values) == store | set(gates.held)
    assert not store & set(gates.held)
    pools = gates._pool_gate.pools
    assert {server_key for name, one in pools.items() for server_key in _keys(name, one.held)} == set(gates.held)


def _keys(backend: str, names: set[str]) -> set[str]:
    return {f"backends/{backend}/servers/{name}" for name in names}


@given(STEPS)
def test_in_force_is_the_store_and_what_is_held(steps: list[Step]) -> None:
    gates, table, store = play(steps)
    table.apply(gates.adopt().events)
    assert set(table.values) == store
    assert not gates.held
    assert not gates._below


@given(STEPS)
def test_a_successor_judges_alike(steps: list[Step]) -> None:
    gates, table, store = play(steps)
    successor = Gates(table, monotonic=lambda: 0.0)
    successor.restore(gates.state())
    events = [gone(key) for key in sorted(store) if "/servers/" in key]
    if gates.held:  # the window of recent losses is not handed on; what is held already is
        assert successor.judge(events).events == gates.judge(events).events


@given(st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)), st.integers(0, 20))
def test_a_reading_never_takes_more_than_a_third_of_a_large_tree(
    removed: set[int], changed: set[int], added: int
) -> None:
    table = Table([f"frontends/f{number}" for number in range(40)])
    gates = Gates(table)
    events: list[Event] = [left(f"frontends/f{number}") for number in sorted(removed)]
    events += [put(f"frontends/f{number}") for number in sorted(changed - removed)]
    events += [put(f"frontends/g{number}") for number in range(added)]
    table.apply(gates.judge(events, reading=True).events)
    assert table.count("frontend") * 3 >= 40 * 2
    for number in changed - removed:
        assert f"frontends/f{number}" in table
