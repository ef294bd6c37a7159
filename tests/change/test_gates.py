"""The gates: what passes, what is held, what freezes, and how each ends."""

import pytest

from bascule.change.gates import Gates
from bascule.change.holds import Verdict
from bascule.store.interface import Event
from change.gate_tables import DRAINING, Table, gone, left, pool, put, server, site


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """Gates over a table, and what they let through in force at once."""

    def __init__(self, keys: list[str]) -> None:
        self.table = Table(keys)
        self.clock = Clock()
        self.sick: set[tuple[str, str]] = set()
        self.gates = Gates(
            self.table, passing=lambda *key: key not in self.sick, monotonic=self.clock, wall=lambda: 5.0
        )

    def judge(self, *events: Event, reading: bool = False) -> Verdict:
        verdict = self.gates.judge(events, reading=reading)
        self.table.apply(verdict.events)
        return verdict

    def read(self, keys: list[str], leased: frozenset[str] = frozenset()) -> Verdict:
        """A whole reading that holds exactly these keys."""
        events = [Event(key, None, expired=key in leased) for key in self.table.values if key not in keys]
        events += [put(key) for key in keys if key not in self.table]
        return self.judge(*events, reading=True)

    def review(self) -> Verdict:
        verdict = self.gates.review()
        self.table.apply(verdict.events)
        return verdict

    def servers(self, backend: str = "app") -> int:
        return len(self.table.servers(backend))


def test_a_pool_that_vanishes_is_held_whole() -> None:
    bench = Bench(pool(3))
    verdict = bench.judge(*(gone(server(number)) for number in range(3)))
    assert verdict.events == ()
    assert [hold.key for hold in verdict.held] == [server(number) for number in range(3)]
    assert "3 of 3 servers vanished" in verdict.held[0].reason
    assert "bascule adopt" in verdict.held[0].remedy
    assert bench.servers() == 3
    assert bench.gates.reasons() == (verdict.held[0].reason,)


@pytest.mark.parametrize(("size", "passes"), [(1, 0), (2, 0), (3, 1), (4, 1), (6, 2), (9, 3), (10, 3), (100, 33)])
def test_exactly_a_third_may_vanish(size: int, passes: int) -> None:
    bench = Bench(pool(size))
    assert bench.judge(*(gone(server(number)) for number in range(passes))).held == ()
    bench = Bench(pool(size))
    assert len(bench.judge(*(gone(server(number)) for number in range(passes + 1))).held) == passes + 1


def test_a_removal_by_word_passes_whatever_is_left() -> None:
    bench = Bench(pool(30))
    assert bench.judge(*(left(server(number)) for number in range(30))).held == ()
    assert bench.servers() == 0


def test_losses_one_by_one_within_the_window_count_together() -> None:
    bench = Bench(pool(9))
    for number in range(3):
        assert bench.judge(gone(server(number))).held == ()
        bench.clock.now_s += 2
    verdict = bench.judge(gone(server(3)))
    assert [hold.key for hold in verdict.held] == [server(3)]
    assert "4 of 9" in verdict.held[0].reason
    assert "within 10 s" in verdict.held[0].reason
    assert len(bench.judge(gone(server(4))).held) == 1, "every further one is held"


def test_losses_further_apart_than_the_window_pass_until_the_last_server() -> None:
    bench = Bench(pool(4))
    for number in range(3):
        bench.judge(gone(server(number)))
        bench.clock.now_s += 11
    held = bench.servers()
    bench.judge(gone(server(3)))
    assert bench.servers() == held
    assert bench.servers() >= 1


def test_what_comes_back_is_held_no_longer() -> None:
    bench = Bench(pool(3))
    bench.judge(*(gone(server(number)) for number in range(3)))
    verdict = bench.judge(put(server(0)))
    assert verdict.returned == (server(0),)
    assert set(bench.gates.held) == {server(1), server(2)}
    bench.judge(put(server(1)), put(server(2)))
    assert not bench.gates.held
    assert bench.judge(gone(server(0))).held == (), "the pool is judged anew"


def test_a_pool_that_is_back_under_other_ids_drops_what_is_held() -> None:
    bench = Bench(pool(6))
    bench.judge(*(gone(server(number)) for number in range(6)))
    bench.judge(*(put(server(number)) for number in range(10, 13)))
    assert bench.review().released == (), "3 of 6 are not yet two thirds"
    bench.judge(put(server(13)))
    assert len(bench.review().released) == 6
    assert bench.servers() == 4
    assert not bench.gates.held


