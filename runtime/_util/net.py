"""Network addresses: parse HOST:PORT, listen, explain why that fails, and tell loopback and own names."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

from attri.runtime.errors import AttriError, FailedError, UsageError


def parse_address(text: str) -> tuple[str, int]:
    """Parse "8080", "127.0.0.1:8080", "[::1]:8080" or "name:8080".

    Args:
        text: the address; a port alone is on loopback.

    Returns:
        Host and port.

    Raises:
        UsageError: it is no address.
    """
    found = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^\[\]:/\s]+):)?([0-9]{1,9})", text)
    if not found:
        raise UsageError(f"{text!r} is no address: write HOST:PORT, as in 127.0.0.1:8080")
    if int(found[2]) > 65535:
        raise UsageError(f"{text}: there is no port {found[2]}, the highest is 65535")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def listen(address: tuple[str, int]) -> socket.socket:
    """Open a listening socket.

    Raises:
        AttriError: as `refusal` makes it.
    """
    host, port = address
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(target[:2], family=family, backlog=128)
    except OSError as error:
        raise refusal(address, error) from error


def refusal(address: tuple[str, int], error: OSError) -> AttriError:
    """Make the error that says what to do about an address that cannot be listened at.

    Returns:
        UsageError where only another value helps; FailedError where it may be over by the next try (a port in use, a
        network that is not up yet), for which a service manager tries again.
    """
    host, port = address
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    if error.errno == errno.EACCES:
        return UsageError(f"{where}: ports below 1024 are for root: take another")
    if error.errno == errno.EADDRINUSE:
        return FailedError(f"{where}: the port is in use: stop the other program (ss -ltnp names it), or take another")
    if error.errno == errno.EADDRNOTAVAIL:
        return FailedError(f"{where}: this machine has no such address, or not yet: ip addr lists what it has")
    if isinstance(error, socket.gaierror):
        return FailedError(f"{where}: the name leads nowhere: {error.strerror or error}")
    return FailedError(f"{where}: {error.strerror or error}")


def overlap(first: tuple[str, int], second: tuple[str, int]) -> bool:
    """Whether two servers cannot listen at both addresses; port 0 is a different port each time."""
    everywhere = {"0.0.0.0", "::"}
    return first[1] == second[1] != 0 and (first[0] == second[0] or bool(everywhere & {first[0], second[0]}))


def is_loopback(host: str) -> bool:
    """Whether this is a loopback address, which only this machine can reach."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine, by an IP address or by its own host name.

    Other names are refused even if they resolve to this machine: with DNS rebinding, a page elsewhere would reach in.
    """
    name = re.sub(r":\d+$", "", host).strip("[]").lower()
    own = socket.gethostname().lower()
    if name in ("localhost", own, f"{own}.local", own.partition(".")[0]):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
