"""The memory budget of a worker, and what is given up in which order when it runs short (DESIGN section 8).

    used < 3/4          nothing
    3/4 <= used         idle client connections are closed, the one that would time out soonest first; when there are none
                        left, idle server connections, likewise; then heads that have not come whole are answered 503
    7/8 <= used         and a new request is answered 503, with Connection: close
    the budget          no further buffer is given out: what is in flight has had the last eighth to itself

Descriptors that run out are treated alike: a connection that cannot be accepted, or opened to a server, takes the place of the idle
one whose turn it is. Exchanges in flight are never ended to make room. "Used" is what the objects of now would fill, with
CONNECTION_BYTES for each connection; memory that was needed once stays with the worker for the next time, so the budget bounds its
size too.

Owner: the engine. Writer: its one thread.
"""

from libc.stdint cimport uint64_t

from bascule.engine.types cimport Engine


cdef enum:
    CONNECTION_BYTES = 4096       # a connection with what the kernel keeps for it: socket, file and their queues when empty
    SHED_VISITS = 4096            # timers looked at in one turn, so that a turn stays short however many connections there are

cdef void shed_budget(Engine* engine, uint64_t bytes) noexcept nogil  # sets it; may be called at any time
cdef void shed_idle(Engine* engine) noexcept nogil                    # once a turn, when shed_used says so
cdef bint shed_refuses(Engine* engine) noexcept nogil                 # whether a new request is to be answered 503; counts it
cdef bint shed_descriptor(Engine* engine) noexcept nogil              # descriptors have run out: ends one idle connection if there is one
cdef uint64_t shed_used(const Engine* engine) noexcept nogil
