"""Events for what others change in the table of an SqliteStore.

While somebody polls, triggers write down each change, whoever makes it: another handle or process,
another program, EnCore 0.8. How, and who cleans up, is said in _sqlite_change_tables.py. Here is
who reads it.

==========  ======================================================================================
registered  the database knows the poller by its name, and keeps the changes behind what it has seen
unknown     somebody has taken the poller for dead, or dropped the tables. The next poll registers
            it again, warns that changes may have been missed, and has all connections be made anew,
            as their triggers have gone with the tables
orphan      in a child process. The first connection that the store makes there registers a poller
            of its own, which begins where that of the parent was
ended       by disconnect(), or the store is gone: its row is removed, if that does not take long
==========  ======================================================================================

Polls of one store come one after the other: who comes while another one is at it goes away.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from ._changes import has_listeners
from ._keys import check_key
from ._poller import Poller
from ._sqlite_change_tables import ChangeTables
from ._sqlite_connections import Use, Waiting
from ._sqlite_rows import ReadableText, parse
from ._sqlite_writing import Writing
from .errors import StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any
    from weakref import ref

    from ._sqlite_connections import Handle
    from .sqlite_store import SqliteStore

# Seconds until who has not seen a change is taken for dead; more for those that poll seldom.
PATIENCE = 600.0
_INTERVALS = 10

# What was seen is written down after so many changes, or seconds.
_MANY = 1000
_LONG = 60.0

# Marks of a process that forks again and again.
_MOST_MARKS = 100

# Rows and bytes of metadata that are read at once.
_PAGE = 500
_BYTES = 1 << 20

# Milliseconds that disconnect() waits for a writer. If it takes longer, nobody cleans up.
_LEAVING = 1000


def check_interval(poll: float) -> float:
    """Return seconds between two polls, or raise TypeError or ValueError."""
    if isinstance(poll, bool) or not isinstance(poll, int | float):
        raise TypeError(f"poll is a number of seconds, or None, not {shown(poll)}")
    if not poll >= 0:
        raise ValueError(f"poll is not negative: {poll!r}")
    return poll


class _Row:
    """A row of the log."""

    __slots__ = ("action", "created", "id", "key", "metadata", "time", "writer")

    def __init__(self, *columns: Any) -> None:
        self.id, self.time, self.action, self.key, self.created, self.metadata, self.writer = (
            columns
        )


class RemoteChanges:
    """Tells what others change; belongs to a store that is connected.

    Parameters
    ----------
    store : SqliteStore
    connection : sqlite3.Connection
        That of the calling thread, in no transaction.
    interval : float
        Seconds between two polls.
    """

    def __init__(self, store: SqliteStore, connection: sqlite3.Connection, interval: float) -> None:
        self.tables = ChangeTables(store.table)
        self._interval = interval
        self._patience = max(PATIENCE, _INTERVALS * interval)
        #: What changes of the store are marked with; those before a fork with another one.
        self._marks: list[str] = []
        self.renew()
        self._seen: int | None = None
        self._is_orphan = False
        self._fresh()
        self._begin(store, connection)
        self._mark(connection)

    def _fresh(self) -> None:
        self._name = os.urandom(8).hex()
        self._polling = allocate_lock()
        self._poller: Poller | None = None
        self._finalizer: Any = None
        # The connection that found nothing more, and its data_version.
        self._drained: tuple[ref[Handle], int] | None = None
        self._look_for_gaps = True
        self._written = 0
        self._write_at = 0.0

    def _begin(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            seen, complete = self.tables.register(
                connection, self._name, self._patience, self._seen
            )
        if not complete:
            _warn(store)
        self._seen = self._written = seen
        self._write_at = time.monotonic() + _LONG
        from weakref import finalize

        self._finalizer = finalize(
            store, _leave_quietly, store._path, store.table, self._name, os.getpid()
        )
        self._poller = Poller(store, "_poll", self._interval)

    def adopt(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        """Mark what a new connection of the store changes as its own."""
        if self._is_orphan:
            with store._life_cycle:
                if self._is_orphan:
                    self._begin(store, connection)
                    self._is_orphan = False
        self._mark(connection)

    def _mark(self, connection: sqlite3.Connection) -> None:
        import sqlite3

        try:
            connection.execute(
                f'CREATE TEMP TRIGGER IF NOT EXISTS "{self.tables.table}#changes writer"'
                f" AFTER INSERT ON main.{self.tables.changes} BEGIN UPDATE {self.tables.changes}"
                f" SET writer = '{self._marks[-1]}' WHERE id = new.id; END"
            )
        except sqlite3.OperationalError:
            # Somebody has dropped the table. The next poll makes it again, and says so.
            pass

    def renew(self) -> None:
        """Mark with another mark on all new connections, of which there are none yet."""
        self._marks = [*self._marks[-_MOST_MARKS:], os.urandom(8).hex()]

    def forked(self) -> None:
        """Begin anew in a child process, as soon as the store is used there."""
        # The last one is that of the parent from now on.
        self._marks[-1] = os.urandom(8).hex()
        self._is_orphan = True
        self._fresh()

    def end(self, store: SqliteStore) -> None:
        """Tell nothing any more, and clean up; the store can still be used."""
        poller, self._poller = self._poller, None
        if poller is None:
            return
        poller.end()
        self._finalizer.detach()
        try:
            with Use(store) as handle:
                _leave(handle.connection, self.tables, self._name, _LEAVING)
        except StoreError:
            # Others will take it for dead.
            pass

    def poll(self, store: SqliteStore) -> None:
        """Tell what others have changed since the last time."""
        # Two at a time would not keep the order.
        polling = self._polling
        if store._state.unit is not None or not polling.acquire(blocking=False):
            return
        try:
            self._look_for_gaps = True
            more = True
            while more and store._remote is self:
                rows, more = self._read(store)
                for row, action in _changes(rows):
                    if store._remote is not self:
                        return
                    self._seen = row.id
                    self._tell(store, row, action)
                if rows:
                    self._seen = rows[-1].id
            if store._remote is self:
                self._write_down(store)
        finally:
            polling.release()

    def _read(self, store: SqliteStore) -> tuple[list[_Row], bool]:
        """Return the next rows of the log, and whether there are more."""
        from weakref import ref

        with Use(store) as handle:
            connection = handle.connection
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if self._drained is not None and self._drained == (ref(handle), version):
                return [], False
            # Whether we are known is to be true of what is read.
            connection.execute("BEGIN")
            with connection:
                known = self._is_known(connection)
                rows, more = self._rows(connection) if known else ([], False)
            if not more:
                self._drained = ref(handle), version
        if not known:
            self._drained = None
            self._register_again(store)
        elif rows and self._look_for_gaps and rows[0].time < time.time() - self._patience:
            # For a while we may have been taken for dead.
            _warn(store)
        self._look_for_gaps = False
        return rows, more

    def _is_known(self, connection: sqlite3.Connection) -> bool:
        sql = f"SELECT 1 FROM {self.tables.pollers} WHERE name = ?"
        return self.tables.are_there(connection) and bool(
            connection.execute(sql, (self._name,)).fetchone()
        )

    def _rows(self, connection: sqlite3.Connection) -> tuple[list[_Row], bool]:
        rows: list[_Row] = []
        size = 0
        with ReadableText(connection):
            cursor = connection.execute(
                "SELECT id, time, action, key, created,"
                f" metadata, writer FROM {self.tables.changes} WHERE id > ? ORDER BY id",
                (self._seen,),
            )
            try:
                for columns in cursor:
                    rows.append(_Row(*columns))
                    size += len(columns[5]) if isinstance(columns[5], str | bytes) else 0
                    if len(rows) >= 3 and (len(rows) >= _PAGE or size >= _BYTES):
                        break
                else:
                    return rows, False
            finally:
                cursor.close()
        # What belongs together is told together.
        while (
            len(rows) > 1
            and rows[-1].action in ("replace", "delete")
            and rows[-1].key == rows[-2].key
        ):
            rows.pop()
        if len(rows) > 1 and rows[-1].action in ("replace", "delete"):
            rows.pop()
        return rows, True

    def _tell(self, store: SqliteStore, row: _Row, action: str) -> None:
        from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

        if row.writer in self._marks:
            return
        try:
            key = check_key(row.key)
        except (TypeError, ValueError):
            # Not a key for us.
            return
        kind = {"set": StoreSetEvent, "update": StoreUpdateEvent, "delete": StoreDeleteEvent}[
            action
        ]
        manager = store.event_manager
        if has_listeners(manager, kind):
            metadata = parse(row.metadata) or {}
            manager.emit(kind(store, key=key, metadata=metadata, remote=True))

    def _register_again(self, store: SqliteStore) -> None:
        _warn(store)
        with Writing(store, at_once=True) as connection:
            if connection is not None:
                self._seen, _ = self.tables.register(connection, self._name, self._patience)
                self._written = self._seen
        # Triggers on a table that another connection has dropped do not come back with it.
        store._drop_handles()

    def _write_down(self, store: SqliteStore) -> None:
        """Write down what was seen, now and then, and if nobody is writing."""
        assert self._seen is not None
        few = self._seen - self._written < _MANY
        if self._seen == self._written or (few and time.monotonic() < self._write_at):
            return
        with Writing(store, at_once=True) as connection:
            if connection is None or not self._is_known(connection):
                return
            connection.execute(
                f"UPDATE {self.tables.pollers} SET seen = ? WHERE name = ?",
                (self._seen, self._name),
            )
            self.tables.trim(connection)
        self._written = self._seen
        self._write_at = time.monotonic() + _LONG


def _changes(rows: list[_Row]) -> Iterator[tuple[_Row, str]]:
    """Return what the rows mean: the last row of each change, and its action."""
    position = 0
    while position < len(rows):
        row = rows[position]
        # What follows at once, if it is of the same key.
        one, two = [*rows[position + 1 : position + 3], None, None][:2]
        if one is not None and one.key != row.key:
            one = None
        step = 1
        if one is not None and one.action == "set":
            # A deletion and an insertion keep the time of creation where they replace.
            if row.action == "replace" or (row.action == "delete" and row.created == one.created):
                step = 2
        elif (
            row.action == "replace"
            and one is not None
            and one.action == "delete"
            and two is not None
            and (two.action, two.key, two.time) == ("set", row.key, row.time)
        ):
            # One statement, where triggers are recursive.
            step = 3
        action = row.action if step == 1 else "update"
        if action != "replace":
            yield rows[position + step - 1], action
        position += step


def _warn(store: SqliteStore) -> None:
    import logging

    logging.getLogger(__name__).warning("changes of %r by others may have been missed", store)


def _leave(connection: sqlite3.Connection, tables: ChangeTables, name: str, timeout: int) -> None:
    with Waiting(connection, timeout):
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            tables.leave(connection, name)


def _leave_quietly(path: str, table: str, name: str, process: int) -> None:
    """Clean up after a store that was not disconnected; in a finalizer, so it waits for nobody."""
    if os.getpid() != process:
        return
    import sqlite3
    from urllib.parse import quote

    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw", timeout=0, isolation_level=None, uri=True
        )
        try:
            _leave(connection, ChangeTables(table), name, 0)
        finally:
            connection.close()
    except sqlite3.Error:
        pass
