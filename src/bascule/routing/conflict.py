"""Two frontends that claim the same requests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conflict:
    """Both frontends have a route that asks exactly the same of a request, at the same priority; the lesser id wins.

    `winner` and `loser` are frontend indices, `winner_id` and `loser_id` their ids.
    """

    winner: int
    loser: int
    winner_id: str
    loser_id: str

    def __str__(self) -> str:
        """What is wrong and what to do."""
        return (
            f"frontends {self.winner_id!r} and {self.loser_id!r} have equal routes; {self.winner_id!r} gets "
            "the requests because its id comes first: make one route more specific, or give one frontend a priority"
        )
