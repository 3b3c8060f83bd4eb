"""A connection as the server sees it: bytes come and go, and nobody is waited for without end."""

from __future__ import annotations

import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Channel", "interrupt"]

# What is read at once where it is not known how much there is.
_RECEIVE = 65536
_LITTLE = 8192
# The most that is received, or sent, with one call. TLS takes the whole of it, or times out.
_MOST = 262144
_MOST_SENT = 131072

#: Bytes a second that a client has to manage in the long run, those of Apache's mod_reqtimeout.
MIN_RATE = 500

# Shorter waits are not counted, so that no clock's resolution matters.
_SHORT = 0.001


class Channel:
    """A socket with a buffer, and with patience that ends.

    A wait is at most `timeout`. All waits of a request together may take that long as well, and
    longer as bytes go by: as much as they would take at MIN_RATE. So neither silence nor a drip
    holds a connection, and large data over a slow line may take their time.

    Parameters
    ----------
    sock : socket.socket
        Owned from now on; close() closes it.
    timeout : float > 0, in seconds
    clock : callable
    """

    __slots__ = (
        "_at",
        "_clock",
        "_data",
        "_patience",
        "_receiving",
        "_sending",
        "_set",
        "sock",
        "timeout",
    )

    def __init__(
        self, sock: socket.socket, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sock = sock
        self.timeout = timeout
        self._clock = clock
        #: What has been received; it is used from _at on.
        self._data = b""
        self._at = 0
        #: How long the client may still be waited for.
        self._receiving = self._sending = timeout
        #: What the socket waits for: telling it takes a system call.
        self._set = timeout
        sock.settimeout(timeout)

    def renew(self) -> None:
        """Begin to count anew."""
        self._receiving = self._sending = self.timeout

    # What comes

    @property
    def has_data(self) -> bool:
        """Whether there is something that was received and not taken."""
        return self._at < len(self._data)

    def receive(self, size: int = _RECEIVE, rate: float = MIN_RATE) -> bytes:
        """Receive something, past the buffer; b"" at the end.

        Raises
        ------
        TimeoutError
            If nothing came in time, or too little.
        """
        patience = self._receiving
        if patience != self._set:
            self._wait_at_most(patience)
        began = self._clock()
        data = self.sock.recv(min(size, _MOST))
        waited = self._clock() - began
        if waited > _SHORT:
            self._receiving = min(self.timeout, patience - waited + len(data) / rate)
        return data

    def fill(self) -> bool:
        """Receive a little into the buffer; return False at the end."""
        # What belongs to a large chunk is better received by itself, without the buffer.
        data = self.receive(_LITTLE)
        self._data = self._data[self._at :] + data
        self._at = 0
        return bool(data)

    def take(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end; from the buffer if there is something."""
        at = self._at
        if at == len(self._data):
            return self.receive(size)
        piece = self._data[at : at + size]
        self._at = at + len(piece)
        return piece

    def take_all(self) -> bytes:
        """Empty the buffer."""
        data = self._data[self._at :] if self._at else self._data
        self._data, self._at = b"", 0
        return data

    def put_back(self, data: bytes, at: int) -> None:
        """Fill the empty buffer: with `data` from position `at` on."""
        if at < len(data):
            self._data, self._at = data, at

    def take_line(self, limit: int) -> bytes | None:
        """Return a line without its CRLF; None if it is too long, or there is none.

        It may have another line break in it.
        """
        while True:
            end = self._data.find(b"\n", self._at, self._at + limit + 2)
            if end >= 0:
                break
            if len(self._data) - self._at >= limit + 2 or not self.fill():
                return None
        line = self._data[self._at : end]
        self._at = end + 1
        return line[:-1] if line.endswith(b"\r") else None

    # What goes

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises
        ------
        OSError
            If the client is gone, or takes nothing.
        """
        size = len(data)
        sent = self._send(data) if size <= _MOST_SENT else 0
        if sent < size:
            rest = memoryview(data)
            while sent < size:
                sent += self._send(rest[sent : sent + _MOST_SENT])

    def _send(self, data: bytes | memoryview) -> int:
        patience = self._sending
        if patience != self._set:
            self._wait_at_most(patience)
        began = self._clock()
        sent = self.sock.send(data)
        waited = self._clock() - began
        if waited > _SHORT:
            self._sending = min(self.timeout, patience - waited + sent / MIN_RATE)
        return sent

    def _wait_at_most(self, patience: float) -> None:
        if patience <= 0:
            raise TimeoutError("the client is too slow")
        self.sock.settimeout(patience)
        self._set = patience

    # The end

    def finish(self) -> None:
        """Say that nothing more is sent; what the client still sends can be received."""
        unwrap = getattr(self.sock, "unwrap", None)
        try:
            if unwrap is None:
                self.sock.shutdown(socket.SHUT_WR)
            else:
                # Its close_notify is sent, that of the client is not waited for.
                self.sock.settimeout(0)
                self._set = 0
                unwrap()
        except (OSError, ValueError):
            pass

    def reset(self) -> None:
        """Make close() break the connection, so that the client does not take it for a clean end."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass


def interrupt(sock: socket.socket) -> None:
    """Wake the thread that waits for a socket: it sees the end. Any thread may do this."""
    try:
        # Not that of an SSLSocket, which would take its TLS away from under the other thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass
