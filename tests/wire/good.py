"""The corpus of well-formed exchanges: what the client sends, what the origin must see, what the client must get.

Each is run whole, cut at every position and byte by byte. References are to RFC 9112 unless named.
"""

from collections.abc import Sequence
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Seen:
    """What the origin must receive as one request."""

    method: bytes
    target: bytes
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Request:
    """Bytes of one client connection, the requests the origin sees for them, and the statuses that come back."""

    name: str
    send: bytes
    seen: Sequence[Seen]
    statuses: Sequence[int] = (200,)
    closes: bool | None = False  # does the proxy close after it? None: both are right

    @property
    def methods(self) -> list[bytes]:
        """The methods, for reading the responses."""
        return [seen.method for seen in self.seen]


HOST = b"Host: a.test\r\n"
GET = Seen(b"GET", b"/")


def _get(name: str, target: bytes, seen: bytes | None = None) -> Request:
    return Request(name, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"GET", seen or target)])


def _post(
    name: str, headers: bytes, body: bytes, got: bytes, trailers: tuple[tuple[bytes, bytes], ...] = ()
) -> Request:
    head = b"POST /p HTTP/1.1\r\n" + HOST + headers + b"\r\n"
    return Request(name, head + body, [Seen(b"POST", b"/p", got, trailers)])


