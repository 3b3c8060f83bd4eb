"""A unit of work in SQL, for what is done on a database beside setting and deleting keys."""

from __future__ import annotations

from ._changes import Unit
from ._sqlite_connections import Use

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from .sqlite_store import SqliteStore


class Writing:
    """A unit of work: the connection, with other writers kept out until the end of the block.

    A finalizer may use the store in between; what it changes is told at the end.

    Parameters
    ----------
    store : SqliteStore
    at_once : bool
        Wait for no other writer: there is no connection, and no unit, if there is one.
    """

    def __init__(self, store: SqliteStore, at_once: bool = False) -> None:
        self._store = store
        self._at_once = at_once
        self._unit: Unit | None = None
        #: Whether what was done is committed.
        self.is_done = False

    def __enter__(self) -> sqlite3.Connection | None:
        store = self._store
        unit = store._state.unit = Unit()
        try:
            # Nobody waits for the mutex with a handle in use: a fork would wait for that.
            if not self._at_once:
                store._begin()
            with Use(store) as handle:
                if self._at_once and not store._begin_at_once(handle):
                    store._state.unit = None
                    return None
                connection = store._in_transaction(handle)
        except BaseException:
            store._state.unit = None
            store._rollback()
            raise
        self._unit = unit
        return connection

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        store, unit = self._store, self._unit
        if unit is None:
            return
        try:
            if kind is None:
                store._commit()
                self.is_done = True
        finally:
            store._state.unit = None
            if not self.is_done:
                store._rollback()
        if self.is_done:
            for change in unit.changes:
                store._tell(change)
