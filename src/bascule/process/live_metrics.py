"""Numbers of the way of changes, for Prometheus."""

from __future__ import annotations

from typing import Final

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LiveMetrics:
    """Counters of one master, since its start."""

    def __init__(self) -> None:
        """See the class."""
        self.revisions = 0
        self.coalesced = 0
        self.published = 0
        self.rejected = 0
        self.quarantined = 0
        self.failed = 0
        self.in_force_s = 0.0
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def latency(self, took_s: float) -> None:
        """Count a change that took so long from the store's word to the last worker's acknowledgement."""
        self._sum_s += took_s
        for index, bound_s in enumerate(BUCKETS_S):
            if took_s <= bound_s:
                self._buckets[index] += 1
                return
        self._buckets[-1] += 1

    def render(self, *, objects: dict[str, int], reconnects: int, connected: bool, revision: int, frozen: bool) -> str:
        """Return everything in the text format of Prometheus."""
        lines = []
        for name, kind, text, value in (
            ("store_revisions_total", "counter", "Revisions with changes that the watch gave.", self.revisions),
            (
                "store_revisions_coalesced_total",
                "counter",
                "Revisions that came into force with a later one.",
                self.coalesced,
            ),
            ("snapshots_published_total", "counter", "Snapshots sent to the workers.", self.published),
            ("routes_rejected_total", "counter", "Frontends refused by the route compiler.", self.rejected),
            ("objects_quarantined_total", "counter", "Objects whose stored form was refused.", self.quarantined),
            ("changes_failed_total", "counter", "Changes that failed for a reason of our own.", self.failed),
            ("store_reconnects_total", "counter", "Times that the store was lost.", reconnects),
            ("store_connected", "gauge", "Whether the store is being followed.", int(connected)),
            ("store_revision", "gauge", "Store revision in force.", revision),
            ("frozen", "gauge", "Whether changes are kept out of force.", int(frozen)),
        ):
            lines += [f"# HELP bascule_{name} {text}", f"# TYPE bascule_{name} {kind}", f"bascule_{name} {value}"]
        lines += ["# HELP bascule_objects Objects by how they stand.", "# TYPE bascule_objects gauge"]
        lines += [f'bascule_objects{{state="{state}"}} {count}' for state, count in objects.items()]
        return "\n".join([*lines, *self._histogram()]) + "\n"

    def _histogram(self) -> list[str]:
        name = "bascule_change_apply_seconds"
        lines = [
            f"# HELP {name} From the store's word to the last worker's acknowledgement.",
            f"# TYPE {name} histogram",
        ]
        total = 0
        for bound_s, count in zip((*map(str, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound_s}"}} {total}')
        return [*lines, f"{name}_sum {self._sum_s:.6f}", f"{name}_count {total}"]
