from collections.abc import Iterable

from bascule.routing.result import Match

class Matcher:
    """Matches requests against the ROUTES sections of a whole image, or of a records image and its routes base.

    ValueError if they are damaged; whether the base is the one the records image names is not looked at.
    """

    def __init__(self, image: bytes, base: bytes | None = None) -> None: ...
    def match(
        self,
        *,
        method: str | bytes = "GET",
        host: str | bytes = "",
        path: str | bytes = "/",
        query: str | bytes = "",
        headers: Iterable[tuple[str | bytes, str | bytes]] = (),
        client_ip: str | None = None,
    ) -> Match:
        """The winning route.

        `host` in lower case without port, `path` canonical, `query` raw without '?'; client_ip None: a Unix client.
        """

    def match_many(self, requests: list[tuple[str, str]], rounds: int = 1) -> tuple[float, int]:
        """(CPU seconds a match, number matched) of GET requests for (host, path), `rounds` times without Python between."""
