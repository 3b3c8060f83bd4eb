"""What is sent to a server: bytes, or a stream of them that can perhaps be given again.

What goes wrong while a caller's stream is read is the caller's, whoever has read it: `failure` has it,
whatever a session has made of it.
"""

from __future__ import annotations

import io
from itertools import chain

from ._streams import BUFFER_SIZE, buffers_of
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._streams import Readable

__all__ = ["RequestBody"]

# Data of up to this size are read before anything is sent. Then their number is known, and they can be
# sent again.
_AT_HAND = 1 << 16

# More is not asked of a stream at once: it is sent in such pieces, however large the buffers may be.
_PIECE = 1 << 18

# Whose descriptors tell how many bytes there are.
_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)


class RequestBody:
    """A stream, and bytes before it.

    Parameters
    ----------
    stream : binary stream
        Read from where it stands, and left open.
    size : int or None
        How many bytes it has, if somebody knows; files and bytes in memory are asked.
    buffer_size : int > 0, in bytes
        The most that is asked of the stream at once.
    progress : callable, optional
        Called as ``progress(step=n)`` after each read, with the number of bytes so far.
    reopen : callable, optional
        Gives the stream anew; without it one that is seekable can be given again.

    Attributes
    ----------
    size : int or None
        With the bytes before.
    failure : BaseException or None
        What the stream has raised.
    """

    def __init__(
        self,
        stream: Readable,
        size: int | None,
        buffer_size: int,
        progress: Callable[..., object] | None = None,
        reopen: Callable[[], Readable] | None = None,
    ) -> None:
        self._stream: Any = stream
        self._buffer_size = min(buffer_size, _PIECE)
        self._progress = progress
        self._reopen = reopen
        self._opened: Any = None
        self._start = None if reopen is not None else _position(stream)
        self._before = b""
        self._best = 0
        # A pipe, and what the kernel makes up, have no size; there may be data all the same.
        self.size = (_size(stream, self._start) if size is None else size) or None
        self.failure: BaseException | None = None
        self._begin(stream)

    def __enter__(self) -> RequestBody:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def _begin(self, stream: Readable) -> None:
        step = None if self._progress is None else self._step
        self._pieces = buffers_of(stream, self._buffer_size, step)
        self._rest = memoryview(b"")
        #: How many bytes have been taken, and how many were given to whoever sends them.
        self._taken = self._given = 0

    def _step(self, step: int) -> None:
        # What is given again has been told already.
        if self._progress is not None and step > self._best:
            self._best = step
            self._progress(step=step)

    def put_before(self, data: bytes) -> None:
        """Let bytes come before the stream; before anything is sent."""
        self._before = data
        self._pieces = chain((data,), self._pieces)
        if self.size is not None:
            self.size += len(data)

    def at_hand(self) -> bytes | None:
        """Return all of it if it is little; None if it has to be streamed."""
        most = _AT_HAND + len(self._before)
        if self.size is not None and self.size > most:
            return None
        pieces: list[bytes] = []
        found = 0
        while found <= most:
            piece = self._next()
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            found += len(piece)
        self._pieces = chain(pieces, self._pieces)
        self._taken -= found
        return None

    def spooled(self) -> RequestBody:
        """Return a body of the same bytes that nobody else can read or make fail."""
        from ._spool import spooled

        if type(self._stream) is io.BytesIO:
            return self
        file, size = spooled(self)
        body = RequestBody(file, size, BUFFER_SIZE)
        body._opened = file
        return body

    def _next(self) -> bytes:
        """Return the next piece, b'' at the end."""
        try:
            piece = next(self._pieces, b"")
            self._taken += len(piece)
            if self.size is not None and (
                self._taken > self.size or (not piece and self._taken < self.size)
            ):
                raise StoreError(f"the stream has not the {self.size} bytes that it was to have")
        except BaseException as error:
            self.failure = error
            raise
        return piece

    # A stream for whoever sends it

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(BUFFER_SIZE), b""))
        taken: list[memoryview] = []
        while size:
            if not self._rest:
                piece = self._next()
                if not piece:
                    break
                self._rest = memoryview(piece)
            part = self._rest[:size]
            self._rest = self._rest[size:]
            size -= len(part)
            self._given += len(part)
            taken.append(part)
        return b"".join(taken)

    def tell(self) -> int:
        return self._given

    def seekable(self) -> bool:
        """Whether it can be given again."""
        return self.failure is None and (self._reopen is not None or self._start is not None)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go back to the beginning, and nowhere else; OSError where that cannot be done."""
        if offset or whence or (self._taken and not self.seekable()):
            # To go on in the middle would send a part of the data.
            raise io.UnsupportedOperation("these data cannot be sent again")
        if self._taken:
            try:
                if self._reopen is None:
                    self._stream.seek(self._start)
                else:
                    self.__exit__()
                    self._stream = self._opened = self._reopen()
            except Exception as error:
                # What is to be told is why they are needed again.
                raise io.UnsupportedOperation("these data cannot be read again") from error
            self._begin(self._stream)
            self._pieces = chain((self._before,) if self._before else (), self._pieces)
        return 0


def _position(stream: Any) -> int | None:
    """Return where a stream stands, None if it cannot be put back to that."""
    try:
        if stream.seekable():
            position = stream.tell()
            return position if type(position) is int else None
    except Exception:  # it has no such methods, or is closed, which reading will tell
        pass
    return None


def _size(stream: Any, position: int | None) -> int | None:
    """Return how many bytes are left in a stream, where that is certain."""
    if position is None:
        return None
    if type(stream) is io.BytesIO:
        return max(0, stream.getbuffer().nbytes - position)
    if isinstance(stream, _FILES) and type(stream) in _FILES:
        import os
        import stat

        try:
            status = os.fstat(stream.fileno())
        except (OSError, ValueError):
            return None
        if stat.S_ISREG(status.st_mode):
            return max(0, status.st_size - position)
    return None
