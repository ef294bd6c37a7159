def canonical(path: bytes) -> bytes | None:
    """The one form of a request path (without query) used to match and to forward; None: refuse the request with 400.

    Unreserved octets are percent-decoded, the hex digits of all other encodings upper case, dot segments removed,
    duplicate slashes merged (before dot segments are looked at). Refused: an encoding that is none, encoded NUL, slash
    or backslash, octets outside the path grammar (raw backslash, space, '#', '?', controls, non-ASCII), ".." above the
    root, "." or ".." followed by ';', and a path that does not begin with '/' (but "*" alone, of OPTIONS, is its own
    form). RFC 3986 sections 3.3 and 6.2.2.
    """
