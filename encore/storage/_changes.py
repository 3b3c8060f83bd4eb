"""Changes of a store: what was done, and when it is told.

A change is told once, after it can be seen: at once, or when the outermost transaction of the
thread has been committed. It is told to the event manager of the store, and to the observer that
was there when it was made: a wrapper observes what the store it wraps does on its behalf, and
tells it as its own.
"""

from __future__ import annotations

from _thread import _local

from ._metadata import copy_of
from .errors import PreconditionError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from .base_store import Head
    from .events import StoreModificationEvent, StoreTransactionEvent

    Observer = Callable[["Change"], None]


class Change:
    """One key was set, updated or deleted."""

    __slots__ = ("key", "kind", "metadata", "observer")

    def __init__(
        self,
        kind: type[StoreModificationEvent],
        key: str,
        metadata: dict[str, Any],
        observer: Observer | None = None,
    ) -> None:
        self.kind = kind
        self.key = key
        self.metadata = metadata
        self.observer = observer

    def _replace(self, **changes: Any) -> Change:
        """Return a copy of which some attributes are others, as that of a named tuple."""
        return Change(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})


class Condition:
    """What must hold for a change: ``if_match``, or ``if_none_match`` if there is no etag."""

    __slots__ = ("etag",)

    def __init__(self, etag: str | None) -> None:
        self.etag = etag

    @classmethod
    def of(cls, if_match: str | None, if_none_match: str | None) -> Condition | None:
        if if_match is None and if_none_match is None:
            return None
        if if_match is not None and if_none_match is not None:
            raise ValueError("either if_match or if_none_match, not both")
        if if_none_match is None:
            if not isinstance(if_match, str):
                raise TypeError(f"if_match is an etag, not {shown(if_match)}")
            return cls(if_match)
        if not isinstance(if_none_match, str):
            raise TypeError(f"if_none_match is '*', not {shown(if_none_match)}")
        if if_none_match != "*":
            raise ValueError(f"if_none_match is '*', not {shown(if_none_match)}")
        return cls(None)

    def check(self, key: str, head: Head | None) -> None:
        if self.etag is None:
            if head is not None:
                raise PreconditionError(f"{key!r} is there already", key=key)
        elif head is None:
            raise PreconditionError(f"{key!r} is not there", key=key)
        elif head.etag != self.etag:
            raise PreconditionError(f"{key!r} has changed", key=key)


class Unit:
    """What one thread does between begin and commit: one method, or a transaction."""

    __slots__ = ("changes", "marks")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        # Of each nested transaction: the store's savepoint, and how many changes there were.
        self.marks: list[tuple[Any, int]] = []


class ThreadState(_local):
    """What a store knows of the calling thread."""

    unit: Unit | None = None
    observer: Observer | None = None


def has_listeners(manager: Any, *kinds: type) -> bool:
    """Whether an event of one of these classes would be noticed; True if the manager cannot tell."""
    ask = getattr(manager, "has_listeners", None)
    if ask is None:
        return True
    for kind in kinds:  # noqa: SIM110 - a generator takes longer than all the rest
        if ask(kind):
            return True
    return False


class ChangeTeller:
    """The part of a store that tells its changes."""

    event_manager: BaseEventManager
    _state: ThreadState

    def _tell(self, change: Change) -> None:
        manager = self.event_manager
        heard = has_listeners(manager, change.kind)
        if not heard and change.observer is None:
            return
        state = self._state
        # What listeners do is their own doing.
        observer, state.observer = state.observer, None
        try:
            if heard:
                manager.emit(change.kind(self, key=change.key, metadata=copy_of(change.metadata)))
            if change.observer is not None:
                change.observer(change)
        finally:
            state.observer = observer

    def _tell_transaction(self, kind: type[StoreTransactionEvent], **attributes: Any) -> None:
        manager = self.event_manager
        if has_listeners(manager, kind):
            manager.emit(kind(self, **attributes))


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
