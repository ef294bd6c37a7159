"""The taker's side of handing connections over (handover.pxd).

    a parcel -> checked -> each record: registered as a connection of this worker -> the answer -> served

Nothing that arrives on a connection is handled before the answer is sent: if it cannot be sent, the giver still has them all.
"""

from bascule.engine.types cimport Engine, Testator


cdef int inheritance_open(Engine* engine, int fd) noexcept nogil     # 0, or -1 with errno and fd untouched
cdef void testator_event(Engine* engine, Testator* testator) noexcept nogil    # one parcel: epoll reports the next again
cdef void inheritance_close(Engine* engine) noexcept nogil
