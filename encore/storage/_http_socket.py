"""One connection to a server: bytes out, the head of an answer in, all of it before a deadline."""

from __future__ import annotations

import errno
import os
import select
import socket
from http.client import HTTPConnection

from ._http_errors import (
    BrokenConnectionError,
    StaleConnectionError,
    UnsentError,
    broken,
    timed_out,
)
from ._http_head import MAX_HEAD, BadAnswerError, find_end, parse
from .errors import StoreError, StoreOSError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._http_response import Headers

# What is asked of the system at once: a head and a small body, or a piece of a large one.
_READ = 1 << 16

# As threading.TIMEOUT_MAX, about; an int of 32 bits on some systems.
_LONGEST = 2.0**31 / 1000

_SILENT = ConnectionResetError(
    errno.ECONNRESET, "the server has closed the connection without an answer"
)


class Connection(HTTPConnection):
    """A connection of http.client with requests and answers of our own.

    Parameters
    ----------
    host : str
    port : int
    where : str
        Named in errors.
    clock : callable
    """

    def __init__(self, host: str, port: int, where: str, clock: Callable[[], float]) -> None:
        super().__init__(host, port)
        self.where = where
        self.clock = clock
        #: When what is under way must be over; None if nothing may be waited for.
        self.deadline: float | None = 0.0
        #: Whether the server keeps it; set by each answer.
        self.is_kept = False
        #: Whether it has been used for a request before this one.
        self.is_used = False
        #: Since when it is idle.
        self.idle_since = 0.0
        #: Of the server that it leads to.
        self.key: tuple[object, ...] = ()
        #: Of the transport, when this was made.
        self.generation: object = None
        self._process = os.getpid()
        self._data = b""
        self._start = 0
        self._poll: Any = None

    # Time

    def begin(self, seconds: float) -> None:
        """What comes now has so much time."""
        self.deadline = self.clock() + seconds

    def left(self) -> float:
        """Return how much of it is left."""
        return max(0.0, (self.deadline or 0.0) - self.clock())

    def _set_time(self) -> None:
        if self.deadline is None:
            self.sock.settimeout(0)
            return
        left = self.deadline - self.clock()
        if left <= 0:
            raise timed_out(self.where)
        self.sock.settimeout(left if left < _LONGEST else _LONGEST)

    # Opening

    def connect(self) -> None:
        """Connect; http.client would give each address of the host all of the time."""
        error: OSError = OSError(errno.EHOSTUNREACH, "the host has no address")
        try:
            addresses = socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM)
        except OSError as problem:
            raise broken(problem, self.where, happened=False) from problem
        except UnicodeError as problem:
            raise StoreError(f"{self.where}: not the name of a host") from problem
        for family, kind, protocol, _, address in addresses:
            try:
                self.sock = socket.socket(family, kind, protocol)
                try:
                    self._set_time()
                    self.sock.connect(address)
                    self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except BaseException:
                    self.close()
                    raise
            except StoreOSError as problem:
                problem.happened = False  # type: ignore[attr-defined]
                raise
            except OSError as problem:
                error = problem
            else:
                self._watch()
                return
        raise broken(error, self.where, happened=False) from error

    def secure(self, context: Any, host: str) -> None:
        """Go on with TLS."""
        try:
            self._set_time()
            # A body without a length ends where the server says so, not where somebody has cut it off.
            self.sock = context.wrap_socket(
                self.sock, server_hostname=host, suppress_ragged_eofs=False
            )
        except StoreOSError:
            raise
        except OSError as error:
            raise broken(error, self.where, happened=False) from error
        except ValueError as error:
            # A name that cannot stand in a certificate.
            raise StoreError(f"{self.where}: {error}") from error
        self._watch()

    def _watch(self) -> None:
        if hasattr(select, "poll"):
            watcher = select.poll()
            watcher.register(self.sock, select.POLLIN)
            self._poll = watcher.poll

    # Out

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        try:
            self._set_time()
            self.sock.sendall(data)
        except StoreError:
            raise
        except OSError as error:
            found = broken(error, self.where)
            if isinstance(found, BrokenConnectionError):
                found = UnsentError(found.errno, found.strerror, self.where)
            raise found from error

    # What the server does in between

    def has_arrived(self, seconds: float = 0.0) -> bool:
        """Whether something has come, or the end of the connection; or does within this time."""
        if self._start < len(self._data):
            return True
        if self._poll is not None:
            found = bool(self._poll(seconds * 1000))
        else:
            found = bool(select.select([self.sock], [], [], seconds)[0])
        pending = getattr(self.sock, "pending", None)
        if pending is None or not (found or pending()):
            return found
        # What has come may concern TLS alone, such as a ticket.
        try:
            self.sock.settimeout(0)
            self._data, self._start = self.sock.recv(_READ), 0
        except OSError as error:
            return type(error).__name__ != "SSLWantReadError"
        return True

    def is_usable(self) -> bool:
        """Whether another request may be sent: it is ours, and the server has said nothing since."""
        return self._process == os.getpid() and not self.has_arrived()

    # In

    def _receive(self, size: int) -> bytes:
        if self._process != os.getpid():
            raise StoreError(f"{self.where}: the connection belongs to another process")
        try:
            self._set_time()
            return self.sock.recv(size)
        except StoreError:
            raise
        except OSError as error:
            if self.deadline is None:
                raise
            raise broken(error, self.where) from error

    def has_more(self) -> bool:
        """Whether some of what comes next is here already."""
        return self._start < len(self._data)

    def take(self, size: int) -> bytes:
        """Return what comes next, at most `size` bytes; b'' at the end of the connection."""
        start, data = self._start, self._data
        if start < len(data):
            piece = data[start : start + size]
            if start + size < len(data):
                self._start = start + size
            else:
                self._data, self._start = b"", 0
            return piece
        return self._receive(size) if size else b""

    def take_into(self, view: memoryview) -> int:
        """As take(), into a buffer."""
        if self._start < len(self._data) or self._process != os.getpid():
            piece = self.take(len(view))
            view[: len(piece)] = piece
            return len(piece)
        try:
            self._set_time()
            return self.sock.recv_into(view)
        except StoreError:
            raise
        except OSError as error:
            raise broken(error, self.where) from error

    def line(self, limit: int) -> bytes | None:
        """Return a line without its end, None if the connection ends before."""
        end = self._data.find(b"\r\n", self._start)
        while end < 0:
            if len(self._data) - self._start > limit:
                raise BadAnswerError(f"{self.where}: a line is too long")
            more = self._receive(_READ)
            if not more:
                return None
            known = self._data[self._start :]
            self._data, self._start = known + more, 0
            end = self._data.find(b"\r\n", max(0, len(known) - 1))
        line = self._data[self._start : end]
        self._start = end + 2
        return line

    def _first_bytes(self) -> bytes:
        try:
            data = self._receive(_READ)
        except BrokenConnectionError as error:
            if self.is_used and error.errno != errno.ETIMEDOUT:
                raise StaleConnectionError(error.errno, error.strerror, self.where) from error
            raise
        if not data:
            raise broken(_SILENT, self.where, stale=self.is_used)
        return data

    def head(self) -> tuple[int, int, Headers]:
        """Return the minor version, status and headers of the next answer; the body comes next."""
        data = self._data[self._start :] if self._start < len(self._data) else b""
        self._data, self._start = b"", 0
        if not data:
            data = self._first_bytes()
        end = find_end(data)
        while end is None:
            # Something else than HTTP need not be awaited.
            if len(data) > MAX_HEAD or not data.startswith(b"HTTP/1."[: len(data)]):
                break
            more = self._receive(_READ)
            if not more:
                raise broken(
                    ConnectionResetError(errno.ECONNRESET, "the connection ended in the headers"),
                    self.where,
                )
            known, data = len(data), data + more
            end = find_end(data, known)
        try:
            if end is None or end[0] > MAX_HEAD:
                if data.startswith(b"HTTP/1."):
                    raise BadAnswerError("the headers are too large")
                raise BadAnswerError(f"no HTTP: {data[:40]!r}")
            answer = parse(data[: end[0]])
        except BadAnswerError as error:
            raise BadAnswerError(f"{self.where}: {error}") from None
        self._data, self._start = data, end[1]
        return answer
