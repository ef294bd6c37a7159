from bascule.routing.conflict import Conflict

class RouteCompiler:
    """Turns route expressions into the ROUTES sections of a snapshot image (cext/bascule/routing/layout.pxd).

    The same calls in the same order give the same bytes.
    """

    def add(self, frontend_index: int, frontend_id: str, expression: str, priority: int = 0) -> None:
        """Adds one route. `frontend_index` is the frontend's record number in the image, `frontend_id` decides between
        equals.

        Larger `priority` (a signed 32-bit number) wins over everything else. Raises RouteError, and then has added
        nothing.
        """

    def conflicts(self) -> list[Conflict]:
        """Pairs of frontends with routes that are equal in all but the id, most specific first, each pair once."""

    def sections(self) -> dict[int, bytes]:
        """Section number (8..15) to content. OverflowError beyond the 4 GiB of a section."""
