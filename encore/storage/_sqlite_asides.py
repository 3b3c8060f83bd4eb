"""What a signal handler or a finalizer does in the middle of a change that the same thread makes.

It cannot wait for the change, and what it has done must not depend on how the change ends. So it
comes first: the transaction of the change is rolled back, what comes between is done and committed
by itself, and the change is done again from its beginning. Meanwhile its method goes on wherever
it was; so that it does no harm, it has a transaction that is never committed.

That holds for single changes. Inside a transaction of the user it is a part of it, like all that
the thread does there.
"""

from __future__ import annotations

from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._changes import Change, Unit
    from ._sqlite_base import SqliteBase
    from ._sqlite_connections import Handle

# A change is done again so many times. Then what comes between becomes a part of it: a timer
# might come each time.
_MOST = 10


class Superseded(Exception):
    """A change must be done again."""


def perform(
    store: SqliteBase,
    step: Callable[[], Change],
    once: Callable[[Callable[[], Change]], list[Change]],
) -> list[Change]:
    """Do a step by `once`, and again where something has come in between."""
    units: list[Unit] = []

    def watched() -> Change:
        unit = store._state.unit
        assert unit is not None
        units[:] = [unit]
        unit.is_step = turn < _MOST
        return step()

    turn = 0
    while True:
        turn += 1
        try:
            return once(watched)
        except Exception:
            # Whatever it is: it comes of what has been undone.
            if not units or not units.pop().superseded:
                raise


class Aside:
    """A block in which the change in whose middle we are is out of the way.

    Parameters
    ----------
    store : SqliteBase
    unit : Unit
        That of the change.
    """

    def __init__(self, store: SqliteBase, unit: Unit) -> None:
        self._store = store
        self._unit = unit
        self._handle: Handle | None = None

    def __enter__(self) -> Aside:
        store = self._store
        store._state.unit = None
        handle = store._handle()
        # Otherwise it has not begun, or is over.
        if handle.connection.in_transaction:
            self._handle = handle
            self._unit.superseded = True
            handle.is_begun = False
            handle.connection.execute("ROLLBACK")
            store._writer = None
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        store, handle = self._store, self._handle
        if handle is not None:
            if not handle.connection.in_transaction:
                # Not IMMEDIATE: others may be writing, for whom nobody need wait.
                handle.connection.execute("BEGIN")
            handle.is_begun = True
            store._writer = get_ident(), handle
        store._state.unit = self._unit


def aside(store: SqliteBase) -> Any:
    """Return an Aside if this thread is in the middle of a single change, else None."""
    unit = store._state.unit
    return Aside(store, unit) if unit is not None and unit.is_step else None
