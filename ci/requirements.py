"""Prints what pyproject.toml requires to build, run, test and lint, one requirement a line, for `pip install -r`."""

import tomllib
from pathlib import Path

config = tomllib.loads(Path("pyproject.toml").read_text())
groups = config["project"]["optional-dependencies"]
lines = [*config["build-system"]["requires"], *config["project"]["dependencies"]]
lines += [line for name in ("test", "lint") for line in groups[name]]
print("\n".join(dict.fromkeys(lines)))
