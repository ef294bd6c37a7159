"""Trailer sections: which fields may be passed on behind a body (RFC 9110 section 6.5.1)."""

from bascule.engine.memory cimport Buf


cdef void trailers_filter(Buf* buf) noexcept nogil  # strikes forbidden lines of "Name: value\r\n"; what stays moves to the front
