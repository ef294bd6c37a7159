"""docs/upgrade-proof.md says what the stored results say."""

import re

import pytest

from bench.torture.render import DOCUMENT, TABLES, rendered


def test_the_document_is_what_the_results_say() -> None:
    text = DOCUMENT.read_text()
    assert rendered(text) == text, "run: python -m bench.torture.render"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_in_the_document(table: str) -> None:
    """And says something: a marker pair alone would be compared with nothing."""
    found = re.search(rf"<!-- table: {table} -->\n(.*?)<!-- end -->", DOCUMENT.read_text(), re.DOTALL)
    assert found
    assert found[1].count("|") > 10, f"{table}: measure it first (bench/README.md)"
