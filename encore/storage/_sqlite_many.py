"""Many new keys of an SqliteStore at once."""

from __future__ import annotations

from io import BytesIO

from ._changes import Change
from ._keys import check_key
from ._metadata import dumps, normalise
from ._sqlite_blobs import CHUNK
from ._sqlite_connections import Use
from .events import StoreSetEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .sqlite_store import SqliteStore

# What is inserted at once: so many rows, or about so many bytes.
_ROWS = 5000
_BYTES = 1 << 21


def set_many(
    store: SqliteStore, keys: Iterable[str], values: Iterable[Any], buffer_size: int
) -> None:
    """Call set() for each key and value, inside a transaction; small new values are inserted together.

    That does not show: `keys` and `values` are there already and run nobody's code, and nobody
    hears of a change before the end of the transaction.
    """
    pairs = list(zip(keys, values, strict=False))
    start = 0
    while start < len(pairs):
        batch = _Batch(store)
        end = start
        while end < len(pairs) and batch.add(*pairs[end], buffer_size):
            end += 1
        if not batch.insert():
            batch.rewind()
            end = max(end, start + 1)
            for key, value in pairs[start:end]:
                store.set(key, value, buffer_size)
        start = end


class _Batch:
    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._rows: list[tuple[Any, ...]] = []
        self._changes: list[Change] = []
        self._read: list[tuple[BytesIO, int]] = []
        self._bytes = 0
        self._clock = store._clock
        self._observer = store._state.observer

    def add(self, key: str, value: Any, buffer_size: int) -> bool:
        """Return False if the value cannot be one of many, or these are many already."""
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            return False
        if type(value) is not tuple or len(value) != 2 or type(value[0]) is not BytesIO:
            return False
        stream, metadata = value
        key = check_key(key)
        metadata = normalise(metadata)
        self._read.append((stream, stream.tell()))
        data = stream.read(min(buffer_size, CHUNK + 1))
        # In memory a short read is the end.
        if len(data) > CHUNK or len(data) >= buffer_size:
            stream.seek(self._read.pop()[1])
            return False
        text = dumps(metadata)
        now = round(self._clock() * 1e6) / 1e6
        self._rows.append((text, now, now, data, key))
        self._changes.append(Change(StoreSetEvent, key, metadata, self._observer))
        self._bytes += len(data) + len(text)
        return True

    def insert(self) -> bool:
        """Return False, and change nothing, if not all of them are new, or there is none."""
        store, rows = self._store, self._rows
        if not rows or store._holds(rows[0][-1]):
            return False
        unit = store._state.unit
        assert unit is not None
        savepoint, told = store._savepoint(), len(unit.changes)
        try:
            with Use(store) as handle:
                connection = store._in_transaction(handle)
                handle.dirtied(2 * self._bytes + (len(rows) << 10))
                if store._has_index:
                    count = store._index.insert_many(connection, store._insert_sql, rows)
                else:
                    count = connection.executemany(store._insert_sql, rows).rowcount
        except BaseException:
            store._rollback_to(savepoint)
            raise
        if count != len(rows):
            # What a signal handler has done meanwhile is undone, too.
            del unit.changes[told:]
            store._rollback_to(savepoint)
            return False
        store._release(savepoint)
        unit.changes += self._changes
        return True

    def rewind(self) -> None:
        """Let the streams be read again."""
        for stream, position in reversed(self._read):
            stream.seek(position)
