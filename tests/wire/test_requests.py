"""Well-formed requests reach the origin with their meaning, whole, cut anywhere and byte by byte."""

from collections import Counter

import pytest

from kit.client import Delivery, RawClient, complete, deliver
from kit.http1 import Cut, Malformed
from kit.origin import ScriptedOrigin
from tests.wire.conftest import Wire
from tests.wire.good import REQUESTS, Request, Seen

BATCH = 48


def seen_by(origin: ScriptedOrigin) -> list[Seen]:
    """Return what the origin received, in the corpus's terms."""
    return [Seen(m.method, m.target, m.body, tuple(m.trailers)) for m in list(origin.requests)]


def fault(case: Request, item: Delivery) -> str:
    """Return what is wrong with what came back on one connection, or an empty string."""
    try:
        statuses = [message.status for message in item.responses()]
    except (Cut, Malformed) as error:
        return f"{item.label}: {error!r}"
    if statuses != list(case.statuses):
        return f"{item.label}: statuses {statuses}, ended {item.ended!r}, received {bytes(item.received[:200])!r}"
    return ""


def cuts(case: Request) -> list[Delivery]:
    return [
        Delivery([case.send[:at], case.send[at:]], f"{case.name} cut at {at}", case.methods)
        for at in range(1, len(case.send))
    ]


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_whole(wire: Wire, case: Request) -> None:
    with RawClient(wire.address) as client:
        client.send(case.send)
        responses = [client.response(method) for method in case.methods]
        assert [response.status for response in responses] == list(case.statuses)
        assert seen_by(wire.origin) == list(case.seen)
        if case.closes:
            assert client.closed(), "the connection stays open"
        elif case.closes is False:
            assert client.ask(b"GET /after HTTP/1.1\r\nHost: a.test\r\n\r\n").status == 200


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_cut_at_every_position(wire: Wire, case: Request) -> None:
    items = cuts(case)
    for start in range(0, len(items), BATCH):
        deliver(wire.address, items[start : start + BATCH], complete(len(case.seen)), pause_s=0.003)
    faults = [text for item in items if (text := fault(case, item))]
    assert not faults, faults[:3]
    expected = Counter({seen: count * len(items) for seen, count in Counter(case.seen).items()})
    assert Counter(seen_by(wire.origin)) == expected


def test_byte_by_byte(wire: Wire) -> None:
    pairs = [(case, Delivery([bytes([octet]) for octet in case.send], case.name, case.methods)) for case in REQUESTS]
    longest = max(len(case.seen) for case in REQUESTS)
    wanted = {id(item): len(case.seen) for case, item in pairs}
    tests = {count: complete(count) for count in range(1, longest + 1)}
    deliver(wire.address, [item for _, item in pairs], lambda item: tests[wanted[id(item)]](item))
    faults = [text for case, item in pairs if (text := fault(case, item))]
    assert not faults, faults[:3]
    assert Counter(seen_by(wire.origin)) == Counter(seen for case in REQUESTS for seen in case.seen)
