"""JSON for the links, without importing the `json` package.

`json` imports `re`, and with it `enum` and `collections`: 7 ms of CPU in each of the three processes of a start whose
whole budget is 150 ms. The C scanner and encoder that `json` itself calls are enough for messages of our own making.
Should a future Python change these private functions, the probe below fails and the package is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]


class _ScannerContext:
    """What `_json.make_scanner` reads its options from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner wants the attribute, and clears it itself


def _fast() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import _json

    scan = _json.make_scanner(_ScannerContext())  # type: ignore[arg-type]
    encode: Callable[[Any, int], tuple[str, ...]] = _json.make_encoder(
        None,
        None,  # type: ignore[arg-type]
        _json.encode_basestring_ascii,
        None,
        ":",
        ",",
        False,
        False,
        True,
    )

    def dumps(value: Any) -> str:
        return "".join(encode(value, 0))

    def loads(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration as stop:
            raise ValueError(f"not JSON at byte {stop.value}") from None
        if end != len(text):
            raise ValueError(f"something follows the JSON value at byte {end}")
        return value

    probe = {"type": 'probe \u00e9"\\', "list": [1, -2, 0.5, True, False, None, {}], "big": 1 << 60}
    if loads(dumps(probe)) != probe:
        raise ValueError("_json does not return what it was given")
    return dumps, loads


def _choose() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        return _fast()
    except Exception:
        import json

        return json.dumps, json.loads


dumps, loads = _choose()


def encode(message: Message) -> bytes:
    """Return a message as the bytes of one packet."""
    return dumps(message).encode("ascii")


def decode(packet: bytes) -> Message:
    """Return the message of one packet; ValueError when it is not a JSON object with a "type"."""
    message = loads(packet.decode("ascii"))
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError('a packet is a JSON object with a "type"')  # noqa: TRY004 - one kind of error for bad packets
    return message
