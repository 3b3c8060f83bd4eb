"""Changes of a store: what was done, and when it is told.

A change is told once, after it can be seen: at once, or when the outermost transaction of the
thread has been committed. It is told to the event manager of the store, and to the observer that
was there when it was made: a wrapper observes what the store it wraps does on its behalf, and
tells it as its own.
"""

from __future__ import annotations

from _thread import _local, get_ident
from _weakref import ref

from ._metadata import copy_of
from .errors import PreconditionError, StoreError, shown

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

    __slots__ = ("between", "changes", "is_step", "marks", "superseded")

    def __init__(self, is_step: bool = False) -> None:
        self.changes: list[Change] = []
        # Of each nested transaction: the store's savepoint, and how many changes there were.
        self.marks: list[tuple[Any, int]] = []
        #: Whether it is one method, which runs nobody else's code.
        self.is_step = is_step
        #: What ends with it, if it comes in the middle of a method of the same thread.
        self.between: Any = None
        #: Whether it must be done again because of one that has come in its middle.
        self.superseded = False


class ThreadState(_local):
    """What a store knows of the calling thread."""

    unit: Unit | None = None
    observer: Observer | None = None
    #: When the key came to be that is new in this store the next time one is written.
    created: float | None = None


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

    def _depth(self) -> int:
        """How many transactions this thread is in."""
        unit = self._state.unit
        return 0 if unit is None else len(unit.marks)

    def _leave(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        """Leave a transaction, as ``__exit__`` does; only of stores that have any."""
        raise NotImplementedError

    def _abandon(self, depth: int) -> None:
        """Roll back the transactions of this thread that are deeper, which an interrupt has kept from being left."""
        while (before := self._depth()) > depth:
            try:
                self._leave(KeyboardInterrupt, None, None)
            finally:
                unit = self._state.unit
                if unit is not None and self._depth() >= before:
                    # It cannot be rolled back; it is over all the same.
                    unit.marks[-1:] = []

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


class _Exit:
    """``__exit__`` of a TransactionContext, as an object of its own for each with statement.

    If an interrupt comes just before ``__exit__``, or on its first lines, nobody calls it again. But
    what is called is referred to by the statement alone, and by no traceback: when it dies, the
    statement is over, however.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __get__(self, context: TransactionContext | None, owner: type) -> Callable[..., None]:
        if context is None:
            # contextlib.ExitStack asks the class.
            return self._function
        # Without the rest of functools.
        from _functools import partial  # type: ignore[import-not-found]

        # Not a method: one of those may die as soon as it is called.
        method: Callable[..., None] = partial(self._function, context)
        context._watch(method)
        return method


class TransactionContext:
    """A transaction of a store that defines ``_enter`` and ``_leave``.

    If it is over without having been left (an interrupt came in between), it is rolled back.

    Parameters
    ----------
    store : store
    notes : str
    """

    def __init__(self, store: Any, notes: str) -> None:
        self.store = store
        self.notes = notes
        # Of each __enter__ that has not been left: the thread, and how deep it was before; and what
        # dies at its end at the latest.
        self._outside: list[tuple[int, int]] = []
        self._watched: list[Any] = []

    def __repr__(self) -> str:
        return f"<transaction {self.notes!r} of {self.store!r}>"

    def __enter__(self) -> TransactionContext:
        store, outside, watched = self.store, self._outside, self._watched
        level = len(outside)
        if len(watched) <= level or watched[level]() is None:
            self._watch(self)
        # First: an interrupt may come when the transaction has begun, and nobody knows of it yet.
        outside.append((get_ident(), store._depth()))
        try:
            store._enter(self.notes)
        except BaseException:
            _end(store, outside, level)
            raise
        return self

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        store, outside = self.store, self._outside
        thread, depth = outside[-1] if outside else (0, 0)
        if thread != get_ident() or store._depth() <= depth:
            raise StoreError("this thread has no transaction to leave")
        # Those within that have not been left (by a generator, say) end with it.
        while store._depth() > depth + 1:
            store._leave(kind, error, traceback)
        store._leave(kind, error, traceback)
        outside.pop()
        # So that nothing is run at its death, where an interrupt would get lost.
        del self._watched[len(outside) :]

    __exit__ = _Exit(_leave)

    def _watch(self, what: object) -> None:
        store, outside = self.store, self._outside
        level = len(outside)
        self._watched[level:] = [ref(what, lambda _: _end(store, outside, level))]


def _end(store: Any, outside: list[tuple[int, int]], level: int) -> None:
    """Roll back what has been entered and not been left, down to a level."""
    while len(outside) > level:
        thread, depth = outside.pop()
        # Another thread is inside something else, if it is inside anything.
        if thread == get_ident():
            store._abandon(depth)
