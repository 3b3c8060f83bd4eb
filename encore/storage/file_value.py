"""A value in a file."""

from __future__ import annotations

import os

from ._metadata import copy_of, digest, normalise
from ._streams import check_bounds, source_stream
from .errors import StoreError, os_errors
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    from ._streams import Source

__all__ = ["FileValue"]


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

    def __del__(self) -> None:
        OpenFile.live.discard(id(self))
        os.close(self.fd)


def open_file(path: str | os.PathLike[str]) -> OpenFile:
    """Open a file for reading; OSError if it cannot be."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
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
