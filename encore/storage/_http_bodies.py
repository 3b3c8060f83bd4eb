"""The body of an answer, as it is framed (RFC 9112, 6): by its length, in chunks, or by the end of
the connection. When it has been read to its end, it gives the connection back."""

from __future__ import annotations

from ._http_head import MAX_HEAD, MAX_HEADERS, BadAnswerError
from .errors import StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._http_socket import Connection

# The most that is read of an answer nobody wants, to keep its connection.
_DRAINED = 1 << 16

# A chunk's size, with what may come behind it.
_MAX_LINE = 4096


class HTTPBody:
    """What is common.

    Parameters
    ----------
    connection : Connection
    release : callable
        Gets the connection when the body is at its end and the next answer may come.
    """

    #: None at the end.
    _connection: Connection | None

    def __init__(self, connection: Connection, release: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._release = release

    def renew(self, seconds: float) -> None:
        if self._connection is not None:
            self._connection.begin(seconds)

    def read(self, size: int, /) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Give the connection back if little is missing that has come already; else close it."""
        if self._connection is not None:
            self._connection.deadline = None
            self.finish()

    def finish(self) -> None:
        """As close(), but wait for what is missing."""
        count = 0
        try:
            while count < _DRAINED and self._connection is not None:
                count += len(self.read(_DRAINED))
        except (StoreError, OSError):
            pass
        finally:
            self._end(keep=False)

    def _end(self, keep: bool = True) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if keep:
            self._release(connection)
        else:
            connection.close()


class SizedBody(HTTPBody):
    """A body with a Content-Length."""

    def __init__(
        self, connection: Connection, release: Callable[[Connection], None], size: int
    ) -> None:
        self._connection = connection
        self._release = release
        self._missing = size

    def read(self, size: int, /) -> bytes:
        connection = self._connection
        if connection is None:
            return b""
        data = connection.take(size if size < self._missing else self._missing)
        self._missing -= len(data)
        if not self._missing:
            self._end()
        elif not data:
            self._end(keep=False)
        return data

    def readinto(self, view: memoryview, /) -> int:
        connection = self._connection
        if connection is None:
            return 0
        count = connection.take_into(view[: self._missing])
        self._missing -= count
        if not self._missing:
            self._end()
        elif not count:
            self._end(keep=False)
        return count


class EndlessBody(HTTPBody):
    """A body that ends with the connection, as those of HTTP/1.0."""

    def read(self, size: int, /) -> bytes:
        if self._connection is None:
            return b""
        data = self._connection.take(size)
        if not data:
            self._end(keep=False)
        return data

    def finish(self) -> None:
        self._end(keep=False)


class ChunkedBody(HTTPBody):
    """A body in chunks (RFC 9112, 7.1)."""

    #: Of this chunk; None before the first one.
    _left: int | None = None

    def read(self, size: int, /) -> bytes:
        connection = self._connection
        if connection is None:
            return b""
        pieces: list[bytes] = []
        # Little chunks that have come already are put together.
        while size and self._connection is not None and (not pieces or connection.has_more()):
            if not self._left:
                self._next_chunk(connection)
                continue
            data = connection.take(min(size, self._left))
            if not data:
                raise self._cut_off(connection)
            self._left -= len(data)
            size -= len(data)
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next_chunk(self, connection: Connection) -> None:
        if self._left == 0 and self._line(connection):
            raise BadAnswerError(f"{connection.where}: a chunk is longer than it says")
        line = self._line(connection)
        number = line.partition(b";")[0].strip(b" \t")
        # int() takes more than digits: signs, underscores, 0x.
        if not number or len(number) > 15 or number.strip(b"0123456789abcdefABCDEF"):
            raise BadAnswerError(f"{connection.where}: bad size of a chunk: {line[:40]!r}")
        self._left = int(number, 16)
        if not self._left:
            size = 0
            for _ in range(MAX_HEADERS):
                trailer = self._line(connection)
                size += len(trailer)
                if not trailer:
                    self._end()
                    return
                if size > MAX_HEAD:
                    break
            raise BadAnswerError(f"{connection.where}: too many trailers")

    def _line(self, connection: Connection) -> bytes:
        line = connection.line(_MAX_LINE)
        if line is None:
            raise self._cut_off(connection)
        return line

    def _cut_off(self, connection: Connection) -> StoreError:
        return TemporaryError(f"{connection.where}: the data end without their last chunk")
