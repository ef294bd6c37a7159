"""The tree of `bascule proxy`: made from its arguments, without a configuration file.

Ids come from what they name (an address, a prefix), never from a position, so that statistics, limits and connection
pools stay with their object when the routes file is read again.
"""

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Final

import msgspec

from bascule.change.validate import validate
from bascule.model.problems import ConfigError, Problem
from bascule.model.tree import Backend, Frontend, Listener, Server, Settings, Tree
from bascule.store.proxy_names import PREFIX_LENGTH_MAX, address_id, listen_address, prefix_id, server_url

_LINE: Final = re.compile(rf"""\s*(/[^`<>\\"'\s]{{0,{PREFIX_LENGTH_MAX - 1}}})\s+([^#\s].*)""").fullmatch
"""A prefix holds none of the characters that would mean something else inside a route expression."""


def tree_from_proxy_arguments(
    listen: Sequence[str],
    to: Sequence[str],
    *,
    routes: str | None = None,
    workers: int = 0,
    slots: int = 0,
    drain_timeout: str = "30s",
) -> Tree:
    """Return the validated tree; ConfigError with every problem of the arguments and of the routes file.

    `listen` and `to` are addresses as on the command line, `routes` the name of a file of `PREFIX HOST:PORT ...` lines.
    Each prefix gets a backend of its own, with the servers of all its lines; prefixes with the same servers share one
    Backend object in memory.
    """
    backends: dict[str, Backend] = {}
    frontends: dict[str, Frontend] = {}
    problems: list[Problem] = []
    if routes is not None:
        problems += read_routes(routes, backends, frontends)
    if to:
        backends["proxy"] = _pool(to)
        frontends["proxy"] = Frontend(route="PathPrefix(`/`)", backend="proxy", priority=0)
    tree = Tree(
        listeners={address_id(address): Listener(address=listen_address(address)) for address in listen},
        backends=backends,
        frontends=frontends,
        settings=Settings(workers=workers, slots=slots, drain_timeout=drain_timeout),
    )
    problems += [_by_option(problem, listen, to) for problem in validate(tree) if not problem.warning]
    if problems:
        raise ConfigError(problems)
    return tree


def _by_option(problem: Problem, listen: Sequence[str], to: Sequence[str]) -> Problem:
    """Name the option that is wrong instead of the key of a tree that nobody wrote."""
    path = problem.path
    if path[:1] == ("listeners",):
        option, words, name = "--listen", listen, path[1]
    elif path[:3] == ("backends", "proxy", "servers"):
        option, words, name = "--to", to, path[3]
    else:
        return problem
    word = next((word for word in words if address_id(word) == name), name)
    return msgspec.structs.replace(problem, path=(), message=f"{option} {word}: {problem.message}")


def read_routes(file: str, backends: dict[str, Backend], frontends: dict[str, Frontend]) -> list[Problem]:
    """Add a backend and a frontend for every prefix of a routes file; return what is wrong with its lines."""
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        return [Problem(file=file, message=f"cannot be read: {reason}", remedy="check the name and its permissions")]
    problems: list[Problem] = []
    pools: dict[str, Backend] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE(line)
        if match is None:
            reason = _wrong_with(line.split())
            if reason:
                problems.append(Problem(file=file, line=number, message=reason, remedy="write: PREFIX HOST:PORT"))
            continue
        prefix, addresses = match.groups()
        name = prefix_id(prefix)
        pool = pools.get(addresses)
        if pool is None:
            pool = pools[addresses] = _pool(addresses.split())
        known = backends.get(name)
        if known is None:
            backends[name] = pool
            frontends[name] = Frontend(route=f"PathPrefix(`{prefix}`)", backend=name)
        else:
            backends[name] = Backend(servers={**known.servers, **pool.servers})
    return problems


def _pool(addresses: Sequence[str]) -> Backend:
    return Backend(servers={address_id(address): Server(url=server_url(address)) for address in addresses})


def _wrong_with(words: list[str]) -> str:
    """Return what is wrong with the words of a line; nothing is with an empty line or a comment."""
    if not words or words[0][0] == "#":
        return ""
    prefix = words[0]
    if prefix[0] != "/":
        return f"the prefix {prefix!r} does not start with a slash"
    if len(words) == 1:
        return f"the prefix {prefix!r} has no server"
    if len(prefix) > PREFIX_LENGTH_MAX:
        return f"the prefix is longer than {PREFIX_LENGTH_MAX} bytes"
    return f"the prefix {prefix!r} has a character that a route cannot hold: one of ` < > \\ \" '"
