"""Streams of bytes: cut into buffers, made of buffers, parts of streams.

A readable stream is anything with ``read(n)``. It may return less than n bytes, and b'' at the end;
it is read from where it stands, and left open.
"""

from __future__ import annotations

import io

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO, Protocol

    class Readable(Protocol):
        """What a store needs of a stream that it is given."""

        def read(self, size: int, /) -> bytes: ...

    class Source(Protocol):
        """Bytes of known number that can be read at any position, from any thread."""

        size: int

        def pread(self, size: int, position: int, /) -> bytes: ...


BUFFER_SIZE = 1048576

# Small reads from a big value are served from a buffer of this size; one of that size or more goes
# straight through.
_READ_AHEAD = 65536


def check_buffer_size(buffer_size: int) -> int:
    """Return `buffer_size`, or raise TypeError or ValueError."""
    if buffer_size is BUFFER_SIZE:  # the default
        return buffer_size
    if not isinstance(buffer_size, int) or isinstance(buffer_size, bool):
        raise TypeError(f"buffer_size is an int, not {shown(buffer_size)}")
    if buffer_size <= 0:
        raise ValueError(f"buffer_size is positive, not {shown(buffer_size)}")
    return buffer_size


def check_readable(stream: object) -> None:
    """Raise TypeError where `stream` is nothing that can be read from."""
    if not callable(getattr(stream, "read", None)):
        raise TypeError(f"data is a readable binary stream, not {shown(stream)}")


def slice_bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """Return where ``data[start:end]`` begins and ends in `size` bytes; begin <= end."""
    begin, stop, _ = slice(_bound("start", start), _bound("end", end)).indices(size)
    return begin, max(begin, stop)


def _bound(name: str, value: int | None) -> int | None:
    if value is None or type(value) is int:
        return value
    try:
        return value.__index__()
    except AttributeError:
        raise TypeError(f"{name} is an int or None, not {shown(value)}") from None


def check_bounds(start: int | None, end: int | None) -> tuple[int | None, int | None]:
    """Return exact ints, or raise TypeError where these are no bounds of a slice."""
    return _bound("start", start), _bound("end", end)


def buffer_iterator(
    filelike: Readable,
    buffer_size: int = BUFFER_SIZE,
    progress: Callable[..., object] | None = None,
    max_bytes: int | None = None,
) -> Iterator[bytes]:
    """Cut a stream into buffers.

    Parameters
    ----------
    filelike : binary stream
        Read from where it stands, and left open.
    buffer_size : int > 0, in bytes
        The most that is asked of the stream at once.
    progress : callable, optional
        Called as ``progress(step=n)`` after each read, with the number of bytes so far.
    max_bytes : int >= 0, optional
        Stop after so many bytes.

    Returns
    -------
    iterator of bytes

    Raises
    ------
    TypeError
        If the stream yields anything but bytes: text, or None from a non-blocking stream.
    ValueError
        If buffer_size is not positive, or max_bytes is negative.
    """
    check_readable(filelike)
    check_buffer_size(buffer_size)
    if max_bytes is not None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
            raise TypeError(f"max_bytes is an int or None, not {shown(max_bytes)}")
        if max_bytes < 0:
            raise ValueError(f"max_bytes is not negative: {shown(max_bytes)}")
    return _buffers(filelike, buffer_size, progress, max_bytes)


def buffers_of(
    stream: Readable, buffer_size: int, progress: Callable[..., object] | None
) -> Iterator[bytes]:
    """As buffer_iterator(), for checked arguments; faster for little data in memory."""
    if progress is None and type(stream) is io.BytesIO:
        position = stream.tell()
        data = stream.read(buffer_size)
        # In memory a short read is the end.
        if len(data) < buffer_size:
            return iter((data,) if data else ())
        stream.seek(position)
    return _buffers(stream, buffer_size, progress, None)


def _buffers(
    filelike: Readable,
    buffer_size: int,
    progress: Callable[..., object] | None,
    max_bytes: int | None,
) -> Iterator[bytes]:
    done = 0
    while max_bytes is None or done < max_bytes:
        want = buffer_size if max_bytes is None else min(buffer_size, max_bytes - done)
        buffer = filelike.read(want)
        if type(buffer) is not bytes:
            buffer = as_bytes(buffer, "the stream's read() must give")
        if not buffer:
            return
        if max_bytes is not None:
            buffer = buffer[: max_bytes - done]
        done += len(buffer)
        if progress is not None:
            progress(step=done)
        yield buffer


