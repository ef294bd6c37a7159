"""From the store to a compiled snapshot: what the master does to a configuration before anybody else hears of it.

Every step that can fail is here, and none of them has an effect on a worker.
"""

from __future__ import annotations

from bascule.model.quantities import duration_ms, size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from bascule.change.compiled import CompiledSnapshot
    from bascule.change.kept import Kept
    from bascule.model.problems import ConfigError, Problem
    from bascule.model.tree import Settings, Store, Tree
    from bascule.store.file import Loaded

_PROXY_ORIGIN = "bascule proxy"


def return_freed_memory() -> None:
    """Give what loading freed back to the system; glibc would keep it for a next time that may never come."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Configuration:
    """A tree that is in order, and where it came from.

    Owner: the master; one is in force, at most one more is on its way. The tree of the one in force is packed, and
    unpacked for the next comparison. Until then it may be a `store.proxy_boot.PlainTree`, which has the same fields.
    """

    def __init__(self, tree: Tree, origin: str, loaded: Loaded | None = None) -> None:
        """`origin` is for messages; `loaded` is there when a file is the store."""
        self.origin = origin
        self.digest = loaded.digest if loaded else b""
        self.warnings: tuple[Problem, ...] = loaded.warnings if loaded else ()
        self.settings: Settings = tree.settings
        self.store: Store = tree.store
        self.live = tree.store.type != "file"
        """Whether this only says where the configuration lives."""
        self._tree: Tree | None = tree
        self._kept: Kept | None = None
        self._loaded = loaded

    @property
    def tree(self) -> Tree:
        """The whole tree."""
        if self._tree is not None:
            return self._tree
        assert self._kept is not None
        return self._kept.tree()

    def pack(self) -> None:
        """Keep the tree small from now on, and forget the text it came from."""
        if self._tree is not None:
            from bascule.change.kept import keep

            self._kept, self._tree, self._loaded = keep(self._tree), None, None
            return_freed_memory()

    def listeners(self) -> list[dict[str, str]]:
        """Return id and address of every listener, by id."""
        return [{"id": name, "address": listener.address} for name, listener in sorted(self.tree.listeners.items())]

    def process_settings(self) -> dict[str, Any]:
        """Return what the keeper has to know of the settings; 0 where the configuration leaves it to the keeper."""
        return process_settings(self.settings)

    def limits_bytes(self) -> int:
        """Return the size of the table that all limits share."""
        return size_bytes(self.settings.limits_memory)

    def object_count(self) -> int:
        """Return the length of `objects`, without making it."""
        tree = self.tree
        servers = sum(len(backend.servers) for backend in tree.backends.values())
        return len(tree.listeners) + len(tree.frontends) + len(tree.backends) + servers

    def objects(self) -> list[tuple[str, str]]:
        """Return (kind, id) of everything that is counted."""
        tree = self.tree
        found = [("listener", name) for name in tree.listeners] + [("frontend", name) for name in tree.frontends]
        for name, backend in tree.backends.items():
            found.append(("backend", name))
            found += [("server", f"{name}/{server}") for server in backend.servers]
        return found

    def compile(
        self, revision: int, slot: Callable[[str, str], int], addresses: Mapping[str, bytes]
    ) -> CompiledSnapshot:
        """Compile; ConfigError with every route that cannot be. What is only doubtful is added to the warnings."""
        from bascule.change.compile import compile_snapshot

        compiled = compile_snapshot(self.tree, revision=revision, slot=slot, addresses=addresses)
        if compiled.rejected or compiled.conflicts or compiled.waiting:
            from bascule.change.check import compiled_problems

            problems = [self._placed(problem) for problem in compiled_problems(compiled)]
            if compiled.rejected:
                from bascule.model.problems import ConfigError

                raise ConfigError([problem for problem in problems if not problem.warning])
            self.warnings = (*(self._loaded.warnings if self._loaded else ()), *problems)
        return compiled

    def bind_error(self, problems: list[dict[str, str]]) -> ConfigError:
        """Return the keeper's complaints about listeners, each at its line."""
        from bascule.model.problems import ConfigError, Problem

        found = []
        for problem in problems:
            message, remedy = problem["message"], problem["remedy"]
            if self.origin == _PROXY_ORIGIN:
                address = self.tree.listeners[problem["id"]].address
                found.append(Problem(file=self.origin, message=f"--listen {address}: {message}", remedy=remedy))
            else:
                path = ("listeners", problem["id"], "address")
                found.append(self._placed(Problem(path=path, message=message, remedy=remedy)))
        return ConfigError(found)

    def require_access_log(self, option: str) -> None:
        """ConfigError when the workers cannot open the access log, which the command line's `option` may have moved.

        Only asked at the start: later, a log that cannot be opened must not keep a change from coming into force.
        """
        place = option or self.settings.access_log
        if place == "off":
            return
        from bascule.process import access_log

        reason = access_log.problem(place)
        if reason:
            from bascule.change.check import access_log_problem
            from bascule.model.problems import ConfigError

            if option:
                raise ConfigError([access_log_problem(reason, "--access-log")])
            raise ConfigError([self._placed(access_log_problem(reason))])

    def _placed(self, problem: Problem) -> Problem:
        return self._loaded.place(problem) if self._loaded else problem.at(self.origin, 0)


