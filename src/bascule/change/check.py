"""The dry run of a change: everything that the way of a change would find, without a process or a socket."""

import os

import msgspec

from bascule.change.compile import compile_snapshot
from bascule.change.compiled import CompiledSnapshot
from bascule.model.problems import Problem
from bascule.model.tree import Backend, Frontend, Tree
from bascule.process import access_log
from bascule.store.file import Loaded, Unloadable, load


class CheckReport(msgspec.Struct, frozen=True):
    """What checking a file found. `loaded` and `compiled` are None when the file has errors."""

    problems: tuple[Problem, ...]
    loaded: Loaded | None
    compiled: CompiledSnapshot | None

    @property
    def ok(self) -> bool:
        """Whether the file could come into force; warnings do not stop it."""
        return self.compiled is not None


def check_file(path: str | os.PathLike[str]) -> CheckReport:
    """Load, validate and compile a file; the report has every problem of every step, in the order of the lines."""
    try:
        loaded = load(path)
    except Unloadable as error:
        return CheckReport(tuple(with_routes(error, os.fspath(path))), None, None)
    compiled = compile_offline(loaded.tree)
    found = compiled_problems(compiled)
    if found:
        positions = loaded.positions()
        found = [problem.at(loaded.file, positions.line(problem.path)) for problem in found]
    found += duplicate_keys(loaded)
    reason = access_log.problem(loaded.tree.settings.access_log)
    if reason:
        found.append(loaded.place(access_log_problem(reason)))
    problems = tuple(sorted([*loaded.warnings, *found], key=lambda problem: problem.line))
    return CheckReport(problems, loaded, None if compiled.rejected or reason else compiled)


def access_log_problem(reason: str, option: str = "") -> Problem:
    """Return the error of an access log that cannot be opened; `option` names it where no file does."""
    return Problem(
        path=() if option else ("settings", "access_log"),
        message=f"{option}: {reason}" if option else f"it cannot be opened: {reason}",
        remedy="make the place writable for the workers, or choose another",
    )


def duplicate_keys(loaded: Loaded) -> list[Problem]:
    """Return a warning for every key that stands twice in a JSON object: decoding takes the last without a word.

    Looks at the whole text, which costs more than decoding it, so only the dry run does.
    """
    if loaded.format != "json":
        return []
    return [
        Problem(
            file=loaded.file,
            line=line,
            path=path,
            message="this key stands twice in one object; the last one counts",
            remedy="remove one of them",
            warning=True,
        )
        for path, line in loaded.positions().duplicates
    ]


def compile_offline(tree: Tree) -> CompiledSnapshot:
    """Compile a tree for its problems and sizes alone: identity numbers are made up, no host name is resolved."""
    numbers: dict[tuple[str, str], int] = {}
    return compile_snapshot(
        tree, revision=0, slot=lambda kind, name: numbers.setdefault((kind, name), len(numbers)), addresses={}
    )


def compiled_problems(compiled: CompiledSnapshot) -> list[Problem]:
    """Return what compiling found, as problems without a place: rejected routes are errors, the rest are warnings."""
    problems = [
        Problem(
            path=("frontends", route.frontend, "route"),
            message=f"{route.message}, at character {route.position + 1} of the route",
            remedy=route.remedy,
        )
        for route in compiled.rejected
    ]
    problems += [
        Problem(
            path=("frontends", conflict.loser_id, "route"),
            message=f"the same route as frontend {conflict.winner_id!r}, which takes the requests: its id comes first",
            remedy="make one of them more specific, or give one a priority",
            warning=True,
        )
        for conflict in compiled.conflicts
    ]
    problems += [
        Problem(
            path=("frontends", frontend, "backend"),
            message="waits for its backend and takes no requests until it exists",
            remedy="add the backend",
            warning=True,
        )
        for frontend in compiled.waiting
    ]
    return problems


def with_routes(error: Unloadable, file: str) -> list[Problem]:
    """Return the problems of a file that did not load, and those of the routes that could be decoded."""
    problems = list(error.problems)
    if error.partial is None:
        return problems
    routes = [problem for problem in compiled_problems(_routes_alone(error.partial)) if not problem.warning]
    if routes:
        problems += [problem.at(file, error.positions.line(problem.path)) for problem in routes]
    return sorted(problems, key=lambda problem: problem.line)


def _routes_alone(tree: Tree) -> CompiledSnapshot:
    """Compile only the routes of a tree, each leading to an empty backend that it names."""
    routes = {
        name: Frontend(route=frontend.route, backend="any", priority=frontend.priority)
        for name, frontend in tree.frontends.items()
        if frontend.route
    }
    return compile_offline(Tree(backends={"any": Backend()}, frontends=routes))
