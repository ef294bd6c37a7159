"""CRC-32 of large blocks, without holding the GIL."""

from typing_extensions import Buffer

def crc32(data: Buffer, crc: int = 0, *, tables_only: bool = False) -> int:
    """CRC-32 of `data`, continuing from `crc`; equal to zlib.crc32. `tables_only` leaves vectors out."""
