"""The tables and triggers in a database that write down each change of an SqliteStore.

They are there while somebody polls, see _sqlite_remote.py. A change and its row in the log are
committed or rolled back together, whoever makes it.

``<table>#changes``
    The log. There are no gaps between ids, and the newest row is never removed, so that ids grow.
    Each connection of a store that polls has a temporary trigger, which writes the name of the
    store into the rows that it causes itself: those are told by the store as it makes the changes.
``<table>#pollers``
    Who polls, and what each has seen last, which it does not write down each time. What all have
    seen is removed. Nobody need be alive that is in here: who has not seen what was written longer
    ago than its patience is taken for dead, and removed by the others; and nothing is written down
    if all are.

Who leaves last drops it all. A database that nobody polls has none of this.

How a change gets its action: INSERT OR REPLACE does not run the triggers for deletion, so a trigger
before the insertion writes 'replace' down if the key is there. By itself that means nothing, as the
insertion may be ignored, or become an update. A row that is deleted and then inserted with the time
of its creation was replaced, too.
"""

from __future__ import annotations

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_TRIGGERS = 5


class ChangeTables:
    """The tables and triggers in a database."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.changes = f'"{table}#changes"'
        self.pollers = f'"{table}#pollers"'
        self._sql = f'"{table}"'
        quoted = table.replace("'", "''")
        self._are_there = (
            "SELECT sum(type = 'table' AND name COLLATE NOCASE IN"
            f" ('{quoted}#changes', '{quoted}#pollers')) = 2"
            f" AND sum(type = 'trigger' AND tbl_name COLLATE NOCASE = '{quoted}'"
            f" AND name LIKE '%#changes %') >= {_TRIGGERS} FROM main.sqlite_master"
        )
        # Whose first change that it has not seen is old.
        self._dead = (
            f"(SELECT p.name FROM {self.pollers} AS p JOIN {self.changes} AS c ON c.id = p.seen + 1"
            f" WHERE c.time < {_NOW} - p.patience)"
        )

    def are_there(self, connection: sqlite3.Connection) -> bool:
        """Whether changes are written down."""
        return bool(connection.execute(self._are_there).fetchone()[0])

    def make(self, connection: sqlite3.Connection) -> None:
        """Have changes be written down, where they are not."""
        columns = {
            self.changes: ["id", "time", "action", "key", "created", "metadata", "writer"],
            self.pollers: ["name", "seen", "patience"],
        }
        for table, wanted in columns.items():
            first, *others = wanted
            kind = "integer primary key" if first == "id" else "primary key"
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} ({first} {kind}, {', '.join(others)})"
            )
            found = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if found != wanted:
                raise StoreError(f"table {table} is needed for polling, and is something else")
        key_moves = "old.key COLLATE BINARY IS NOT new.key"
        there = f"EXISTS (SELECT 1 FROM {self._sql} WHERE key = new.key)"
        for what, event, condition, rows in (
            ("before insert", "BEFORE INSERT", there, ["replace new"]),
            ("insert", "AFTER INSERT", "1", ["set new"]),
            ("before update", "BEFORE UPDATE OF key", f"{key_moves} AND {there}", ["replace new"]),
            (
                "update",
                "AFTER UPDATE OF key, metadata, created, modified, data",
                "1",
                # Right behind 'replace'.
                [
                    f"update new AND NOT {key_moves}",
                    f"set new AND {key_moves}",
                    f"delete old AND {key_moves}",
                ],
            ),
            ("delete", "AFTER DELETE", "1", ["delete old"]),
        ):
            body = " ".join(map(self._writing_down, rows))
            connection.execute(
                f'CREATE TRIGGER IF NOT EXISTS "{self.table}#changes {what}" {event} ON {self._sql}'
                f" WHEN {condition} BEGIN {body} END"
            )

    def _writing_down(self, change: str) -> str:
        action, row, *condition = change.split(" ", 2)
        return (
            f"INSERT INTO {self.changes} (time, action, key, created, metadata)"
            f" SELECT {_NOW}, '{action}', {row}.key, {row}.created, {row}.metadata"
            f" WHERE EXISTS (SELECT 1 FROM {self.pollers} WHERE name NOT IN {self._dead})"
            f" {' '.join(condition)};"
        )

    def drop(self, connection: sqlite3.Connection) -> None:
        """Have changes be written down no more."""
        for (name,) in connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'trigger'"
            " AND tbl_name = ? COLLATE NOCASE AND instr(name, '#changes ')",
            (self.table,),
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(f"DROP TABLE IF EXISTS {self.changes}")
        connection.execute(f"DROP TABLE IF EXISTS {self.pollers}")

    def last(self, connection: sqlite3.Connection) -> int:
        """Return the id of the newest change."""
        return int(
            connection.execute(f"SELECT ifnull(max(id), 0) FROM {self.changes}").fetchone()[0]
        )

    def register(
        self, connection: sqlite3.Connection, name: str, patience: float, seen: int | None = None
    ) -> tuple[int, bool]:
        """Register a poller that has seen so much, or all there is.

        Return what it counts as having seen, and whether nothing is missing behind that.
        """
        there = self.are_there(connection)
        self.make(connection)
        last = self.last(connection)
        (first,) = connection.execute(f"SELECT min(id) FROM {self.changes}").fetchone()
        complete = seen is None or (there and seen <= last and (first or last + 1) <= seen + 1)
        if seen is None or not complete:
            seen = last
        connection.execute(
            f"INSERT OR REPLACE INTO {self.pollers} VALUES (?, ?, ?)", (name, seen, patience)
        )
        self.trim(connection)
        return seen, complete

    def trim(self, connection: sqlite3.Connection) -> bool:
        """Remove who is dead, and what all have seen; return whether there is anybody left."""
        connection.execute(f"DELETE FROM {self.pollers} WHERE name IN {self._dead}")
        (seen,) = connection.execute(f"SELECT min(seen) FROM {self.pollers}").fetchone()
        connection.execute(
            f"DELETE FROM {self.changes} WHERE id <= ?"
            f" AND id < (SELECT max(id) FROM {self.changes})",
            (0 if seen is None else seen,),
        )
        return seen is not None

    def leave(self, connection: sqlite3.Connection, name: str | None = None) -> None:
        """In a transaction: remove a poller, and who is dead; and everything after the last one."""
        if self.are_there(connection):
            connection.execute(f"DELETE FROM {self.pollers} WHERE name = ?", (name,))
            if not self.trim(connection):
                self.drop(connection)

    def forget(self, connection: sqlite3.Connection, last: int | None) -> None:
        """In a transaction: tell nobody what was done in it since the last change was this one."""
        if last is not None:
            connection.execute(f"DELETE FROM {self.changes} WHERE id > ?", (last,))
