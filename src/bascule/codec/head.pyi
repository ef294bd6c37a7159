"""Message heads as the engine reads them, for tests that compare its two readers."""

from typing import Any

def read_head(data: bytes, *, response: bool = False, scanner: bool = True) -> dict[str, Any] | None:
    """Reads the head at the beginning of `data`: by the fast scanner alone, or by llhttp alone.

    None: the reader does not take it; llhttp because it is malformed, has too many headers or is not whole, the scanner
    because it is not plain. Otherwise: `length` in bytes with the empty line, `start` (llhttp's number of the method, or the
    status code), `target`, `version` (major, minor), `chunked`, and `headers`, names and values as received, values
    without white space around them.
    """
