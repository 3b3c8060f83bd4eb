"""The part of an SqliteStore that is about connections and transactions: who reads, and who writes.

Each thread has a handle, which is a connection and what is known of it; it is made when the thread
first needs it. How they come and go, in a fork too, is said in _sqlite_connections.py.

One thread at a time writes. Those of one process wait for each other here rather than in SQLite:

=========  =======================================================================================
nobody     ``_mutex`` is free and ``_writer`` None
begun      this thread has ``_mutex``, ``_writer`` says so, and its handle has a transaction that
           keeps out all others (BEGIN IMMEDIATE); or it runs one statement that is a transaction
           by itself. ``is_begun`` of the handle lasts from after BEGIN until before COMMIT
broken     as begun, but SQLite has rolled back by itself, as it does on a full disk: every further
           step raises, until _rollback()
=========  =======================================================================================

_rollback() leads from anywhere to the first state, also for a thread that has not come to the
second one because _begin() was interrupted.
"""

from __future__ import annotations

import time
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


def _listed(handles: WeakSet[Handle]) -> list[Handle]:
    while True:
        try:
            return list(handles)
        except RuntimeError:
            # Another thread has just opened one.
            continue


class SqliteBase(BaseStore):
    """A store with a connection for each thread, and one thread at a time that writes."""

    _transient = BaseStore._transient | {
        "_mutex",
        "_handles",
        "_writer",
        "_live",
        "_gate",
        "_opening",
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
        #: All connections that are open.
        self._live: WeakSet[Handle] = WeakSet()
        #: Who gets a handle must come through; and the threads that have, and have none yet.
        self._gate = RLock()
        self._opening: set[int] = set()
        #: What went on at the fork that made this process, if that is in the way.
        self._stranded = ""

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
                    return self._open_handle()
            self._handles.mine = handle
        return handle

    def _open_handle(self) -> Handle:
        me = get_ident()
        with self._gate:
            self._opening.add(me)
        try:
            self._handles.mine = handle = self._new_handle()
        finally:
            self._opening.discard(me)
        return handle

    def _drop_handles(self) -> None:
        """Forget all connections: those that nobody uses are closed now, the one in a transaction is kept."""
        self._handles = Connections()

    def _stand_still(self, deadline: float, held: list[Any]) -> None:
        """Let nobody else be inside SQLite before a fork; `held` gets the locks to be released after it.

        A thread that takes longer than the deadline goes on, and the child cannot use the store.
        """
        for lock in (self._mutex, self._gate):
            if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                held.append(lock)
        mine, writer = self._handles.mine, self._writer
        own = [mine, writer[1] if writer is not None and writer[0] == get_ident() else None]
        del mine, writer
        self._drop_handles()
        own = [handle for handle in own if handle is not None and self._is_begun(handle)]
        quiet = False
        while True:
            # Who has come through the gate before gets a handle yet.
            opening = bool(self._opening)
            self._handles = Connections()
            others = [handle for handle in _listed(self._live) if handle not in own]
            users = any(handle.users for handle in others)
            # Without users they belong to large values, or to threads that are about to use them.
            if not opening and not users and (quiet or not others):
                break
            del others
            quiet = not opening and not users
            if time.monotonic() >= deadline:
                break
            time.sleep(0.0005)

    def _forked(self) -> None:
        super()._forked()
        inherited, writer = _listed(self._live), self._writer
        self._fresh()
        for handle in inherited:
            is_writer = handle.is_begun or (writer is not None and writer[1] is handle)
            spilled = is_writer and (not self._wal or handle.dirtied > SPILL)
            if handle.users == 0 and not spilled:
                handle.close()
                continue
            # To undo it would be to change memory that the parent shares; and a call that another
            # thread was in holds locks for ever.
            inherit(handle)
            self._stranded = (
                "inside a transaction" if is_writer else "while another thread was reading from it"
            )

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
        if unit is not None and self._is_begun(handle):
            handle.users += 1
            try:
                handle.dirtied += PER_CHANGE
                return self._in_transaction(handle).execute(sql, values).rowcount
            except sqlite3.Error as error:
                raise failure(error, self._path) from error
            finally:
                handle.users -= 1
        mine, before, is_mine = (get_ident(), handle), None, False
        try:
            if not self._mutex.acquire(timeout=BUSY):
                raise StoreError(f"{self!r} is locked by another thread")
            handle.users += 1
            before, self._writer, is_mine = self._writer, mine, True
            return handle.connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise failure(error, self._path) from error
        finally:
            # Nothing is called before the release: that is where an interrupt would come in.
            if is_mine:
                handle.users -= 1
                self._writer = before
            try:
                self._mutex.release()
            except RuntimeError:
                pass

    # Units of work

    def _is_begun(self, handle: Handle) -> bool:
        """Whether the unit of this thread has a transaction, or SQLite has undone that.

        If not, it has not begun or is over already, and a signal handler or a finalizer has come in
        between: what that does is a transaction by itself.
        """
        return handle.is_begun or handle.connection.in_transaction

    def _begin(self) -> None:
        if not self._mutex.acquire(timeout=BUSY):
            raise StoreError(f"{self!r} is locked by another thread")
        with Use(self) as handle:
            handle.dirtied = 0
            writer = get_ident(), handle
            handle.connection.execute("BEGIN IMMEDIATE")
            handle.is_begun = True
            self._writer = writer

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
        handle.is_begun = True
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
            connection = self._in_transaction(handle)
            handle.is_begun = False
            connection.execute("COMMIT")
            self._writer = None
        self._end()

    def _rollback(self) -> None:
        try:
            writer = self._writer
            is_mine = writer is not None and writer[0] == get_ident()
            handle = writer[1] if writer is not None and is_mine else self._handles.mine
            if handle is not None:
                handle.is_begun = False
                # Whatever is said of it elsewhere: nobody may get the mutex before it is undone.
                if handle.connection.in_transaction:
                    with Errors(self._path):
                        handle.connection.execute("ROLLBACK")
            if is_mine:
                self._writer = None
        finally:
            self._end()

    def _in_transaction(self, handle: Handle) -> sqlite3.Connection:
        if not handle.connection.in_transaction:
            # SQLite rolls back by itself after some errors, a full disk for one.
            raise StoreError(f"the transaction on {self!r} was rolled back after an error")
        return handle.connection

    def _savepoint(self) -> bool:
        """Return whether it is a transaction by itself."""
        # Savepoints of one name nest: ROLLBACK TO and RELEASE mean the newest.
        with Use(self) as handle:
            if self._is_begun(handle):
                self._in_transaction(handle).execute("SAVEPOINT encore")
                return False
        try:
            self._begin()
        except BaseException:
            self._rollback()
            raise
        return True

    def _rollback_to(self, savepoint: bool) -> None:
        if savepoint:
            self._rollback()
            return
        with Use(self) as handle:
            if handle.connection.in_transaction:
                handle.connection.execute("ROLLBACK TO encore")
                handle.connection.execute("RELEASE encore")

    def _release(self, savepoint: bool) -> None:
        if savepoint:
            try:
                self._commit()
            except BaseException:
                self._rollback()
                raise
            return
        with Use(self) as handle:
            self._in_transaction(handle).execute("RELEASE encore")
