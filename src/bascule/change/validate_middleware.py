"""Validation of middlewares: notation, keys, and that a limit's numbers fit the table that counts it."""

import re
from collections.abc import Iterator
from typing import Final

from bascule.model import limits
from bascule.model.problems import Path, Problem, did_you_mean
from bascule.model.quantities import duration_ns
from bascule.model.tree import ConcurrencyLimit, Middleware, Rate, RateLimit

_HEADER_PREFIX: Final = "request.header."
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}").fullmatch
"""RFC 9110 section 5.1: a field name is a token."""
_KEYS: Final = ("client.ip", "request.host", "request.header.<name>", "global")


def middleware_problems(middleware: Middleware, path: Path) -> Iterator[Problem]:
    """Yield what is wrong with one middleware."""
    if isinstance(middleware, RateLimit):
        yield from _rate_limit(middleware, path)
    yield from _key(middleware, path)


def _rate_limit(middleware: RateLimit, path: Path) -> Iterator[Problem]:
    single = middleware.requests is not None or middleware.period is not None or middleware.burst is not None
    if single and middleware.limits:
        yield Problem(
            path=path,
            message="has both `limits` and `requests`, `period` or `burst`",
            remedy="put every period into `limits`, or use none of it",
        )
    elif not middleware.limits and (middleware.requests is None or middleware.period is None):
        yield Problem(
            path=path,
            message="says no rate: `requests` and `period` belong together",
            remedy='give both, such as requests = 100, period = "1s"',
        )
    if len(middleware.limits) > limits.RATES_PER_LIMIT_MAX:
        yield Problem(
            path=(*path, "limits"),
            message=f"{len(middleware.limits)} periods; one rate limit has at most {limits.RATES_PER_LIMIT_MAX}",
            remedy="use a second rate_limit for the others",
        )
    for index, rate in enumerate(middleware.rates()):
        yield from _rate(rate, (*path, "limits", str(index)) if middleware.limits else path)


def _rate(rate: Rate, path: Path) -> Iterator[Problem]:
    period_ns = duration_ns(rate.period)
    if not 1_000_000 <= period_ns <= limits.PERIOD_MAX_MS * 1_000_000:
        yield Problem(
            path=(*path, "period"),
            message=f"a period of {rate.period} is outside 1ms to {limits.PERIOD_MAX_MS // 86_400_000}d",
            remedy='use a period such as "1s", "1m" or "1h"',
        )
        return
    if period_ns < rate.requests:
        yield Problem(
            path=(*path, "requests"),
            message=f"{rate.requests} requests in {rate.period} are more than one a nanosecond",
            remedy="use a longer period or fewer requests",
        )
    burst = rate.requests if rate.burst is None else rate.burst
    if max(1, period_ns // rate.requests) * (burst - 1) > limits.TOLERANCE_MAX_NS:
        yield Problem(
            path=(*path, "burst"),
            message=f"a burst of {burst} would take longer than 146 years to fill again",
            remedy="lower the burst",
        )


def _key(middleware: RateLimit | ConcurrencyLimit, path: Path) -> Iterator[Problem]:
    key = middleware.key
    parts = (key,) if isinstance(key, str) else key
    if not parts:
        yield Problem(path=(*path, "key"), message="the list of keys is empty", remedy='use "global" for one bucket')
    headers = 0
    for index, part in enumerate(parts):
        place = (*path, "key") if isinstance(key, str) else (*path, "key", str(index))
        if part.startswith(_HEADER_PREFIX) and _HEADER_NAME(part[len(_HEADER_PREFIX) :]):
            headers += 1
        elif part not in _KEYS or "<" in part:
            yield Problem(
                path=place,
                message=f"{part!r} is not a key",
                remedy=did_you_mean(part, _KEYS) or "use one of " + ", ".join(_KEYS),
            )
    if headers > 1:
        yield Problem(
            path=(*path, "key"),
            message="a key has at most one header",
            remedy="use a second limit for the other one",
        )
    if len(parts) > 1 and "global" in parts:
        yield Problem(
            path=(*path, "key"),
            message='"global" is one bucket for all and cannot be combined',
            remedy='remove "global" or the other keys',
        )
    elif len(set(parts)) != len(parts):
        yield Problem(path=(*path, "key"), message="the same key twice", remedy="remove one of them")
