"""Reads a snapshot image back with `struct`, from the layout in cext/bascule/shared/snapshot.pxd alone."""

import struct
from typing import Any, NamedTuple

HEADER = struct.Struct("<8sIIQQII")
LISTENER = struct.Struct("<2I 12I 2Q")
BACKEND = struct.Struct("<2I 11I 3I")
SERVER = struct.Struct("<8I 2I H B 5x")
FRONTEND = struct.Struct("<2I 4I i I Q")
MIDDLEWARE = struct.Struct("<2I Q 2I 2I 2I" + "QQII" * 4 + "i 3I")
NETWORK = struct.Struct("<16s I")
NO_INDEX = 0xFFFFFFFF

LISTENER_FIELDS = [
    "stat_slot",
    "first_network",
    "network_count",
    "header_timeout_ms",
    "keepalive_timeout_ms",
    "body_timeout_ms",
    "body_rate_min",
    "head_bytes_max",
    "uri_bytes_max",
    "connections_max",
    "connections_per_address_max",
    "flags",
    "body_bytes_max",
    "reserved",
]
BACKEND_FIELDS = [
    "stat_slot",
    "first_server",
    "server_count",
    "balance",
    "connect_timeout_ms",
    "response_timeout_ms",
    "idle_timeout_ms",
    "exchange_timeout_ms",
    "tunnel_timeout_ms",
    "keepalive_timeout_ms",
    "idle_connections_max",
]


class Image(NamedTuple):
    """Records as dicts, with the texts they refer to."""

    revision: int
    listeners: list[dict[str, Any]]
    backends: list[dict[str, Any]]
    servers: list[dict[str, Any]]
    frontends: list[dict[str, Any]]
    middlewares: list[dict[str, Any]]
    networks: list[tuple[bytes, int]]


def read_image(image: bytes) -> Image:
    """Return everything but the routes."""
    magic, version, header_size, size, revision, _, count = HEADER.unpack_from(image)
    assert (magic, version, header_size, size, count) == (b"BSCLSNAP", 2, 512, len(image), 24)
    sections = []
    for number in range(count):
        offset, length = struct.unpack_from("<QQ", image, HEADER.size + 16 * number)
        sections.append(image[offset : offset + length])
    strings = sections[0]

    def text(offset: int, length: int) -> bytes:
        assert offset + length <= len(strings)
        return strings[offset : offset + length]

    def listener(r: tuple[Any, ...]) -> dict[str, Any]:
        return {"id": text(*r[:2]), **dict(zip(LISTENER_FIELDS, r[2:], strict=True))}

    def backend(r: tuple[Any, ...]) -> dict[str, Any]:
        return {"id": text(*r[:2]), **dict(zip(BACKEND_FIELDS, r[2:13], strict=True))}

    def server(r: tuple[Any, ...]) -> dict[str, Any]:
        names = dict(
            zip(("id", "address", "authority", "version"), (text(*r[i : i + 2]) for i in (0, 2, 4, 6)), strict=True)
        )
        return {**names, "address_offset": r[2], "stat_slot": r[8], "backend": r[9], "weight": r[10], "state": r[11]}

    def frontend(r: tuple[Any, ...]) -> dict[str, Any]:
        fields = ("stat_slot", "backend", "first_middleware", "middleware_count", "priority", "flags", "body_bytes_max")
        return {"id": text(*r[:2]), **dict(zip(fields, r[2:], strict=True))}

    def middleware(r: tuple[Any, ...]) -> dict[str, Any]:
        rates = [tuple(r[9 + 4 * index : 13 + 4 * index]) for index in range(4)]
        return {
            "id": text(*r[:2]),
            "identity": r[2],
            "type": r[3],
            "key_parts": r[4],
            "key_header": text(*r[5:7]),
            "rates": rates[: r[7]],
            "concurrency_max": r[8],
        }

    def records(layout: struct.Struct, section: int, convert: Any) -> list[Any]:
        return [convert(record) for record in layout.iter_unpack(sections[section])]

    return Image(
        revision,
        records(LISTENER, 1, listener),
        records(BACKEND, 2, backend),
        records(SERVER, 3, server),
        records(FRONTEND, 4, frontend),
        records(MIDDLEWARE, 5, middleware),
        records(NETWORK, 6, lambda r: r),
    )
