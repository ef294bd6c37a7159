"""What matching a request gives."""

from typing import NamedTuple


class Match(NamedTuple):
    """`frontend` is the index of the winning frontend, None when no route matched; `params` what its route captured."""

    frontend: int | None
    params: dict[str, bytes]
