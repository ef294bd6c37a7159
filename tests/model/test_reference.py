import re
import tomllib
from pathlib import Path

import pytest

from bascule.change.decode import decode
from bascule.change.validate import validate
from bascule.model.reference import fill_tables

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_tables_are_those_of_the_structs() -> None:
    assert fill_tables(PAGE) == PAGE, "run: python -m bascule.model.reference docs/configuration.md"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_in_order(number: int) -> None:
    raw = tomllib.loads(EXAMPLES[number])
    if "api" in raw.get("frontends", {}):
        raw["frontends"]["api"] = {"route": "x", "backend": "app", **raw["frontends"]["api"]}
        raw.setdefault("backends", {}).setdefault("app", {})
    decoded = decode(raw)
    assert decoded.problems == []
    assert validate(decoded.tree) == []
