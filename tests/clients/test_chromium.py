"""Chromium loads a page with its assets, makes requests from a script and holds a WebSocket, all through the proxy."""

import re
import shutil
from pathlib import Path

import pytest

from kit.proxies import ProxyProcess
from tests.clients.conftest import Tool

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--virtual-time-budget=8000", "--dump-dom",
]  # fmt: skip


@pytest.mark.skipif(
    shutil.which("chromium") is None and "ID=debian" not in Path("/etc/os-release").read_text(),
    reason="Chromium is a package of Debian's; Ubuntu's chromium is a snap",
)
def test_page(balanced: ProxyProcess, tool: Tool, tmp_path: Path) -> None:
    page = tool("chromium", *FLAGS, f"--user-data-dir={tmp_path}", f"http://127.0.0.1:{balanced.port}/", deadline_s=90)
    assert 'data-done="6"' in page, page
    assert 'data-posted="posted"' in page, page
    assert "echo: hello" in page, page
    assert set(re.findall(r"request \d: origin ([ab])", page)) == {"a", "b"}, page
