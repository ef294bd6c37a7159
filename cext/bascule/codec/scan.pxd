"""A strict fast scanner for plain, whole heads, in front of llhttp: eight times as fast on what browsers and servers send.

Contract: a head is either indexed exactly as llhttp and its callbacks would index it, with the same method, version, status and chunked
flag in `parser`; or the answer is 0, and the caller gives the same bytes to llhttp, which alone decides what is malformed. So the
scanner can only be faster, never more lenient: what it accepts is a subset of what llhttp accepts, with the same meaning
(tests/codec/test_scan.py and tests/fuzz compare the two).

Read here: GET, HEAD, POST, PUT, DELETE, OPTIONS and PATCH of a path; responses from 200 to 599; HTTP/1.0 and 1.1; header lines
without a folded one; at most one Content-Length of at most 18 digits or one Transfer-Encoding of exactly "chunked", never both.
Left to llhttp: everything else, and every head that is not whole yet.
"""

from libc.stdint cimport uint32_t

from bascule.codec.llhttp cimport llhttp_t
from bascule.engine.types cimport Head


# Both: bytes [0, length) from the beginning of the message. Returns the length of the head with its empty line, or 0; on success
# head.url, url_length, count and headers (but their ids) and parser.method, status_code, http_major, http_minor and flags are set.
cdef uint32_t scan_request(Head* head, llhttp_t* parser, const char* data, uint32_t length) noexcept nogil
cdef uint32_t scan_response(Head* head, llhttp_t* parser, const char* data, uint32_t length) noexcept nogil
