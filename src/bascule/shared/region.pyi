"""Making and mapping shared-memory regions."""

class RegionError(ValueError):
    """The descriptor holds no region that this version of the program can use; the text says which and why."""
