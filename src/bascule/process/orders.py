"""What an operator tells the keeper: by `bascule upgrade` on its control socket, or by a signal."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bascule.process.log import Log
    from bascule.process.upgrade import Report, Upgrade


REASON_MAX = 1000
"""Characters of a reason that are kept: it goes into every event and receipt of the switch back."""


def obey(upgrade: Upgrade, message: dict[str, Any], answer: Report, reason: str = "bascule upgrade") -> None:
    """Do what a message asks, and answer: docs/upgrade.md has the messages."""
    kind = message["type"]
    if kind == "upgrade":
        probation_ms, program = message.get("probation_ms"), message.get("program") or []
        if not isinstance(probation_ms, int) or probation_ms < 0:
            probation_ms = upgrade.usual_probation_ms
        if not isinstance(program, list):
            answer({"type": "failed", "reason": "the program is no list of words", "remedy": "name a path"})
            return
        upgrade.begin([str(word) for word in program], probation_ms, reason, answer)
    elif kind == "back":
        upgrade.back(str(message.get("reason") or "bascule upgrade --back")[:REASON_MAX], answer)
    elif kind == "finish":
        upgrade.finish(answer)
    elif kind == "upgrade?":
        answer({"type": "state", **upgrade.state()})
    else:
        remedy = "it may be an older version"
        answer({"type": "failed", "reason": f"this keeper knows no {kind!r}", "remedy": remedy})


def obey_signal(upgrade: Upgrade, log: Log) -> None:
    """Do what USR2 asks. Who sends a signal is told by the log alone."""

    def report(answer: dict[str, Any]) -> None:
        if answer["type"] == "failed":
            log.error("USR2 is not obeyed", reason=answer["reason"], remedy=answer["remedy"])

    obey(upgrade, {"type": "upgrade"}, report, "USR2")
