"""The phases of an upgrade or a switch back: their names, how long each may take, and what is said of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ASKING, STARTING, FILLING, TESTING = "asking", "starting", "filling", "testing"
HOLDING, ADOPTING, LENDING, TAKING_OVER, EMPTYING = "holding", "adopting", "lending", "taking over", "emptying"

PATIENCE_S = {
    ASKING: 60.0,
    STARTING: 120.0,
    FILLING: 60.0,
    TESTING: 60.0,
    HOLDING: 60.0,
    ADOPTING: 60.0,
    LENDING: 60.0,
    TAKING_OVER: 5.0,
    EMPTYING: 5.0,
}
"""How long each phase may take. One that is late fails the upgrade; the last two only end the waiting."""

BACK_HOLDING_S = 3.0
"""HOLDING of a switch back: a master that does not hold still by then is killed. It may be the reason for the switch, its
version is on the way out, and what it was about to change is in the store."""

SAYINGS = {
    ASKING: "asking the program on disk what it is",
    STARTING: "starting the new master",
    FILLING: "starting the new workers",
    TESTING: "the new workers answer test requests",
    HOLDING: "waiting for the change under way",
    ADOPTING: "the workers adopt the newest snapshot",
    LENDING: "lending the listening sockets to both generations",
    TAKING_OVER: "the new master takes charge",
    EMPTYING: "connections move to the new workers",
}

SEE_LOG = "the log (standard error of the keeper, or the journal) has more; the version in force is untouched"


def failed(reason: str, remedy: str) -> dict[str, Any]:
    """Return the answer to an order that cannot be obeyed."""
    return {"type": "failed", "reason": reason, "remedy": remedy}
