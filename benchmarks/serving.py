"""Servers in processes of their own, and a client that takes as little time as possible.

Each subject starts the servers that it needs, so all measure the same program and none is disturbed
by another's connections. A server ends with its standard input: so with the process of the subject,
however that ends.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HOST", "Client", "answered", "quick_server", "request", "site_server", "together"]

HOST = "127.0.0.1"

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def quick_server() -> int:
    """The port of the server that all clients are measured with."""
    return _started("quick_server.py")


def site_server(name: str, size: int | str = 0) -> int:
    """The port of a server that is measured itself."""
    path = [] if name == "encore" else sys.path[:1]
    return _started("site_server.py", name, str(size), *path)


@cache
def _started(script: str, *arguments: str) -> int:
    # Proxies are for others.
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    command = [sys.executable, "-I", "-S", "-X", f"pycache_prefix={sys.pycache_prefix or ''}"]
    command += [str(Path(__file__).with_name(script)), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    atexit.register(_end, process)
    assert process.stdout is not None
    port = process.stdout.readline()
    if not port:
        raise RuntimeError(f"{script} {' '.join(arguments)} ended with status {process.wait()}")
    return int(port)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        # Which closes its input.
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


class Client:
    """A connection that is kept alive, without HTTP but for the length of an answer."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.into = memoryview(bytearray(1 << 20))
        #: With which the last answer began.
        self.begins = b""

    def ask(self, request: bytes) -> int:
        """Send a request, and return how large the body of the answer is."""
        self.sock.sendall(request)
        return self.read()

    def read(self) -> int:
        """Read an answer; return the size of its body."""
        data = self.sock.recv(65536)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more(self.sock.recv(65536))
        self.begins = data
        status = data[9:12]
        if status[:1] != b"2" and status != b"304":
            raise AssertionError(f"the server answers {data[:300]!r}")
        length = _LENGTH.search(data, 0, end + 2)
        # With those two there is no body, whatever is said of its length.
        size = int(length[1]) if length and status not in (b"204", b"304") else 0
        missing = size - (len(data) - end - 4)
        while missing > 0:
            missing -= self.sock.recv_into(self.into) or self._ended()
        return size

    def _more(self, data: bytes) -> bytes:
        return data or b"" * self._ended()

    @staticmethod
    def _ended() -> int:
        raise AssertionError("the server has ended the connection")


def request(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request as it is sent."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *headers]
    if method != "GET":
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("ascii") + body


def answered(port: int, wanted: bytes, size: int | None) -> Client:
    """A client that has had an answer, with that many bytes if that is known."""
    client = Client(port)
    found = client.ask(wanted)
    if size not in (None, found):
        raise AssertionError(f"{wanted[:200]!r} has {found} bytes, not {size}")
    return client


def together(clients: Sequence[Client], wanted: bytes, count: int) -> float:
    """The seconds of so many requests, one under way on each connection as long as there are some."""
    by_number = {client.sock.fileno(): client for client in clients}
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLIN)
    start = perf_counter()
    sent = min(count, len(clients))
    for client in clients[:sent]:
        client.sock.sendall(wanted)
    done = 0
    while done < count:
        for number, _ in poll.poll():
            client = by_number[number]
            client.read()
            done += 1
            if sent < count:
                client.sock.sendall(wanted)
                sent += 1
    return perf_counter() - start
