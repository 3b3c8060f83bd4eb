"""Values of a caching store: those that are in its cache, and those that will be if their data is wanted."""

from __future__ import annotations

import io

from ._metadata import copy_of
from ._streams import BUFFER_SIZE, check_bounds, slice_bounds
from ._wrapped_value import WrappedValue
from .errors import StoreError
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from ._cache_entries import Entry
    from ._cache_reader import CacheReader

    Metadata = dict[str, Any]

#: A value of no more bytes is fetched as a whole, whatever part of it is wanted.
SMALL = BUFFER_SIZE


class CachedValue(Value):
    """A value in the cache.

    Parameters
    ----------
    entry : Entry
    reopen : callable, optional
        Returns the same value from the store, for when the cache fails.
    """

    def __init__(self, entry: Entry, reopen: Callable[[], Value] | None) -> None:
        self._entry = entry
        self._reopen = reopen
        self.size = entry.value.size
        self.created = entry.created
        self.modified = entry.modified
        self.etag = entry.etag

    @property
    def metadata(self) -> Metadata:
        return copy_of(self._entry.metadata)

    @property
    def data(self) -> BinaryIO:
        return self.range()

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        start, end = check_bounds(start, end)
        value, reopen = self._entry.value, self._reopen
        size = value.size
        if reopen is None or size is None:
            return value.range(start, end)
        begin, stop = slice_bounds(start, end, size)
        try:
            stream = value.range(begin, stop)
        except (StoreError, OSError):
            return reopen().range(begin, stop)
        if type(stream) is io.BytesIO:
            # In memory already: nothing can fail any more.
            if stream.getbuffer().nbytes == stop - begin:
                return stream
            return reopen().range(begin, stop)
        return io.BufferedReader(_Reader(stream, value, reopen, begin, stop))


class _Reader(io.RawIOBase):
    """Reads a part of a value from the cache, and from the store as soon as the cache fails."""

    def __init__(
        self,
        stream: BinaryIO,
        value: Value,
        reopen: Callable[[], Value] | None,
        begin: int,
        stop: int,
    ) -> None:
        super().__init__()
        self._stream: BinaryIO | None = stream
        self._value = value
        self._reopen = reopen
        self._begin = begin
        self._size = stop - begin
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        target = memoryview(buffer).cast("B")
        want = min(len(target), self._size - self._position)
        if want <= 0:
            return 0
        try:
            piece = self._read(want)
        except (StoreError, OSError):
            if self._reopen is None:
                raise
            piece = b""
        if not piece and self._reopen is not None:
            self._drop()
            self._value, self._reopen = self._reopen(), None
            piece = self._read(want)
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _read(self, want: int) -> bytes:
        if self._stream is None:
            begin = self._begin
            self._stream = self._value.range(begin + self._position, begin + self._size)
        return self._stream.read(want)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        if start + offset != self._position:
            self._drop()
            self._position = start + offset
        return self._position

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        try:
            if not self.closed:
                self._drop()
        finally:
            super().close()


class FetchedValue(WrappedValue):
    """A value of the store, whose data is put into the cache when somebody wants it.

    Parameters
    ----------
    reader : CacheReader
    key : str
    value : Value
        What the store returned.
    turn : int
    now, wall : float
        What the reader had before the store was asked.
    """

    def __init__(
        self, reader: CacheReader, key: str, value: Value, turn: int, now: float, wall: float
    ) -> None:
        super().__init__(value)
        self._reader = reader
        self._key = key
        self._asked = turn, now, wall
        self._found: Value | None = None

    @property
    def data(self) -> BinaryIO:
        return self._fetched().data

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        size = self.size
        if self._found is None and size is not None and size > SMALL:
            begin, stop = slice_bounds(start, end, size)
            if stop - begin < size // 2:
                # It may never be wanted as a whole.
                return self._value.range(begin, stop)
        return self._fetched().range(start, end)

    def _fetched(self) -> Value:
        found = self._found
        if found is None:
            self._found = found = self._reader.fetch(self._key, self._value, *self._asked)
        return found
