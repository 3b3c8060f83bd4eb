"""Mends the file of a database, if SQLite says that it is damaged.

Indexes are made again from their tables, if that is enough. Otherwise all that can be read of all
tables, those of other programs too, is copied into a temporary database. This then takes the place
of what is in the file by SQLite's own backup, in one transaction: other processes may have the file
open, and would not know of a new file under its name; and who is killed in the middle leaves the
file as it was.

No change by others may come in between. In WAL mode the lock for writing must be given up before
the backup takes it, so it is looked, once it has it, whether anybody has used that moment;
elsewhere the locks are kept.
"""

from __future__ import annotations

from ._sqlite_blobs import NUMBER, SHIFT
from ._sqlite_inspection import is_damage, name_of, row_id_of
from ._sqlite_rows import ReadableText
from ._sqlite_setup import new_connection
from .errors import StoreError
from .maintenance import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from typing import Any

    from .sqlite_store import SqliteStore

# What SQLite says at most of what is wrong in the file.
_MESSAGES = 100

# How often others may come in between.
_TRIES = 5

# Row ids that are tried one by one behind one that cannot be read.
_NEAR = 100


def file_problems(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite says about the file, in lines; none if all is well."""
    import sqlite3

    lines = []
    try:
        for (text,) in connection.execute(f"PRAGMA integrity_check({_MESSAGES})"):
            lines += [
                f"the file is damaged: {line}" for line in text.splitlines() if "*** in" not in line
            ]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        lines.append(f"the file is damaged: {error}")
    return lines if lines != ["the file is damaged: ok"] else []


def mend_file(store: SqliteStore) -> list[Finding]:
    """Mend the file of a store, if it is damaged; return what was wrong, and what was lost."""
    connection = new_connection(store)
    try:
        problems = file_problems(connection)
        if not problems:
            return []
        lost = _reindex(store, connection)
        if lost is None:
            lost = _rebuild(store, connection)
        return [Finding(None, problem, "mended") for problem in problems] + lost
    finally:
        connection.close()


def _reindex(store: SqliteStore, connection: sqlite3.Connection) -> list[Finding] | None:
    """Make indexes again; return what is lost, or None if that is not enough."""
    import sqlite3

    connection.execute("BEGIN IMMEDIATE")
    try:
        lost = [_lost(key) for key in _keys_without_row(store, connection)]
        connection.execute("REINDEX")
        if not file_problems(connection):
            connection.execute("COMMIT")
            return lost
    except sqlite3.IntegrityError:
        # Two rows of one key.
        pass
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return None


def _lost(key: Any) -> Finding:
    if isinstance(key, str):
        return Finding(key, "it cannot be read", "lost")
    return Finding(None, f"the row of {key!r} cannot be read", "lost")


def _keys_without_row(store: SqliteStore, connection: sqlite3.Connection) -> Iterator[Any]:
    """Return keys that the index of keys has and the table has not."""
    table = store._sql_table
    row_id = row_id_of(connection, table)
    for index in _indexes(connection, store.table):
        if _columns_of_index(connection, index) == ["key"]:
            sql = f"SELECT {row_id}, key FROM {table} INDEXED BY {_quoted(index)} ORDER BY key"
            for found in _reading(connection, sql):
                if found is not None and not _can_be_read(connection, table, row_id, found[0]):
                    yield found[1]


def _reading(connection: sqlite3.Connection, sql: str, *values: Any) -> Iterator[Any]:
    """Return rows, and None where they cannot be read on; without a LIMIT."""
    import sqlite3

    count = 0
    try:
        for row in connection.execute(sql, values):
            yield row
            count += 1
    except sqlite3.DatabaseError as error:
        # An index that is not of all rows is none for this.
        if not is_damage(error) and str(error) != "no query solution":
            raise
    else:
        return
    try:
        # The cursor has already looked for the row behind this one when it gives it.
        yield from connection.execute(f"{sql} LIMIT 1 OFFSET {count}", values).fetchall()
    except sqlite3.DatabaseError:
        pass
    yield None


def _can_be_read(connection: sqlite3.Connection, table: str, row_id: str, row: Any) -> bool:
    import sqlite3

    try:
        sql = f"SELECT * FROM {table} NOT INDEXED WHERE {row_id} = ?"
        return connection.execute(sql, (row,)).fetchone() is not None
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return False


def _indexes(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA index_list({_quoted(table)})")]


def _columns_of_index(connection: sqlite3.Connection, index: str) -> list[str]:
    return [row[2] for row in connection.execute(f"PRAGMA index_info({_quoted(index)})")]


# A new file in place of the old one


def _rebuild(store: SqliteStore, connection: sqlite3.Connection) -> list[Finding]:
    import sqlite3

    watcher = new_connection(store) if store._wal else None
    try:
        for _ in range(_TRIES):
            # A file without a name, of which nothing stays, whatever happens.
            fresh = sqlite3.connect("", isolation_level=None)
            try:
                lost = _copied(store, connection, fresh, watcher)
            finally:
                fresh.close()
            if lost is not None:
                return lost
    finally:
        if watcher is not None:
            watcher.close()
    raise StoreError(f"{store!r} cannot be repaired while others write to it")


def _copied(
    store: SqliteStore,
    connection: sqlite3.Connection,
    fresh: sqlite3.Connection,
    watcher: sqlite3.Connection | None,
) -> list[Finding] | None:
    """Copy what can be read there and back; return what is lost, None if others wrote meanwhile."""
    if watcher is None:
        # Until it is closed.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE" if watcher is not None else "BEGIN EXCLUSIVE")
    try:
        version = _version(watcher)
        lost = Salvage(store, connection, fresh).run()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def look(status: int, remaining: int, total: int) -> None:
        # After the last part it is we who have changed it.
        if remaining and _version(watcher) != version:
            raise _Changed

    (pages,) = fresh.execute("PRAGMA page_count").fetchone()
    try:
        # In at least two parts: after the first the lock is held, and nothing is committed.
        fresh.backup(connection, pages=max(1, pages // 10), progress=look)
    except _Changed:
        return None
    return lost


class _Changed(Exception):
    """Somebody has written to the database."""


def _version(watcher: sqlite3.Connection | None) -> int:
    if watcher is None:
        return 0
    return int(watcher.execute("PRAGMA data_version").fetchone()[0])


class Salvage:
    """Copies what can be read of one database into another, which is empty.

    Parameters
    ----------
    store : SqliteStore
    source : sqlite3.Connection
        In a transaction.
    target : sqlite3.Connection
    """

    def __init__(
        self, store: SqliteStore, source: sqlite3.Connection, target: sqlite3.Connection
    ) -> None:
        self._store = store
        self._source = source
        self._target = target
        self._lost: list[Finding] = []
        self._incomplete: set[str] = set()
        self._remade = {f"{store.table}#index", f"{store.table}#indexed"}

    def run(self) -> list[Finding]:
        """Copy everything; return what is lost."""
        source, target = self._source, self._target
        target.execute("PRAGMA synchronous=OFF")
        for name in ("page_size", "encoding", "auto_vacuum", "application_id", "user_version"):
            (value,) = source.execute(f"PRAGMA {name}").fetchone()
            target.execute(f"PRAGMA {name}={value!r}")
        # It holds no more in memory than the cache.
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("BEGIN")
        with ReadableText(source):
            self._copy_all()
        target.execute("COMMIT")
        found = target.execute(f"PRAGMA integrity_check({_MESSAGES})").fetchall()
        if found != [("ok",)]:
            raise StoreError(f"{self._store!r} cannot be repaired: {found[0][0]}")
        return self._lost

    def _copy_all(self) -> None:
        source, target = self._source, self._target
        master = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE sql NOT NULL"
        entries = source.execute(master).fetchall()
        tables = [each for each in entries if each[0] == "table" and each[3]]
        for _, name, _, _, sql in tables:
            if not name.startswith("sqlite_"):
                target.execute(sql)
        # What must be unique is so from the beginning.
        indexes = [(name, sql) for kind, name, _, _, sql in entries if kind == "index"]
        unique = [index for index in indexes if " UNIQUE " in index[1].upper()]
        self._make_indexes(unique)
        for _, name, *_ in tables:
            # Others of SQLite's own are statistics, and made again.
            if name == "sqlite_sequence":
                target.execute("DELETE FROM sqlite_sequence")
            if name == "sqlite_sequence" or not name.startswith("sqlite_"):
                self._copy_table(name)
        self._copy_chunks()
        self._make_indexes([index for index in indexes if index not in unique])
        # As VACUUM does: what these refer to need not be there.
        target.execute("PRAGMA writable_schema=ON")
        target.executemany(
            "INSERT INTO sqlite_master VALUES (?, ?, ?, 0, ?)",
            [
                (kind, name, table, sql)
                for kind, name, table, page, sql in entries
                if kind in ("view", "trigger") or (kind == "table" and not page)
            ],
        )
        target.execute("PRAGMA writable_schema=OFF")
        for key in _keys_without_row(self._store, source):
            there = f"SELECT 1 FROM {self._store._sql_table} WHERE key IS ?"
            if target.execute(there, (key,)).fetchone() is None:
                self._lost.append(_lost(key))

    def _make_indexes(self, indexes: list[tuple[str, str]]) -> None:
        import sqlite3

        for name, sql in indexes:
            try:
                self._target.execute(sql)
            except sqlite3.Error as error:
                # It computes something of what cannot be read any more.
                problem = f"index {name!r} cannot be made again: {error}"
                self._lost.append(Finding(None, problem, "lost"))

    def _copy_table(self, name: str) -> None:
        table = _quoted(name)
        columns = [
            _quoted(row[1])
            for row in self._source.execute(f"PRAGMA table_xinfo({table})")
            if not row[6]
        ]
        row_id = row_id_of(self._source, table)
        if row_id == "key" or name == "sqlite_sequence":
            complete = self._copy_rows(table, columns, "ORDER BY 1", "ORDER BY 1 DESC")
        else:
            complete = self._copy_by_row_id(table, columns, row_id)
        if not complete:
            # The index is made again.
            outcome = "mended" if name in self._remade else "lost"
            self._incomplete.add(name)
            self._lost.append(Finding(None, f"not all rows of table {name!r} can be read", outcome))

    def _insert(self, table: str, columns: list[str]) -> Callable[[Any], object]:
        # What is there already was read the other way.
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        return lambda row: self._target.execute(sql, row)

    def _copy_rows(self, table: str, columns: list[str], *orders: str) -> bool:
        insert = self._insert(table, columns)
        for order in orders:
            sql = f"SELECT {', '.join(columns)} FROM {table} {order}"
            complete = True
            for row in self._reading(sql):
                if row is None:
                    complete = False
                else:
                    insert(row)
            if complete:
                return True
        return False

    def _copy_by_row_id(self, table: str, columns: list[str], row_id: str) -> bool:
        """Copy rows upwards; if some cannot be read, from behind those, and what indexes know."""
        # A column that stands for the row id is enough.
        names = [row_id, *columns]
        insert = self._insert(table, names)
        rows = f"SELECT {', '.join(names)} FROM {table} NOT INDEXED"
        upwards = f"{rows} WHERE {row_id} >= ? ORDER BY {row_id}"
        begin: int | None = -(1 << 63)
        complete = True
        while begin is not None:
            last = begin - 1
            done = False
            for row in self._reading(upwards, begin):
                if row is None:
                    break
                insert(row)
                last = max(last, row[0])
            else:
                done = True
            if done:
                break
            complete = False
            begin = self._readable_behind(upwards, last)
        if complete:
            return True
        for row in self._reading(f"{rows} ORDER BY {row_id} DESC"):
            if row is not None:
                insert(row)
        return self._copy_by_indexes(table, names)

    def _copy_by_indexes(self, table: str, names: list[str]) -> bool:
        """Copy rows that indexes know, as far as they can be read; return whether that was all."""
        insert = self._insert(table, names)
        there = f"SELECT 1 FROM {table} WHERE {names[0]} = ?"
        complete = False
        for index in _indexes(self._source, _unquoted(table)):
            known = f"SELECT {names[0]} FROM {table} INDEXED BY {_quoted(index)}"
            whole = True
            for found in self._reading(known):
                if found is None:
                    whole = False
                elif self._target.execute(there, found).fetchone() is None:
                    row = self._row_in_parts(table, names, found[0])
                    whole = whole and None not in row
                    if row[1:].count(None) < len(names) - 1:
                        insert(row)
            complete = complete or whole
        return complete

    def _row_in_parts(self, table: str, names: list[str], row_id: Any) -> list[Any]:
        """Return a row, with None for what cannot be read of it."""
        parts = [row_id]
        for name in names[1:]:
            sql = f"SELECT {name} FROM {table} NOT INDEXED WHERE {names[0]} = ?"
            found = next(self._reading(sql, row_id), None)
            parts.append(None if found is None else found[0])
        if table == self._store._sql_table and None in parts:
            values = dict(zip(names, parts, strict=True))
            if values['"key"'] is not None:
                what = " and ".join(
                    _unquoted(name) for name in ('"metadata"', '"data"') if values[name] is None
                )
                problem = f"its {what} cannot be read" if what else "its stamps cannot be read"
                self._lost.append(Finding(name_of(values['"key"']), problem, "lost"))
        return parts

    def _reading(self, sql: str, *values: Any) -> Iterator[Any]:
        return _reading(self._source, sql, *values)

    def _readable_behind(self, upwards: str, last: int) -> int | None:
        """Return from where on there are rows behind one that can be read no more."""

        def works(begin: int) -> bool:
            return next(self._reading(upwards, begin), "end") is not None

        end = (1 << 63) - 1
        failing = last + 1
        step = 1
        while True:
            if failing >= end:
                return None
            tried = min(failing + step, end)
            if works(tried):
                break
            failing = tried
            if failing - last > _NEAR:
                step *= 2
        # The damage ends in between.
        working = tried
        while working - failing > 1:
            middle = (failing + working) // 2
            if works(middle):
                working = middle
            else:
                failing = middle
        return working

    def _copy_chunks(self) -> None:
        """Copy chunks that are known by the numbers of blobs."""
        chunks = self._store._sql_chunks
        if _unquoted(chunks) not in self._incomplete:
            return
        insert = self._insert(chunks, ["id", "bytes"])
        rows = f"SELECT {NUMBER} FROM {self._store._sql_table} WHERE {NUMBER} IS NOT NULL"
        for (number,) in self._target.execute(rows).fetchall():
            base = number << SHIFT
            last = self._last_chunk(chunks, base)
            for id in range(base, last + 1):
                for row in self._reading(f"SELECT id, bytes FROM {chunks} WHERE id = ?", id):
                    if row is not None:
                        insert(row)

    def _last_chunk(self, chunks: str, base: int) -> int:
        sql = f"SELECT ifnull(max(id), 0) FROM {chunks} WHERE id BETWEEN ? AND ?"
        (last,) = self._target.execute(sql, (base, base + (1 << SHIFT) - 1)).fetchone()
        return int(max(last, base - 1)) + _NEAR


def _quoted(name: str) -> str:
    name = name.replace('"', '""')
    return f'"{name}"'


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"')
