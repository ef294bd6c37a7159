"""Making and mapping shared-memory regions."""

class RegionError(ValueError):
    """The descriptor holds no region that this version of the program can use; the text says which and why."""

def use_huge_pages(fd: int) -> int:
    """Backs a region by huge pages as far as the kernel does it now, and returns the bytes that are.

    A table that is read at random costs a walk through the page tables at every read (docs/shared-memory.md has figures).
    The price is that the whole region is then resident. Call it once, in any one process, when the region is really
    used; takes some ms, during which others may use the region.
    """
