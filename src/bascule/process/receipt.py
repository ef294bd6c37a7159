"""The receipt of an upgrade or a switch back: what was there before, what happened, what is there now.

Resets and drops are the kernel's counters of the network namespace, so other programs' are in them too: 0 proves that there was
none, more does not prove that they were ours.
"""

from __future__ import annotations

import os
import time

from bascule.process import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.process.crew import Crew
    from bascule.process.generation import Generation
    from bascule.process.lending import Lending
    from bascule.process.log import Log

HISTORY_FILE = "upgrades.jsonl"
HISTORY_MAX = 200
QUEUES_MAX = 400
TEXT_MAX = 2000
"""Characters of what failed: it may be the words of a program that nobody knows yet."""
_COUNTERS: dict[str, dict[str, tuple[str, ...]]] = {
    "/proc/net/snmp": {"Tcp": ("EstabResets", "OutRsts")},
    "/proc/net/netstat": {"TcpExt": ("ListenOverflows", "ListenDrops", "TCPAbortOnData", "TCPAbortOnClose")},
}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Receipt:
    """Gathers the facts of one replacement while it goes on. Times are seconds since it began."""

    def __init__(self, kind: str, reason: str, active: Generation, lending: Lending) -> None:
        """`kind` is "upgrade" or "back", `reason` why it was begun."""
        self._began_s = time.monotonic()
        self._phase_s = self._began_s
        self._counters = kernel_counters()
        self._phases: dict[str, float] = {}
        self._accounts_before: dict[int, dict[str, int]] = {}
        self._document: dict[str, Any] = {
            "kind": kind,
            "reason": reason,
            "at": time.time(),
            "from": _who(active),
            "slots": sum(len(lending.listeners[key].descriptors) for key in lending.listening),
            "queued_before": queues(lending),
            "regions_restarted": [],
            "memory_before_bytes": memory_bytes(active),
        }

    def phase_ended(self, name: str) -> None:
        """Note how long a phase took."""
        now_s = time.monotonic()
        self._phases[name] = round(now_s - self._phase_s, 4)
        self._phase_s = now_s

    def note(self, key: str, value: Any) -> None:
        """Note one more fact."""
        self._document[key] = value

    def committed(self, old: Generation, new: Generation, lending: Lending) -> None:
        """Note what is in force now, and what it takes while both generations are there."""
        self._document["to"] = _who(new)
        self._document["queued_after"] = queues(lending)
        self._document["memory_both_bytes"] = memory_bytes(old) + memory_bytes(new)
        old.crew.departed.clear()
        self._accounts_before = {worker.pid: dict(worker.account) for worker in old.crew.workers.values()}
        self._document["committed_after_s"] = round(time.monotonic() - self._began_s, 4)

    def failed(self, reason: str, remedy: str) -> dict[str, Any]:
        """Return the receipt of a replacement that changed nothing."""
        return self._ended({"ok": False, "failed": reason[:TEXT_MAX], "remedy": remedy})

    def done(self, old: Crew) -> dict[str, Any]:
        """Return the receipt, with what the old workers have done with their connections since the commit."""
        total: dict[str, int] = {}
        accounts = list(old.departed)
        accounts += [(worker.pid, worker.account) for worker in old.workers.values()]
        for pid, account in accounts:
            before = self._accounts_before.get(pid, {})
            for key, value in account.items():
                if key == "inherited":  # in an upgrade before: who rests takes nothing over
                    continue
                total[key] = total.get(key, 0) + value - (0 if key == "in_flight" else before.get(key, 0))
        return self._ended({"ok": True, "connections": dict(sorted(total.items()))})

    def _ended(self, more: dict[str, Any]) -> dict[str, Any]:
        after = kernel_counters()
        self._document.update(more)
        self._document["phases_s"] = self._phases
        self._document["took_s"] = round(time.monotonic() - self._began_s, 4)
        self._document["kernel"] = {key: after[key] - value for key, value in self._counters.items() if key in after}
        return self._document


