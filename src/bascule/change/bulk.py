"""A whole store's objects at a start: what is plainly in order is taken together, at a fraction of what each alone would cost.

Whatever is not plainly in order (it does not decode, a rule is broken, its owner or backend is not there) is only named, and
takes the way of a single object afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bascule.change.validate import validate
from bascule.model import limits
from bascule.model.problems import Problem
from bascule.model.tree import Backend, ConcurrencyLimit, Frontend, Listener, Middleware, Record, Server, Tree
from bascule.store.interface import Entry

_server = msgspec.json.Decoder(Server).decode
_middleware = msgspec.json.Decoder(Middleware).decode
_TOP = {
    "listeners": msgspec.json.Decoder(Listener).decode,
    "backends": msgspec.json.Decoder(Backend).decode,
    "frontends": msgspec.json.Decoder(Frontend).decode,
}


def plain(entries: Mapping[str, Entry]) -> tuple[Tree, set[str]]:
    """Return a tree of everything that is plainly in order, and the keys of everything else."""
    doubtful: set[str] = set()
    tree = Tree(listeners={}, hosts={}, backends={}, frontends={})
    top: dict[str, dict[str, Record]] = {
        "listeners": tree.listeners,  # type: ignore[dict-item]
        "backends": tree.backends,  # type: ignore[dict-item]
        "frontends": tree.frontends,  # type: ignore[dict-item]
    }
    below: list[tuple[str, list[str], bytes]] = []
    for key, entry in entries.items():
        parts = key.split("/")
        if len(entry.value) > limits.VALUE_BYTES_MAX or len(key) > limits.KEY_BYTES_MAX:
            doubtful.add(key)
        elif len(parts) == 4:
            below.append((key, parts, entry.value))
        elif len(parts) != 2 or parts[0] not in _TOP:
            doubtful.add(key)
        else:
            try:
                record = _TOP[parts[0]](entry.value)
            except Exception:
                doubtful.add(key)
                continue
            if getattr(record, "servers", None) or getattr(record, "middlewares", None):
                doubtful.add(key)
            else:
                top[parts[0]][parts[1]] = record
    for key, parts, value in below:
        if not _placed(tree, parts, value):
            doubtful.add(key)
    for name in sorted(tree.listeners):  # of two that want one address, the lesser id gets it
        tree.listeners[name] = tree.listeners.pop(name)
    _weed(tree, doubtful, entries)
    return tree, doubtful & entries.keys()


def _placed(tree: Tree, parts: list[str], value: bytes) -> bool:
    """Put a server or middleware into its place, if it has one."""
    collection, owner, kind, name = parts
    try:
        if collection == "backends" and kind == "servers":
            tree.backends[owner].servers[name] = _server(value)
        elif collection == "frontends" and kind == "middlewares":
            tree.frontends[owner].middlewares[name] = _middleware(value)
        else:
            return False
    except Exception:
        return False
    return True


def _weed(tree: Tree, doubtful: set[str], entries: Mapping[str, Entry]) -> None:
    """Take everything out of the tree that a rule speaks against, with what stands below it or leads to it."""
    try:
        problems: list[Problem] = validate(tree, dangling=True)
    except Exception:
        problems = []
        doubtful.update(entries)
    for problem in problems:
        if not problem.warning:
            doubtful.add(_blamed(problem.path, entries))
    for name, frontend in tree.frontends.items():
        held = [item for item in frontend.middlewares.values() if isinstance(item, ConcurrencyLimit)]
        if len(held) > limits.CONCURRENCY_LIMITS_PER_FRONTEND_MAX:
            doubtful.add(f"frontends/{name}")
    if not doubtful:
        if any(frontend.backend not in tree.backends for frontend in tree.frontends.values()):
            _weed_waiting(tree, doubtful)
        return
    for key in sorted(doubtful):
        _take_out(tree, key, doubtful)
    _weed_waiting(tree, doubtful)


def _weed_waiting(tree: Tree, doubtful: set[str]) -> None:
    for name in [name for name, frontend in tree.frontends.items() if frontend.backend not in tree.backends]:
        doubtful.add(f"frontends/{name}")
        _take_out(tree, f"frontends/{name}", doubtful)


def _take_out(tree: Tree, key: str, doubtful: set[str]) -> None:
    parts = key.split("/")
    if parts[0] == "listeners" and len(parts) == 2:
        tree.listeners.pop(parts[1], None)
    elif parts[0] == "backends" and len(parts) == 2:
        backend = tree.backends.pop(parts[1], None)
        doubtful.update(f"{key}/servers/{name}" for name in (backend.servers if backend else ()))
    elif parts[0] == "frontends" and len(parts) == 2:
        frontend = tree.frontends.pop(parts[1], None)
        doubtful.update(f"{key}/middlewares/{name}" for name in (frontend.middlewares if frontend else ()))
    elif len(parts) == 4 and parts[0] == "backends" and parts[1] in tree.backends:
        tree.backends[parts[1]].servers.pop(parts[3], None)
    elif len(parts) == 4 and parts[0] == "frontends" and parts[1] in tree.frontends:
        tree.frontends[parts[1]].middlewares.pop(parts[3], None)


def _blamed(path: tuple[str, ...], entries: Mapping[str, Entry]) -> str:
    for length in (4, 2):
        key = "/".join(path[:length])
        if len(path) >= length and key in entries:
            return key
    return "/".join(path)
