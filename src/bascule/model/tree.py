"""The configuration tree: the same objects in every store, in the API's paths and in a file (docs/configuration.md).

All structs are frozen, refuse unknown fields and are left out of garbage collection: a tree holds no cycles, and
collecting through a hundred thousand of them costs more than decoding them. Durations and sizes stay as written
(`quantities` turns them into numbers at compilation), so that what was put is what is read back. A field's
`Meta.description` is its line in the reference, and its `extra` what an error says was expected.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from bascule.model import limits
from bascule.model.quantities import DURATION_PATTERN, SIZE_PATTERN

Duration = Annotated[
    str, Meta(pattern=DURATION_PATTERN, extra={"expected": 'a duration such as "250ms", "5s" or "1h"'})
]
SizeText = Annotated[str, Meta(pattern=SIZE_PATTERN, extra={"expected": 'a size such as "16KiB", "10MB" or 4096'})]
SizeNumber = Annotated[int, Meta(ge=0, le=1 << 50)]
Size = SizeText | SizeNumber
Count = Annotated[int, Meta(ge=0, le=limits.CONNECTIONS_MAX)]
Id = str
"""Names of objects: `limits.ID_PATTERN`, checked in change/validate.py, where it is five times cheaper than here."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """What every object of the tree has in common."""


class Listener(Record, frozen=True):
    """An address that clients connect to."""

    address: Annotated[
        str,
        Meta(description='Where to listen: "0.0.0.0:8080", "[::]:8080" or "unix:///run/bascule/app.sock".'),
    ]
    protocol: Annotated[Literal["http"], Meta(description="What is spoken here: HTTP/1.1 without TLS.")] = "http"
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Networks whose X-Forwarded-* and Forwarded headers are believed and appended to."),
    ] = ()
    header_timeout: Annotated[
        Duration, Meta(description="From the first byte of a request to the end of its head; 408 after it.")
    ] = "10s"
    keepalive_timeout: Annotated[Duration, Meta(description="How long a connection may idle between requests.")] = "75s"
    body_timeout: Annotated[
        Duration, Meta(description="Longest silence in a request body, or of a client that does not read its response.")
    ] = "30s"
    body_rate_min: Annotated[
        int,
        Meta(ge=0, le=limits.BODY_RATE_MAX_BYTES, description="Slowest average body rate, bytes/s; 0 is no minimum."),
    ] = 0
    max_header_bytes: Annotated[Size, Meta(description="Longest request head; 431 beyond it. At most 29KiB.")] = "16KiB"
    max_uri_bytes: Annotated[Size, Meta(description="Longest request target; 414 beyond it.")] = "8KiB"
    max_body_bytes: Annotated[Size, Meta(description="Longest request body; 413 beyond it. 0 is no limit.")] = 0
    max_connections: Annotated[
        Count, Meta(description="Open client connections of one worker; 0: as many as descriptors allow.")
    ] = 0
    max_connections_per_address: Annotated[
        Count, Meta(description="Of one client address (IPv6: one /64) and one worker; 0 is no limit.")
    ] = 0


class Host(Record, frozen=True):
    """Certificates and TLS settings of one host name: reserved, has no fields yet."""


class Server(Record, frozen=True):
    """One address of a backend."""

    url: Annotated[str, Meta(description='"http://10.0.0.5:8080", "http://name:8080" or "unix:///run/app.sock".')]
    weight: Annotated[
        int, Meta(ge=0, le=limits.WEIGHT_MAX, description="Share of the traffic, relative to its siblings; 0 is none.")
    ] = 1
    version: Annotated[
        str, Meta(max_length=limits.VERSION_BYTES_MAX, description="Version of the software behind it, for display.")
    ] = ""
    state: Annotated[
        Literal["up", "draining", "down"],
        Meta(description="draining finishes what it has and takes nothing new; down takes nothing."),
    ] = "up"


class Backend(Record, frozen=True):
    """A named pool of servers."""

    balance: Annotated[Literal["wrr"], Meta(description="How servers take turns: smooth weighted round robin.")] = "wrr"
    connect_timeout: Annotated[Duration, Meta(description="To connect to a server; 504 after it.")] = "5s"
    response_timeout: Annotated[
        Duration, Meta(description="From the end of the request to the end of the response head; 504 after it.")
    ] = "60s"
    idle_timeout: Annotated[Duration, Meta(description="Longest silence inside a response body.")] = "60s"
    exchange_timeout: Annotated[
        Duration, Meta(description="Of a whole exchange; 0s is off, so that no long transfer is ever cut.")
    ] = "0s"
    tunnel_timeout: Annotated[Duration, Meta(description="Longest silence in both directions of an upgrade.")] = "1h"
    keepalive_timeout: Annotated[Duration, Meta(description="How long an idle server connection is kept.")] = "60s"
    max_idle_connections: Annotated[
        int,
        Meta(ge=0, le=limits.IDLE_CONNECTIONS_MAX, description="Idle connections kept per server and worker."),
    ] = 512
    resolve_interval: Annotated[Duration, Meta(description="How often the servers' host names are looked up.")] = "10s"
    servers: Annotated[dict[Id, Server], Meta(description="The pool, by server id.")] = {}


Requests = Annotated[int, Meta(ge=1, le=limits.REQUESTS_MAX, description="Requests admitted in one period, per key.")]
Burst = Annotated[
    int, Meta(ge=1, le=limits.BURST_MAX, description="Requests that may come at once; as `requests` unless given.")
]
Key = Annotated[
    str | tuple[str, ...],
    Meta(
        description='What is counted together: "client.ip", "request.host", "request.header.<name>", '
        '"global", or a list of them.',
        extra={"expected": 'a key such as "client.ip", or a list of them'},
    ),
]
Order = Annotated[
    int,
    Meta(
        ge=-limits.PRIORITY_MAX,
        le=limits.PRIORITY_MAX,
        description="Lower comes first; equal ones go by id.",
    ),
]


class Rate(Record, frozen=True):
    """One of several periods of a rate limit."""

    requests: Requests
    period: Annotated[Duration, Meta(description="Length of the period.")]
    burst: Burst | None = None


class RateLimit(Record, frozen=True, tag_field="type", tag="rate_limit"):
    """A token bucket per key, shared by all workers; over it, 429 with Retry-After.

    Either `requests` and `period` (and `burst`), or `limits`: up to four periods, charged all or none.
    """

    requests: Requests | None = None
    period: Annotated[Duration | None, Meta(description="Length of the period.")] = None
    burst: Burst | None = None
    limits: Annotated[
        tuple[Rate, ...], Meta(description="Several periods at once: a request needs room in every one of them.")
    ] = ()
    key: Key = "client.ip"
    order: Order = 0

    def rates(self) -> tuple[Rate, ...]:
        """Return the periods in either notation; empty when none is given (validation refuses that)."""
        if self.limits or self.requests is None or self.period is None:
            return self.limits
        return (Rate(requests=self.requests, period=self.period, burst=self.burst),)


class ConcurrencyLimit(Record, frozen=True, tag_field="type", tag="concurrency_limit"):
    """Exchanges in flight per key, over all workers; over it, 429."""

    max: Annotated[int, Meta(ge=1, le=limits.CONCURRENCY_MAX, description="Exchanges in flight per key.")]
    key: Key = "client.ip"
    order: Order = 0


Middleware = RateLimit | ConcurrencyLimit


class Frontend(Record, frozen=True):
    """A route, the middlewares on its way, and the backend it leads to."""

    route: Annotated[
        str,
        Meta(
            max_length=limits.ROUTE_BYTES_MAX,
            description='Which requests: Host("a.com") && PathPrefix("/v2"). See docs/routing.md.',
        ),
    ]
    backend: Annotated[str, Meta(description="Id of the backend.")]
    priority: Annotated[
        int,
        Meta(
            ge=-limits.PRIORITY_MAX,
            le=limits.PRIORITY_MAX,
            description="Higher wins before any other rule of precedence.",
        ),
    ] = 0
    max_body_bytes: Annotated[Size, Meta(description="Longest request body; 413 beyond it. 0: the listener's.")] = 0
    middlewares: Annotated[dict[Id, Middleware], Meta(description="By id, applied by `order`, then id.")] = {}


class Store(Record, frozen=True):
    """Where the configuration lives. A file that holds this table is its own store."""

    type: Annotated[Literal["file"], Meta(description="Kind of store.")] = "file"
    watch: Annotated[bool, Meta(description="Follow changes of the file; without it, only on SIGHUP.")] = True
    poll_interval: Annotated[Duration, Meta(description="How often the file is looked at.")] = "1s"


class Settings(Record, frozen=True):
    """Of the program as a whole. The command line goes before them."""

    workers: Annotated[int, Meta(ge=0, le=limits.WORKERS_MAX, description="Worker processes; 0: one per CPU.")] = 0
    slots: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.SLOTS_MAX,
            description="SO_REUSEPORT sockets per listener, fixed while it exists; 0: chosen from the CPUs.",
        ),
    ] = 0
    drain_timeout: Annotated[
        Duration, Meta(description="How long a stopping worker waits for its exchanges to end.")
    ] = "30s"
    access_log: Annotated[
        str, Meta(description='One line an exchange: "off", "stderr", or the absolute path of a file.')
    ] = "off"
    limits_memory: Annotated[
        Size, Meta(description="Size of the table that all rate and concurrency limits share.")
    ] = "64MiB"


class Tree(Record, frozen=True):
    """Everything at one revision of a store."""

    listeners: dict[Id, Listener] = {}
    hosts: dict[str, Host] = {}
    backends: dict[Id, Backend] = {}
    frontends: dict[Id, Frontend] = {}
    store: Store = Store()
    settings: Settings = Settings()


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Tree)


def tree_from_json(data: bytes) -> Tree:
    """Decode a tree; msgspec.DecodeError or msgspec.ValidationError at the first thing wrong (change.decode: all of
    them)."""
    return _DECODER.decode(data)


def tree_to_json(tree: Tree) -> bytes:
    """Encode a tree without fields at their defaults; `tree_from_json` returns an equal tree."""
    return _ENCODER.encode(tree)


def tree_to_builtins(tree: Tree) -> dict[str, Any]:
    """Return the tree as plain dicts, lists, strings and numbers."""
    builtins: dict[str, Any] = msgspec.to_builtins(tree)
    return builtins
