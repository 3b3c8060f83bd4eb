"""The part of an SqliteStore that is about connections and transactions: who reads, and who writes.

Each thread has a handle, which is a connection and what is known of it; it is made when the thread
first needs it. How they come and go, in a fork too, is said in _sqlite_connections.py.

One thread at a time writes. Those of one process wait for each other here rather than in SQLite:

=========  =======================================================================================
nobody     ``_mutex`` is free and ``_writer`` None
begun      this thread has ``_mutex``, ``_writer`` says so, and its handle has a transaction that
           keeps out all others (BEGIN IMMEDIATE); or it runs one statement that is a transaction
           by itself. ``dirtied`` of the handle tells, after a fork, what the child may close
broken     as begun, but SQLite has rolled back by itself, as it does on a full disk: every further
           step raises, until _rollback()
=========  =======================================================================================

_rollback() leads from anywhere to the first state, also for a thread that has not come to the
second one because _begin() was interrupted.
"""

from __future__ import annotations

from _thread import RLock, get_ident
from abc import abstractmethod

from .base_store import BaseStore
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any
    from weakref import WeakSet

    from ._changes import Unit
    from ._sqlite_connections import (
        BUSY,
        SPILL,
        Connections,
        Errors,
        Handle,
        Use,
        Waiting,
        failure,
        inherit,
    )

# What a change dirties, in bytes: some pages.
PER_CHANGE = 1 << 14

_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global BUSY, SPILL, Connections, Errors, Use, Waiting, failure, inherit, sqlite3  # noqa: PLW0603
    import sqlite3

    from ._sqlite_connections import (
        BUSY,
        SPILL,
        Connections,
        Errors,
        Use,
        Waiting,
        failure,
        inherit,
    )

    _loaded = True


class SqliteBase(BaseStore):
    """A store with a connection for each thread, and one thread at a time that writes."""

    _transient = BaseStore._transient | {
        "_mutex",
        "_handles",
        "_writer",
        "_snapshots",
        "_stranded",
        "_owner",
        "_path",
        "_wal",
    }

    #: The file, absolute.
    _path: str

    def _prepare(self) -> None:
        _load()
        super()._prepare()
        self._wal = False
        #: What a handle must have to be one of this connect().
        self._owner: object | None = None
        self._fresh()

    def _fresh(self) -> None:
        from weakref import WeakSet

        # Re-entrant only because such a lock knows whether this thread holds it.
        self._mutex = RLock()
        self._handles = Connections()
        self._writer: tuple[int, Handle] | None = None
        self._snapshots: WeakSet[Handle] = WeakSet()
        self._stranded = False

    # Connections

    @abstractmethod
    def _new_handle(self) -> Handle:
        """Open a connection."""

    def _handle(self) -> Handle:
        """Return the handle of this thread."""
        handle = self._handles.mine
        if handle is None or handle.owner is not self._owner:
            with Errors(self._path):
                writer = self._writer
                if (
                    writer is not None
                    and writer[0] == get_ident()
                    and writer[1].owner is self._owner
                ):
                    handle = writer[1]
                else:
                    handle = self._new_handle()
            self._handles.mine = handle
        return handle

    def _drop_handles(self) -> None:
        """Forget all connections: those that nobody uses are closed now, the one in a transaction is kept."""
        self._handles = Connections()

    def _forked(self) -> None:
        super()._forked()
        inherited, writer = list(self._snapshots), self._writer
        if writer is not None:
            inherited.append(writer[1])
        self._fresh()
        for handle in inherited:
            if handle.users == 0 and handle.dirtied <= (SPILL if self._wal else 0):
                handle.close()
            else:
                # Undoing what is in the WAL would undo it for the parent, and a rollback journal
                # would be deleted; and a call that another thread was in holds locks for ever.
                inherit(handle)
                self._stranded = True

    # One statement. Without Use, which takes as long as many a statement.

    def _fetch(self, sql: str, key: str) -> Any:
        """Return the row of a key, None if there is none."""
        handle = self._handle()
        handle.users += 1
        try:
            return handle.row(sql, key)
        except sqlite3.Error as error:
            raise failure(error, self._path) from error
        finally:
            handle.users -= 1

    def _execute(self, sql: str, values: tuple[Any, ...], unit: Unit | None) -> int:
        """Execute a statement by itself, or in the unit of work; return how many rows it has changed."""
        handle = self._handle()
        handle.users += 1
        try:
            if unit is not None:
                handle.dirtied += PER_CHANGE
                return self._in_transaction(handle).execute(sql, values).rowcount
            if not self._mutex.acquire(timeout=BUSY):
                raise StoreError(f"{self!r} is locked by another thread")
            # For a fork in another thread.
            self._writer = get_ident(), handle
            return handle.connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise failure(error, self._path) from error
        finally:
            handle.users -= 1
            if unit is None:
                self._writer = None
                self._end()

    # Units of work

    def _begin(self) -> None:
        if not self._mutex.acquire(timeout=BUSY):
            raise StoreError(f"{self!r} is locked by another thread")
        with Use(self) as handle:
            handle.dirtied = 0
            self._writer = get_ident(), handle
            handle.connection.execute("BEGIN IMMEDIATE")

    def _begin_at_once(self, handle: Handle) -> bool:
        """Keep other writers out if there are none now; return whether it is done."""
        if not self._mutex.acquire(blocking=False):
            return False
        with Waiting(handle.connection, 0):
            try:
                handle.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                self._end()
                return False
        handle.dirtied = SPILL + 1
        self._writer = get_ident(), handle
        return True

    def _end(self) -> None:
        try:
            # Raises RuntimeError where this thread does not hold it.
            self._mutex.release()
        except RuntimeError:
            pass

    def _commit(self) -> None:
        with Use(self) as handle:
            self._in_transaction(handle).execute("COMMIT")
            self._writer = None
        self._end()

    def _rollback(self) -> None:
        writer = self._writer
        try:
            if writer is not None and writer[0] == get_ident():
                if writer[1].connection.in_transaction:
                    with Errors(self._path):
                        writer[1].connection.execute("ROLLBACK")
                self._writer = None
        finally:
            self._end()

    def _in_transaction(self, handle: Handle) -> sqlite3.Connection:
        if not handle.connection.in_transaction:
            # SQLite rolls back by itself after some errors, a full disk for one.
            raise StoreError(f"the transaction on {self!r} was rolled back after an error")
        return handle.connection

    def _savepoint(self) -> None:
        # Savepoints of one name nest: ROLLBACK TO and RELEASE mean the newest.
        with Use(self) as handle:
            self._in_transaction(handle).execute("SAVEPOINT encore")

    def _rollback_to(self, savepoint: None) -> None:
        with Use(self) as handle:
            if handle.connection.in_transaction:
                handle.connection.execute("ROLLBACK TO encore")
                handle.connection.execute("RELEASE encore")

    def _release(self, savepoint: None) -> None:
        with Use(self) as handle:
            self._in_transaction(handle).execute("RELEASE encore")
