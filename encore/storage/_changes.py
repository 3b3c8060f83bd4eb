"""Changes of a store: what was done, and when it is told.

A change is told once, after it can be seen: at once, or when the outermost transaction of the
thread has been committed. It is told to the event manager of the store, and to the observer that
was there when it was made: a wrapper observes what the store it wraps does on its behalf, and
tells it as its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ._metadata import copy_of
from ._progress import has_listeners
from .events import StoreTransactionEndEvent, StoreTransactionStartEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events.abstract_event_manager import BaseEventManager
    from .events import StoreModificationEvent

    Observer = Callable[["Change"], None]


class Change(NamedTuple):
    """One key was set, updated or deleted."""

    kind: type[StoreModificationEvent]
    key: str
    metadata: dict[str, Any]
    observer: Observer | None = None


class Unit:
    """What one thread does between begin and commit: one method, or a transaction."""

    __slots__ = ("changes", "marks")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        # Of each nested transaction: the store's savepoint, and how many changes there were.
        self.marks: list[tuple[Any, int]] = []


class ThreadState(threading.local):
    """What a store knows of the calling thread."""

    unit: Unit | None = None
    observer: Observer | None = None


class ChangeTeller:
    """The part of a store that tells its changes."""

    event_manager: BaseEventManager
    _state: ThreadState

    def _tell(self, change: Change) -> None:
        state = self._state
        # What listeners do is their own doing.
        observer, state.observer = state.observer, None
        try:
            manager = self.event_manager
            if has_listeners(manager, change.kind):
                manager.emit(change.kind(self, key=change.key, metadata=copy_of(change.metadata)))
            if change.observer is not None:
                change.observer(change)
        finally:
            state.observer = observer

    def _tell_transaction(self, state: str | None) -> None:
        manager = self.event_manager
        if state is None:
            if has_listeners(manager, StoreTransactionStartEvent):
                manager.emit(StoreTransactionStartEvent(self))
        elif has_listeners(manager, StoreTransactionEndEvent):
            manager.emit(StoreTransactionEndEvent(self, state=state))


class TransactionContext:
    """A transaction of a store that defines ``_enter`` and ``_leave``.

    Parameters
    ----------
    store : store
    notes : str
    """

    def __init__(self, store: Any, notes: str) -> None:
        self.store = store
        self.notes = notes

    def __repr__(self) -> str:
        return f"<transaction {self.notes!r} of {self.store!r}>"

    def __enter__(self) -> TransactionContext:
        self.store._enter(self.notes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        self.store._leave(kind, error, traceback)
