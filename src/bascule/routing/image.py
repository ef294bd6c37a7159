"""A minimal snapshot image around ROUTES sections, for looking at routes without a whole configuration."""

import struct
import zlib
from collections.abc import Mapping

HEADER_SIZE = 512
SECTION_FRONTENDS = 4
FRONTEND_RECORD_SIZE = 40
SECTIONS_MAX = 24
CHECKSUM_AT = 32


def wrap_sections(sections: Mapping[int, bytes], frontend_count: int) -> bytes:
    """An image (cext/bascule/shared/snapshot.pxd) that holds `sections` and `frontend_count` empty frontend records."""
    contents = {SECTION_FRONTENDS: bytes(FRONTEND_RECORD_SIZE * frontend_count), **sections}
    body = bytearray()
    table = [(0, 0)] * SECTIONS_MAX
    for number in sorted(contents):
        table[number] = (HEADER_SIZE + len(body), len(contents[number]))
        body += contents[number] + bytes(-len(contents[number]) % 8)
    size = HEADER_SIZE + len(body)
    header = struct.pack("<8sIIQQII", b"BSCLSNAP", 2, HEADER_SIZE, size, 1, 0, SECTIONS_MAX)
    header += b"".join(struct.pack("<QQ", *entry) for entry in table)
    image = header.ljust(HEADER_SIZE, b"\0") + bytes(body)
    return image[:CHECKSUM_AT] + struct.pack("<I", zlib.crc32(image)) + image[CHECKSUM_AT + 4 :]
