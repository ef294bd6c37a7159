"""`bascule upgrade`: replace the running program, switch back, and what came of it."""

import contextlib
import json
import os
import select
import shutil
import sys
import time
from typing import Any, Final

import click

from bascule.cli.output import FAILURE, OK, Failure, print_json
from bascule.cli.running import Running, find_running
from bascule.model.quantities import duration_ms
from bascule.process.control_socket import connect
from bascule.process.link import Link, LinkClosedError
from bascule.process.phases import PATIENCE_S
from bascule.process.receipt import HISTORY_FILE, history_lines

LONGEST_S: Final = sum(PATIENCE_S.values()) + 10.0
"""The keeper itself gives up before: a command that did so first would not know how it ended."""
_ANSWERS: Final = {"receipt", "failed", "finished", "state"}


@click.command()
@click.option("--state", metavar="DIR", help="State directory. Default: the only one running, or `run`'s default.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON, and no progress.")
@click.option("--program", metavar="PATH", help="The `bascule` to run from now on. Default: the one it was started by.")
@click.option(
    "--probation", metavar="TIME", help="How long the old version waits. Default: settings.upgrade_probation."
)
@click.option("--back", is_flag=True, help="Switch back to the version before, which still waits.")
@click.option("--finish", is_flag=True, help="End the probation: let the version before go.")
@click.option("--status", is_flag=True, help="Show what is under way, and which version waits.")
@click.option("--history", is_flag=True, help="Show the receipts of earlier upgrades.")
@click.option("--reason", metavar="TEXT", help="Why; kept in the receipt of --back.")
def upgrade(
    state: str | None,
    as_json: bool,
    program: str | None,
    probation: str | None,
    back: bool,
    finish: bool,
    status: bool,
    history: bool,
    reason: str | None,
) -> int:
    """Replace the running program by the version that is now on disk, without a client noticing; print the receipt.

    The new version starts beside the old one, is tested, and only then takes the listening sockets and the connections
    over. If anything fails before, nothing changes, and the exit status is 1. Afterwards the old version waits for the
    time of the probation: --back returns to it in a moment.

    \b
    pip install --upgrade bascule && bascule upgrade
    bascule upgrade --program /opt/bascule/1.3/bin/bascule --probation 10m
    bascule upgrade --back
    bascule upgrade --json | jq .connections
    """
    if sum((back, finish, status, history)) > 1:
        raise click.UsageError("--back, --finish, --status and --history exclude each other")
    running = find_running(state)
    if history:
        return _print_history(running, as_json)
    message: dict[str, Any] = {"type": "upgrade", "probation_ms": _milliseconds(probation)}
    if program is not None:
        message["program"] = [_executable(program)]
    if back:
        message = {"type": "back", "reason": reason or ""}
    elif finish:
        message = {"type": "finish"}
    elif status:
        message = {"type": "upgrade?"}
    answer = _ask(running, message, quiet=as_json or status)
    if answer["type"] == "failed":
        raise Failure(answer["reason"], answer["remedy"])
    if answer["type"] == "receipt":
        return _print_receipt(answer["receipt"], as_json)
    if as_json:
        print_json({key: value for key, value in answer.items() if key != "type"})
    elif answer["type"] == "finished":
        click.echo(f"the probation is over; generation {answer['generation']} ends")
    else:
        click.echo("\n".join(_state_lines(answer)))
    return OK


