"""Listeners and slots of one worker: lent, taken back, and told about new snapshots."""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Engine, ListenerRuntime, Slot
from bascule.shared.snapshot cimport Snapshot


cdef ListenerRuntime* listener_known(Engine* engine, const char* id, uint32_t length) noexcept nogil  # NULL: never heard of
cdef ListenerRuntime* listener_find(Engine* engine, const char* id, uint32_t length) noexcept nogil  # made when new; NULL: no memory
cdef int listener_lend(Engine* engine, ListenerRuntime* listener, uint32_t number, int fd) noexcept nogil  # 0, -1 with errno
cdef int listener_take_back(Engine* engine, ListenerRuntime* listener, uint32_t number) noexcept nogil  # 0, or -1: not held
cdef bint listeners_adopt(Engine* engine, const Snapshot* snapshot) noexcept nogil
cdef void listeners_close(Engine* engine) noexcept nogil
cdef void listeners_destroy(Engine* engine) noexcept nogil
cdef int slot_poll(Engine* engine, Slot* slot) noexcept nogil
