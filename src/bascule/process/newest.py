"""Bringing the workers of a candidate, or of a generation that comes back, to the newest snapshot before they serve.

Generations of one `lineage` understand each other's snapshots. One that does not understand that of the generation before
compiles the same configuration for itself, and begins a lineage.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bascule.process.generation import Generation


class Newest:
    """What has to be known for that beside the generations: of which revision a candidate's own form is."""

    def __init__(self) -> None:
        """See the class."""
        self._of = 0

    def begin(self, active: Generation, candidate: Generation) -> None:
        """A candidate can do with what there is, until it says otherwise."""
        candidate.lineage = active.lineage
        self.give(active, candidate)

    def made(self, candidate: Generation, of: int) -> None:
        """The candidate made its own form of this revision."""
        candidate.lineage, self._of = candidate.number, of

    def give(self, active: Generation, candidate: Generation) -> None:
        """Give a generation the snapshot in force, unless it cannot use it."""
        crew, newest = candidate.crew, active.crew
        if active.lineage == candidate.lineage and crew.revision != newest.revision and newest.snapshot:
            crew.give_snapshot(newest.revision, newest.snapshot)

    def catch_up(self, active: Generation, candidate: Generation) -> None:
        """The active generation changes nothing any more: have every worker of the candidate say that it has the newest."""
        if active.lineage == candidate.lineage:
            self.give(active, candidate)
        elif self._of != active.crew.revision:
            candidate.tell_master({"type": "compile", "of": active.crew.revision})

    def come_back(self, active: Generation, resting: Generation) -> None:
        """The same for one that comes back. What its master gave its workers since they started, the keeper does not know:
        they are to say what they have. One of another lineage has what it had when it was left."""
        if active.lineage != resting.lineage or resting.crew.revision == active.crew.revision:
            resting.crew.confirm_snapshot()
        else:
            self.give(active, resting)

    def is_reached(self, active: Generation, candidate: Generation, *, is_back: bool) -> bool:
        """Whether every worker has said so."""
        crew = candidate.crew
        if active.lineage != candidate.lineage and not is_back and self._of != active.crew.revision:
            return False
        return all(worker.revision == crew.revision for worker in crew.serving())
