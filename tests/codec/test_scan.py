"""The fast scanner against llhttp: what it takes, llhttp takes with the same meaning; what it must leave alone, it leaves."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.codec.head import read_head
from fuzz.fuzz import TOKENS, corpus, mutate

REQUEST = b"GET /a/b?c=d HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\nContent-Length: 3\r\nCookie: a=b\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\nVary: Accept-Encoding, Cookie\r\n\r\n"


def compare(data: bytes, *, response: bool) -> dict[str, Any] | None:
    """Return what the scanner read; it must be what llhttp reads."""
    scanned = read_head(data, response=response)
    if scanned is not None:
        assert scanned == read_head(data, response=response, scanner=False), data
    return scanned


PLAIN_REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    REQUEST,
    *(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n" for method in (b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")),
    b"POST /x HTTP/1.1\r\nHost: a\r\nTRANSFER-encoding:\t Chunked\r\n\r\n5\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:5\r\n\r\nhelloGET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nempty:\r\nblank: \t \r\ntab:\ta\tb \t\r\nobs: \x80\xff\r\n!#$%&'*+-.^_`|~09azAZ: token\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 128 + b"\r\n",
    b"GET /" + b"x" * 30000 + b" HTTP/1.1\r\n\r\n",
]
PLAIN_RESPONSES = [
    RESPONSE,
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 599 \r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 404 \xe9t\xe9 perdu\r\nX: y\r\n\r\n",
]


@pytest.mark.parametrize("data", PLAIN_REQUESTS, ids=range(len(PLAIN_REQUESTS)))
def test_plain_requests_are_scanned(data: bytes) -> None:
    assert compare(data, response=False) is not None


@pytest.mark.parametrize("data", PLAIN_RESPONSES, ids=range(len(PLAIN_RESPONSES)))
def test_plain_responses_are_scanned(data: bytes) -> None:
    assert compare(data, response=True) is not None


def test_what_a_head_says() -> None:
    assert compare(REQUEST, response=False) == {
        "length": len(REQUEST),
        "start": 1,
        "target": b"/a/b?c=d",
        "version": (1, 1),
        "chunked": False,
        "headers": [(b"Host", b"a.test"), (b"Accept", b"*/*"), (b"Content-Length", b"3"), (b"Cookie", b"a=b")],
    }


LEFT = [
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GETT / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /\r\nHost: a.test.example\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\nxxxxxxxxx",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\rx",
    b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
    b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 129 + b"\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1 \r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1234567890123456789\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
]
LEFT_RESPONSES = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 600 Far\r\nX: y\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200\r\nX: y\r\n\r\n",
    b"HTTP/1.1  200 OK\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 O\tK\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: y\r\n\r\nzzz",
    b"HTTP/2.0 200 OK\r\nX: y\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\nX: y\r\n\r\n",
]


@pytest.mark.parametrize("data", LEFT, ids=repr)
def test_requests_left_to_llhttp(data: bytes) -> None:
    assert read_head(data) is None


@pytest.mark.parametrize("data", LEFT_RESPONSES, ids=repr)
def test_responses_left_to_llhttp(data: bytes) -> None:
    assert read_head(data, response=True) is None


@pytest.mark.parametrize(("data", "response"), [(REQUEST, False), (RESPONSE, True)], ids=["request", "response"])
def test_no_beginning_of_a_head_is_a_head(data: bytes, response: bool) -> None:
    assert [read_head(data[:end], response=response) for end in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(("data", "response"), [(REQUEST, False), (RESPONSE, True)], ids=["request", "response"])
def test_every_byte_at_every_place(data: bytes, response: bool) -> None:
    """One byte replaced, and one put in, by each of 256."""
    taken = 0
    for at in range(len(data)):
        for value in range(256):
            taken += compare(data[:at] + bytes([value]) + data[at + 1 :], response=response) is not None
            taken += compare(data[:at] + bytes([value]) + data[at:], response=response) is not None
    assert taken > 5000


NAMES = st.sampled_from([
    b"Host", b"Content-Length", b"transfer-encoding", b"Connection", b"Upgrade", b"Proxy-Connection", b"X-Very-Long-Name-Of-A-Header",
    b"a", b"Expect", b"Keep-Alive",
]) | st.binary(min_size=1, max_size=20)  # fmt: skip
VALUES = st.sampled_from([
    b"", b" ", b"0", b"12", b" 7\t", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"keep-alive, upgrade", b"a\r\n b", b"x" * 40,
]) | st.binary(max_size=40)  # fmt: skip
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b":\t ", b" :", b""]), VALUES), max_size=8)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def heads(draw: st.DrawFn, first: st.SearchStrategy[bytes]) -> bytes:
    """A first line and some header lines, most of them sound."""
    end = draw(ENDS)
    lines = [draw(first), *(b"".join(line) for line in draw(LINES))]
    return end.join(lines) + end + b"\r\n" + draw(st.binary(max_size=30))


TARGETS = st.sampled_from([b"/", b"*", b"/a?b#c", b"//", b"http://a/b", b"a"]) | st.binary(max_size=12).map(
    b"/".__add__
)
VERSIONS = st.sampled_from([b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/1.2", b" HTTP/0.9", b""])
METHODS = st.sampled_from(
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"get ", b"P "]
)
STATUSES = st.sampled_from([b"200 OK", b"204 ", b"304", b"500 \xff", b"99 x", b"1000 x"]) | st.binary(max_size=12)


@settings(max_examples=400, deadline=None)
@given(heads(st.tuples(METHODS, TARGETS, VERSIONS).map(b"".join)))
def test_random_requests(data: bytes) -> None:
    compare(data, response=False)


@settings(max_examples=400, deadline=None)
@given(heads(st.tuples(st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/1.2 "]), STATUSES).map(b"".join)))
def test_random_responses(data: bytes) -> None:
    compare(data, response=True)


def test_mutations_of_the_corpora() -> None:
    """The good and bad messages of tests/wire, changed in a few places."""
    requests, responses = corpus()
    rng = random.Random(20261122)
    taken = 0
    for _ in range(20_000):
        taken += compare(mutate(rng, rng.choice(requests)), response=False) is not None
        taken += compare(mutate(rng, rng.choice(responses)), response=True) is not None
        plain = rng.choice(PLAIN_REQUESTS[:-2])
        at = rng.randrange(len(plain))
        taken += compare(plain[:at] + rng.choice(TOKENS) + plain[at:], response=False) is not None
    assert taken > 10_000
