def check(pattern: bytes, caseless: bool = False) -> tuple[str, int, str] | None:
    """None if the regexp may be used in a route, else (message, offset in bytes, remedy)."""

def search(pattern: bytes, text: bytes, caseless: bool = False) -> bool | None:
    """Whether the regexp is found anywhere in `text`; None if a limit was hit. ValueError if it does not compile."""