CHUNKED = b"Transfer-Encoding: chunked\r\n"
REQUESTS: list[Request] = [
    _get("get", b"/"),
    _get("query", b"/a?b=c&d=%20e&f=/../g//h"),
    _get("query-only-separators", b"/?&&=;"),
    _get("encoded-kept", b"/a%20b%C3%A4"),
    _get("path-dot-segments", b"/a/./b/../c", b"/a/c"),
    _get("path-duplicate-slashes", b"//a///b", b"/a/b"),
    _get("path-unreserved-decoded", b"/%61%2D%7e", b"/a-~"),
    _get("path-hex-upper-cased", b"/%c3%a4", b"/%C3%A4"),
    _get("path-encoded-dots-resolved", b"/a/%2e%2E/b", b"/b"),
    _get("absolute-form", b"http://a.test/x?y", b"/x?y"),
    _get("absolute-form-upper-case", b"HTTP://A.test/x", b"/x"),
    _get("absolute-form-no-path", b"http://a.test", b"/"),
    _get("absolute-form-default-port", b"http://a.test:80/x", b"/x"),
    Request("absolute-form-http10-no-host", b"GET http://a.test/x HTTP/1.0\r\n\r\n", [Seen(b"GET", b"/x")], closes=True),
    Request("absolute-form-options-no-path", b"OPTIONS http://a.test HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"OPTIONS", b"*")]),
    Request("asterisk-form", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"OPTIONS", b"*")]),
    Request("options-path", b"OPTIONS /o HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"OPTIONS", b"/o")]),
    Request("empty-line-first", b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", [GET]),
    Request("head", b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"HEAD", b"/")]),
    Request("delete", b"DELETE /d HTTP/1.1\r\n" + HOST + b"\r\n", [Seen(b"DELETE", b"/d")]),
    Request("patch", b"PATCH /d HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx", [Seen(b"PATCH", b"/d", b"x")]),
    Request("get-with-body", b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nxyz", [Seen(b"GET", b"/", b"xyz")]),
    Request("http10", b"GET / HTTP/1.0\r\n\r\n", [GET], closes=True),
    Request("http10-host", b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", [GET], closes=True),
    Request("http10-keep-alive", b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", [GET], closes=None),
    Request("http10-post", b"POST /p HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", [Seen(b"POST", b"/p", b"hi")], closes=True),
    Request("connection-close", b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", [GET], closes=True),
    Request("connection-close-in-list", b"GET / HTTP/1.1\r\n" + HOST + b"Connection: foo, Close\r\n\r\n", [GET], closes=True),
    Request("value-blanks", b"GET / HTTP/1.1\r\nHost:\t a.test \t\r\nX:\r\nY: a \tb\r\n\r\n", [GET]),
    Request("value-obs-text", b"GET / HTTP/1.1\r\n" + HOST + b"X: caf\xe9 \xff\r\n\r\n", [GET]),
    Request("header-name-tokens", b"GET / HTTP/1.1\r\n" + HOST + b"!#$%&'*+-.^_`|~9a: b\r\n\r\n", [GET]),
    Request("host-port", b"GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", [GET]),
    Request("host-ipv6", b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", [GET]),
    _post("length", b"Content-Length: 5\r\n", b"hello", b"hello"),
    _post("length-zero", b"Content-Length: 0\r\n", b"", b""),
    _post("length-leading-zeros", b"Content-Length: 0005\r\n", b"hello", b"hello"),
    _post("length-name-case", b"cONTENT-lENGTH:5\r\n", b"hello", b"hello"),
    _post("chunked", CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    _post("chunked-empty", CHUNKED, b"0\r\n\r\n", b""),
    _post("chunked-many", CHUNKED, b"1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n", b"hello"),
    _post("chunked-hex-case", CHUNKED, b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
    _post("chunked-size-zeros", CHUNKED, b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    _post("chunked-name-case", b"Transfer-Encoding: Chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    _post("chunked-extension", CHUNKED, b'5;a;b=c;d="e f"\r\nhello\r\n0;x=y\r\n\r\n', b"hello"),
    _post("chunked-trailers", CHUNKED, b"2\r\nhi\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n", b"hi", ((b"x-t", b"1"), (b"x-u", b"2"))),
    _post("chunked-data-like-framing", CHUNKED, b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
    _post("body-like-request", b"Content-Length: 26\r\n", b"GET /no HTTP/1.1\r\nHost: \r\n", b"GET /no HTTP/1.1\r\nHost: \r\n"),
    _post("expect-continue-body-sent", b"Content-Length: 2\r\nExpect: 100-continue\r\n", b"hi", b"hi"),
    Request(
        "pipelined",
        b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
        [Seen(b"GET", b"/1"), Seen(b"GET", b"/2")],
        (200, 200),
    ),
    Request(
        "pipelined-bodies",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhiPOST /2 HTTP/1.1\r\n" + HOST + CHUNKED
        + b"\r\n3\r\nabc\r\n0\r\n\r\nHEAD /3 HTTP/1.1\r\n" + HOST + b"\r\nGET /4 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        [Seen(b"POST", b"/1", b"hi"), Seen(b"POST", b"/2", b"abc"), Seen(b"HEAD", b"/3"), Seen(b"GET", b"/4")],
        (200, 200, 200, 200),
        closes=True,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Response:
    """What the origin answers, and what a client must understand."""

    name: str
    reply: bytes
    status: int = 200
    body: bytes = b"ok"
    method: bytes = b"GET"
    headers: Sequence[tuple[bytes, bytes]] = ()
    trailers: Sequence[tuple[bytes, bytes]] = ()
    interim: Sequence[int] = ()
    origin_closes: bool = False
    client_version: bytes = b"HTTP/1.1"
    reusable: bool = True  # the client's connection goes on


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RESPONSES: list[Response] = [
    Response("length", OK),
    Response("length-zero", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", body=b""),
    Response("no-reason", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    Response("unknown-status", b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", 299),
    Response("error-status", b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nok", 503),
    Response("chunked", _CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"),
    Response("chunked-extension", _CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n"),
    Response("chunked-trailers", _CHUNKED + b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n", trailers=[(b"x-t", b"1")]),
    Response("close-delimited", b"HTTP/1.1 200 OK\r\n\r\nok", origin_closes=True),
    Response("close-delimited-empty", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", body=b"", origin_closes=True),
    Response("http10-length", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", origin_closes=True),
    Response("http10-close-delimited", b"HTTP/1.0 200 OK\r\n\r\nok", origin_closes=True),
    Response("length-and-close", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", origin_closes=True),
    Response("head-length", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", body=b"", method=b"HEAD",
             headers=[(b"content-length", b"99")]),
    Response("head-chunked", _CHUNKED, body=b"", method=b"HEAD"),
    Response("head-nothing", b"HTTP/1.1 200 OK\r\n\r\n", body=b"", method=b"HEAD"),
    Response("no-content", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    Response("not-modified", b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304, b"", headers=[(b"etag", b'"x"')]),
    Response("not-modified-length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, b""),
    Response("early-hints", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, interim=[103]),
    Response("two-interim", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK, interim=[103, 103]),
    Response("continue-unasked", b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    Response("repeated-header-order", b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX: y\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
             headers=[(b"set-cookie", b"a"), (b"set-cookie", b"b")]),
    Response("value-obs-text", b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nContent-Length: 2\r\n\r\nok", headers=[(b"x", b"caf\xe9")]),
    Response("client10-length", OK, client_version=b"HTTP/1.0", reusable=False),
    Response("client10-chunked", _CHUNKED + b"2\r\nok\r\n0\r\n\r\n", client_version=b"HTTP/1.0", reusable=False),
    Response("client10-chunked-trailers", _CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", client_version=b"HTTP/1.0", reusable=False),
    Response("client10-close-delimited", b"HTTP/1.1 200 OK\r\n\r\nok", client_version=b"HTTP/1.0", origin_closes=True,
             reusable=False),
    Response("client10-no-interim", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, client_version=b"HTTP/1.0", reusable=False),
]  # fmt: skip
