"""Chunked bodies: decoded in place by llhttp, with bounds on everything in them that is not body.

Behind a head that llhttp read, the same parser goes on; behind one that the scanner read, a copy of llhttp's state behind such a head.
"""

from libc.stdint cimport uint32_t

from bascule.engine.types cimport Direction


cdef enum BodyResult:
    BODY_MORE = 0
    BODY_COMPLETE = 1
    BODY_BAD = -1                 # malformed chunks, or trailers or extensions beyond their bounds

cdef void chunked_bind() noexcept nogil                # once, after llhttp_bind
cdef void body_begin_chunked(Direction* direction) noexcept nogil
cdef int body_feed_chunked(Direction* direction, char* data, uint32_t length, uint32_t* consumed) noexcept nogil
