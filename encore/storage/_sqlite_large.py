"""Large values of an SqliteStore on their way out and in.

Out: a small part is read at once. A whole value must stay what it is however long it is read, so it
comes from a read transaction on a connection of its own, which keeps it; that costs open files,
and keeps the WAL from shrinking, so of too many values at once, and where there is no WAL, a
copy is made.

In: a stream is a stranger, which may take its time or use the store; so it is copied to a file
first, before the transaction begins. Where it is a file on disk or in memory itself, that is spared.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from io import BufferedReader, BytesIO, FileIO
from stat import S_ISREG

from ._metadata import copy_of
from ._sqlite_blobs import CHUNK, is_number
from ._sqlite_connections import Errors, Use
from ._sqlite_rows import as_stamp
from ._streams import slice_bounds, source_stream
from .base_store import Head
from .errors import StoreError, os_errors
from .file_value import OpenFile
from .value import SourceValue, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from ._sqlite_connections import Handle
    from ._streams import Readable
    from .sqlite_store import SqliteStore

# What is read at once.
_SMALL_PART = 1 << 20

# Read transactions that are kept open; each costs three open files.
_MAX_SNAPSHOTS = 32

# Copies where there are no snapshots; each costs an open file.
_MAX_COPIES = 128


# On their way out


def read_part(store: SqliteStore, key: str, start: int | None, end: int | None) -> bytes | None:
    """Return a part of a large value, or None if it is no large one, or no small part.

    A snapshot for it would take ten times as long.
    """
    with Use(store) as handle:
        row = handle.row(store._number_sql, key)
        number = row and row[0]
        size = number and handle.blobs.size(number)
        if not size:
            return None
        begin, stop = slice_bounds(start, end, size)
        if begin >= stop:
            return b""
        if stop - begin > _SMALL_PART:
            return None
        part = handle.blobs.read(number, stop - begin, begin)
        # Or it has been changed in between.
        return part if len(part) == stop - begin else None


def read_large(store: SqliteStore, handle: Handle, key: str, row: Any) -> Value:
    """Return the value of a key that has just been seen to be a large one."""
    inside = handle.connection.in_transaction
    snapshots = store._wal and len(Snapshot.live) < _MAX_SNAPSHOTS
    if snapshots:
        other = store._new_handle()
        other.connection.execute("BEGIN")
        if not inside:
            row = other.row(store._read_sql, key)
            if row is None:
                raise KeyError(key)
            if not is_number(row[3]):
                # It was replaced by a small one since we looked.
                return store._small_value(key, row)
        size = other.blobs.size(row[3])
        if size is not None or not inside:
            head = _head(store, key, row, size)
            return _source_value(Snapshot(store, other, row[3], head.size), head)
        # Only the transaction of this thread knows it.
    if not inside:
        handle.connection.execute("BEGIN")
    try:
        row = handle.row(store._read_sql, key)
        if row is None:
            raise KeyError(key)
        if not is_number(row[3]):
            return store._small_value(key, row)
        head = _head(store, key, row, handle.blobs.size(row[3]))
        value = LateBlobValue(store, key, row[3], head)
        if (store._wal and not snapshots) or len(OpenFile.live) >= _MAX_COPIES:
            return value
        return _source_value(value.copied(0, head.size), head)
    finally:
        if not inside:
            handle.connection.execute("COMMIT")


def _head(store: SqliteStore, key: str, row: Any, size: int | None) -> Head:
    if size is None:
        raise StoreError(f"the data of {key!r} in {store!r} are damaged", key=key)
    return Head(store._metadata(key, row[0]), as_stamp(row[1]), as_stamp(row[2]), size)


def _source_value(source: Any, head: Head) -> SourceValue:
    return SourceValue(source, head.metadata or {}, head.created, head.modified, head.etag)


class Snapshot:
    """A blob read through a connection of its own, whose read transaction keeps it: a `Source`."""

    #: Those there are in this process. Unlike a number, a set is right whatever thread or finalizer
    #: changes it, and whenever.
    live: set[int] = set()

    def __init__(self, store: SqliteStore, handle: Handle, number: int, size: int) -> None:
        self.live.add(id(self))
        self.size = size
        self._store = store
        self._handle = handle
        self._number = number
        self._lock = allocate_lock()
        self._process = os.getpid()

    def pread(self, size: int, position: int, /) -> bytes:
        if os.getpid() != self._process:
            raise StoreError(
                "a value of a database cannot be read in a child process: get it there"
            )
        with self._lock, Errors(self._store._path):
            with self._store._gate:
                self._handle.users += 1
            try:
                return self._handle.blobs.read(self._number, size, position)
            finally:
                self._handle.users -= 1

    def __del__(self) -> None:
        self.live.discard(id(self))


class LateBlobValue(Value):
    """A blob that nothing keeps: read when it is asked for, a StoreError if it was changed since."""

    def __init__(self, store: SqliteStore, key: str, number: int, head: Head) -> None:
        self._store = store
        self._key = key
        self._number = number
        self._metadata = head.metadata or {}
        self.size = head.size
        self.created = head.created
        self.modified = head.modified
        self.etag = head.etag

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)

    @property
    def data(self) -> BinaryIO:
        return self.range()

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        # An open stream must keep what it has opened.
        begin, stop = slice_bounds(start, end, self.size or 0)
        return source_stream(self.copied(begin, stop))

    def copied(self, begin: int, stop: int) -> OpenFile:
        """Return a part of the blob, copied to an unnamed file."""
        with self._store._temporary_file() as file, os_errors(self._key):
            position = begin
            while position < stop:
                with Use(self._store) as handle:
                    piece = handle.blobs.read(
                        self._number, min(16 * CHUNK, stop - position), position
                    )
                if not piece:
                    raise StoreError(
                        f"{self._key!r} was changed since it was looked up", key=self._key
                    )
                file.write(piece)
                position += len(piece)
            file.flush()
            return OpenFile(os.dup(file.fileno()), stop - begin)


# On their way in


def make_temporary_file(folder: str) -> Any:
    """Return an unnamed file in a folder, or elsewhere if that cannot be written."""
    import errno
    import tempfile

    with os_errors():
        try:
            return tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOENT):
                raise
            return tempfile.TemporaryFile()


def stage(chunks: Iterator[bytes], make_file: Any) -> Any:
    """Return what the chunks are together: bytes, or a file if they are too many for a row."""
    held: list[bytes] = []
    total = 0
    for chunk in chunks:
        held.append(chunk)
        total += len(chunk)
        if total > CHUNK:
            break
    else:
        return held[0] if len(held) == 1 else b"".join(held)
    file = make_file()
    try:
        for chunk in held:
            _write(file, chunk)
        held.clear()
        for chunk in chunks:
            _write(file, chunk)
        with os_errors():
            file.flush()
            file.seek(0)
    except BaseException:
        close_quietly(file)
        raise
    return file


def _write(file: Any, chunk: bytes) -> None:
    with os_errors():
        file.write(chunk)


def close_quietly(file: Any) -> None:
    # On a full disk closing fails once more for what is still buffered.
    try:
        file.close()
    except OSError:
        pass


def is_tame(stream: Readable) -> bool:
    """Whether reading runs nobody's code, and ends soon: what is in memory, or a plain file."""
    kind = type(stream)
    if kind is BytesIO:
        return True
    if kind is not FileIO and not (kind is BufferedReader and type(stream.raw) is FileIO):  # type: ignore[attr-defined]
        return False
    try:
        return S_ISREG(os.fstat(stream.fileno()).st_mode)  # type: ignore[attr-defined]
    except (OSError, ValueError):
        # It is closed; whoever reads it will say so.
        return False


