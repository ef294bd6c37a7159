"""The corpus of malformed and ambiguous messages, with the only verdict that is safe for each.

Every bad request is followed on the same connection by a well-formed `GET /smuggled`: the origin must never see it, whatever
the client is told. References: DESIGN section 8, RFC 9112 sections 2.2, 3.2, 5.1, 6.3, 7.1 and 11.2; RFC 9110 section 5.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
LIMIT_HEAD, LIMIT_URI, LIMIT_BODY = 4096, 1024, 65536
"""What the proxy under test is configured with, bytes."""


@dataclass(frozen=True)
class Bad:
    """Bytes to be refused; `reaches` tells whether the origin may have seen the beginning of the request."""

    name: str
    send: bytes
    statuses: Sequence[int] = (400,)
    reaches: bool = False
    follow: bytes = SMUGGLED


def _head(name: str, lines: bytes, **more: object) -> Bad:
    return Bad(name, b"GET /bad HTTP/1.1\r\n" + lines + b"\r\n", **more)  # type: ignore[arg-type]


def _with_host(name: str, lines: bytes, **more: object) -> Bad:
    return _head(name, b"Host: a.test\r\n" + lines, **more)


def _framed(name: str, lines: bytes, body: bytes = b"", **more: object) -> Bad:
    return Bad(name, b"POST /bad HTTP/1.1\r\nHost: a.test\r\n" + lines + b"\r\n" + body, **more)  # type: ignore[arg-type]


def _chunk(name: str, body: bytes, **more: object) -> Bad:
    return _framed("chunk-" + name, b"Transfer-Encoding: chunked\r\n", body, reaches=True, **more)


def _line(name: str, line: bytes, **more: object) -> Bad:
    return Bad("line-" + name, line + b"\r\nHost: a.test\r\n\r\n", **more)  # type: ignore[arg-type]


FRAMING = [
    _framed("cl-te", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    _framed("te-cl", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
    _framed("cl-zero-te", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    _framed("cl-cl-same", b"Content-Length: 0\r\nContent-Length: 0\r\n"),
    _framed("cl-cl-differ", b"Content-Length: 0\r\nContent-Length: 41\r\n"),
    _framed("cl-list-same", b"Content-Length: 0, 0\r\n"),
    _framed("cl-list-differ", b"Content-Length: 0, 41\r\n"),
    _framed("cl-plus", b"Content-Length: +0\r\n"),
    _framed("cl-minus", b"Content-Length: -1\r\n"),
    _framed("cl-hex", b"Content-Length: 0x0\r\n"),
    _framed("cl-underscore", b"Content-Length: 1_0\r\n", b"0123456789"),
    _framed("cl-inner-space", b"Content-Length: 1 0\r\n", b"0123456789"),
    _framed("cl-letters", b"Content-Length: five\r\n"),
    _framed("cl-empty", b"Content-Length: \r\n"),
    _framed("cl-overflow-64", b"Content-Length: 18446744073709551616\r\n", statuses=(400, 413)),
    _framed("cl-overflow-long", b"Content-Length: " + b"9" * 40 + b"\r\n", statuses=(400, 413)),
    _framed("cl-decimal", b"Content-Length: 0.0\r\n"),
    _framed("te-identity", b"Transfer-Encoding: identity\r\n", statuses=(400, 501)),
    _framed("te-gzip", b"Transfer-Encoding: gzip\r\n", statuses=(400, 501)),
    _framed("te-gzip-chunked", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-chunked-gzip", b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-chunked-identity", b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-chunked-twice", b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-two-lines", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-two-lines-identity", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n",
            statuses=(400, 501)),
    _framed("te-xchunked", b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-quoted", b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-parameter", b"Transfer-Encoding: chunked;a=b\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-comma-first", b"Transfer-Encoding: ,chunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-comma-last", b"Transfer-Encoding: chunked,\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-empty", b"Transfer-Encoding:\r\n", statuses=(400, 501)),
    _framed("te-vertical-tab", b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    _framed("te-no-break-space", b"Transfer-Encoding: \xa0chunked\r\n", b"0\r\n\r\n", statuses=(400, 501)),
    Bad("te-http10", b"POST /bad HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Bad("te-cl-http10", b"POST /bad HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
]  # fmt: skip

SYNTAX = [
    _with_host("obs-fold-space", b"X: a\r\n b\r\n"),
    _with_host("obs-fold-tab", b"X: a\r\n\tb\r\n"),
    _head("fold-first", b" Host: a.test\r\n"),
    _with_host("space-before-colon", b"X : a\r\n"),
    _with_host("tab-before-colon", b"X\t: a\r\n"),
    _framed("space-before-colon-te", b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    _framed("space-before-colon-cl", b"Content-Length : 5\r\n"),
    _with_host("space-in-name", b"X Y: a\r\n"),
    _with_host("no-colon", b"nonsense\r\n"),
    _with_host("empty-name", b": a\r\n"),
    _with_host("name-nul", b"X\0: a\r\n"),
    _with_host("name-slash", b"X/Y: a\r\n"),
    _with_host("name-paren", b"X(Y): a\r\n"),
    _with_host("name-high", b"X\xe9: a\r\n"),
    _with_host("value-nul", b"X: a\0b\r\n"),
    _with_host("value-bare-cr", b"X: a\rb\r\n"),
    _with_host("value-bare-cr-smuggle", b"X: a\rTransfer-Encoding: chunked\r\n"),
    _with_host("value-cr-end", b"X: a\r\r\n"),
    _with_host("value-bell", b"X: a\x07\r\n"),
    _with_host("value-delete", b"X: a\x7f\r\n"),
    _with_host("bare-lf-in-head", b"X: a\nY: b\r\n"),
    _with_host("bare-lf-smuggle", b"X: a\nTransfer-Encoding: chunked\r\n"),
    Bad("bare-lf-line-end", b"GET /bad HTTP/1.1\nHost: a.test\r\n\r\n"),
    Bad("bare-lf-everywhere", b"GET /bad HTTP/1.1\nHost: a.test\n\n"),
    Bad("bare-lf-head-end", b"GET /bad HTTP/1.1\r\nHost: a.test\r\n\n"),
    Bad("bare-cr-line-end", b"GET /bad HTTP/1.1\rHost: a.test\r\n\r\n"),
    Bad("crlf-cr-end", b"GET /bad HTTP/1.1\r\nHost: a.test\r\n\rX"),
    _line("two-spaces", b"GET  /bad HTTP/1.1"),
    _line("space-last", b"GET /bad HTTP/1.1 "),
    _line("tab", b"GET\t/bad\tHTTP/1.1"),
    _line("space-first", b" GET /bad HTTP/1.1"),
    _line("space-in-target", b"GET /b ad HTTP/1.1"),
    _line("nul", b"GET /b\0ad HTTP/1.1"),
    _line("high-octet", b"GET /b\xe4d HTTP/1.1"),
    _line("control", b"GET /b\x01d HTTP/1.1"),
    _line("fragment", b"GET /bad#f HTTP/1.1"),
    _line("no-target", b"GET HTTP/1.1"),
    _line("http09", b"GET /bad", statuses=(400, 505)),
    _line("version-2", b"GET /bad HTTP/2.0", statuses=(400, 505)),
    _line("version-17", b"GET /bad HTTP/1.7", statuses=(400, 505)),
    _line("version-09", b"GET /bad HTTP/0.9", statuses=(400, 505)),
    _line("version-lower", b"GET /bad http/1.1", statuses=(400, 505)),
    _line("version-long", b"GET /bad HTTP/1.10", statuses=(400, 505)),
    _line("version-zero", b"GET /bad HTTP/01.1", statuses=(400, 505)),
    _line("method-lower", b"get /bad HTTP/1.1", statuses=(400, 405, 501)),
    _line("method-unknown", b"FROBNICATE /bad HTTP/1.1", statuses=(400, 405, 501)),
    _line("method-not-token", b"G{T /bad HTTP/1.1", statuses=(400, 405, 501)),
    Bad("tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 40, follow=b""),
    Bad("http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 405, 501, 505)),
]  # fmt: skip

TARGET = [
    Bad("host-missing", b"GET /bad HTTP/1.1\r\n\r\n"),
    _head("host-twice-same", b"Host: a.test\r\nHost: a.test\r\n"),
    _head("host-twice", b"Host: a.test\r\nHost: b.test\r\n"),
    _head("host-empty", b"Host:\r\n"),
    _head("host-list", b"Host: a.test, b.test\r\n"),
    _head("host-space", b"Host: a.test b\r\n"),
    _head("host-path", b"Host: a.test/x\r\n"),
    _head("host-userinfo", b"Host: u@a.test\r\n"),
    _head("host-bad-port", b"Host: a.test:80x\r\n"),
    _head("host-high-octet", b"Host: \xe4.test\r\n"),
    _line("absolute-other-host", b"GET http://b.test/bad HTTP/1.1"),
    _line("absolute-userinfo", b"GET http://u@a.test/bad HTTP/1.1"),
    _line("absolute-no-host", b"GET http:///bad HTTP/1.1"),
    _line("absolute-other-scheme", b"GET ftp://a.test/bad HTTP/1.1"),
    _line("absolute-bad-port", b"GET http://a.test:8x/bad HTTP/1.1"),
    _line("relative", b"GET bad HTTP/1.1"),
    _line("asterisk-get", b"GET * HTTP/1.1"),
    _line("connect", b"CONNECT a.test:443 HTTP/1.1", statuses=(400, 405, 501)),
    _line("connect-path", b"CONNECT /bad HTTP/1.1", statuses=(400, 405, 501)),
    _line("path-above-root", b"GET /../bad HTTP/1.1"),
    _line("path-above-root-encoded", b"GET /%2e%2e/bad HTTP/1.1"),
    _line("path-encoded-slash", b"GET /a%2fbad HTTP/1.1"),
    _line("path-encoded-backslash", b"GET /a%5Cbad HTTP/1.1"),
    _line("path-backslash", b"GET /a\\bad HTTP/1.1"),
    _line("path-encoded-nul", b"GET /a%00bad HTTP/1.1"),
    _line("path-bad-escape", b"GET /a%zzbad HTTP/1.1"),
    _line("path-cut-escape", b"GET /bad%2 HTTP/1.1"),
]

CHUNKS = [
    _chunk("size-plus", b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-minus", b"-5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-hex-prefix", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-space-first", b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-space-last", b"5 \r\nhello\r\n0\r\n\r\n"),
    _chunk("size-empty", b"\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-letters", b"xyz\r\nhello\r\n0\r\n\r\n"),
    _chunk("size-overflow", b"10000000000000005\r\nhello\r\n0\r\n\r\n", statuses=(400, 413)),
    _chunk("size-overflow-long", b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n", statuses=(400, 413)),
    _chunk("size-lf", b"5\nhello\r\n0\r\n\r\n"),
    _chunk("size-cr", b"5\rhello\r\n0\r\n\r\n"),
    _chunk("size-nul", b"5\0\r\nhello\r\n0\r\n\r\n"),
    _chunk("ext-lf", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    _chunk("ext-cr", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    _chunk("ext-nul", b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    _chunk("ext-quote-open", b'5;a="b\r\nhello\r\n0\r\n\r\n'),
    _chunk("ext-quote-lf", b'5;a="b\nc"\r\nhello\r\n0\r\n\r\n'),
    _chunk("ext-not-token", b"5;a(b)=c\r\nhello\r\n0\r\n\r\n"),
    _chunk("ext-oversize", b"5;" + b"a" * 20000 + b"\r\nhello\r\n0\r\n\r\n", statuses=(400, 413, 431)),
    _chunk("data-longer", b"5\r\nhelloX\r\n0\r\n\r\n"),
    _chunk("data-lf", b"5\r\nhello\n0\r\n\r\n"),
    _chunk("last-lf", b"5\r\nhello\r\n0\r\n\n"),
    _chunk("last-size-lf", b"5\r\nhello\r\n0\n\r\n"),
    _chunk("trailer-fold", b"0\r\nX: a\r\n b\r\n\r\n"),
    _chunk("trailer-space-colon", b"0\r\nX : a\r\n\r\n"),
    _chunk("trailer-nul", b"0\r\nX: \0\r\n\r\n"),
    _chunk("trailer-lf", b"0\r\nX: a\nY: b\r\n\r\n"),
    _chunk("trailer-oversize", b"0\r\nX: " + b"a" * 20000 + b"\r\n\r\n", statuses=(400, 413, 431)),
]

SIZES = [
    _with_host("head-oversize", b"X: " + b"a" * LIMIT_HEAD + b"\r\n", statuses=(431,)),
    _with_host("head-oversize-unended", b"X: " + b"a" * (3 * LIMIT_HEAD), statuses=(431,), follow=b""),
    _with_host("head-many", b"".join(b"X-%d: a\r\n" % i for i in range(300)), statuses=(431,)),
    _line("uri-oversize", b"GET /" + b"a" * LIMIT_URI + b" HTTP/1.1", statuses=(414,)),
    Bad("uri-oversize-unended", b"GET /" + b"a" * (2 * LIMIT_URI), (414,), follow=b""),
    _framed("body-oversize", b"Content-Length: %d\r\n" % (LIMIT_BODY + 1), statuses=(413,)),
    _framed("body-oversize-chunked", b"Transfer-Encoding: chunked\r\n", (b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 5 + b"0\r\n\r\n",
            statuses=(413,), reaches=True),
]  # fmt: skip

REQUESTS: list[Bad] = FRAMING + SYNTAX + TARGET + CHUNKS + SIZES


@dataclass(frozen=True)
class BadResponse:
    """Bytes of an origin: to be answered with 502, or, `cut`, after a good head, by a body that ends visibly short."""

    name: str
    reply: bytes
    cut: bool = False
    method: bytes = b"GET"


_OK = b"HTTP/1.1 200 OK\r\n"
RESPONSES: list[BadResponse] = [
    BadResponse("cl-te", _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    BadResponse("te-cl", _OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    BadResponse("cl-differ", _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk"),
    BadResponse("cl-list", _OK + b"Content-Length: 2, 3\r\n\r\nokk"),
    BadResponse("cl-negative", _OK + b"Content-Length: -2\r\n\r\nok"),
    BadResponse("cl-plus", _OK + b"Content-Length: +2\r\n\r\nok"),
    BadResponse("cl-overflow", _OK + b"Content-Length: 99999999999999999999\r\n\r\nok"),
    BadResponse("te-gzip", _OK + b"Transfer-Encoding: gzip\r\n\r\nok"),
    BadResponse("te-chunked-gzip", _OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    BadResponse("te-http10", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    BadResponse("garbage", b"\x00\x01\x02 nonsense\r\n\r\n"),
    BadResponse("not-http", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    BadResponse("version-2", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("status-two-digits", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("status-letters", b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-nul", _OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-bare-cr", _OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-bare-lf", _OK + b"X: a\nY: b\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-fold", _OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-space-colon", _OK + b"Content-Length : 2\r\n\r\nok"),
    BadResponse("header-no-colon", _OK + b"nonsense\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("header-oversize", _OK + b"X: " + b"a" * 100000 + b"\r\nContent-Length: 2\r\n\r\nok"),
    BadResponse("switching-unasked", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
    BadResponse("endless-interim", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
    BadResponse("chunk-size", _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", cut=True),
    BadResponse(
        "chunk-size-space", _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2 \r\nok\r\n0\r\n\r\n", cut=True
    ),
    BadResponse("chunk-data", _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n", cut=True),
    BadResponse("chunk-lf", _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n", cut=True),
]
