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
from bascule.model.quantities import DURATION_PATTERN, SIZE_PATTERN, duration_ms

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
        Literal["up", "starting", "draining", "down"],
        Meta(
            description="starting takes nothing until it is up by its own word or by its health check; draining "
            "finishes what it has and takes nothing new; down takes nothing."
        ),
    ] = "up"


Threshold = Annotated[int, Meta(ge=1, le=limits.HEALTH_THRESHOLD_MAX)]


class HealthCheck(Record, frozen=True):
    """How the master asks a server whether it is well. Its verdict changes after several answers of one kind."""

    type: Annotated[
        Literal["http", "tcp"],
        Meta(description="http: GET `path` is answered with 200 to 399; tcp: a connection is accepted."),
    ] = "http"
    path: Annotated[str, Meta(max_length=1024, description="Request target of http.")] = "/"
    host: Annotated[str, Meta(max_length=255, description="Host header of http; empty: the server's address.")] = ""
    interval: Annotated[Duration, Meta(description="Between two questions to one server, spread a little.")] = "5s"
    timeout: Annotated[Duration, Meta(description="An answer that takes longer is a failure.")] = "2s"
    healthy: Annotated[Threshold, Meta(description="Good answers in a row that make a server healthy.")] = 2
    unhealthy: Annotated[Threshold, Meta(description="Failures in a row that make a server unhealthy.")] = 3


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
    health_check: Annotated[
        HealthCheck | None, Meta(description="A table, below; without one, servers are not asked.")
    ] = None
    slow_start: Annotated[
        Duration,
        Meta(description="A server that becomes ready gets its full share only after this time, growing evenly."),
    ] = "0s"
    servers: Annotated[dict[Id, Server], Meta(description="The pool, by server id.")] = {}

    def needs_verdicts(self) -> bool:
        """Tell whether its servers get more or less of the traffic than the configuration alone says."""
        return self.health_check is not None or self.slow_start != "0s"


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
    """Where the configuration lives. It is read from the file alone: a store does not say where it is."""

    type: Annotated[
        Literal["file", "embedded", "etcd", "vulcand"],
        Meta(
            description="file: this file is the whole tree; embedded: a database on this machine; etcd: our layout in "
            "etcd; vulcand: an existing vulcand tree in etcd, read only."
        ),
    ] = "file"
    watch: Annotated[bool, Meta(description="file: follow its changes; without it, only on SIGHUP.")] = True
    poll_interval: Annotated[Duration, Meta(description="file: how often it is looked at.")] = "1s"
    path: Annotated[str, Meta(description="embedded: the database; empty: `store.sqlite` in the state directory.")] = ""
    history_revisions: Annotated[
        int, Meta(ge=10, le=10_000_000, description="embedded: revisions kept for history, rollback and watches.")
    ] = 10_000
    history_age: Annotated[Duration, Meta(description="embedded: how long a revision is kept at most.")] = "30d"
    endpoints: Annotated[
        tuple[str, ...], Meta(description='etcd: its members, such as "http://10.0.0.1:2379" or "https://...".')
    ] = ("http://127.0.0.1:2379",)
    prefix: Annotated[
        str, Meta(max_length=256, description='etcd: what all keys begin with; empty: "/bascule", or "/vulcand".')
    ] = ""
    username: Annotated[
        str,
        Meta(
            max_length=256,
            description="etcd: user; empty: no authentication. Without `password_file`, BASCULE_ETCD_PASSWORD is read.",
        ),
    ] = ""
    password_file: Annotated[str, Meta(description="etcd: file that holds the user's password and nothing else.")] = ""
    ca_file: Annotated[str, Meta(description="etcd: certificates (PEM) that sign the members'.")] = ""
    cert_file: Annotated[str, Meta(description="etcd: our certificate (PEM), where members ask for one.")] = ""
    key_file: Annotated[str, Meta(description="etcd: the key of `cert_file` (PEM).")] = ""
    timeout: Annotated[Duration, Meta(description="etcd: an answer that takes longer is a failure.")] = "5s"
    coalesce: Annotated[
        Duration, Meta(description="Changes that follow each other within this time come into force together.")
    ] = "20ms"
    coalesce_max: Annotated[Duration, Meta(description="The first of them waits no longer than this.")] = "250ms"
    reconcile_interval: Annotated[
        Duration, Meta(description="How often everything is read again, to mend what a watch lost; 0s: never.")
    ] = "5m"
    pool_loss_percent: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="A pool that loses more of its servers by vanishing, within `pool_loss_window`, is held; 33 is exactly "
            "a third, 100: only one that loses all.",
        ),
    ] = 33
    pool_loss_window: Annotated[
        Duration, Meta(description="Losses of a pool that are no further apart count as one.")
    ] = "10s"
    tree_loss_percent: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="A reading that lacks more of all listeners, frontends or servers in force is held; 33 is exactly a "
            "third, 100: only one that lacks all. See docs/do-no-harm.md.",
        ),
    ] = 33
    tree_loss_min: Annotated[
        int,
        Meta(ge=1, le=limits.OBJECTS_MAX, description="So many missing objects of one kind, or fewer, are never held."),
    ] = 10

    def etcd_options(self) -> "EtcdOptions":
        """Return what a client of etcd needs, with the defaults that depend on the type."""
        return EtcdOptions(
            endpoints=self.endpoints,
            prefix=(self.prefix or ("/vulcand" if self.type == "vulcand" else "/bascule")).rstrip("/"),
            username=self.username,
            password_file=self.password_file,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            timeout_ms=duration_ms(self.timeout),
        )


class EtcdOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What EtcdStore and VulcandStore are made from."""

    endpoints: tuple[str, ...]
    """`http://HOST:PORT` or `https://HOST:PORT`; without a scheme, http unless `ca_file` is given."""
    prefix: str
    """Begins with a slash, ends with none."""
    username: str = ""
    password_file: str = ""
    """Read at each authentication, so that a changed password needs no restart."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    timeout_ms: int = 5000


class Settings(Record, frozen=True):
    """Of the program as a whole. The command line goes before them."""

    workers: Annotated[
        int, Meta(ge=0, le=limits.WORKERS_MAX, description="Worker processes; 0: one per CPU, 32 at most.")
    ] = 0
    slots: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.SLOTS_MAX,
            description="SO_REUSEPORT sockets per listener, changed live; 0: 24, or one per worker where those are more.",
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
    worker_memory: Annotated[
        Size,
        Meta(
            description="What connections, buffers and requests of one worker may take in all; beyond it, idle ones are shed."
        ),
    ] = "512MiB"
    upgrade_probation: Annotated[
        Duration,
        Meta(description="How long the generation before waits beside a new one, to be switched back to; 0s: not."),
    ] = "5m"


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