def test_held_servers_that_fail_their_checks_go() -> None:
    bench = Bench(pool(3))
    bench.judge(*(gone(server(number)) for number in range(3)))
    bench.sick = {("app", "s1")}
    assert bench.review().released == (server(1),)
    bench.sick = {("app", "s0"), ("app", "s2")}
    bench.review()
    assert bench.servers() == 0
    assert not bench.gates.held


def test_a_server_that_failed_its_checks_before_may_vanish() -> None:
    bench = Bench(pool(3))
    bench.sick = {("app", "s0"), ("app", "s1"), ("app", "s2")}
    assert bench.judge(*(gone(server(number)) for number in range(3))).held == ()


def test_servers_without_traffic_do_not_count() -> None:
    bench = Bench(pool(10))
    bench.judge(*(put(server(number), DRAINING) for number in range(1, 10)))
    assert len(bench.judge(gone(server(0))).held) == 1, "it was the only one that took traffic"
    assert bench.judge(*(gone(server(number)) for number in range(1, 10))).held == ()


def test_a_replacement_in_the_same_batch_is_no_loss() -> None:
    bench = Bench(pool(2))
    assert bench.judge(gone(server(0)), gone(server(1)), put(server(2)), put(server(3))).held == ()
    assert len(bench.judge(gone(server(2)), gone(server(3)), put(server(4), DRAINING), put(server(5), b"{")).held) == 2


def test_the_backend_removed_by_word_takes_its_servers_along() -> None:
    bench = Bench(pool(2))
    bench.judge(gone(server(0)), gone(server(1)))
    verdict = bench.judge(left("backends/app"))
    assert set(verdict.released) == {server(0), server(1)}
    assert not bench.gates.held
    bench = Bench([*pool(2), "listeners/web"])
    assert bench.judge(left("backends/app"), gone(server(0)), gone(server(1))).held == ()


def test_what_vanishes_with_its_pool_is_held_with_it() -> None:
    bench = Bench([*pool(1), "frontends/f", "frontends/f/middlewares/m", "frontends/other"])
    bench.table.leads = {"f": "app", "other": "elsewhere"}
    keys = [server(0), "backends/app", "frontends/f", "frontends/f/middlewares/m"]
    verdict = bench.judge(*map(gone, keys), gone("frontends/other"))
    assert {hold.key for hold in verdict.held} == set(keys)
    assert [event.key for event in verdict.events] == ["frontends/other"]


# ---- the tree


def test_a_reading_without_a_third_of_the_frontends_is_held() -> None:
    keys = site(40)
    bench = Bench(keys)
    assert bench.read([key for key in keys if key not in {f"frontends/f{n}" for n in range(13)}]).held == ()
    bench = Bench(keys)
    verdict = bench.read([key for key in keys if key not in {f"frontends/f{n}" for n in range(14)}])
    assert len(verdict.held) == 14
    assert "14 of 40 frontends" in verdict.held[0].reason
    assert bench.table.count("frontend") == 40


def test_a_small_tree_may_lose_more_than_a_third_but_not_all() -> None:
    keys = site(9)
    bench = Bench(keys)
    assert bench.read([key for key in keys if key not in {f"frontends/f{n}" for n in range(8)}]).held == ()
    verdict = bench.read([key for key in bench.table.values if key != "frontends/f8"])
    assert "the last frontend would go" in verdict.held[0].reason


def test_an_empty_reading_changes_nothing() -> None:
    bench = Bench(site(2))
    assert bench.read([]).events == ()
    assert len(bench.gates.held) == len(site(2))


def test_everything_removed_by_word_at_once_is_held() -> None:
    bench = Bench(site(1))
    verdict = bench.judge(*map(left, site(1)))
    assert verdict.events == ()
    assert "everything" in verdict.held[0].reason
    assert not bench.judge(*map(put, site(1))).held
    assert not bench.gates.held
    assert bench.judge(left("frontends/f0")).held == (), "one by one is meant"


def test_all_of_a_kind_removed_by_word_at_once_is_held_when_they_are_many() -> None:
    bench = Bench(site(11))
    assert len(bench.judge(*(left(f"frontends/f{number}") for number in range(11))).held) == 11
    bench = Bench(site(10))
    assert bench.judge(*(left(f"frontends/f{number}") for number in range(10))).held == ()


