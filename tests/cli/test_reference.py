"""The reference pages are what the program itself says."""

import pytest

from bascule.cli.reference import fill
from kit.proxies import ROOT


@pytest.mark.parametrize("page", ["commands.md", "admin-api.md"])
def test_pages_are_made_from_the_program(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert fill(text) == text, "run: python -m bascule.cli.reference docs"
