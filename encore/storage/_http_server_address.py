"""The address that a server listens at."""

from __future__ import annotations

import errno
import socket

from .errors import StoreOSError

__all__ = ["is_loopback", "listen"]

# How many connections the system keeps until they are accepted; it may have a limit of its own.
_BACKLOG = 1024


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach a server at an address."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        # A name: any other one may stand for anything.
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the first address of a host that can be had."""
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise _refused_address(error, where) from error
    # Where a name has both, clients try IPv6 first and fall back; all can speak IPv4.
    addresses.sort(key=lambda address: address[0] != socket.AF_INET)
    refused: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                # Of connections that have ended the port stays taken for a while otherwise.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and address[0] == "::" and hasattr(socket, "IPV6_V6ONLY"):
                # IPv4 too.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            sock.listen(_BACKLOG)
            return sock
        except OSError as error:
            if sock is not None:
                sock.close()
            refused = refused or error
    refused = refused or OSError(errno.EADDRNOTAVAIL, "there is no such address")
    raise _refused_address(refused, where) from refused


def _refused_address(error: OSError | UnicodeError, where: str) -> StoreOSError:
    if isinstance(error, UnicodeError) or error.errno is None:
        return StoreOSError(errno.EADDRNOTAVAIL, "this is no address", where)
    return StoreOSError(error.errno, error.strerror, where)