def stage_tame(stream: Readable, buffer_size: int) -> Any:
    """Return all data of a tame stream, or what reads them when they are saved, if they are many."""
    begun = b""
    if type(stream) is BytesIO:
        begun = stream.read(min(buffer_size, CHUNK + 1))
        # In memory a short read is the end.
        if len(begun) <= CHUNK and len(begun) < buffer_size:
            return begun
    unstaged = Unstaged(stream, buffer_size, begun)
    small = unstaged.as_small()
    return unstaged if small is None else small


class Unstaged:
    """A tame stream that needs no copy: a file for _save(), which reads it once."""

    def __init__(self, stream: Readable, buffer_size: int, begun: bytes = b"") -> None:
        self._stream = stream
        self._most = min(buffer_size, CHUNK)
        # What has been read of it already.
        self._held = begun
        #: What the stream has raised.
        self.error: BaseException | None = None

    def as_small(self) -> bytes | None:
        """Return all of it if it fits into a row."""
        data = self.read(CHUNK + 1)
        if len(data) <= CHUNK:
            return data
        self._held = data
        return None

    def read(self, size: int) -> bytes:
        data, self._held = self._held[:size], self._held[size:]
        try:
            while len(data) < size:
                piece = self._stream.read(min(self._most, size - len(data)))
                if not piece:
                    break
                data = data + piece if data else piece
        except BaseException as error:
            self.error = error
            raise
        return data

    def close(self) -> None:
        """Leave the stream open: it is its owner's."""
