"""`bascule check`, and two files compared: what a file would do, without a running load balancer."""

from typing import Any

import click

from bascule.change.check import CheckReport, check_file
from bascule.change.diff import Change
from bascule.change.diff import diff as difference
from bascule.cli.output import FAILURE, OK, Failure, print_json
from bascule.model.problems import Problem
from bascule.model.tree import Tree
from bascule.store.file import Unloadable, load

_FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: ok, problems, counts.")
def check(file: str, as_json: bool) -> int:
    """Find everything that is wrong with a configuration FILE (TOML or JSON).

    Runs the whole way of a change but the last step: decode, validate, compile. Prints every problem with its line and
    what to do about it. Exit status 0 when the file could come into force, warnings or not.

    \b
    bascule check bascule.toml
    bascule check --json bascule.toml | jq '.problems[].message'
    """
    report = check_file(file)
    if as_json:
        print_json(_as_json(file, report))
    else:
        _print_report(file, report)
    return OK if report.ok else FAILURE


def _as_json(file: str, report: CheckReport) -> dict[str, Any]:
    compiled = report.compiled
    counts = {"listeners": 0, "backends": 0, "servers": 0, "frontends": 0, "image_bytes": 0}
    if compiled is not None:
        counts = {
            "listeners": compiled.listeners,
            "backends": compiled.backends,
            "servers": compiled.servers,
            "frontends": compiled.frontends,
            "image_bytes": len(compiled.image),
        }
    return {"ok": report.ok, "file": file, "problems": [_problem(problem) for problem in report.problems], **counts}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "severity": "warning" if problem.warning else "error",
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": list(problem.path),
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _print_report(file: str, report: CheckReport) -> None:
    for problem in report.problems:
        click.echo(problem.render(), err=True)
    compiled = report.compiled
    if compiled is None:
        errors = sum(not problem.warning for problem in report.problems)
        click.echo(f"{file}: {_count(errors, 'error')}; it would not come into force", err=True)
        return
    click.echo(
        f"{file}: in order. {_count(compiled.listeners, 'listener')}, {_count(compiled.frontends, 'frontend')}, "
        f"{_count(compiled.backends, 'backend')}, {_count(compiled.servers, 'server')}; "
        f"{len(compiled.image)} bytes compiled"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def diff_files(old: str, new: str) -> list[Change]:
    """Return what changes when one file takes the place of another; Failure when one has errors."""
    return difference(_tree(old), _tree(new))


def _tree(file: str) -> Tree:
    try:
        return load(file).tree
    except Unloadable as error:
        for problem in error.problems:
            click.echo(problem.render(), err=True)
        raise Failure(f"{file} has errors", f"see them all with: bascule check {file}") from None
