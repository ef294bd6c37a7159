"""What a master shows of upgrades: a part of the status document, metrics, and the receipts that the keeper wrote."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from bascule.admin.metrics import escape
from bascule.process.receipt import HISTORY_FILE, history_lines, summary, totals_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bascule.process.master import Master


def state_of(master: Master) -> dict[str, Any]:
    """Return how upgrades stand: what the keeper last said, and the time that has passed since."""
    state = dict(master.upgrade)
    passed_s = time.monotonic() - state.pop("told_s", time.monotonic())
    if "probation_left_s" in state:
        state["probation_left_s"] = round(max(state["probation_left_s"] - passed_s, 0.0), 1)
    return state


def receipts_of(master: Master) -> list[dict[str, Any]]:
    """Return the receipts in the state directory, oldest first; one that cannot be read is left out. Reads a file."""
    found = []
    for line in history_lines(os.path.join(master.state_path, HISTORY_FILE)):
        try:
            receipt = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(receipt, dict):
            found.append(receipt)
    return found


def status_part(state: Mapping[str, Any], receipts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the status document says of upgrades: bascule.admin.status.UpgradeStatus."""
    last = receipts[-1] if receipts else None
    return {**state, "last": None if last is None else {"at": last.get("at", 0.0), **summary(last)}}


def metrics_part(state: Mapping[str, Any], receipts: Sequence[dict[str, Any]]) -> bytes:
    """Return the numbers of upgrades for Prometheus. Totals are of the state directory: they go on over new versions."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, values: Mapping[str, float]) -> None:
        lines.extend((f"# HELP bascule_{name} {text}", f"# TYPE bascule_{name} {kind}"))
        lines.extend(f"bascule_{name}{labels} {value:g}" for labels, value in values.items())

    version = escape(str(state.get("version", "")))
    family(
        "generation",
        "gauge",
        "Number of the generation that serves.",
        {f'{{version="{version}"}}': state.get("generation", 0)},
    )
    under_way, left_s = int(bool(state.get("phase"))), state.get("probation_left_s", 0.0)
    family("upgrade_under_way", "gauge", "Whether another generation is being brought into service.", {"": under_way})
    family(
        "upgrade_probation_seconds", "gauge", "How long the version before can still be switched back to.", {"": left_s}
    )
    totals = totals_of(receipts[-1]) if receipts else {}
    replacements = {
        f'{{kind="{kind}",result="{result}"}}': totals.get("replacements", {}).get(f"{kind} {result}", 0)
        for kind in ("upgrade", "back")
        for result in ("done", "failed")
    }
    family("upgrades_total", "counter", "Upgrades and switch backs, by how they ended.", replacements)
    family(
        "upgrade_connections_total",
        "counter",
        "Connections of replaced workers, by what became of them.",
        {f'{{what="{escape(what)}"}}': count for what, count in sorted(totals.get("connections", {}).items())},
    )
    return ("\n".join(lines) + "\n").encode()