def test_objects_under_new_names_are_no_loss() -> None:
    keys = site(40)
    bench = Bench(keys)
    renamed = [key if key[0] != "f" else key + "x" for key in keys]
    assert bench.read(renamed).held == ()


def test_changed_objects_do_not_hide_a_loss() -> None:
    keys = site(40)
    bench = Bench(keys)
    events = [left(f"frontends/f{n}") for n in range(20)] + [put(f"frontends/f{n}") for n in range(20, 40)]
    assert len(bench.judge(*events, reading=True).held) == 20


def test_a_held_reading_read_again_stays_held_with_its_first_time() -> None:
    keys = site(40)
    bench = Bench(keys)
    bench.read(["listeners/web"])
    before = dict(bench.gates.held)
    assert bench.read(["listeners/web"]).held == ()
    assert dict(bench.gates.held) == before


def test_many_frontends_that_vanish_are_held() -> None:
    bench = Bench(site(40))
    assert len(bench.judge(*(gone(f"frontends/f{number}") for number in range(14))).held) == 14
    assert bench.judge(*(left(f"frontends/f{number}") for number in range(20, 40))).held == ()


def test_adopt_lets_every_loss_through() -> None:
    bench = Bench(site(40))
    bench.read(["listeners/web"])
    verdict = bench.gates.adopt()
    bench.table.apply(verdict.events)
    assert list(bench.table.values) == ["listeners/web"]
    assert not bench.gates.held
    assert bench.gates.reasons() == ()


# ---- the store


def test_another_identity_freezes_until_adopted() -> None:
    gates = Gates(Table(), wall=lambda: 7.0)
    assert gates.position("b", 500, "a", 100) is not None
    freeze = gates.freeze_state()
    assert freeze is not None
    assert freeze.by == "store"
    assert "another one" in freeze.reason
    assert "bascule adopt" in freeze.remedy
    assert freeze.since_s == 7.0
    gates.adopt()
    assert gates.freeze_state() is None
    assert gates.position("b", 500, "b", 500) is None


def test_the_former_store_again_ends_its_freeze() -> None:
    gates = Gates(Table())
    gates.position("b", 500, "a", 100)
    assert gates.position("a", 101, "a", 100) is None
    assert gates.freeze_state() is None


def test_a_lower_revision_freezes_until_adopted_also_when_it_has_caught_up() -> None:
    gates = Gates(Table())
    freeze = gates.position("a", 99, "a", 100)
    assert freeze is not None
    assert "went back" in freeze.reason
    assert gates.position("a", 100, "a", 100) == freeze, "the same number, another history"
    successor = Gates(Table())
    successor.restore(gates.state())
    assert successor.position("a", 200, "a", 100) == freeze
    successor.adopt()
    assert successor.position("a", 200, "a", 200) is None
    assert successor.freeze_state() is None


def test_with_nothing_in_force_every_store_is_right() -> None:
    assert Gates(Table()).position("a", 1, "", 0) is None


def test_an_operator_freezes_and_unfreezes() -> None:
    gates = Gates(Table(), wall=lambda: 7.0)
    freeze = gates.freeze("deploying the database", "carl")
    assert freeze == gates.freeze_state()
    assert freeze.by == "operator"
    assert freeze.reason == "frozen by carl: deploying the database"
    gates.position("b", 5, "a", 1)
    assert gates.freeze_state() == freeze, "an operator's word comes first"
    gates.adopt()
    assert gates.freeze_state() == freeze
    assert gates.unfreeze()
    assert gates.freeze_state() is None
    assert not gates.unfreeze()


def test_a_successor_goes_on_where_its_predecessor_ended() -> None:
    bench = Bench([*pool(3), *site(12)])
    bench.judge(gone(server(0)), gone(server(1)))
    bench.read([*pool(3), "listeners/web"])
    bench.gates.freeze("night", "carl")
    successor = Gates(bench.table)
    successor.restore(bench.gates.state())
    assert successor.state() == bench.gates.state()
    assert successor.held == bench.gates.held
    assert [hold.key for hold in successor.judge([gone(server(2))]).held] == [server(2)]
    bench.gates.judge([gone(server(2))])
    assert successor.state().baselines == bench.gates.state().baselines
