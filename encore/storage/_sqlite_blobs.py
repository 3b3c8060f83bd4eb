"""Large values in rows of chunks.

The row of the key holds a number in its data column, the blob's; chunk n of the blob is the row of
the chunks table whose id is ``number << 24 | n``. All chunks but the last are of one size. Numbers
are random and never used again, so that a number that is still there is still the same blob.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

CHUNK = 65536
SHIFT = 24

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


def chunk_rows(number: int, file: Any, handle: Any) -> Iterator[tuple[int, bytes]]:
    """Return the rows of a blob that is read from a file, and let the handle count their bytes."""
    id = number << SHIFT
    while chunk := file.read(CHUNK):
        handle.dirtied += len(chunk)
        yield id, chunk
        id += 1


class Blobs:
    """The table of chunks, seen through one connection."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table
        self._size = (
            f"SELECT id, length(bytes) FROM {table} WHERE id BETWEEN ? AND ?"
            " ORDER BY id DESC LIMIT 1"
        )
        self._part = f"SELECT substr(bytes, ?, ?) FROM {table} WHERE id = ?"
        self._parts = f"SELECT bytes FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id"

    def size(self, number: int) -> int | None:
        """Return the size of a blob, None if it is gone."""
        row = self._fetch(self._size, _ids(number))
        return None if row is None else (row[0] - (number << SHIFT)) * CHUNK + row[1]

    def read(self, number: int, size: int, position: int) -> bytes:
        """Return a part of a blob."""
        first, skip = divmod(position, CHUNK)
        last = (position + size - 1) // CHUNK
        base = number << SHIFT
        if first == last:
            # Only the part that is wanted is copied.
            row = self._connection.execute(self._part, (skip + 1, size, base | first)).fetchone()
            return b"" if row is None else bytes(row[0])
        rows = self._connection.execute(self._parts, (base | first, base | last))
        data = b"".join([row[0] for row in rows])
        return data if not skip and len(data) == size else data[skip : skip + size]

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
    return number << SHIFT, (number + 1 << SHIFT) - 1


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
