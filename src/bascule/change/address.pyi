"""Addresses of servers and networks as the kernel takes them."""

def literal_sockaddr(authority: str) -> bytes | None:
    """Return the sockaddr of a literal authority, None for a host name; ValueError when it is neither."""

def network_problem(network: str) -> str:
    """Return what is wrong with a network in CIDR notation, or an empty string."""

def url_valid(url: str) -> bool:
    """Return whether it is "http://HOST:PORT" or "unix:///PATH", without a path, user or query."""

def id_valid(name: str) -> bool:
    """Return whether it matches model.limits.ID_PATTERN; five times cheaper than the regular expression."""
