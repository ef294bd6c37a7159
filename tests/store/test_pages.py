"""Parts of a range: whatever the keys, each is read once, and a large range is not counted again for every page."""

from bisect import bisect_left

from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.store.etcd.pages import Part, next_part

START, END = b"/bascule/", b"/bascule0"
KEYS = st.lists(st.binary(min_size=1, max_size=6).map(lambda text: START + text), unique=True).map(sorted)
SIMILAR = st.lists(
    st.from_regex(rb"(a|b)/[0-9]{1,3}(/s)?", fullmatch=True).map(lambda text: START + text), unique=True, max_size=200
).map(sorted)


def read(keys: list[bytes], limit: int) -> tuple[list[bytes], int, int]:
    """Return the keys read, how many pages that took, and how many keys were counted for them."""
    found: list[bytes] = []
    part: Part | None = Part(START, END, 0)
    pages = counted = 0
    while part is not None:
        inside = keys[bisect_left(keys, part.start) : bisect_left(keys, part.end)]
        page = inside[:limit]
        found += page
        pages += 1
        counted += len(inside)
        last = page[-1] if page else b""
        part = next_part(part, last_key=last, more=len(inside) > limit, total=len(inside), limit=limit, end=END)
    return found, pages, counted


@settings(deadline=None)
@given(KEYS | SIMILAR, st.integers(1, 20))
def test_every_key_once_and_in_order(keys: list[bytes], limit: int) -> None:
    assert read(keys, limit)[0] == keys


def test_a_large_range_is_not_counted_again_for_every_page() -> None:
    names = [f"{number:05d}" for number in range(20_000)]
    keys = sorted(
        START + text.encode()
        for name in names
        for text in (f"backends/b{name}", f"backends/b{name}/servers/s", f"frontends/f{name}")
    )
    found, pages, counted = read(keys, 1000)
    assert found == keys
    assert pages < 3 * len(keys) / 1000
    assert counted < 12 * len(keys), "each page counting what is behind it would be 30 times"
