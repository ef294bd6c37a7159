"""curl, in the ways people use it."""

import json
from pathlib import Path

import pytest

from kit.proxies import ProxyProcess
from tests.clients.conftest import Tool


def url(proxy: ProxyProcess, path: str) -> str:
    return f"http://127.0.0.1:{proxy.port}{path}"


def test_get_from_both_origins(balanced: ProxyProcess, tool: Tool) -> None:
    urls = [url(balanced, "/api")] * 8
    text = tool("curl", "-sS", "--fail", *urls)
    assert {answer["origin"] for answer in decoded(text)} == {"a", "b"}


def decoded(text: str) -> list[dict[str, str]]:
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


@pytest.mark.parametrize(
    "flags",
    [
        ["--http1.1"], ["--http1.0"], ["-H", "Connection: close"], ["--compressed"], ["--path-as-is"], ["--no-keepalive"],
        ["--tcp-nodelay"], ["-A", "x" * 2000], ["-b", "a=b; c=d"], ["-e", "http://example.test/"], ["-u", "user:password"],
        ["--limit-rate", "1M"], ["--proxy", "PROXY"], ["-H", "Host: other.test:81"], ["--raw"], ["--tr-encoding"],
    ],
    ids=lambda flags: flags[0].strip("-"),
)  # fmt: skip
def test_flags(balanced: ProxyProcess, tool: Tool, flags: list[str]) -> None:
    flags = [flag.replace("PROXY", f"127.0.0.1:{balanced.port}") for flag in flags]
    assert json.loads(tool("curl", "-sS", "--fail", *flags, url(balanced, "/api")))["origin"] in ("a", "b")


def test_head(balanced: ProxyProcess, tool: Tool) -> None:
    text = tool("curl", "-sS", "--fail", "-I", url(balanced, "/bytes/1000"))
    assert "content-length: 1000" in text.lower()


@pytest.mark.parametrize(
    "flags",
    [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["--http1.0"], ["-H", "Expect:"]],
    ids=["length", "chunked", "expect", "http1.0", "no-expect"],
)
@pytest.mark.parametrize("size", [0, 1, 1_000, 3_000_000])
def test_upload(balanced: ProxyProcess, tool: Tool, tmp_path: Path, flags: list[str], size: int) -> None:
    body, got = tmp_path / "body", tmp_path / "got"
    body.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    tool("curl", "-sS", "--fail", *flags, "--data-binary", f"@{body}", "-o", str(got), url(balanced, "/echo"))
    assert (got.read_bytes() if got.exists() else b"") == body.read_bytes()


def test_upload_from_a_pipe(balanced: ProxyProcess, tool: Tool) -> None:
    flags = ["-X", "POST", "-T", "-", "-H", "Content-Type: application/octet-stream"]
    assert tool("curl", "-sS", "--fail", *flags, url(balanced, "/echo"), stdin=b"piped") == "piped"


def test_download(balanced: ProxyProcess, tool: Tool, tmp_path: Path) -> None:
    tool("curl", "-sS", "--fail", "-o", str(tmp_path / "got"), url(balanced, "/bytes/20000000"))
    assert (tmp_path / "got").stat().st_size == 20_000_000


def test_parallel(balanced: ProxyProcess, tool: Tool, tmp_path: Path) -> None:
    target = url(balanced, "/bytes/[1000-1099]")
    tool("curl", "-sS", "--fail", "--parallel", "--parallel-max", "20", "-o", f"{tmp_path}/#1", target)
    assert sorted(file.stat().st_size for file in tmp_path.iterdir()) == list(range(1000, 1100))


def test_not_found_is_the_origins_answer(balanced: ProxyProcess, tool: Tool) -> None:
    assert tool("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url(balanced, "/nowhere")) == "404"
