"""Snapshot images written by hand with `struct`, independently of the compiled code under test."""

from __future__ import annotations

import socket
import struct
import zlib

HEADER_SIZE = 512
SECTIONS = 24
STRINGS, LISTENERS, BACKENDS, SERVERS, FRONTENDS, MIDDLEWARES, NETWORKS = range(7)

LISTENER = struct.Struct("<II 12I QQ")
BACKEND = struct.Struct("<II 11I 3I")
SERVER = struct.Struct("<8I II H B 5x")
FRONTEND = struct.Struct("<II 4I iI Q")
MIDDLEWARE = struct.Struct("<II Q II II II" + " QQII" * 4 + " QQ")
NETWORK = struct.Struct("<16s I")
RECORDS = {
    LISTENERS: LISTENER,
    BACKENDS: BACKEND,
    SERVERS: SERVER,
    FRONTENDS: FRONTEND,
    MIDDLEWARES: MIDDLEWARE,
    NETWORKS: NETWORK,
}


class Strings:
    """The STRINGS section under construction."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, text: bytes) -> tuple[int, int]:
        offset = len(self.data)
        self.data += text
        return offset, len(text)


def sockaddr_in(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def sockaddr_un(path: bytes) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + path + b"\0"


def sample_sections() -> dict[int, bytes]:
    """Two listeners, two backends of three servers, a waiting and two working frontends, two middlewares."""
    strings = Strings()
    add = strings.add
    listeners = b"".join(
        LISTENER.pack(*add(name), slot, 0, 2, 10_000, 60_000, 30_000, 0, 16384, 8192, 0, 0, 0, 0, 0)
        for slot, name in enumerate([b"admin", b"web"])
    )
    backends = b"".join(
        BACKEND.pack(*add(name), 10 + i, first, count, 0, 1000, 2000, 3000, 0, 5000, 6000, 32, 0, 0, 0)
        for i, (name, first, count) in enumerate([(b"api", 0, 2), (b"shop", 2, 1)])
    )
    addresses = [sockaddr_in("10.0.0.1", 80), b"", sockaddr_un(b"/run/app.sock")]
    servers = b"".join(
        SERVER.pack(
            *add(b"s%d" % i), *add(address), *add(b"10.0.0.1:80"), *add(b"1.0"), 20 + i, 0 if i < 2 else 1, 100, i
        )
        for i, address in enumerate(addresses)
    )
    frontends = b"".join(
        FRONTEND.pack(*add(name), 30 + i, backend, first, count, -5, flags, 0)
        for i, (name, backend, first, count, flags) in enumerate(
            [(b"a", 0, 0, 1, 0), (b"b", 1, 1, 1, 0), (b"c", 0xFFFFFFFF, 2, 0, 1)]
        )
    )
    rate = [10_000_000, 90_000_000, 100, 1]
    middlewares = b"".join(
        MIDDLEWARE.pack(
            *add(name), 77 + i, i + 1, 5, *add(b"x-key"), 2 - i, 10 * i, *(rate * (2 - i) + [0] * (8 + 4 * i)), 0, 0
        )
        for i, name in enumerate([b"limit", b"together"])
    )
    networks = NETWORK.pack(bytes(10) + b"\xff\xff\x0a\0\0\0", 104) + NETWORK.pack(bytes(16), 128)
    return {
        STRINGS: bytes(strings.data),
        LISTENERS: listeners,
        BACKENDS: backends,
        SERVERS: servers,
        FRONTENDS: frontends,
        MIDDLEWARES: middlewares,
        NETWORKS: networks,
        8: b"routes belong to the routing package",
    }


def with_checksum(image: bytes | bytearray) -> bytes:
    """The image with the checksum its body has now, so that damage reaches the checks behind the checksum."""
    fixed = bytearray(image)
    fixed[32:36] = bytes(4)
    fixed[32:36] = struct.pack("<I", zlib.crc32(fixed))
    return bytes(fixed)


def section(image: bytes, number: int) -> bytes:
    offset, size = struct.unpack_from("<QQ", image, 40 + 16 * number)
    data = image[offset : offset + size]
    assert len(data) == size, f"section {number} leaves the image"
    return data


def assert_consistent(image: bytes) -> None:
    """Follows every reference of an accepted image the slow way."""
    tables = {number: list(record.iter_unpack(section(image, number))) for number, record in RECORDS.items()}
    strings = section(image, STRINGS)

    def text(offset: int, length: int) -> bytes:
        assert offset + length <= len(strings)
        return strings[offset : offset + length]

    for number, rows in tables.items():
        if number != NETWORKS:
            assert all(text(*row[:2]) for row in rows)
    for row in tables[LISTENERS]:
        assert row[3] + row[4] <= len(tables[NETWORKS])
    for i, row in enumerate(tables[BACKENDS]):
        assert row[3] + row[4] <= len(tables[SERVERS])
        assert all(server[9] == i for server in tables[SERVERS][row[3] : row[3] + row[4]])
    for row in tables[SERVERS]:
        address = text(*row[2:4])
        assert not address or len(address) in {2: [16], 10: [28], 1: range(3, 111)}[struct.unpack("=H", address[:2])[0]]
        text(*row[4:6]), text(*row[6:8])
        assert row[9] < len(tables[BACKENDS])
        assert row[10] <= 1000
        assert row[11] <= 2
    for row in tables[FRONTENDS]:
        assert row[3] < len(tables[BACKENDS]) or row[7] & 1
        assert row[4] + row[5] <= len(tables[MIDDLEWARES])
    for row in tables[MIDDLEWARES]:
        text(*row[5:7])
        assert row[3] == 2 or (row[3] == 1 and 1 <= row[7] <= 4 and all(row[9 + 4 * i] for i in range(row[7])))
    assert all(row[1] <= 128 for row in tables[NETWORKS])
