"""The `real` request of the measuring scripts and its answer: what a browser sends, what an application answers."""

TARGET = "/real/a/b?x=1&y=2"

HEADERS = [
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Referer", "https://www.example.com/path/to/page.html"),
    ("Cookie", "_ga=GA1.2.1234567890.1234567890; session=8d1b0d7c9f8e4b6ab1c2d3e4f5a6b7c8; theme=dark"),
    ("Cache-Control", "no-cache"),
    ("Sec-Fetch-Mode", "navigate"),
    ("X-Requested-With", "XMLHttpRequest"),
]

ANSWER_HEADERS = [
    ("Server", "nginx/1.27"),
    ("Date", "Sun, 22 Nov 2026 04:00:00 GMT"),
    ("Content-Type", "text/plain"),
    ("Content-Length", "1024"),
    ("Connection", "keep-alive"),
    ("Cache-Control", "private, max-age=0"),
    ("Vary", "Accept-Encoding, Cookie"),
    ("X-Request-Id", "0f6c2f0e-5b2a-4b0a-8a58-1f2e2b1c7c11"),
    ("Set-Cookie", "session=8d1b0d7c9f; Path=/; HttpOnly; SameSite=Lax"),
    ("X-Content-Type-Options", "nosniff"),
    ("Strict-Transport-Security", "max-age=31536000"),
]


def lines(headers: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode() + b"\r\n"


REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1:9101\r\n".encode() + lines(HEADERS)
ANSWER_HEAD = b"HTTP/1.1 200 OK\r\n" + lines(ANSWER_HEADERS)
ANSWER = ANSWER_HEAD + b"x" * 1024
