"""An index of the metadata in a table, kept right by triggers inside the database.

For any table with a text key, its primary key, and metadata as JSON. The index is a second table,
``<table>#index``, with a row (name, value, key) for each name of each row's metadata; the triggers
keep it right whoever writes, and it is rolled back with what it indexes. A third table,
``<table>#indexed``, tells which names are indexed, and how far the rows that were there before the
triggers have been read.

A look-up finds too many rows rather than too few, and the caller asks `matches` of each:

- Text is cut, containers are told apart by kind only, and numbers are looked up in a small range,
  because versions of SQLite may read the last digit of a number differently.
- Rows whose metadata are no JSON, as the pickles of 0.8, are found whatever is looked up.
- Rows of the index that should be gone do no harm: REPLACE does not run the triggers for deletion,
  and another version may have computed another value. So nothing here takes the index for
  the truth; what may never happen is that a row is missing from it.

For names and values that versions of SQLite read differently (NUL) the index is not used. Where a
library has no JSON functions, the triggers are dropped, or nothing could be written. The triggers
use nothing that SQLite did not have in 3.24 (2018): a library that does not understand them cannot
read the database at all.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from typing import Any

_NEEDS = (3, 24)

# What is kept of a name, and of a text.
NAME_LENGTH = 64

# Whatever is no number or text; no two of them may be looked up by each other.
_CODES: dict[object, bytes] = {type(None): b"n", False: b"f", True: b"t", list: b"[", dict: b"{"}

# How much versions of SQLite may disagree about a number, relative and absolute.
_TOLERANCE = 1e-12
_TINY = 1e-290
_HUGE = 1e308

#: SQL for the name and the value of a row of json_each() AS e.
NAME_OF = f"substr(e.key, 1, {NAME_LENGTH})"
VALUE_OF = (
    f"ifnull(CASE e.type WHEN 'text' THEN substr(e.atom, 1, {NAME_LENGTH})"
    " WHEN 'integer' THEN e.atom WHEN 'real' THEN e.atom"
    + "".join(
        f" WHEN '{name}' THEN x'{_CODES[kind].hex()}'"
        for name, kind in (
            ("true", True),
            ("false", False),
            ("null", type(None)),
            ("array", list),
            ("object", dict),
        )
    )
    + " END, x'')"
)

# Of several criteria the one that finds the fewest rows is looked up: counted no further than this.
_ENOUGH = 200


class MetadataIndex:
    """The index of one table, seen through any connection that is in autocommit mode.

    Parameters
    ----------
    table : str
        The name of the table, without quotes.
    key, metadata : str
        The names of its columns.
    """

    def __init__(self, table: str, key: str = "key", metadata: str = "metadata") -> None:
        self.table = table
        self._sql = sql = _quoted(table)
        self._key = key = _quoted(key)
        self._metadata = metadata = _quoted(metadata)
        self._index = index = _quoted(f"{table}#index")
        self._indexed = indexed = _quoted(f"{table}#indexed")
        self._triggers = [f"{table}#index {what}" for what in ("insert", "update", "delete")]
        self._chosen = (
            f"(EXISTS (SELECT 1 FROM {indexed} WHERE name = x'')"
            f" OR {NAME_OF} IN (SELECT name FROM {indexed}))"
        )
        self._right = (
            "(SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"
            f" AND tbl_name = {_text(table)} COLLATE NOCASE"
            f" AND name COLLATE NOCASE IN ({', '.join(map(_text, self._triggers))})) = 3"
        )
        self._usable = (
            f"{self._right} AND EXISTS"
            f" (SELECT 1 FROM {indexed} WHERE name IN (x'', ?) AND reached IS NULL)"
        )
        self._rows = f"SELECT t.{key}, t.{metadata} FROM {index} AS i CROSS JOIN {sql} AS t ON t.{key} = i.key"
        self._statements: dict[tuple[str, bool], str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.table!r})"

    # Making it

    def install(self, connection: sqlite3.Connection, names: Iterable[str] | None) -> bool:
        """Let the index be kept for these names from now on, None for all, and for those it was kept for.

        Return whether there is an index. An sqlite3.Error says that it could not be made, because
        the database is locked, or cannot be written.
        """
        if not has_json(connection):
            self._drop_triggers(connection)
            return False
        wanted = (
            [b""]
            if names is None
            else sorted({name[:NAME_LENGTH] for name in names if _plain(name)})
        )
        if self.exists(connection):
            have = {name for (name,) in connection.execute(f"SELECT name FROM {self._indexed}")}
            if b"" in have or have.issuperset(wanted):
                return True
        elif not wanted or not self._can_be_indexed(connection):
            return False
        with _Writing(connection):
            # Asked again: meanwhile another process may have made it.
            if not self.exists(connection):
                self._make(connection)
            (empty,) = connection.execute(
                f"SELECT NOT EXISTS (SELECT 1 FROM {self._sql})"
            ).fetchone()
            connection.executemany(
                f"INSERT OR IGNORE INTO {self._indexed} VALUES (?, ?)",
                [(name, None if empty else "") for name in wanted],
            )
        return True

    def exists(self, connection: sqlite3.Connection) -> bool:
        """Whether there is an index, of whatever names, and kept by its triggers."""
        tables = (
            "(SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name COLLATE NOCASE"
            f" IN ({_text(self.table + '#index')}, {_text(self.table + '#indexed')})) = 2"
        )
        return bool(connection.execute(f"SELECT {self._right} AND {tables}").fetchone()[0])

    def drop(self, connection: sqlite3.Connection) -> None:
        """Drop the index."""
        with _Writing(connection):
            self._drop(connection)

    def _can_be_indexed(self, connection: sqlite3.Connection) -> bool:
        # Tables that have the names of ours may be somebody else's.
        for table, ours in (
            (self._index, ["name", "value", "key"]),
            (self._indexed, ["name", "reached"]),
        ):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if columns not in ([], ours):
                return False
        # One row for a key, or the triggers for one row would remove what is there for another one.
        keys = [row[1] for row in connection.execute(f"PRAGMA table_info({self._sql})") if row[5]]
        if [_quoted(key).lower() for key in keys] != [self._key.lower()]:
            return False
        # In UTF-16 some characters do not come back as they were.
        return bool(connection.execute("PRAGMA encoding").fetchone()[0] == "UTF-8")

    def _drop(self, connection: sqlite3.Connection) -> None:
        for trigger in self._triggers:
            connection.execute(f"DROP TRIGGER IF EXISTS {_quoted(trigger)}")
        connection.execute(f"DROP TABLE IF EXISTS {self._index}")
        connection.execute(f"DROP TABLE IF EXISTS {self._indexed}")

    def _drop_triggers(self, connection: sqlite3.Connection) -> None:
        known = "SELECT 1 FROM sqlite_master WHERE name COLLATE NOCASE IN (?, ?, ?)"
        if connection.execute(known, self._triggers).fetchone():
            self.drop(connection)

    def _make(self, connection: sqlite3.Connection) -> None:
        self._drop(connection)
        connection.execute(
            f"CREATE TABLE {self._index} (name, value, key, PRIMARY KEY (name, value, key)) WITHOUT ROWID"
        )
        # reached: the last key that was read of the rows there had been, NULL after all of them.
        connection.execute(f"CREATE TABLE {self._indexed} (name PRIMARY KEY, reached)")
        insert, update, delete = map(_quoted, self._triggers)
        forget, remember = self._removal("old"), self._addition("new")
        changed = " OR ".join(
            f"old.{name} COLLATE BINARY IS NOT new.{name}" for name in (self._key, self._metadata)
        )
        for text in (
            f"CREATE TRIGGER {insert} AFTER INSERT ON {self._sql} BEGIN {remember} END",
            f"CREATE TRIGGER {update} AFTER UPDATE OF {self._key}, {self._metadata} ON {self._sql}"
            f" WHEN {changed} BEGIN {forget} {remember} END",
            f"CREATE TRIGGER {delete} AFTER DELETE ON {self._sql} BEGIN {forget} END",
        ):
            connection.execute(text)

    # SQL for the rows of the index that belong to a row of the table

    def _entries(self, row: str, source: str = "") -> str:
        json = f"{row}.{self._metadata}"
        return (
            f"SELECT {NAME_OF} AS name, {VALUE_OF} AS value, {row}.{self._key} AS key"
            # Neither a scalar nor an array has names.
            f" FROM {source} json_each(CASE WHEN {is_json(json)} THEN {json} ELSE '{{}}' END) AS e"
            f" WHERE e.key IS NOT NULL AND typeof({row}.{self._key}) = 'text'"
        )

    def _addition(self, row: str) -> str:
        # Not OR IGNORE: INSERT OR FAIL outside would overrule it.
        key = f"{row}.{self._key}"
        return (
            f"INSERT INTO {self._index} {self._entries(row)} AND {self._chosen}"
            " ON CONFLICT DO NOTHING;"
            f" INSERT INTO {self._index} SELECT x'', x'', {key}"
            f" WHERE NOT ({is_json(f'{row}.{self._metadata}')}) AND typeof({key}) = 'text'"
            " ON CONFLICT DO NOTHING;"
        )

    def _removal(self, row: str) -> str:
        return (
            f"DELETE FROM {self._index} WHERE (name, value, key) IN ({self._entries(row)});"
            f" DELETE FROM {self._index} WHERE name = x'' AND value = x'' AND key = {row}.{self._key};"
        )

    # Many rows at once

    def insert_many(self, connection: sqlite3.Connection, sql: str, rows: list[Any]) -> int:
        """Execute an INSERT of new rows for each of `rows`, inside a transaction; return how many there are now.

        They are put into the index together and in order, which takes half the time. If there are
        fewer new rows than there should be, or an error, the caller must roll back.
        """
        first = self._next_row(connection)
        if first is None:
            return connection.executemany(sql, rows).rowcount
        # As long as no name is indexed, nothing is looked up, and the triggers do nothing.
        indexed = connection.execute(f"SELECT name, reached FROM {self._indexed}").fetchall()
        connection.execute(f"DELETE FROM {self._indexed}")
        count = connection.executemany(sql, rows).rowcount
        connection.executemany(f"INSERT INTO {self._indexed} VALUES (?, ?)", indexed)
        new = f"(SELECT {self._key}, {self._metadata} FROM {self._sql} WHERE _rowid_ >= ?)"
        connection.execute(
            f"INSERT OR IGNORE INTO {self._index} {self._entries('r', f'{new} AS r CROSS JOIN')}"
            f" AND {self._chosen} ORDER BY 1, 2, 3",
            (first,),
        )
        return count

    def _next_row(self, connection: sqlite3.Connection) -> int | None:
        """Return a number that only rows will have that are inserted from now on, None if there is none."""
        triggers = "type = 'trigger' AND tbl_name = ? COLLATE NOCASE"
        (others,) = connection.execute(
            f"SELECT count(*) - 3 FROM sqlite_master WHERE {triggers}", (self.table,)
        ).fetchone()
        columns = {row[1].lower() for row in connection.execute(f"PRAGMA table_info({self._sql})")}
        # What triggers of other people do might be more than insert these rows.
        if others or "_rowid_" in columns or not self.exists(connection):
            return None
        import sqlite3

        try:
            (last,) = connection.execute(f"SELECT max(_rowid_) FROM {self._sql}").fetchone()
        except sqlite3.OperationalError:
            # A table WITHOUT ROWID.
            return None
        return (last or 0) + 1 if (last or 0) < 1 << 62 else None

    # Reading what was there before

    def fill(self, connection: sqlite3.Connection, rows: int = 1000) -> bool:
        """Read so many more rows that were there before the index; return whether that was all.

        What was read is kept, so that it can be done a bit at a time.
        """
        with _Writing(connection):
            if not self.exists(connection):
                return False
            (reached,) = connection.execute(
                f"SELECT CAST(min(reached) AS BLOB) FROM {self._indexed}"
            ).fetchone()
            if reached is None:
                return True
            # Text only: what stands behind all text is no key.
            part = (
                f"(SELECT {self._key}, {self._metadata} FROM {self._sql}"
                f" WHERE {self._key} > CAST(?1 AS TEXT) AND {self._key} < x''"
                f" ORDER BY {self._key} LIMIT {int(rows)})"
            )
            last, count = connection.execute(
                f"SELECT CAST(max({self._key}) AS BLOB), count(*) FROM {part}", (reached,)
            ).fetchone()
            group = f"SELECT name FROM {self._indexed} WHERE reached = CAST(?1 AS TEXT)"
            entries = self._entries("r", f"{part} AS r CROSS JOIN")
            # In order: that many pages are then touched once only.
            connection.execute(
                f"INSERT OR IGNORE INTO {self._index} {entries}"
                f" AND (EXISTS ({group} AND name = x'') OR {NAME_OF} IN ({group}))"
                " ORDER BY 1, 2, 3",
                (reached,),
            )
            connection.execute(
                f"INSERT OR IGNORE INTO {self._index} SELECT x'', x'', r.{self._key} FROM {part} AS r"
                f" WHERE NOT ({is_json(f'r.{self._metadata}')})",
                (reached,),
            )
            done = bool(count < rows)
            connection.execute(
                f"UPDATE {self._indexed} SET reached = CAST(?2 AS TEXT) WHERE reached = CAST(?1 AS TEXT)",
                (reached, None if done else last),
            )
            return done and (
                connection.execute(
                    f"SELECT 1 FROM {self._indexed} WHERE reached IS NOT NULL"
                ).fetchone()
                is None
            )

    def is_filled(self, connection: sqlite3.Connection) -> bool:
        """Whether all rows that were there before have been read, or there is no index."""
        import sqlite3

        try:
            return not connection.execute(
                f"SELECT 1 FROM {self._indexed} WHERE reached IS NOT NULL"
            ).fetchone()
        except sqlite3.OperationalError:
            return True

    # Looking up

    def find(
        self,
        connection: sqlite3.Connection,
        criteria: Mapping[str, Any],
        limit: int,
        keys_only: bool = False,
    ) -> list[Any] | None:
        """Return (key, metadata as they are stored) of all rows that may match, or (key,).

        It is None if the index cannot tell: there is none, or it has not been filled. If there are
        more than `limit` rows, so many and one more are returned. A key may come twice, and with
        `keys_only` it may be gone.
        """
        import sqlite3

        lookups = [
            (name[:NAME_LENGTH], *one)
            for name, value in criteria.items()
            if _plain(name) and (one := lookup(value)) is not None
        ]
        if not lookups:
            return None
        try:
            if len(lookups) > 1:
                lookups = self._by_number(connection, lookups)
            name, condition, values = lookups[0]
            sql = self._statements.get((condition, keys_only))
            if sql is None:
                rows = f"SELECT i.key FROM {self._index} AS i" if keys_only else self._rows
                sql = self._statements[condition, keys_only] = (
                    f"SELECT {'' if keys_only else 'NULL, '}{self._usable}"
                    f" UNION ALL {rows} WHERE i.name = ? AND i.value {condition}"
                    f" UNION ALL {rows} WHERE i.name = x'' LIMIT ?"
                )
            found = connection.execute(sql, (name, name, *values, limit + 2)).fetchall()
        except sqlite3.OperationalError:
            # There is no such table, it is locked, or there is text that is no UTF-8: whatever it
            # is, all rows can still be read.
            return None
        # What stands first tells whether the index was right when the others were read.
        return found[1:] if found[0][-1] else None

    def _by_number(self, connection: sqlite3.Connection, lookups: list[Any]) -> list[Any]:
        """Sort look-ups by how many rows they find, without those of names that are not indexed."""
        indexed = f"SELECT 1 FROM {self._indexed} WHERE name IN (x'', ?) AND reached IS NULL"
        numbers = []
        for each in lookups:
            name, condition, values = each
            if connection.execute(indexed, (name,)).fetchone():
                (number,) = connection.execute(
                    f"SELECT count(*) FROM (SELECT 1 FROM {self._index} AS i"
                    f" WHERE i.name = ? AND i.value {condition} LIMIT {_ENOUGH})",
                    (name, *values),
                ).fetchone()
                numbers.append((number, each))
                if not number:
                    break
        numbers.sort(key=lambda pair: pair[0])
        return [each for _, each in numbers] or lookups


class _Writing:
    """A write transaction, or a part of one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._inside = connection.in_transaction

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT indexing" if self._inside else "BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        execute = self._connection.execute
        try:
            if kind is None:
                execute("RELEASE indexing" if self._inside else "COMMIT")
                return
        except BaseException:
            self._undo()
            raise
        self._undo()

    def _undo(self) -> None:
        # SQLite may have rolled back everything by itself.
        if self._connection.in_transaction:
            if self._inside:
                self._connection.execute("ROLLBACK TO indexing")
                self._connection.execute("RELEASE indexing")
            else:
                self._connection.execute("ROLLBACK")


