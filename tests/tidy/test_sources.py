"""Rules about the sources themselves, that no linter knows."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES_MAX = 500
FUNCTION_LINES_MAX = 60
SOURCE_ENDINGS = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh", ".js"}
TEXT_ENDINGS = SOURCE_ENDINGS | {".md", ".toml", ".txt", ""}
# Assembled from parts, so that this file does not contain what it forbids.
BANNED = [
    "TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK", "white" + "list", "black" + "list", "lan" + "guage model",
    "Clau" + "de", "Co" + "pilot", "Chat" + "GPT", "issue " + "2", "as an A" + "I",
]  # fmt: skip


def tracked() -> list[Path]:
    """Return the files of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and not {".git", "build", ".venv"} & set(path.parts)]
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix in SOURCE_ENDINGS]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exceptions() -> dict[str, str]:
    lines = (ROOT / "tests/tidy/exceptions.txt").read_text().splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "a line of exceptions.txt has no reason"
    return {pair[0]: pair[1] for pair in pairs}


def test_files_have_one_subject_and_few_lines() -> None:
    allowed = exceptions()
    long = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    long = {path: count for path, count in long.items() if count > LINES_MAX}
    assert {path: count for path, count in long.items() if path not in allowed} == {}
    assert [path for path in allowed if path not in long] == [], "exceptions.txt lists files that are short again"


def test_functions_do_one_thing() -> None:
    found = []
    for path in SOURCES:
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{name(path)}:{node.lineno} {node.name}: {lines} lines")
    assert found == []


def test_no_banned_words() -> None:
    found = []
    for path in FILES:
        if path.suffix not in TEXT_ENDINGS:
            continue
        text = path.read_text(errors="replace")
        for word in BANNED:
            if re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", text):
                found.append(f"{name(path)}: {word}")
    assert found == []


@pytest.mark.parametrize("ending", [".orig", ".rej", ".so", ".o", ".pyc"])
def test_no_products_are_tracked(ending: str) -> None:
    assert [name(path) for path in FILES if path.suffix == ending] == []


def has_python_face(path: Path) -> bool:
    """Tell whether a .pyx defines something public that Python can call; a cdef class of C methods alone is not."""
    text = path.read_text()
    if re.search(r"^(def|class|cpdef|async def) (?!_)", text, re.MULTILINE):
        return True
    parts = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return any(
        part.startswith("cdef class ") and re.search(r"^    (def|cpdef) (?!__)", part, re.MULTILINE) for part in parts
    )


def test_every_compiled_module_with_a_python_face_has_its_promise() -> None:
    missing = []
    for path in (ROOT / "cext").rglob("*.pyx"):
        promise = ROOT / "src" / path.relative_to(ROOT / "cext").with_suffix(".pyi")
        if has_python_face(path) and not promise.exists():
            missing.append(name(promise))
    assert missing == []


def test_every_promise_is_fulfilled() -> None:
    """A .pyi stands for a module in cext/; beside a .py it would only hide that one's own types."""
    stray = []
    for path in (ROOT / "src").rglob("*.pyi"):
        if not (ROOT / "cext" / path.relative_to(ROOT / "src").with_suffix(".pyx")).exists():
            stray.append(name(path))
    assert stray == []


def test_the_top_level_is_fixed() -> None:
    allowed = {
        "pyproject.toml",
        "setup.py",
        "README.md",
        "src",
        "cext",
        "bench",
        "tests",
        "docs",
        "ci",
        ".ci",
        ".gitignore",
    }
    assert {path.relative_to(ROOT).parts[0] for path in FILES} - allowed == set()


def test_stages_are_imported_forwards_only() -> None:
    """request/sN_* may know the stages before it; a later one would make the order of the tree a lie."""
    found = []
    for path in (ROOT / "cext/bascule/request").glob("s[0-9]_*.px[dy]"):
        own = int(path.name[1])
        for line in path.read_text().splitlines():
            match = re.match(r"from bascule\.request\.s(\d)_\w+ cimport", line)
            if match and int(match[1]) > own + 1:
                found.append(f"{name(path)}: {line}")
    assert found == []


def test_hot_path_has_no_python() -> None:
    """Every function of a stage runs without the GIL."""
    found = []
    for path in (ROOT / "cext/bascule/request").glob("s[0-9]_*.pyx"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(r"(def|class|cpdef) ", line):
                found.append(f"{name(path)}:{number}: {line}")
    assert found == []