def _milliseconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return duration_ms(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--probation") from None


def _executable(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Failure(f"{program} is no program that can be started", "name the `bascule` of the version to run")
    return os.path.abspath(found)


def _ask(running: Running, message: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Send a message to the keeper and return its last answer; progress goes to standard error."""
    try:
        link = connect(running.directory)
    except OSError as error:
        raise Failure(
            f"the keeper (pid {running.pid}) does not answer on {running.directory}: {error.strerror}",
            "it may be another version: send it USR2 and look at its log",
        ) from None
    try:
        with contextlib.suppress(LinkClosedError):  # one that is turned away has been told why before it could ask
            link.send(message)
        return _answer(link, quiet=quiet)
    except LinkClosedError:
        raise Failure("the keeper ended meanwhile", "see its log") from None
    finally:
        link.close()


def _answer(link: Link, *, quiet: bool) -> dict[str, Any]:
    started_s = time.monotonic()
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN)
    while time.monotonic() - started_s < LONGEST_S:
        received = link.receive()
        if received is None:
            poll.poll(1000)
            continue
        answer, _ = received
        if answer["type"] in _ANSWERS:
            return answer
        if not quiet and answer["type"] == "progress":
            click.echo(f"{time.monotonic() - started_s:7.2f} s  {answer['text']}", err=True)
    raise Failure(f"no end after {LONGEST_S:g} s", "see the log, and: bascule upgrade --status")


def _state_lines(answer: dict[str, Any]) -> list[str]:
    lines = [f"generation {answer['generation']} serves, version {answer['version']}"]
    if answer["phase"]:
        lines.append(f"an upgrade is under way: {answer['phase']}")
    if answer["resting"]:
        resting = answer["resting"]
        lines.append(
            f"generation {resting['generation']}, version {resting['version']}, waits for another "
            f"{answer['probation_left_s']:.0f} s (bascule upgrade --back, or --finish)"
        )
    elif answer.get("lost_because"):
        lines.append(f"there is no way back to the version before: {answer['lost_because']}")
    return lines


def _print_receipt(receipt: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(receipt)
    else:
        click.echo("\n".join(receipt_lines(receipt)), err=not receipt["ok"])
    return OK if receipt["ok"] else FAILURE


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """Return a receipt for people."""
    before = receipt["from"]
    what = "switch back" if receipt["kind"] == "back" else "upgrade"
    if not receipt["ok"]:
        return [
            f"{what} failed after {receipt['took_s']:.2f} s: {receipt['failed']}",
            f"    {receipt['remedy']}",
            f"generation {before['generation']}, version {before['version']}, serves on; nothing has changed",
        ]
    after, connections, kernel = receipt["to"], receipt["connections"], receipt["kernel"]
    lines = [
        f"{what} done in {receipt['took_s']:.2f} s: version {before['version']} -> {after['version']}, "
        f"generation {before['generation']} -> {after['generation']}",
        f"  slots        {receipt['slots']}, none closed; queued before {_counts(receipt['queued_before'])}, "
        f"after {_counts(receipt['queued_after'])}",
        f"  connections  {_what_happened(connections) or 'none'}",
        f"  kernel       {_kernel(kernel)}",
        f"  phases       {', '.join(f'{key} {took_s:.3f} s' for key, took_s in receipt['phases_s'].items())}",
        f"  memory       {_mib(receipt['memory_before_bytes'])} before, {_mib(receipt['memory_both_bytes'])} with both",
    ]
    if not receipt.get("master_in_charge", True):
        lines.append("  attention    the new master had not taken charge yet: see its log, and bascule status")
    if receipt["regions_restarted"]:
        lines.append(f"  begun anew   {', '.join(receipt['regions_restarted'])}: their layout has changed")
    return lines


def _what_happened(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items() if count)


def _kernel(counts: dict[str, int]) -> str:
    """Without /proc, nobody counted; and what was counted may be another program's."""
    if not counts:
        return "its counters cannot be read"
    counted = _what_happened(counts)
    return f"{counted} (of all programs of this network namespace)" if counted else "no reset, no connection refused"


def _counts(queues: dict[str, int]) -> str:
    return str(sum(queues.values()))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _print_history(running: Running, as_json: bool) -> int:
    receipts = [
        receipt for line in history_lines(os.path.join(running.directory, HISTORY_FILE)) for receipt in _read(line)
    ]
    if as_json:
        print_json(receipts)
        return OK
    if not receipts:
        click.echo("no upgrade yet", file=sys.stderr)
    for receipt in receipts:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(receipt["at"]))
        click.echo(f"{at}  {receipt_lines(receipt)[0]}  ({receipt['reason']})")
    return OK


def _read(line: str) -> list[dict[str, Any]]:
    """Return the receipt of a line of the history, nothing of one that is damaged."""
    try:
        receipt = json.loads(line)
        receipt_lines(receipt)
        time.localtime(receipt["at"])
        str(receipt["reason"])
    except (ValueError, KeyError, TypeError, AttributeError):
        click.echo(f"a damaged receipt is left out: {line[:60]!r}", err=True)
        return []
    return [receipt]
