"""Who the client is: policy, logs and balancing ask for this address and for no other.

It is the peer's; or, when the peer is in the listener's `trusted_proxies` or on a Unix socket, the last entry of X-Forwarded-For that is
not the address of a trusted proxy. The list is read from its end, because only what trusted proxies appended can be believed; at an
entry that is no address ("unknown", a name) reading ends, and the client is who came last before it.
"""

from bascule.engine.types cimport Exchange


cdef void identify_client(Exchange* x) noexcept nogil  # writes x.client_ip (IPv4 as ::ffff:a.b.c.d) and the flag X_TRUSTED