def lookup(value: Any) -> tuple[str, tuple[Any, ...]] | None:
    """Return a condition for VALUE_OF, and its parameters; None if it cannot be told."""
    if isinstance(value, bool):
        return "= ?", (_CODES[value],)
    if isinstance(value, str):
        return ("= ?", (value[:NAME_LENGTH],)) if _plain(value) else None
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf") if value > 0 else -float("inf")
        margin = max(abs(number) * _TOLERANCE, _TINY)
        low, high = number - margin, number + margin
        # SQLite may take for an infinity what is one nearly.
        if number >= _HUGE:
            low, high = _HUGE, float("inf")
        elif number <= -_HUGE:
            low, high = -float("inf"), -_HUGE
        return "BETWEEN ? AND ?", (low, high)
    return "= ?", (_CODES[type(value)],)


def _plain(text: str) -> bool:
    # Where a NUL is escaped, some versions of SQLite end the text.
    return "\0" not in text


def has_json(connection: sqlite3.Connection) -> bool:
    """Whether this library can keep an index."""
    import sqlite3

    if sqlite3.sqlite_version_info < _NEEDS:
        return False
    try:
        (name,) = connection.execute(
            """SELECT max(key) FROM json_each('{"a\\u00e4\\ud83d\\ude00":1}') WHERE json_valid('{}')"""
        ).fetchone()
    except sqlite3.OperationalError:
        return False
    return bool(name == "aä😀")


def is_json(column: str) -> str:
    """Return SQL that is true where a column holds JSON as text."""
    # In the order of writing: json_valid() raises an error where it is given a blob.
    return f"CASE WHEN typeof({column}) = 'text' THEN json_valid({column}) ELSE 0 END"


def _quoted(name: str) -> str:
    name = name.replace('"', '""')
    return f'"{name}"'


def _text(value: str) -> str:
    value = value.replace("'", "''")
    return f"'{value}'"
