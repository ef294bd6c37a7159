"""Stage 5, balance: which server of the backend.

May do: read the snapshot, write this worker's weights. May fail with: no server (503). Hands over to: s6_forward.
"""

from bascule.engine.types cimport Engine, Exchange, ServerRuntime
from bascule.shared.snapshot cimport ServerRecord


cdef const ServerRecord* balance_pick(Engine* engine, Exchange* x, const ServerRecord* avoid) noexcept nogil
cdef ServerRuntime* server_runtime(Engine* engine, const ServerRecord* server) noexcept nogil