def process_settings(settings: Settings) -> dict[str, Any]:
    """Return what the keeper has to know of the settings; 0 where the configuration leaves it to the keeper."""
    return {
        "workers": settings.workers,
        "drain_timeout_ms": duration_ms(settings.drain_timeout),
        "access_log": settings.access_log,
        "worker_memory_bytes": size_bytes(settings.worker_memory),
        "slots": settings.slots,
        "upgrade_probation_ms": duration_ms(settings.upgrade_probation),
    }


def load_first(options: dict[str, Any]) -> Configuration:
    """`load` for a start: with less CPU, where it can be, and with what must be so at a start alone."""
    configuration = _load_plain(options) or load(options)
    configuration.require_access_log(options["access_log"])
    return configuration


def _load_plain(options: dict[str, Any]) -> Configuration | None:
    if options["command"] != "proxy":
        return None
    from bascule.store.proxy_boot import plain_tree

    plain = plain_tree(options["listen"], options["to"], options["routes"] or None)
    return None if plain is None else Configuration(plain, _PROXY_ORIGIN)  # type: ignore[arg-type] # the same fields


def load(options: dict[str, Any]) -> Configuration:
    """Read the configuration that the command line names; ConfigError with everything that is wrong with it."""
    if options["command"] == "proxy":
        from bascule.store.proxy import tree_from_proxy_arguments

        tree = tree_from_proxy_arguments(options["listen"], options["to"], routes=options["routes"] or None)
        return Configuration(tree, _PROXY_ORIGIN)
    if not options["config"]:
        from bascule.model.tree import Store, Tree

        return Configuration(Tree(store=_store(Store(type="embedded"), options)), "")
    from bascule.store import file

    try:
        loaded = file.load(options["config"])
    except file.Unloadable as error:
        from bascule.change.check import with_routes
        from bascule.model.problems import ConfigError

        raise ConfigError(with_routes(error, options["config"])) from None
    store = _store(loaded.tree.store, options)
    if store.type != "file":
        return _bootstrap(loaded, store)
    return Configuration(loaded.tree, options["config"], loaded)


def _store(store: Store, options: dict[str, Any]) -> Store:
    """Return a file's `store` table as the command line would have it; ConfigError when that cannot be."""
    from msgspec.structs import replace

    if options["store"]:
        store = replace(store, type=options["store"])
    if options["etcd"]:
        store = replace(store, endpoints=tuple(part.strip() for part in options["etcd"].split(",")))
    if options["prefix"]:
        store = replace(store, prefix=options["prefix"])
    if options["etcd"]:
        from bascule.change.validate_store import endpoint_problems
        from bascule.model.problems import ConfigError

        if problems := list(endpoint_problems(store)):  # a password in an endpoint would be in every message about it
            raise ConfigError(problems)
    return store


def _bootstrap(loaded: Loaded, store: Store) -> Configuration:
    """Return a configuration that only says where the live one is; ConfigError when its file says more."""
    from msgspec.structs import replace

    tree = loaded.tree
    if tree.listeners or tree.hosts or tree.backends or tree.frontends:
        from bascule.model.problems import ConfigError, Problem

        found = next(kind for kind in ("listeners", "hosts", "backends", "frontends") if getattr(tree, kind))
        problem = Problem(
            path=(found,),
            message=f"the configuration lives in the store ({store.type}), so what this file says of {found} would never "
            "be looked at",
            remedy=f"start without it, and then: bascule apply {loaded.file}",
        )
        raise ConfigError([loaded.place(problem)])
    return Configuration(replace(tree, store=store), loaded.file, loaded)
