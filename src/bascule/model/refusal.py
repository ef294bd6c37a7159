"""The value of an object that a store could not translate: what is wrong with it, in its value's place.

A store that translates (vulcand's layout) must not drop an object that it does not understand: a key that goes away
is a removal. It gives the object a value that no object can have, so that it is quarantined like any other bad one and its
last good form stays in force; `change/examine.py` shows these problems in place of what decoding would say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from bascule.model.problems import Problem

_BEGIN: Final = b'{"refused":'


class _Refusal(msgspec.Struct, forbid_unknown_fields=True):
    refused: tuple[Problem, ...]


def refusal_value(problems: Iterable[Problem]) -> bytes:
    """Return the value that stands for an object with these problems."""
    return msgspec.json.encode(_Refusal(tuple(problems)))


def refusal_problems(value: bytes) -> tuple[Problem, ...]:
    """Return the problems of a value that stands for an untranslatable object, empty for any other value."""
    if not value.startswith(_BEGIN):
        return ()
    try:
        return msgspec.json.decode(value, type=_Refusal).refused
    except msgspec.MsgspecError:
        return ()
