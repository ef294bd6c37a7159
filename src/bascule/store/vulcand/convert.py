"""A whole vulcand tree as a tree of ours that `bascule check` accepts, and a report of what is not in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bascule.change.check import compile_offline, compiled_problems
from bascule.change.examine import examine, tree_of
from bascule.change.validate import validate
from bascule.model.problems import Problem
from bascule.model.refusal import refusal_problems
from bascule.model.tree import Record, Tree
from bascule.store.interface import Entry


class Conversion(msgspec.Struct, frozen=True):
    """What came of a tree."""

    tree: Tree
    problems: tuple[Problem, ...]
    """By path; errors are of what is not in the tree."""

    @property
    def complete(self) -> bool:
        """Tell whether everything is in the tree."""
        return all(problem.warning for problem in self.problems)


def convert(entries: Mapping[str, Entry], problems: Iterable[Problem]) -> Conversion:
    """Make a tree of translated entries; `problems` are what VulcandStore.problems says of them."""
    found = list(problems)
    examined = examine((key, entry.value) for key, entry in entries.items() if not refusal_problems(entry.value))
    found += [problem for key in examined.problems for problem in examined.problems[key]]
    found += [problem for key in examined.warnings for problem in examined.warnings[key]]
    records = {key: examined.records[key] for key in sorted(examined.records)}
    found += _drop_orphans(records)
    while True:
        tree = tree_of(records.items(), stand_ins=False)
        wrong = [problem for problem in validate(tree) if not problem.warning]
        compiled = [] if wrong else compiled_problems(compile_offline(tree))
        wrong += [problem for problem in compiled if not problem.warning]
        if not wrong:
            found += [problem for problem in compiled if problem.warning]
            return Conversion(tree, tuple(sorted(found, key=lambda problem: problem.path)))
        found += wrong
        dropped = [_drop(records, problem) for problem in wrong]
        if not any(dropped):
            # Nothing that is wrong belongs to one object (too many of a kind): there is no part to leave out.
            return Conversion(Tree(), tuple(sorted(found, key=lambda problem: problem.path)))
        found += _drop_orphans(records)


def _drop(records: dict[str, Record], problem: Problem) -> bool:
    """Take the object out that a problem is of, with what is below it."""
    for length in (4, 2):
        key = "/".join(problem.path[:length])
        if len(problem.path) >= length and key in records:
            for other in [other for other in records if other == key or other.startswith(key + "/")]:
                del records[other]
            return True
    return False


def _drop_orphans(records: dict[str, Record]) -> list[Problem]:
    """Take out what refers to an object that is not there: a file has no waiting."""
    found = []
    for key in list(records):
        owner = "/".join(key.split("/")[:2])
        backend = f"backends/{getattr(records[key], 'backend', '')}" if key.startswith("frontends/") else ""
        missing = owner if owner not in records else backend if owner == key and backend not in records else ""
        if not missing or missing == "backends/":
            continue
        del records[key]
        message = (
            f"it is left out with {missing.partition('/')[0][:-1]} {missing.partition('/')[2]}, which is not there"
        )
        found.append(Problem(path=tuple(key.split("/")), message=message, remedy="see what is said of that one"))
    # A frontend that went takes its middlewares along.
    for key in list(records):
        if key.count("/") == 3 and "/".join(key.split("/")[:2]) not in records:
            del records[key]
    return found
