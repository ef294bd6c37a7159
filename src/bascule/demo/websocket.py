"""As much of RFC 6455 as an echo needs: the handshake's answer, and frames in and out."""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10


def accept_key(key: bytes) -> bytes:
    """Return Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one final, unmasked frame, as a server sends it (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, length)
    return head + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove the complete frames from `buffer` and yield the opcode and the unmasked payload of each."""
    while len(buffer) >= 2:
        masked, length, at = buffer[1] & 0x80, buffer[1] & 0x7F, 2
        if length >= 126:
            width = 2 if length == 126 else 8
            if len(buffer) < at + width:
                return
            length = int.from_bytes(buffer[at : at + width], "big")
            at += width
        end = at + (4 if masked else 0) + length
        if len(buffer) < end:
            return
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[end - length : end])
        if masked:
            mask = bytes(buffer[at : at + 4])
            payload = bytes(octet ^ mask[index & 3] for index, octet in enumerate(payload))
        del buffer[:end]
        yield opcode, payload
