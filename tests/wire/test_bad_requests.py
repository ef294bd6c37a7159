"""Malformed and ambiguous requests are refused, the connection is closed, and nothing after them reaches an origin."""

import pytest

from kit.client import Delivery, deliver
from tests.wire.bad import REQUESTS, Bad
from tests.wire.conftest import Wire


def fault(case: Bad, item: Delivery) -> str:
    """Return what is wrong with the answer to a bad request, or an empty string."""
    if item.ended not in ("closed", "reset"):
        return f"{item.label}: the connection was not closed; received {bytes(item.received[:120])!r}"
    if not item.received:
        return f"{item.label}: closed without an answer"
    found = item.responses()
    if len(found) != 1:
        return f"{item.label}: {len(found)} responses: {bytes(item.received[:300])!r}"
    if found[0].status not in case.statuses:
        return f"{item.label}: {found[0].status} instead of {' or '.join(map(str, case.statuses))}"
    return ""


def never(_item: Delivery) -> bool:
    return False


def assert_not_smuggled(wire: Wire) -> None:
    targets = {request.target for request in wire.origin.requests}
    assert b"/smuggled" not in targets


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.name)
def test_refused(wire: Wire, case: Bad) -> None:
    item = Delivery([case.send + case.follow], case.name)
    deliver(wire.address, [item], never, deadline_s=8)
    assert not fault(case, item)
    if case.reaches:
        wire.origin.settle()
    else:
        assert wire.origin.requests == []
    assert_not_smuggled(wire)


def test_refused_byte_by_byte(wire: Wire) -> None:
    short = [case for case in REQUESTS if len(case.send) < 400]
    pairs = [(case, Delivery([bytes([octet]) for octet in case.send + case.follow], case.name)) for case in short]
    for start in range(0, len(pairs), 64):
        deliver(wire.address, [item for _, item in pairs[start : start + 64]], never, deadline_s=8)
    faults = [text for case, item in pairs if (text := fault(case, item))]
    assert not faults, faults[:5]
    wire.origin.settle()
    assert_not_smuggled(wire)


def test_refused_while_others_are_served(wire: Wire) -> None:
    """A bad request does not touch the exchanges of other connections."""
    good = b"GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n"
    bad = [Delivery([case.send], case.name) for case in REQUESTS[:40]]
    fine = [Delivery([good[:9], good[9:]], "good") for _ in range(40)]
    deliver(wire.address, bad + fine, lambda item: item.label == "good" and item.received.endswith(b"ok"))
    wire.origin.settle()
    assert [item.label for item in fine if not item.received.startswith(b"HTTP/1.1 200")] == []
