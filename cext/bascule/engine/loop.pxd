"""The engine's loop: one turn is events, run queue, timers, burial.

The epoll set is the engine's own; its descriptor is registered in the worker's uvloop, which calls turn() when it is readable. So
uvloop stays the worker's loop while every client byte is handled inside one call without the GIL.

A turn that was given patience does not go back to uvloop between a request and its answer: while exchanges are in flight, or when the pause
before this turn was short, it waits in the engine's own set, each time at most as long as its patience, until TURN_US have passed. A
lone request then costs two waits instead of six and two ways through Python. What uvloop serves does not wait for that: the links are
watched (SOURCE_FOREIGN) and end the turn, a signal interrupts it; timers of uvloop are at most patience and TURN_US late.
"""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Engine


cdef void engine_turn(Engine* engine, uint32_t patience_ms) noexcept nogil
cdef void engine_clock(Engine* engine) noexcept nogil
cdef void engine_arm(Engine* engine) noexcept nogil
