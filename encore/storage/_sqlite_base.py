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
    from collections.abc import Callable
    from typing import Any, TypeVar
    from weakref import WeakSet

    from ._changes import Change, Unit
    from ._sqlite_asides import Superseded, aside, perform
    from ._sqlite_connections import (
        BUSY,
        Connections,
        Errors,
        Handle,
        Use,
        Waiting,
        failure,
        inherit,
        is_being_closed,
        is_waited_for,
    )

    _Each = TypeVar("_Each")

# What a change dirties, in bytes: some pages; and a name in the metadata.
PER_CHANGE = 1 << 14
PER_NAME = 1 << 13

_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global Superseded, aside, perform  # noqa: PLW0603
    global BUSY, Connections, Errors, Use, Waiting, failure, inherit, is_being_closed, is_waited_for, sqlite3  # noqa: PLW0603
    import sqlite3

    from ._sqlite_asides import Superseded, aside, perform
    from ._sqlite_connections import (
        BUSY,
        Connections,
        Errors,
        Use,
        Waiting,
        failure,
        inherit,
        is_being_closed,
        is_waited_for,
    )

    _loaded = True


def listed(some: WeakSet[_Each]) -> list[_Each]:
    while True:
        try:
            return list(some)
        except RuntimeError:
            # Another thread has just added one.
            continue


class SqliteBase(BaseStore):
    """A store with a connection for each thread, and one thread at a time that writes."""

    _transient = BaseStore._transient | {
        "_mutex",
        "_handles",
        "_writer",
        "_live",
        "_opened",
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
        #: All handles; and all connections that are open, those of no handle any more included.
        self._live: WeakSet[Handle] = WeakSet()
        self._opened: dict[int, sqlite3.Connection] = {}
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
                    # Not before a fork is over; see _sqlite_connections.py.
                    with self._gate:
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
            others = [handle for handle in listed(self._live) if handle not in own]
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
        handles, writer, opened = listed(self._live), self._writer, dict(self._opened)
        self._fresh()
        for handle in handles:
            if handle.close.detach() is None:
                # It is closed, or its connection is one of those below.
                continue
            del opened[id(handle.connection)]
            is_writer = handle.is_begun or (writer is not None and writer[1] is handle)
            shared = handle.spills or (handle.dirty and not self._wal) or not is_waited_for()
            if handle.users == 0 and not (is_writer and shared):
                handle.connection.close()
                continue
            # A call that another thread was in holds locks for ever.
            inherit(handle)
            self._stranded = (
                "inside a transaction" if is_writer else "while another thread was reading from it"
            )
        for connection in opened.values():
            if is_being_closed(connection):
                inherit(connection)
                self._stranded = "while another thread was closing it"
            else:
                connection.close()

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

    def _execute(
        self, sql: str, values: tuple[Any, ...], unit: Unit | None, size: int = PER_CHANGE
    ) -> int:
        """Execute a statement by itself, or in the unit of work; return how many rows it has changed.

        `size` is about how many bytes it changes.
        """
        handle = self._handle()
        if unit is not None and self._is_begun(handle):
            handle.users += 1
            try:
                connection = self._in_transaction(handle)
                handle.dirtied(size)
                return connection.execute(sql, values).rowcount
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

    # What comes in the middle of a change by the same thread: see _sqlite_asides.py.

    def _perform(self, step: Callable[[], Change]) -> list[Change]:
        between = aside(self)
        if between is not None:
            with between:
                return self._perform(step)
        if self._state.unit is not None:
            return super()._perform(step)
        return perform(self, step, super()._perform)

    def _enter(self, notes: str) -> None:
        between = aside(self)
        if between is None:
            super()._enter(notes)
            return
        between.__enter__()
        try:
            super()._enter(notes)
            unit = self._state.unit
            assert unit is not None
            unit.between = between
        except BaseException:
            between.__exit__(None, None, None)
            raise

    def _depth(self) -> int:
        unit = self._state.unit
        between = None if unit is None else unit.between
        return super()._depth() + (0 if between is None else 1)

    def _leave(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        unit = self._state.unit
        between = None if unit is None or unit.marks else unit.between
        try:
            super()._leave(kind, error, traceback)
        finally:
            if between is not None:
                between.__exit__(None, None, None)

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
            writer = get_ident(), handle
            handle.begin()
            self._writer = writer

    def _begin_at_once(self, handle: Handle) -> bool:
        """Keep other writers out if there are none now; return whether it is done."""
        if not self._mutex.acquire(blocking=False):
            return False
        with Waiting(handle.connection, 0):
            try:
                handle.begin()
            except sqlite3.OperationalError:
                self._end()
                return False
        self._writer = get_ident(), handle
        return True

    def _end(self) -> None:
        try:
            # Raises RuntimeError where this thread does not hold it.
            self._mutex.release()
        except RuntimeError:
            pass

    def _commit(self) -> None:
        unit = self._state.unit
        with Use(self) as handle:
            connection = self._in_transaction(handle)
            handle.is_begun = False
            if unit is None or not unit.superseded:
                connection.execute("COMMIT")
            # Also if it has become so just before.
            if unit is not None and unit.superseded:
                raise Superseded
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

    def _savepoint(self) -> int:
        """Return the number of a savepoint, 0 if it is a transaction by itself."""
        with Use(self) as handle:
            if self._is_begun(handle):
                connection = self._in_transaction(handle)
                # An interrupt may leave one behind; it ends with those that are outside of it.
                handle.savepoints += 1
                connection.execute(f"SAVEPOINT encore{handle.savepoints}")
                return handle.savepoints
        try:
            self._begin()
        except BaseException:
            self._rollback()
            raise
        return 0

    def _rollback_to(self, savepoint: int) -> None:
        if not savepoint:
            self._rollback()
            return
        with Use(self) as handle:
            if handle.connection.in_transaction and handle.savepoints >= savepoint:
                handle.connection.execute(f"ROLLBACK TO encore{savepoint}")
                handle.savepoints = savepoint - 1
                handle.connection.execute(f"RELEASE encore{savepoint}")

    def _release(self, savepoint: int) -> None:
        if not savepoint:
            try:
                self._commit()
            except BaseException:
                self._rollback()
                raise
            return
        with Use(self) as handle:
            connection = self._in_transaction(handle)
            handle.savepoints = savepoint - 1
            connection.execute(f"RELEASE encore{savepoint}")
