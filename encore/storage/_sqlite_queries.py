"""Which rows of an SqliteStore a query reads: by key, by the index, or filtered in SQL."""

from __future__ import annotations

import sys

from ._keys import prefix_end
from ._metadata import matches
from ._sqlite_connections import Use
from ._sqlite_filter import condition as filter_for
from ._sqlite_rows import as_bytes, as_key, parse
from ._sqlite_writing import Writing
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ._sqlite_connections import Handle
    from .sqlite_store import SqliteStore

    Metadata = dict[str, Any]

# Rows fetched at a time by what walks over all of them.
_PAGE = 1000

# Rows that a query is given by the index at once, and keys that it is given then. Where there are
# more, all rows are filtered instead.
_FEW = 1000
_MOST = 100_000

# How long one query reads rows that were there before the index, in seconds, and rows at a time.
_PATIENCE = 0.2
_FILL = 2000


class Queries:
    """The queries of one store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._table = store._sql_table

    def walk(
        self,
        columns: str,
        prefix: str = "",
        start_after: str | None = None,
        limit: int | None = None,
        condition: str = "1",
        values: Iterable[Any] = (),
    ) -> Iterator[Any]:
        """Return rows by key, page by page, so that the store may be changed meanwhile."""
        # Other programs may have put NULL or a blob there: those stand before and behind all text.
        # One bound on each side: SQLite would search by the first and filter by the others.
        lower, low = (">=", as_bytes(prefix)) if prefix else (">", b"")
        end = prefix_end(prefix)
        upper, high = ("CAST(? AS TEXT)", [as_bytes(end)]) if end is not None else ("x''", [])
        if start_after is not None and as_bytes(start_after) >= low:
            lower, low = ">", as_bytes(start_after)
        while limit is None or limit > 0:
            # A text in UTF-16 may not come back as it was, and would be no bound for a second page.
            count = _PAGE if limit is None else min(limit, _PAGE)
            if not self._store._utf8:
                count = sys.maxsize
            with Use(self._store) as handle:
                rows = handle.rows(
                    f"SELECT {columns} FROM {self._table} WHERE key {lower} CAST(? AS TEXT)"
                    f" AND key < {upper} AND {condition} ORDER BY key LIMIT ?",
                    (low, *high, *values, count),
                )
            yield from rows
            if len(rows) < count:
                return
            lower, low = ">", as_bytes(rows[-1][0])
            if limit is not None:
                limit -= count

    def scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        """Return keys and metadata that match, from a walk that is safe."""
        rows = self._look_up(criteria) if criteria else self.walk("key, metadata")
        name, value = next(iter(criteria.items())) if len(criteria) == 1 else ("", None)
        # Values of one of these types are equal as Python has it; most queries ask for one of them.
        kind = type(value) if type(value) in (str, int, float, bool) else object
        for key, stored in self._filter(criteria) if rows is None else rows:
            metadata = parse(stored)
            # A damaged row matches nothing and hides nothing.
            if metadata is None:
                continue
            found = metadata.get(name)
            if found == value if type(found) is kind else matches(metadata, criteria):
                text = key if type(key) is str else as_key(key)
                if text is not None:
                    yield text, metadata

    def _look_up(self, criteria: Metadata) -> Iterable[Any] | None:
        """Return rows that may match from the index, None if it cannot tell, or they are very many."""
        if not self._store._has_index:
            return None
        with Use(self._store) as handle:
            find = self._store._index.find
            rows = find(handle.connection, criteria, _FEW)
            if rows is None and self._fill(handle):
                rows = find(handle.connection, criteria, _FEW)
            if rows is None:
                return None
            if len(rows) <= _FEW:
                return dict(rows).items()
            keys = find(handle.connection, criteria, _MOST, keys_only=True)
        if keys is None or len(keys) > _MOST:
            return None
        return self._rows_of(list(dict.fromkeys(keys)), criteria)

    def _rows_of(self, keys: list[tuple[str]], criteria: Metadata) -> Iterator[Any]:
        # Pickles are found whatever is looked up.
        condition, values = filter_for(criteria, self._store._has_json)
        for start in range(0, len(keys), _FEW):
            part = [key for (key,) in keys[start : start + _FEW]]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT key, metadata FROM {self._table} WHERE key IN ({marks}) AND {condition}"
            with Use(self._store) as handle:
                rows = handle.rows(sql, (*part, *values))
            yield from rows

    def _filter(self, criteria: Metadata) -> Iterable[Any]:
        """Return rows that may match from the table."""
        condition, values = filter_for(criteria, self._store._has_json)
        # In the order of the table, which is faster, if it is one page.
        sql = f"SELECT key, metadata FROM {self._table} WHERE {condition}"
        sql += " AND typeof(key) = 'text' AND +key <> '' LIMIT ?"
        with Use(self._store) as handle:
            rows = handle.rows(sql, (*values, _PAGE + 1))
        if len(rows) <= _PAGE:
            return rows
        return self.walk("key, metadata", condition=condition, values=values)

    def _fill(self, handle: Handle) -> bool:
        """Let the index read rows that were there before it, for a while; return whether it has all."""
        store = self._store
        if store._state.unit is not None or store._index.is_filled(handle.connection):
            return False
        from time import monotonic

        end = monotonic() + _PATIENCE
        while store._may_fill and monotonic() < end:
            done = self._fill_once()
            if done is not False:
                return bool(done)
        return False

    def _fill_once(self) -> bool | None:
        """Return whether the index has read all there is, None if it cannot read now."""
        import sqlite3

        store = self._store
        writing = Writing(store, at_once=True)
        try:
            with writing as connection:
                if connection is None:
                    return None
                return store._index.fill(connection, _FILL)
        except (sqlite3.Error, StoreError):
            if writing.is_done:
                # It comes from who was told of a change.
                raise
            # A disk that is full, say; the rows can still be read one by one.
            store._may_fill = False
            return None