def as_bytes(data: object, what: str) -> bytes:
    """Return bytes-like `data` as bytes; TypeError for text, None and the rest."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"{what} bytes, not {shown(data)}")


class CountingStream:
    """A stream that reports how much was read from another one."""

    def __init__(self, stream: Readable, progress: Callable[..., object] | None) -> None:
        self._stream = stream
        self._progress = progress
        self._done = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            # As stores written for 0.8 may read; the stream itself need not know how.
            return b"".join(iter(lambda: self.read(BUFFER_SIZE), b""))
        data = as_bytes(self._stream.read(size), "the stream's read() must give")
        if data and self._progress is not None:
            self._done += len(data)
            self._progress(step=self._done)
        return data


class BufferIteratorIO(io.RawIOBase):
    """A readable stream over an iterable of bytes.

    Parameters
    ----------
    iterator : iterable of bytes
        Advanced only as far as is read. If it has a ``close()``, as generators have, closing the
        stream calls it.
    """

    # For close(), which is called when an object is dropped that was refused by its constructor.
    _iterator: Iterator[bytes] = iter(())

    def __init__(self, iterator: Iterable[bytes]) -> None:
        super().__init__()
        self._iterator = iter(iterator)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def _take(self, size: int) -> memoryview:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        while size and not self._rest:
            for piece in self._iterator:
                self._rest = memoryview(as_bytes(piece, "the iterator must give"))
                break
            else:
                break
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        taken = self._take(len(target))
        target[: len(taken)] = taken
        return len(taken)

    def read(self, buffer_size: int | None = BUFFER_SIZE) -> bytes:
        # Its name and default are 0.8's; -1 and None read to the end, as everywhere.
        if buffer_size is None or buffer_size < 0:
            return self.readall()
        return bytes(self._take(buffer_size))

    def close(self) -> None:
        try:
            if not self.closed:
                close = getattr(self._iterator, "close", None)
                if close is not None:
                    close()
        finally:
            super().close()


class SourceReader(io.RawIOBase):
    """A seekable stream of its own position over a part of a source."""

    def __init__(self, source: Source, begin: int, end: int) -> None:
        super().__init__()
        self._source = source
        self._begin = begin
        self._size = end - begin
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
        piece = self._source.pread(want, self._begin + self._position)
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position


def source_stream(source: Source, start: int | None = None, end: int | None = None) -> BinaryIO:
    """Return a fresh stream of ``data[start:end]`` of a source."""
    begin, stop = slice_bounds(start, end, source.size)
    if begin == stop:
        return io.BytesIO()
    reader = SourceReader(source, begin, stop)
    return io.BufferedReader(reader, min(_READ_AHEAD, stop - begin))


def read_into(stream: Any, target: memoryview) -> int:
    """Read into a buffer, as readinto() does, which a stream of EnCore 0.8 need not have."""
    readinto = getattr(stream, "readinto", None)
    if readinto is not None:
        count: int = readinto(target)
        return count
    data = stream.read(len(target))
    target[: len(data)] = data
    return len(data)


def skip(stream: Readable, count: int) -> None:
    """Pass over up to `count` bytes, without reading them where the stream can do that."""
    seekable = getattr(stream, "seekable", None)
    if seekable is not None and seekable():
        file: Any = stream
        position, end = file.tell(), file.seek(0, io.SEEK_END)
        # No further than the end: not every file system takes every position.
        file.seek(min(position + count, max(position, end)))
        return
    for _ in buffer_iterator(stream, min(BUFFER_SIZE, max(count, 1)), max_bytes=count):
        pass


def tee(
    filelike: Readable, n: int = 2, buffer_size: int = BUFFER_SIZE
) -> tuple[BufferIteratorIO, ...]:
    """Clone a stream into `n` streams that can be read independently.

    What one of them has read and another has not is kept in memory.

    Parameters
    ----------
    filelike : binary stream
    n : int >= 0
    buffer_size : int > 0, in bytes
    """
    import itertools

    buffers = buffer_iterator(filelike, buffer_size)
    return tuple(BufferIteratorIO(each) for each in itertools.tee(buffers, n))


class hashing_file:
    """A readable stream that hashes what is read through it.

    Parameters
    ----------
    filelike : binary stream
    hash : hash object
        Anything with ``update(bytes)``, as hashlib makes them.

    Attributes
    ----------
    len : int
        How many bytes have been read.
    """

    def __init__(self, filelike: Readable, hash: Any) -> None:
        self.filelike = filelike
        self.hash = hash
        self.len = 0

    def __repr__(self) -> str:
        return f"<hashing_file {getattr(self.hash, 'name', self.hash)} of {self.len} bytes>"

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, all of them if it is negative."""
        data = self.filelike.read(size)
        self.hash.update(data)
        self.len += len(data)
        return data

    def __enter__(self) -> hashing_file:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream below, if it can be."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def add_context_manager_support(filelike: Any) -> Any:
    """Make ``with filelike:`` close it, for an object that cannot do that by itself.

    Returns
    -------
    filelike
        The same object.
    """
    kind = type(filelike)
    if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
        # The with statement looks the methods up on the class, never on the instance.
        # Slots keep the layout, without which an object cannot change its class.
        body = {
            "__slots__": (),
            "__module__": kind.__module__,
            "__enter__": _enter,
            "__exit__": _exit,
        }
        filelike.__class__ = type(kind.__name__, (kind,), body)
    return filelike


def _enter(filelike: Any) -> Any:
    return filelike


def _exit(filelike: Any, *exc_info: object) -> None:
    # Whatever close() returns, it is no reason to swallow an exception.
    filelike.close()
