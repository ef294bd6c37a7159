"""Well-formed responses reach the client with their meaning, whole, cut anywhere and byte by byte."""

import pytest

from kit.client import Delivery, RawClient, deliver
from kit.http1 import Cut, Malformed, Message, read_body
from kit.origin import OriginConnection
from tests.wire.conftest import Wire
from tests.wire.good import RESPONSES, Response

BATCH = 48
BY_NAME = {case.name: case for case in RESPONSES}


def reply(connection: OriginConnection, head: Message) -> bool:
    """Send the response that the request's target names, cut where it says: /NAME/CUT, or /NAME/bytes."""
    read_body(connection.reader, head, response=False)
    name, at = head.target.decode().strip("/").split("/")
    case = BY_NAME[name]
    pieces = [case.reply[i : i + 1] for i in range(len(case.reply))] if at == "bytes" else [case.reply]
    if at.isdigit() and int(at):
        pieces = [case.reply[: int(at)], case.reply[int(at) :]]
    connection.send_apart(pieces)
    return not case.origin_closes


def request(case: Response, at: str) -> bytes:
    return b"%s /%s/%s %s\r\nHost: a.test\r\n\r\n" % (case.method, case.name.encode(), at.encode(), case.client_version)


def delivery(case: Response, at: str) -> Delivery:
    return Delivery([request(case, at)], f"{case.name} {at}", [case.method])


def fault(case: Response, item: Delivery) -> str:
    """Return what is wrong with what came back, or an empty string."""
    try:
        found = item.responses()
    except (Cut, Malformed) as error:
        return f"{item.label}: {error!r}, ended {item.ended!r}: {bytes(item.received[-200:])!r}"
    if len(found) != 1:
        return f"{item.label}: {len(found)} responses, ended {item.ended!r}: {bytes(item.received[:200])!r}"
    got = found[0]
    if (got.status, got.body) != (case.status, case.body):
        return f"{item.label}: {got.status} {got.body!r}"
    interim = [message.status for message in got.interim if message.status != 100]
    if interim != list(case.interim):
        return f"{item.label}: interim {interim}"
    missing = [pair for pair in case.headers if pair not in got.headers]
    order = [pair for pair in got.headers if pair in case.headers]
    if missing or order != list(case.headers):
        return f"{item.label}: headers {order} instead of {list(case.headers)}"
    if got.framing == "chunked" and got.trailers != list(case.trailers):
        return f"{item.label}: trailers {got.trailers}"
    if case.client_version == b"HTTP/1.0" and (got.framing == "chunked" or got.all(b"transfer-encoding")):
        return f"{item.label}: chunked to an HTTP/1.0 client"
    return ""


def done(item: Delivery) -> bool:
    """Tell whether a whole response has come whose end its own framing shows."""
    try:
        return any(message.framing != "close" for message in item.responses())
    except (Cut, Malformed):
        return False


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_whole(wire: Wire, case: Response) -> None:
    wire.origin.forget(reply=reply)
    item = delivery(case, "0")
    deliver(wire.address, [item], done)
    assert not fault(case, item)


@pytest.mark.parametrize("case", [case for case in RESPONSES if case.reusable], ids=lambda case: case.name)
def test_connection_goes_on(wire: Wire, case: Response) -> None:
    """The client's connection is right for the next request, whether or not the origin's is."""
    wire.origin.forget(reply=reply)
    with RawClient(wire.address) as client:
        first = client.ask(request(case, "0"))
        assert (first.status, first.body) == (case.status, case.body)
        if first.framing == "close":
            return
        assert client.ask(request(BY_NAME["length"], "0")).body == b"ok"


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.name)
def test_cut_at_every_position(wire: Wire, case: Response) -> None:
    wire.origin.forget(reply=reply)
    items = [delivery(case, str(at)) for at in range(1, len(case.reply))]
    for start in range(0, len(items), BATCH):
        deliver(wire.address, items[start : start + BATCH], done)
    faults = [text for item in items if (text := fault(case, item))]
    assert not faults, faults[:3]


def test_byte_by_byte(wire: Wire) -> None:
    wire.origin.forget(reply=reply)
    pairs = [(case, delivery(case, "bytes")) for case in RESPONSES]
    deliver(wire.address, [item for _, item in pairs], done)
    faults = [text for case, item in pairs if (text := fault(case, item))]
    assert not faults, faults[:3]
