"""Large values in rows of chunks.

The row of the key holds a number in its data column, the blob's; chunk n of the blob is the row of
the chunks table whose id is ``number << 24 | n``. All chunks but the last are of one size. Numbers
are random and never used again, so that a number that is still there is still the same blob.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from ._metadata import copy_of
from ._streams import slice_bounds, source_stream
from .errors import StoreError, os_errors
from .file_value import OpenFile
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from .base_store import Head

CHUNK = 65536
_SHIFT = 24

# Ids must fit into 63 bits; and other programs may have put integers where we have numbers.
_FIRST, _LAST = 1 << 37, (1 << 38) - 1

#: SQL for the number of a row's blob, or NULL.
NUMBER = f"CASE WHEN typeof(data) = 'integer' AND data BETWEEN {_FIRST} AND {_LAST} THEN data END"


def is_number(data: object) -> bool:
    """Whether this is the number of a blob, in a data column."""
    return isinstance(data, int) and _FIRST <= data <= _LAST


def new_number() -> int:
    """Return a number for a blob."""
    return int.from_bytes(os.urandom(5), "big") % _FIRST + _FIRST


def chunk_rows(number: int, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Return the rows of a blob that is read from a file."""
    for n, chunk in enumerate(iter(lambda: file.read(CHUNK), b"")):
        yield number << _SHIFT | n, chunk


class Blobs:
    """The table of chunks, seen through one connection."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table

    def size(self, number: int) -> int | None:
        """Return the size of a blob, None if it is gone."""
        row = self._fetch(
            f"SELECT id, length(bytes) FROM {self._table} WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
            _ids(number),
        )
        return None if row is None else (row[0] - (number << _SHIFT)) * CHUNK + row[1]

    def read(self, number: int, size: int, position: int) -> bytes:
        """Return a part of a blob."""
        first, skip = divmod(position, CHUNK)
        last = (position + size - 1) // CHUNK
        base = number << _SHIFT
        if first == last:
            # Only the part that is wanted is copied.
            row = self._connection.execute(
                f"SELECT substr(bytes, ?, ?) FROM {self._table} WHERE id = ?",
                (skip + 1, size, base | first),
            ).fetchone()
            return b"" if row is None else bytes(row[0])
        rows = self._connection.execute(
            f"SELECT bytes FROM {self._table} WHERE id BETWEEN ? AND ? ORDER BY id",
            (base | first, base | last),
        ).fetchall()
        return b"".join(row[0] for row in rows)[skip : skip + size]

    def delete(self, number: int) -> None:
        """Delete a blob."""
        self._fetch(f"DELETE FROM {self._table} WHERE id BETWEEN ? AND ?", _ids(number))

    def _fetch(self, sql: str, values: tuple[int, int]) -> Any:
        import sqlite3

        try:
            return self._connection.execute(sql, values).fetchone()
        except sqlite3.OperationalError:
            # No blob was ever written, or somebody has dropped them all.
            known = "SELECT 1 FROM sqlite_master WHERE name = ?"
            if self._connection.execute(known, (self._table[1:-1],)).fetchone():
                raise
            return None


def _ids(number: int) -> tuple[int, int]:
    return number << _SHIFT, (number + 1 << _SHIFT) - 1


class Snapshot:
    """A blob read through a connection of its own, whose read transaction keeps it: a `Source`."""

    #: Those there are in this process. Unlike a number, a set is right whatever thread or finalizer
    #: changes it, and whenever.
    live: set[int] = set()

    def __init__(self, store: Any, handle: Any, number: int, size: int) -> None:
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
        with self._lock, self._store.sqlite_errors():
            self._handle.users += 1
            try:
                return self._handle.blobs.read(self._number, size, position)  # type: ignore[no-any-return]
            finally:
                self._handle.users -= 1

    def __del__(self) -> None:
        self.live.discard(id(self))


class LateBlobValue(Value):
    """A blob that nothing keeps: read when it is asked for, a StoreError if it was changed since."""

    def __init__(self, store: Any, key: str, number: int, head: Head) -> None:
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
        with self._store.temporary_file() as file, os_errors(self._key):
            position = begin
            while position < stop:
                piece = self._store.read_blob(
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
