"""What can be wrong with the rows of an SqliteStore: data, metadata, index.

Whatever is found comes with the way to mend it, so that check() and repair() find the same.
"""

from __future__ import annotations

from ._changes import Change
from ._keys import check_key
from ._metadata_index import NAME_OF, VALUE_OF, is_json
from ._sqlite_blobs import CHUNK, NUMBER, SHIFT, new_number
from ._sqlite_rows import ReadableText, as_data, as_stamp, parse
from .errors import shown
from .events import StoreUpdateEvent
from .maintenance import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from typing import Any

    from .sqlite_store import SqliteStore

    # What is wrong, and what mends it: it returns the outcome.
    Problem = tuple[Finding, Callable[[], str]]

# Chunks that are made up for those that are missing, beside as many as there are.
_FILLED = 1024

# Rows that the index reads at a time.
_FILL = 5000

# What pickles of other objects have.
_FOREIGN = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "REDUCE"}

_STAMPS = ("created", "modified")

_ROW_IDS = ("rowid", "_rowid_", "oid")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite has found nonsense, rather than a lock or a full disk."""
    import sqlite3

    return type(error) is sqlite3.DatabaseError


def row_id_of(connection: sqlite3.Connection, table: str) -> str:
    """Return what the row ids of a table are called; its key, if it has none."""
    import sqlite3

    # EnCore 0.8 names columns after the metadata.
    columns = {row[1].lower() for row in connection.execute(f"PRAGMA table_info({table})")}
    for name in _ROW_IDS:
        if name not in columns:
            try:
                connection.execute(f"SELECT {name} FROM {table} LIMIT 0")
            except sqlite3.OperationalError:
                break
            return name
    return "key"


class Inspection:
    """Looks for what is wrong with the rows of a store, in one transaction.

    Parameters
    ----------
    store : SqliteStore
    connection : sqlite3.Connection
        Whose transaction it is.
    """

    def __init__(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._table = store._sql_table
        self._chunks = store._sql_chunks
        self._index = store._index
        self._clock = store._clock
        #: What was changed in mending.
        self.changes: list[Change] = []
        self._is_rebuilt = False

    def problems(self, keep_orphans: bool = False) -> Iterator[Problem]:
        """Return what is wrong, and what mends it.

        Parameters
        ----------
        keep_orphans : bool
            Chunks that belong to no row are left, as the row may just have been lost.
        """
        with ReadableText(self._connection):
            yield from self._damage("rows", self._rows)
            if self._exists(self._chunks):
                yield from self._damage("chunks", self._shared_blobs)
                yield from self._damage("chunks", lambda: self._orphans(keep_orphans))
            if self._index.exists(self._connection):
                yield from self._damage("index rows", self._index_rows)

    def _damage(self, what: str, look: Callable[[], Iterator[Problem]]) -> Iterator[Problem]:
        import sqlite3

        try:
            yield from look()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            yield Finding(None, f"not all {what} can be read: {error}"), lambda: "left"

    def _fetch(self, sql: str, *values: Any) -> Any:
        return self._connection.execute(sql, values).fetchone()

    def _exists(self, table: str) -> bool:
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        return self._fetch(known, table[1:-1]) is not None

    # Rows

    def _rows(self) -> Iterator[Problem]:
        has_chunks = self._exists(self._chunks)
        row_id = row_id_of(self._connection, self._table)
        # Text is no damage, as other programs may put it there: its data are the text.
        data = f"CASE WHEN {NUMBER} IS NULL AND typeof(data) IN ('integer', 'real') THEN data END"
        stamps = ", ".join(
            f"CASE WHEN typeof({name}) NOT IN ('integer', 'real') THEN typeof({name}) END"
            for name in _STAMPS
        )
        sql = (
            f"SELECT {row_id}, key, metadata, {NUMBER}, data IS NULL, {data}, {stamps}"
            f" FROM {self._table} ORDER BY {row_id}"
        )
        for row, key, metadata, number, is_null, strange, *kinds in self._connection.execute(sql):
            where = f"{row_id} = ?", row
            try:
                check_key(key)
                name = key
            except (TypeError, ValueError):
                # It may mean something to the program that has put it there.
                name = None
                yield Finding(None, f"a row has {shown(key)} for a key"), lambda: "left"
            if parse(metadata) is None:
                yield self._metadata_problem(name, metadata, where)
            if number is not None:
                yield from self._blob(name, number, where, has_chunks)
            if is_null or strange is not None:
                yield self._data_problem(name, strange, where)
            for column, kind in zip(_STAMPS, kinds, strict=True):
                if kind is not None:
                    yield self._stamp_problem(name, column, kind, where)

    def _data_problem(self, key: str | None, stored: Any, where: tuple[str, Any]) -> Problem:
        what = "are NULL" if stored is None else f"are a number: {shown(stored)}"
        # As they are read already; of a number it cannot be told what it was to be.
        return (
            Finding(key, f"the data {what}"),
            lambda: self._update(key, where, "data", as_data(stored), stored is not None),
        )

    def _stamp_problem(
        self, key: str | None, column: str, kind: str, where: tuple[str, Any]
    ) -> Problem:
        # Mending sets the other one: `modified` to now, as every change does.
        return (
            Finding(key, f"{column!r} is no number, but {kind}"),
            lambda: self._update(key, where, "created", self._created(where), kind != "null"),
        )

    def _created(self, where: tuple[str, Any]) -> float:
        condition, row = where
        sql = f"SELECT created FROM {self._table} WHERE {condition}"
        return as_stamp(self._fetch(sql, row)[0])

    def _metadata_problem(self, key: str | None, stored: Any, where: tuple[str, Any]) -> Problem:
        if _is_foreign_pickle(stored):
            finding = Finding(key, "the metadata are a pickle of what JSON has not")
            # EnCore 0.8 can read them.
            return finding, lambda: "left"
        finding = Finding(key, f"the metadata are damaged: {shown(stored)}")
        return finding, lambda: self._update(key, where, "metadata", "{}", bool(stored))

    def _update(
        self, key: str | None, where: tuple[str, Any], column: str, value: Any, is_lost: bool
    ) -> str:
        condition, row = where
        now = round(self._clock() * 1e6) / 1e6
        self._connection.execute(
            f"UPDATE {self._table} SET {column} = ?1,"
            " modified = max(?2, ifnull(round(modified * 1e6 + 1) / 1e6, 0))"
            f" WHERE {condition.replace('?', '?3')}",
            (value, now, row),
        )
        if key is not None:
            (stored,) = self._fetch(f"SELECT metadata FROM {self._table} WHERE {condition}", row)
            self.changes = [each for each in self.changes if each.key != key]
            self.changes.append(Change(StoreUpdateEvent, key, parse(stored) or {}))
        return "lost" if is_lost else "mended"

    # Large values

    def _blob(
        self, key: str | None, number: int, where: tuple[str, Any], has_chunks: bool
    ) -> Iterator[Problem]:
        base = number << SHIFT
        ids = (base, base + (1 << SHIFT) - 1)
        count = last = right = 0
        if has_chunks:
            count, last, right = self._fetch(
                "SELECT count(*), max(id), sum(typeof(bytes) = 'blob' AND CASE WHEN id ="
                f" (SELECT max(id) FROM {self._chunks} WHERE id BETWEEN ?1 AND ?2)"
                f" THEN length(bytes) BETWEEN 1 AND {CHUNK} ELSE length(bytes) = {CHUNK} END)"
                f" FROM {self._chunks} WHERE id BETWEEN ?1 AND ?2",
                *ids,
            )
        if not count:
            yield (
                Finding(key, "all its data are missing"),
                lambda: self._update(key, where, "data", b"", True),
            )
        elif count != right or last - base + 1 != count:
            yield self._gaps(key, where, base, count, last - base + 1)

    def _gaps(
        self, key: str | None, where: tuple[str, Any], base: int, count: int, wanted: int
    ) -> Problem:
        wrong: list[str] = []
        expected = base
        sizes = self._connection.execute(
            f"SELECT id, CASE typeof(bytes) WHEN 'blob' THEN length(bytes) END FROM {self._chunks}"
            " WHERE id BETWEEN ? AND ? ORDER BY id",
            (base, base + wanted - 1),
        )
        for id, size in sizes:
            if id != expected:
                wrong.append(f"{(expected - base) * CHUNK} to {(id - base) * CHUNK}")
            is_last = id == base + wanted - 1
            if size is None or size > CHUNK or (size < CHUNK and not is_last) or not size:
                begin = (id - base) * CHUNK
                wrong.append(f"{begin + min(size or 0, CHUNK)} to {begin + CHUNK}")
            expected = id + 1
        shown_ranges = ", ".join(wrong[:10]) + (", ..." if len(wrong) > 10 else "")
        finding = Finding(key, f"of its data bytes {shown_ranges} are missing")

        def mend() -> str:
            if wanted > 2 * count + _FILLED:
                return "left"
            # Zeros, so that the others stand where they belong.
            for id in range(base, base + wanted):
                row = self._fetch(f"SELECT bytes FROM {self._chunks} WHERE id = ?", id)
                held = row[0] if row is not None and isinstance(row[0], bytes) else b""
                whole = held[:CHUNK]
                if id != base + wanted - 1 or not whole:
                    whole = whole.ljust(CHUNK, b"\0")
                if row is None or whole != row[0]:
                    self._connection.execute(
                        f"INSERT OR REPLACE INTO {self._chunks} VALUES (?, ?)", (id, whole)
                    )
            number = base >> SHIFT
            self._update(key, where, "data", number, True)
            finding.problem += "; they are zeros now"
            return "lost"

        return finding, mend

    def _shared_blobs(self) -> Iterator[Problem]:
        shared = (
            f"SELECT {NUMBER}, min(key) FROM {self._table} WHERE {NUMBER} IS NOT NULL"
            " GROUP BY 1 HAVING count(*) > 1"
        )
        rows = f"SELECT key FROM {self._table} WHERE data = ? AND key IS NOT ?"
        for number, first in self._connection.execute(shared):
            for (key,) in self._connection.execute(rows, (number, first)):
                yield (
                    Finding(name_of(key), f"it shares its data with {first!r}"),
                    lambda key=key, number=number: self._unshare(key, number),  # type: ignore[misc]
                )

    def _unshare(self, key: Any, number: int) -> str:
        base, other = number << SHIFT, new_number()
        self._connection.execute(
            f"INSERT INTO {self._chunks} SELECT id - ?1 + ?2, bytes FROM {self._chunks}"
            " WHERE id BETWEEN ?1 AND ?3",
            (base, other << SHIFT, base + (1 << SHIFT) - 1),
        )
        self._connection.execute(f"UPDATE {self._table} SET data = ? WHERE key IS ?", (other, key))
        return "mended"

    def _orphans(self, keep: bool) -> Iterator[Problem]:
        orphans = (
            f"id >> {SHIFT} NOT IN (SELECT {NUMBER} FROM {self._table} WHERE {NUMBER} IS NOT NULL)"
        )
        (count,) = self._fetch(f"SELECT count(*) FROM {self._chunks} WHERE {orphans}")

        def remove() -> str:
            if keep:
                return "left"
            self._connection.execute(f"DELETE FROM {self._chunks} WHERE {orphans}")
            return "mended"

        if count:
            yield Finding(None, f"{count} chunks of data belong to no key"), remove

    # The index

    def _index_rows(self) -> Iterator[Problem]:
        index, indexed = f'"{self._index.table}#index"', f'"{self._index.table}#indexed"'
        json = is_json("t.metadata")
        names = (
            f"{self._table} AS t, json_each(CASE WHEN {json} THEN t.metadata ELSE '{{}}' END) AS e"
            " WHERE e.key IS NOT NULL AND typeof(t.key) = 'text'"
        )
        # The key '' is none, and rows that were there before the index are read from behind it on.
        wanted = (
            f"SELECT {NAME_OF} AS name, {VALUE_OF} AS value, t.key AS key FROM {names}"
            f" UNION ALL SELECT x'', x'', t.key FROM {self._table} AS t"
            f" WHERE NOT ({json}) AND typeof(t.key) = 'text'"
        )
        # Rows that were there before the index have been read up to a key.
        indexed_already = (
            f"SELECT * FROM ({wanted}) AS w WHERE w.key <> '' AND EXISTS (SELECT 1 FROM {indexed} AS n"
            " WHERE n.name IN (w.name, x'') AND (n.reached IS NULL OR w.key <= n.reached))"
        )
        there = f"SELECT name, value, key FROM {index}"
        # Versions of SQLite read the last digit of a number differently.
        nearly = (
            "typeof(d.value) IN ('integer', 'real') AND EXISTS (SELECT 1 FROM {} AND {} BETWEEN"
            " d.value - abs(d.value) * 1e-12 AND d.value + abs(d.value) * 1e-12)"
        )
        for what, rows, but_not, others in (
            (
                "missing from",
                indexed_already,
                there,
                nearly.format(f"{index} AS i WHERE i.name = d.name AND i.key = d.key", "i.value"),
            ),
            (
                "superfluous in",
                there,
                wanted,
                nearly.format(f"{names} AND {NAME_OF} = d.name AND t.key = d.key", VALUE_OF),
            ),
        ):
            count, key = self._fetch(
                f"SELECT count(*), min(key) FROM (SELECT * FROM ({rows})"
                f" EXCEPT SELECT * FROM ({but_not})) AS d WHERE NOT ({others})"
            )
            if count:
                yield (
                    Finding(
                        name_of(key) if count == 1 else None, f"{count} rows are {what} the index"
                    ),
                    self._rebuild,
                )

    def drop_superfluous(self) -> None:
        """Make the index anew if it has rows that belong to nothing."""
        if self._index.exists(self._connection):
            for finding, mend in self._index_rows():
                if "superfluous" in finding.problem:
                    mend()

    def _rebuild(self) -> str:
        if not self._is_rebuilt:
            connection, index = self._connection, self._index
            sql = f'SELECT name FROM "{index.table}#indexed"'
            names = [name for (name,) in connection.execute(sql)]
            index.drop(connection)
            index.install(connection, None if b"" in names else names)
            while index.exists(connection) and not index.fill(connection, _FILL):
                pass
            self._is_rebuilt = True
        return "mended"


def name_of(key: Any) -> str | None:
    """Return a key for a Finding, None if it is none."""
    return key if isinstance(key, str) else None


def _is_foreign_pickle(stored: Any) -> bool:
    """Whether this is a whole pickle, and what it holds is only not for us."""
    if isinstance(stored, str):
        try:
            stored = stored.encode("latin-1")
        except UnicodeEncodeError:
            return False
    if not isinstance(stored, bytes) or not stored.startswith(b"\x80"):
        return False
    from pickletools import genops

    from ._pickles import load_plain

    try:
        names = {opcode.name for opcode, _, _ in genops(stored)}
    except Exception:
        # Whatever comes of nonsense.
        return False
    if names & _FOREIGN:
        return True
    try:
        # NaN, say, or names that are no text.
        return isinstance(load_plain(stored), dict)
    except ValueError:
        return False
