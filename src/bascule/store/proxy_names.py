"""What the arguments of `bascule proxy` and the lines of a routes file are called in the tree, and their short forms."""

from __future__ import annotations

from bascule.change.address import id_valid

PREFIX_LENGTH_MAX = 4096


def listen_address(text: str) -> str:
    """Return a listener's address from its short forms: "8080" and ":8080" are port 8080 of all IPv4 addresses."""
    if text.isdecimal():
        return f"0.0.0.0:{text}"
    return f"0.0.0.0{text}" if text.startswith(":") else text  # noqa: S104


def server_url(text: str) -> str:
    """Return a server's url from its short forms: "HOST:PORT", and "PORT" or ":PORT" of this machine."""
    if "://" in text:
        return text
    if text.isdecimal():
        return f"http://127.0.0.1:{text}"
    return f"http://127.0.0.1{text}" if text.startswith(":") else f"http://{text}"


def prefix_id(prefix: str) -> str:
    """Return the id of a prefix's frontend and backend: slashes as dots; unusual prefixes by hash; ".root" for "/",
    which no other prefix can be (its id would begin with a dot only if it began with two slashes)."""
    name = prefix[1:].replace("/", ".") or ".root"
    if id_valid(name) and "." not in prefix and "//" not in prefix and name != "proxy":
        return name
    return f"prefix-{_digest(prefix)}"


def address_id(address: str) -> str:
    """Return the id of a listener or server, from its address."""
    name = address.removeprefix("http://").removeprefix("unix://")
    name = name.replace("/", ".").replace(":", "-").strip("[]-.").replace("]", "").replace("[", "")
    return name if id_valid(name) else f"address-{_digest(address)}"


def _digest(text: str) -> str:
    import hashlib  # 4 ms of CPU, which few starts need

    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
