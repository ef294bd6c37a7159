"""The engine's loop: one turn is events, run queue, timers, burial.

The epoll set is the engine's own; its descriptor is registered in the worker's uvloop, which calls turn() when it is readable. So
uvloop stays the worker's loop while every client byte is handled inside one call without the GIL.
"""

from bascule.engine.types cimport Engine


cdef int engine_turn(Engine* engine) noexcept nogil            # events handled
cdef void engine_clock(Engine* engine) noexcept nogil
cdef void engine_arm(Engine* engine) noexcept nogil
