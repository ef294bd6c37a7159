"""All of the admin API in one table; docs/live-configuration.md is its short form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from bascule.admin import events, gates, history, leases, objects, program, servers, transactions, upgrades
from bascule.admin.endpoint import Endpoint, Handler, NoQuery, PageQuery, PutQuery, Role, WriteQuery
from bascule.admin.writes import Written
from bascule.change.live import Applied, Freeze
from bascule.model.keys import CHILDREN, KINDS, SETTINGS, record_type

READ: Final = Role.VIEWER
OPERATE: Final = Role.OPERATOR
WRITE: Final = Role.AUTHOR
GOVERN: Final = Role.ADMIN


def all_endpoints() -> list[Endpoint]:
    """Return every endpoint, in the order of the reference."""
    return [*_objects(), *_transactions(), *_states(), *_registration(), *_gates(), *_program(), *_tokens()]


def _at(handler: Callable[..., Any], path: str) -> Handler:
    """Give an object's handler its key, from the path with its placeholders filled in."""

    @functools.wraps(handler)
    async def keyed(api: Any, call: Any) -> Any:
        return await handler(api, call, objects.key_of(path, call.place))

    return keyed


def _objects() -> Iterator[Endpoint]:
    for collection, kind in KINDS.items():
        yield from _collection(f"/v1/{collection}", kind)
        if collection in CHILDREN:
            below, child = CHILDREN[collection]
            yield from _collection(f"/v1/{collection}/{{{kind}}}/{below}", child)
    yield from _one(f"/v1/{SETTINGS}", SETTINGS, "the program's settings", Role.ADMIN, delete=False)


def _collection(path: str, kind: str) -> Iterator[Endpoint]:
    plural = path.rpartition("/")[2]
    yield Endpoint(
        method="GET",
        path=path,
        handler=_at(objects.list_objects, path),
        role=READ,
        summary=f"List {plural}.",
        query=PageQuery,
        answer=objects.Page,
    )
    yield from _one(f"{path}/{{{kind}}}", kind, f"a {kind}", WRITE)


def _one(path: str, kind: str, name: str, role: Role, *, delete: bool = True) -> Iterator[Endpoint]:
    schema = record_type(kind)
    yield Endpoint(
        method="GET",
        path=path,
        handler=_at(objects.get_object, path),
        role=READ,
        summary=f"Read {name}.",
        answer=objects.Item,
        conditional=True,
    )
    yield Endpoint(
        method="PUT",
        path=path,
        handler=_at(objects.put_object, path),
        role=role,
        summary=f"Set {name}.",
        query=PutQuery,
        body=msgspec.Raw,
        schema=schema,
        answer=Written,
        conditional=True,
    )
    yield Endpoint(
        method="PATCH",
        path=path,
        handler=_at(objects.patch_object, path),
        role=role,
        summary=f"Change fields of {name} (RFC 7396).",
        query=WriteQuery,
        body=msgspec.Raw,
        schema=dict[str, Any],
        answer=Written,
        conditional=True,
    )
    if delete:
        yield Endpoint(
            method="DELETE",
            path=path,
            handler=_at(objects.delete_object, path),
            role=role,
            summary=f"Remove {name} and what is below it.",
            query=WriteQuery,
            answer=Written,
            conditional=True,
        )


def _transactions() -> Iterator[Endpoint]:
    yield Endpoint(
        method="GET",
        path="/v1/tree",
        handler=transactions.get_tree,
        role=READ,
        summary="Read the whole tree as stored.",
        query=transactions.RevisionQuery,
        answer=transactions.TreeAnswer,
    )
    yield Endpoint(
        method="POST",
        path="/v1/apply",
        handler=transactions.apply,
        role=WRITE,
        summary="Carry out a whole tree or a list of operations in one transaction.",
        query=WriteQuery,
        body=transactions.ApplyBody,
        answer=Written,
    )
    yield Endpoint(
        method="GET",
        path="/v1/history",
        handler=history.list_history,
        role=READ,
        summary="List what was changed by whom, newest first.",
        query=history.HistoryQuery,
        answer=history.History,
    )
    yield Endpoint(
        method="GET",
        path="/v1/history/{revision}",
        handler=history.get_record,
        role=READ,
        summary="Read one transaction with the values before and after.",
        answer=history.HistoryDetail,
    )
    yield Endpoint(
        method="POST",
        path="/v1/rollback",
        handler=history.rollback,
        role=WRITE,
        summary="Restore the state after a revision by one new transaction.",
        query=WriteQuery,
        body=history.RollbackBody,
        answer=Written,
    )


