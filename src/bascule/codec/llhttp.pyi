"""Binding of llhttp through httptools' wheel, with start-up probes."""

class ParserMismatch(RuntimeError):
    """The installed httptools is not one whose llhttp layout this build knows; the message says what differed."""

def bind() -> str:
    """Binds and probes; returns the version of httptools. Raises ParserMismatch."""
