"""Clients for whom there is no thread: they are told so, and let go by and by."""

from __future__ import annotations

import selectors
import socket
from functools import partial

from ._http_server_answer import plain_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Refusals"]

# Closing at once would reset the connection, and take the answer away, if the client has sent its
# request meanwhile. So many are kept for so long.
_KEPT = 100
_LINGER = 1.0


class Refusals:
    """Sockets that have been refused.

    Parameters
    ----------
    selector : BaseSelector
        What it says of them is a call of their data, with itself.
    clock : callable
    """

    def __init__(self, selector: selectors.BaseSelector, clock: Callable[[], float]) -> None:
        self._selector = selector
        self._clock = clock
        #: Until when each is kept, the oldest first.
        self._ends: dict[socket.socket, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, sock: socket.socket) -> None:
        """Tell a client that there are too many; the socket is owned from now on."""
        while len(self._ends) >= _KEPT:
            self._close(next(iter(self._ends)))
        sock.setblocking(False)
        try:
            sock.send(plain_answer(503, "too many connections", "Retry-After: 1"))
            sock.shutdown(socket.SHUT_WR)
            self._selector.register(sock, selectors.EVENT_READ, partial(self._read, sock))
        except OSError:
            sock.close()
            return
        self._ends[sock] = self._clock() + _LINGER

    def next_end(self) -> float | None:
        """Return when there is something to do; None if there is nothing."""
        return next(iter(self._ends.values()), None)

    def close_old(self) -> None:
        """Close those that have been kept long enough."""
        now = self._clock()
        for sock, end in list(self._ends.items()):
            if end > now:
                break
            self._close(sock)

    def close(self) -> None:
        """Close all."""
        for sock in list(self._ends):
            self._close(sock)

    def _read(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        if sock not in self._ends:
            return
        try:
            if sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        del self._ends[sock]
        self._selector.unregister(sock)
        sock.close()
