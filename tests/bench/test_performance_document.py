"""docs/performance.md says what the stored results say."""

import re

import pytest

from bench.load.render import DOCUMENT, TABLES, rendered


def test_the_document_is_what_the_results_say() -> None:
    text = DOCUMENT.read_text()
    assert rendered(text) == text, "run: python -m bench.load render"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_in_the_document(table: str) -> None:
    """And says something: a marker pair alone would be compared with nothing."""
    found = re.search(rf"<!-- table: {table} -->\n(.*?)<!-- end -->", DOCUMENT.read_text(), re.DOTALL)
    assert found
    assert found[1].count("|") > 10, f"{table}: measure it first (bench/README.md)"


def test_a_wrong_figure_is_noticed() -> None:
    text = DOCUMENT.read_text()
    wrong = re.sub(r"(\| `real`, 64 connections \| )[\d.]+", r"\g<1>1.0", text)
    assert wrong != text
    assert rendered(wrong) == text
