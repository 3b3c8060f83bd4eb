"""Large values in rows of chunks.

The row of the key holds a number in its data column, the blob's; chunk n of the blob is the row of
the chunks table whose id is ``number << 24 | n``. All chunks but the last are of one size. Numbers
are random and never used again, so that a number that is still there is still the same blob.
"""

from __future__ import annotations

import os

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

    def make_table(self) -> None:
        """Make the table, where it is not there."""
        columns = "id integer primary key, bytes blob"
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})")

    def insert(self, number: int, chunks: Iterator[bytes]) -> None:
        """Save a blob; all chunks but the last are of CHUNK bytes."""
        self._connection.executemany(
            f"INSERT INTO {self._table} VALUES (?, ?)", enumerate(chunks, number << SHIFT)
        )

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
