"""Documents say only what is so: links lead somewhere, commands and files they name exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_named_files_exist(document: Path) -> None:
    """A path in code font that starts at a folder of the repository is a file or folder of it."""
    folders = "src|cext|tests|bench|docs|ci"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def commands() -> list[str]:
    """Return the bascule subcommands that the README shows in its blocks of commands."""
    blocks = re.findall(r"```(?:sh|console|)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    text = "\n".join(blocks)
    return sorted({match[1] for match in re.finditer(r"^(?:\$ )?(?:\S*/)?bascule ([a-z]+)", text, re.MULTILINE)})


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_exist(command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "bascule", command, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


def test_scripts_of_the_readme_can_be_run() -> None:
    scripts = set(re.findall(r"\bci/[a-z]+\b", (ROOT / "README.md").read_text()))
    assert {"ci/demo", "ci/test"} <= scripts
    assert [script for script in sorted({*scripts, ".ci/run"}) if not os.access(ROOT / script, os.X_OK)] == []


def test_options_of_the_readme_exist() -> None:
    """Every --option in a command of the README is in that command's help."""
    blocks = re.findall(r"```(?:sh|console|)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    wrong = []
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        match = re.match(r"(?:\$ )?(?:\S*/)?bascule ([a-z]+)(.*?)(?:\s#.*)?$", line)
        if match is None:
            continue
        command = [sys.executable, "-m", "bascule", match[1], "--help"]
        text = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout
        wrong += [f"{match[1]} {option}" for option in re.findall(r"(?<=\s)--[a-z-]+", match[2]) if option not in text]
    assert wrong == []
