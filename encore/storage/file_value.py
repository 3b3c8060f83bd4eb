"""A value in a file."""

from __future__ import annotations

import io
import os

from ._metadata import copy_of, digest, normalise
from ._streams import check_bounds, slice_bounds, source_stream
from .errors import StoreError, os_errors
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    from ._streams import Source
    from .base_store import Head

__all__ = ["FileValue"]

# A range of no more than this is read at once.
_SMALL = 65536


class OpenFile:
    """A file that is open for as long as anything refers to this object: a `Source`."""

    #: Those that there are in this process; a set, as adding and discarding is one step each.
    live: set[int] = set()

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        OpenFile.live.add(id(self))

    def pread(self, size: int, position: int, /) -> bytes:
        return os.pread(self.fd, size, position)

    def read_all(self) -> bytes:
        data = b""
        # It may take several reads; and others may make the file shorter meanwhile.
        while len(data) < self.size and (more := self.pread(self.size - len(data), len(data))):
            data += more
        return data

    def __del__(self) -> None:
        OpenFile.live.discard(id(self))
        os.close(self.fd)


def open_file(path: str | os.PathLike[str]) -> OpenFile:
    """Open a file for reading; OSError if it cannot be."""
    # A FIFO that has been put there must not wait for a writer.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        return OpenFile(fd, os.fstat(fd).st_size)
    except BaseException:
        os.close(fd)
        raise


class LateFile:
    """A file that is opened for each read, and must still be the one it was: a `Source` that costs no open file."""

    def __init__(self, path: str, status: os.stat_result) -> None:
        self.path = path
        self.size = status.st_size
        self._identity = _identity(status)

    def pread(self, size: int, position: int, /) -> bytes:
        with os_errors():
            file = open_file(self.path)
            if _identity(os.fstat(file.fd)) != self._identity:
                raise StoreError(f"{self.path!r} was changed since it was looked up")
            return file.pread(size, position)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


class OpenFileValue(Value):
    """A value of a store whose data stay in a file that is open."""

    size: int

    def __init__(self, source: Source, head: Head) -> None:
        self._source = source
        self._head = head
        self.size = source.size
        self.created = head.created
        self.modified = head.modified

    @property
    def etag(self) -> str:  # type: ignore[override]
        return self._head.etag

    @property
    def data(self) -> BinaryIO:
        return source_stream(self._source)

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._head.metadata or {})

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        if type(start) is type(end) is int and 0 <= start <= end <= self.size:
            begin, stop = start, end
        else:
            begin, stop = slice_bounds(start, end, self.size)
        size = stop - begin
        if 0 < size <= _SMALL:
            # A stream that would read it later costs several times as much.
            return io.BytesIO(self._source.pread(size, begin))
        return source_stream(self._source, begin, stop)


class FileValue(Value):
    """A value whose data are a file; size and times are the file's, looked up when they are asked for.

    Parameters
    ----------
    path : str or PathLike
    metadata : dict, optional
    """

    def __init__(
        self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.path = os.fspath(path)
        self._metadata = {} if metadata is None else normalise(metadata)

    def __repr__(self) -> str:
        return f"FileValue({self.path!r})"

    def _status(self) -> os.stat_result:
        with os_errors():
            return os.stat(self.path)

    @property
    def size(self) -> int:  # type: ignore[override]
        return self._status().st_size

    @property
    def created(self) -> float:  # type: ignore[override]
        # No portable birth time: the change time is what 0.8 gave.
        return self._status().st_ctime

    @property
    def modified(self) -> float:  # type: ignore[override]
        return self._status().st_mtime

    @property
    def etag(self) -> str:  # type: ignore[override]
        status = self._status()
        return digest(status.st_ino, status.st_mtime_ns, status.st_size, self._metadata)

    @property
    def data(self) -> BinaryIO:
        with os_errors():
            return open(self.path, "rb")

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        start, end = check_bounds(start, end)
        with os_errors():
            source: Source = open_file(self.path)
        return source_stream(source, start, end)