def _who(generation: Generation) -> dict[str, Any]:
    workers = sorted(generation.crew.workers)
    return {"generation": generation.number, "version": generation.program.version, "workers": workers}


def queues(lending: Lending) -> dict[str, int]:
    """Return how many connections wait to be accepted, by listener: where there are very many listeners, by those alone at
    which somebody waits, so that a receipt fits into one packet."""
    found: dict[str, int] = {}
    for key in sorted(lending.listening):  # for a moment, one listener may be two, at different addresses
        found[key[0]] = found.get(key[0], 0) + lending.listeners[key].queued()
    if len(found) > QUEUES_MAX:
        found = dict([(name, count) for name, count in found.items() if count][:QUEUES_MAX])
    return found


def memory_bytes(generation: Generation) -> int:
    """Return the private resident memory of a generation's processes; what they share is not theirs alone."""
    total = 0
    for pid in generation.pids():
        try:
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                fields = file.read().split()
        except OSError:
            continue
        total += (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    return total


def kernel_counters() -> dict[str, int]:
    """Return the counters of resets and refused connections of this network namespace; empty without /proc."""
    found: dict[str, int] = {}
    for path, groups in _COUNTERS.items():
        try:
            with open(path, encoding="ascii") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            group, _, rest = names.partition(":")
            counted = dict(zip(rest.split(), values.partition(":")[2].split(), strict=False))
            found.update({name: int(counted[name]) for name in groups.get(group, ()) if name in counted})
    return found


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """Return what of a receipt is told as an event: the same fields whatever has happened, and of bounded size."""
    fields = ("kind", "ok", "reason", "from", "to", "took_s", "connections", "failed", "remedy")
    return {"phase": "ended", **{name: document[name] for name in fields if name in document}}


def remember(path: str, document: dict[str, Any]) -> None:
    """Append a receipt to the history, which keeps the newest HISTORY_MAX, with the totals of all that ever were."""
    lines = history_lines(path)[-(HISTORY_MAX - 1) :]
    document["totals"] = totals(_totals_before(lines), document)
    temporary = path + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in [*lines, wire.dumps(document)]))
    os.rename(temporary, path)


def totals(before: dict[str, dict[str, int]], document: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the totals after one more receipt: `replacements` by kind and how they ended, `connections` by what became of
    them."""
    counts = {name: dict(before.get(name, {})) for name in ("replacements", "connections")}
    key = f"{document['kind']} {'done' if document['ok'] else 'failed'}"
    for name, more in (("replacements", {key: 1}), ("connections", document.get("connections", {}))):
        for what, count in more.items():
            counts[name][what] = counts[name].get(what, 0) + count
    return counts


def _totals_before(lines: list[str]) -> dict[str, dict[str, int]]:
    for line in reversed(lines):
        try:
            found = totals_of(wire.loads(line))
        except ValueError:
            continue
        if found:  # else it is damaged, and the one before says nearly as much
            return found
    return {}


def totals_of(receipt: object) -> dict[str, dict[str, int]]:
    """Return the totals of a receipt, or as much as can be read of one that a disk or an editor has damaged: neither keeper
    nor metrics end of it."""
    found = receipt.get("totals") if isinstance(receipt, dict) else None
    parts = found.items() if isinstance(found, dict) else ()
    return {
        name: {what: count for what, count in counts.items() if isinstance(count, int)}
        for name, counts in parts
        if isinstance(counts, dict)
    }


def history_lines(path: str) -> list[str]:
    """Return the receipts as they were written, oldest first; one that was damaged may be no JSON any more."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def keep(path: str, receipt: dict[str, Any], log: Log) -> None:
    """Remember a receipt, and say in the log how the upgrade went."""
    try:
        remember(path, receipt)
    except OSError as error:
        log.error("the receipt of the upgrade cannot be kept", error=error.strerror)
    if receipt["ok"]:
        log.info(
            "switched back" if receipt["kind"] == "back" else "upgraded",
            version=receipt["to"]["version"],
            because=receipt["reason"],
            took_s=receipt["took_s"],
            **receipt["connections"],
        )