def _states() -> Iterator[Endpoint]:
    for name, handler, summary in (
        ("drain", servers.drain, "Let a server finish what it has and get nothing new."),
        ("undrain", servers.undrain, "Give a server traffic again."),
        ("ready", servers.ready, "Say that a registered server may get traffic."),
    ):
        yield Endpoint(
            method="POST",
            path=f"/v1/servers/{{backend}}/{{server}}/{name}",
            handler=handler,
            role=OPERATE,
            summary=summary,
            query=WriteQuery,
            answer=Written,
            conditional=True,
        )


def _registration() -> Iterator[Endpoint]:
    yield Endpoint(
        method="POST",
        path="/v1/leases",
        handler=leases.grant,
        role=WRITE,
        summary="Register objects that live by heartbeats.",
        query=WriteQuery,
        body=leases.LeaseBody,
        answer=Written,
    )
    yield Endpoint(
        method="PUT",
        path="/v1/leases/{id}",
        handler=leases.heartbeat,
        role=WRITE,
        summary="Send a heartbeat.",
        answer=leases.Heartbeat,
    )
    yield Endpoint(
        method="DELETE",
        path="/v1/leases/{id}",
        handler=leases.leave,
        role=WRITE,
        summary="Leave: remove what lives by the lease.",
    )


def _gates() -> Iterator[Endpoint]:
    yield Endpoint(
        method="GET",
        path="/v1/objects",
        handler=gates.list_states,
        role=READ,
        summary="List what waits, is quarantined or held, and say whether changes are frozen.",
        query=gates.ObjectsQuery,
        answer=gates.Objects,
    )
    yield Endpoint(
        method="POST",
        path="/v1/freeze",
        handler=gates.freeze,
        role=OPERATE,
        summary="Keep every change out of force.",
        body=gates.FreezeBody,
        optional_body=True,
        answer=Freeze,
    )
    yield Endpoint(
        method="POST",
        path="/v1/unfreeze",
        handler=gates.unfreeze,
        role=OPERATE,
        summary="Bring into force what the store says now, through all gates.",
        answer=Applied,
    )
    yield Endpoint(
        method="POST",
        path="/v1/adopt",
        handler=gates.adopt,
        role=OPERATE,
        summary="Accept what the gates hold back.",
        answer=Applied,
    )


def _program() -> Iterator[Endpoint]:
    yield Endpoint(
        method="GET",
        path="/v1/events",
        handler=events.follow,
        role=READ,
        summary="Follow what happens: change, applied, quarantined, held, frozen, unfrozen, store, worker, upgrade, closed (a listener).",
        content_type="text/event-stream",
    )
    yield Endpoint(
        method="GET",
        path="/v1/status",
        handler=program.status,
        role=READ,
        summary="Read how processes, revisions and traffic are.",
        answer=dict[str, Any],
    )
    yield Endpoint(
        method="GET",
        path="/v1/config",
        handler=program.config,
        role=READ,
        summary="Read the tree in force.",
        answer=dict[str, Any],
    )
    yield Endpoint(
        method="POST",
        path="/v1/reload",
        handler=program.reload,
        role=OPERATE,
        summary="Read the configuration again and wait until every worker has applied it.",
        answer=dict[str, Any],
    )
    yield Endpoint(
        method="GET",
        path="/v1/upgrades",
        handler=upgrades.list_upgrades,
        role=READ,
        summary="Read which generation serves, which one rests, and the receipts of upgrades, newest first.",
        query=upgrades.UpgradesQuery,
        answer=upgrades.Upgrades,
    )
    yield Endpoint(
        method="GET",
        path="/metrics",
        handler=program.metrics,
        role=READ,
        summary="Read the statistics in Prometheus' text format.",
        content_type=program.METRICS_TYPE,
    )


def _tokens() -> Iterator[Endpoint]:
    yield Endpoint(
        method="GET",
        path="/v1/tokens",
        handler=program.list_tokens,
        role=GOVERN,
        summary="List the bearer tokens.",
        answer=program.TokenList,
    )
    yield Endpoint(
        method="POST",
        path="/v1/tokens",
        handler=program.add_token,
        role=GOVERN,
        summary="Make a bearer token; its secret is in this answer and nowhere else.",
        query=NoQuery,
        body=program.TokenBody,
        answer=program.TokenMade,
    )
    yield Endpoint(
        method="DELETE",
        path="/v1/tokens/{name}",
        handler=program.remove_token,
        role=GOVERN,
        summary="Remove a bearer token.",
    )
