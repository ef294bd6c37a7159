"""Which header lines cross the proxy, which stop there, and which it adds (RFC 9110 section 7.6, RFC 7239)."""

import pytest

from kit.client import ask
from kit.http1 import Message
from kit.origin import reply_with
from tests.wire.conftest import Wire

NAMES = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"x-request-id"]


def forwarded(
    wire: Wire, lines: bytes, *, trusted: bool = False, start: bytes = b"GET / HTTP/1.1", body: bytes = b""
) -> Message:
    """Send a request with these header lines and return what the origin received."""
    address = wire.trusted if trusted else wire.address
    assert ask(address, start + b"\r\nHost: a.test\r\n" + lines + b"\r\n" + body).status == 200
    return wire.origin.wait_requests(1)[0]


def test_end_to_end_headers_cross_unchanged_and_in_order(wire: Wire) -> None:
    lines = [
        (b"accept", b"*/*"),
        (b"x-a", b"1"),
        (b"cookie", b"a=b; c=d"),
        (b"x-a", b"2"),
        (b"authorization", b"Basic xyz"),
    ]
    seen = forwarded(wire, b"".join(b"%s: %s\r\n" % pair for pair in lines))
    assert [pair for pair in seen.headers if pair in lines] == lines
    assert seen.get(b"host") == b"a.test"


