"""Values whose streams go on where they broke off."""

from __future__ import annotations

import io

from ._streams import BUFFER_SIZE, buffer_iterator, check_bounds, read_into, skip, slice_bounds
from ._wrapped_value import WrappedValue
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO, TypeVar

    from .retry_store import RetryStore

    Metadata = dict[str, Any]
    T = TypeVar("T")

# Enough for small reads to be fast; larger ones go straight through.
_READ_AHEAD = 65536


class RetryValue(WrappedValue):
    """A value whose streams go on where they broke off."""

    def __init__(self, store: RetryStore, key: str, value: Value) -> None:
        super().__init__(value)
        self._store = store
        self._key = key
        #: Whether a stream has been tried often enough.
        self.gave_up = False

    @property
    def permissions(self) -> dict[str, set[str]]:
        return self._store._try(lambda: self._value.permissions)

    @property
    def metadata(self) -> Metadata:
        return self._store._try(lambda: self._value.metadata)

    @property
    def data(self) -> BinaryIO:
        return self._buffered(None, None)

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._buffered(*check_bounds(start, end))

    def _buffered(self, start: int | None, end: int | None) -> BinaryIO:
        stream = self._open(start, end)
        if type(stream) is io.BytesIO:
            return stream
        return io.BufferedReader(_Reader(self, start, end, stream), _READ_AHEAD)

    def _open(self, start: int | None, end: int | None) -> BinaryIO:
        return self._store._try(lambda: _part(self._value, start, end))

    def _iterdata(
        self, buffer_size: int, progress: Callable[..., object] | None
    ) -> Iterator[bytes]:
        with _Reader(self, None, None, self._open(None, None)) as reader:
            yield from buffer_iterator(reader, buffer_size, progress)

    def open_again(self, start: int | None, end: int | None, position: int, seek: bool) -> Any:
        """Return a stream of a part of the data, at a position; None if the data are others now."""
        try:
            value = self._store.store.get(self._key)
        except KeyError:
            return None
        if value.etag is None or value.etag != self._value.etag:
            return None
        if value.size is not None and not seek:
            begin, stop = slice_bounds(start, end, value.size)
            return value.range(min(begin + position, stop), stop)
        stream = _part(value, start, end)
        try:
            skip(stream, position)
        except BaseException:
            stream.close()
            raise
        return stream


def _part(value: Value, start: int | None, end: int | None) -> BinaryIO:
    return value.data if start is None and end is None else value.range(start, end)


class _Reader(io.RawIOBase):
    """A stream that goes on where it broke off."""

    def __init__(
        self, value: RetryValue, start: int | None, end: int | None, stream: BinaryIO
    ) -> None:
        super().__init__()
        self._value = value
        self._part = start, end
        self._stream: Any = stream
        seekable = getattr(stream, "seekable", None)
        self._seekable = seekable is not None and bool(seekable())
        self._position = 0
        self._error: Exception | None = None
        self._run = value._store._attempts()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if not self._seekable:
            return super().seek(offset, whence)
        self._position = self._try(lambda stream: stream.seek(offset, whence))
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        data: bytes = self._try(lambda stream: stream.read(size))
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        pieces = []
        # There need not be much.
        size = _READ_AHEAD
        while piece := self.read(size):
            pieces.append(piece)
            size = min(2 * size, BUFFER_SIZE)
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        count = self._try(lambda stream: read_into(stream, target))
        self._position += count
        return count

    def _try(self, use: Callable[[Any], T]) -> T:
        value, run = self._value, self._run
        run.begin()
        while True:
            try:
                if self._stream is None:
                    self._stream = value.open_again(*self._part, self._position, self._seekable)
                if self._stream is not None:
                    return use(self._stream)
            except Exception as error:
                if value.etag is None:
                    raise
                if not run.again(error):
                    value.gave_up = True
                    raise
                self._error = error
                self._drop()
            else:
                # There are other data now: what is left to tell is why they are asked for.
                assert self._error is not None
                raise self._error

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except Exception:  # it is broken anyway
                pass

    def close(self) -> None:
        try:
            if not self.closed and self._stream is not None:
                self._stream.close()
        finally:
            super().close()
