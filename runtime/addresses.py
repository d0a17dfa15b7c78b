"""HOST:PORT, and who may be there."""

from __future__ import annotations

import ipaddress
import re
import socket

from attri.runtime.errors import UsageError


def parse_address(text: str, option: str) -> tuple[str, int]:
    """ "8080", "127.0.0.1:8080", "[::1]:8080" or "name:8080" -> host and port; a port alone is on loopback.

    Raises UsageError.
    """
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^\[\]:/\s]+):)?(\d{1,5})", text)
    if not found or int(found[2]) > 65535:
        raise UsageError(f"{option} {text!r}: write HOST:PORT, as in 127.0.0.1:8080")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def listen(address: tuple[str, int], option: str) -> socket.socket:
    """A listening socket. Raises UsageError: the address is taken, or not of this machine."""
    host, port = address
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(target[:2], family=family, backlog=128)
    except OSError as error:
        raise UsageError(f"{option} {host}:{port}: {error.strerror or error}") from error


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine comes in by a socket that is bound to this address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine: by an address, or as it is called. No name that somebody else's DNS
    could have pointed here, which is how a page elsewhere would reach in (DNS rebinding)."""
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    own = socket.gethostname().lower()
    if name in ("localhost", own, f"{own}.local", own.partition(".")[0]):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
