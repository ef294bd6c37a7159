"""Damaged images: refused when opened, or harmless. Never a crash, an endless search, or a result outside the image."""

import random
import struct

import pytest

from bascule.routing.match import Matcher
from tests.routing.tables import compile_table

ROUTES = [
    "Host(`a.com`) && PathPrefix(`/v2/<tenant>`) && Method(`GET`)",
    "Host(`<t>.b.com`) && Path(`/x<int:n>.json`)",
    "Host(`*.com`) && !Path(`/x`)",
    "Host(`<path:t>.b.com`) && Header(`X`, `a/<path:r>`) && !Header(`Y`, `<q>`)",
    "Path(`/a/<path:rest>`) || Path(`/a/<b>/c`) || PathPrefix(`/a/b`)",
    "Query(`q`, `1`) && ClientIP(`10.0.0.0/8`)",
    "PathRegexp(`^/r[0-9]+`) && !HeaderRegexp(`X`, `z`)",
    "PathPrefix(`/`)",
]
REQUESTS = [
    {"host": "a.com", "path": "/v2/acme/x"},
    {"host": "q.b.com", "path": "/x12.json", "headers": [("x", "a/b/c")]},
    {"host": "q.z.b.com", "path": "/a/b/c", "query": "q=1", "client_ip": "10.1.1.1"},
    {"host": "[::1]", "path": "*"},
    {"path": "/r12"},
    {},
]
HEADER = 512


def rounds(image: bytes, count: int, seed: int) -> tuple[int, int]:
    """(refused, opened) of images with a few bytes of the routing sections changed."""
    random_ = random.Random(seed)
    sections = [struct.unpack_from("<QQ", image, 40 + 16 * n) for n in range(8, 16)]
    refused = opened = 0
    for _ in range(count):
        damaged = bytearray(image)
        for _ in range(random_.choice([1, 1, 1, 2, 4])):
            offset, size = random_.choice(sections)
            at = offset + random_.randrange(max(size, 1))
            if at < len(image):
                damaged[at] = random_.choice([0, 1, 2, 7, 127, 128, 255, damaged[at] ^ 1 << random_.randrange(8)])
        try:
            matcher = Matcher(bytes(damaged))
        except ValueError:
            refused += 1
            continue
        opened += 1
        for request in REQUESTS:
            found = matcher.match(**request)  # type: ignore[arg-type]
            assert found.frontend is None or found.frontend < len(ROUTES)
    return refused, opened


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes(seed: int) -> None:
    refused, opened = rounds(compile_table(ROUTES)[1], 5000, seed)
    assert refused > 500
    assert opened > 500, "the fuzz must get past the checks too"


def test_every_byte_set_to_each_extreme() -> None:
    image = compile_table(ROUTES)[1]
    for at in range(HEADER, len(image)):
        for value in (0, 0xFF):
            try:
                matcher = Matcher(image[:at] + bytes([value]) + image[at + 1 :])
            except ValueError:
                continue
            for request in REQUESTS:
                matcher.match(**request)  # type: ignore[arg-type]


def test_cut_images_are_refused() -> None:
    image = compile_table(ROUTES)[1]
    end = max(sum(struct.unpack_from("<QQ", image, 40 + 16 * n)) for n in range(8, 16))
    for size in range(0, end, 3):
        with pytest.raises(ValueError):
            Matcher(image[:size])


@pytest.mark.parametrize("number", range(8, 16))
@pytest.mark.parametrize(("offset", "size"), [(1, 8), (0, 8), (2**63, 2**63), (2**64 - 8, 16), (520, 2**64 - 1)])
def test_section_table(number: int, offset: int, size: int) -> None:
    image = bytearray(compile_table(ROUTES)[1])
    struct.pack_into("<QQ", image, 40 + 16 * number, offset, size)
    with pytest.raises(ValueError):
        Matcher(bytes(image))


def test_an_image_without_routes_matches_nothing() -> None:
    matcher = Matcher(compile_table([])[1])
    assert matcher.match(host="a.com", path="/x") == (None, {})