@pytest.mark.parametrize(
    ("lines", "gone"),
    [
        (b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n", b"x-hop"),
        (b"X-Hop: 1\r\nConnection: x-hop\r\n", b"x-hop"),
        (b"Connection: ,, X-Hop ,\r\nX-Hop: 1\r\n", b"x-hop"),
        (b"Connection: foo\r\nConnection: X-Hop\r\nX-Hop: 1\r\n", b"x-hop"),
        (b"Keep-Alive: timeout=5\r\n", b"keep-alive"),
        (b"Proxy-Connection: keep-alive\r\n", b"proxy-connection"),
        (b"Connection: TE\r\nTE: trailers, deflate\r\n", b"te"),
        (b"TE: gzip\r\n", b"te"),
        (b"Upgrade: websocket\r\n", b"upgrade"),
    ],
)
def test_hop_by_hop_request_headers_stop(wire: Wire, lines: bytes, gone: bytes) -> None:
    seen = forwarded(wire, lines)
    values = [value for value in seen.all(gone) if value.lower() != b"trailers"]
    assert values == []
    assert all(value.lower() in (b"keep-alive", b"te") for value in seen.all(b"connection"))


@pytest.mark.parametrize(
    "name", [b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Request-Id", b"Host"]
)
def test_naming_a_header_in_connection_does_not_remove_ours(wire: Wire, name: bytes) -> None:
    """CVE-2021-32813, CVE-2024-45410: `Connection: X-Forwarded-For` made proxies drop the header they had added."""
    seen = forwarded(wire, b"Connection: close, " + name + b"\r\n" + name.replace(b"Host", b"Xost") + b": spoofed\r\n")
    assert len(seen.all(name)) == 1
    assert seen.get(name) != b"spoofed"


def test_naming_framing_in_connection_does_not_change_it(wire: Wire) -> None:
    seen = forwarded(wire, b"Connection: Content-Length\r\nContent-Length: 2\r\n", start=b"POST / HTTP/1.1", body=b"hi")
    assert seen.body == b"hi"
    wire.origin.forget()
    seen = forwarded(
        wire,
        b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        start=b"POST / HTTP/1.1",
        body=b"2\r\nhi\r\n0\r\n\r\n",
    )
    assert seen.body == b"hi"


def test_hop_by_hop_response_headers_stop(wire: Wire) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-End: 2\r\n"
    wire.origin.forget(reply=reply_with(head + b"Content-Length: 2\r\n\r\nok"))
    answer = ask(wire.address, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert answer.all(b"x-hop") == answer.all(b"proxy-connection") == []
    assert b"timeout=5" not in answer.all(b"keep-alive")
    assert answer.get(b"x-end") == b"2"
    assert b"X-Hop" not in answer.all(b"connection")


def test_forwarded_headers_of_strangers_are_replaced(wire: Wire) -> None:
    lines = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n"
    seen = forwarded(wire, lines + b"Forwarded: for=6.6.6.6;host=evil.test\r\n")
    assert seen.get(b"x-forwarded-for") == b"127.0.0.1"
    assert seen.get(b"x-forwarded-proto") == b"http"
    assert seen.get(b"x-forwarded-host") == b"a.test"
    assert b"6.6.6.6" not in seen.raw_head
    assert b"evil.test" not in seen.raw_head
    element = (seen.get(b"forwarded") or b"").lower()
    assert b"for=127.0.0.1" in element or b'for="127.0.0.1' in element
    assert b"proto=http" in element
    assert b"host=a.test" in element or b'host="a.test"' in element


def test_forwarded_headers_of_trusted_networks_are_appended_to(wire: Wire) -> None:
    lines = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\n"
    seen = forwarded(wire, lines + b"Forwarded: for=6.6.6.6;proto=https\r\n", trusted=True)
    hops = b", ".join(seen.all(b"x-forwarded-for")).replace(b" ", b"")
    assert hops == b"6.6.6.6,127.0.0.1"
    assert seen.all(b"x-forwarded-proto")[0].startswith(b"https")
    assert seen.all(b"x-forwarded-host")[0].startswith(b"public.test")
    elements = b", ".join(seen.all(b"forwarded"))
    assert elements.startswith(b"for=6.6.6.6;proto=https")
    assert b"127.0.0.1" in elements


def test_forwarded_headers_are_added_where_none_came(wire: Wire) -> None:
    seen = forwarded(wire, b"", trusted=True)
    assert seen.get(b"x-forwarded-for") == b"127.0.0.1"
    assert seen.get(b"x-forwarded-proto") == b"http"


SPELLINGS = [
    b"X_Forwarded_For",
    b"X-FORWARDED-FOR",
    b"x-forwarded_for",
    b"X_Forwarded_Proto",
    b"X_Forwarded_Host",
    b"X_Request_Id",
    b"Content_Length",
    b"Transfer_Encoding",
]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_our_headers_do_not_slip_through(wire: Wire, spelling: bytes, trusted: bool) -> None:
    """CGI and its heirs (WSGI, PHP) read "_" as "-": both spellings are one header to them."""
    seen = forwarded(wire, spelling + b": spoofed\r\n", trusted=trusted and b"_" in spelling)
    assert b"spoofed" not in seen.raw_head


def test_underscores_elsewhere_cross(wire: Wire) -> None:
    assert forwarded(wire, b"Session_Id: 1\r\nX_Forwarded_Foo: 2\r\n").get(b"x_forwarded_foo") == b"2"


def test_request_ids_are_given_and_differ(wire: Wire) -> None:
    ids = set()
    for _ in range(50):
        wire.origin.forget()
        ids.add(forwarded(wire, b"").get(b"x-request-id"))
    assert None not in ids
    assert len(ids) == 50


def test_request_id_of_a_trusted_network_is_kept(wire: Wire) -> None:
    assert forwarded(wire, b"X-Request-Id: abc-123\r\n", trusted=True).get(b"x-request-id") == b"abc-123"


def test_http10_request_without_host_is_forwarded_well_formed(wire: Wire) -> None:
    assert ask(wire.address, b"GET / HTTP/1.0\r\n\r\n").status == 200
    seen = wire.origin.wait_requests(1)[0]
    assert seen.version == b"HTTP/1.0" or seen.get(b"host") is not None


def test_absolute_form_reaches_the_origin_as_origin_form(wire: Wire) -> None:
    assert ask(wire.address, b"GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n").status == 200
    seen = wire.origin.wait_requests(1)[0]
    assert (seen.target, seen.get(b"host")) == (b"/x?y", b"a.test")
