"""Changes of a store: what was done, and when it is told.

A change is told once, after it can be seen: at once, or when the outermost transaction of the
thread has been committed. It is told to the event manager of the store, and to the observer that
was there when it was made: a wrapper observes what the store it wraps does on its behalf, and
tells it as its own.
"""

from __future__ import annotations

import sys
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
    #: Whether it has been in a transaction. It looks as if not when the thread is about to end, and
    #: all this is lost.
    is_known = False


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

    def _thread_ended(self) -> None:
        """Let go of what this thread has, which is about to end in a transaction, and has lost its state."""

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

    If it is over without having been left (an interrupt came in between, or the thread has ended), it
    is rolled back. Any number of threads may use one context at the same time.

    Parameters
    ----------
    store : store
    notes : str
    """

    def __init__(self, store: Any, notes: str) -> None:
        self.store = store
        self.notes = notes
        self._key = object()

    def __repr__(self) -> str:
        return f"<transaction {self.notes!r} of {self.store!r}>"

    def __enter__(self) -> TransactionContext:
        store, entered = self.store, self._entered(self)
        outside, watched = entered.outside, entered.watched
        level = len(outside)
        if len(watched) <= level or watched[level]() is None:
            self._watch(self)
        store._state.is_known = True
        # First: an interrupt may come when the transaction has begun, and nobody knows of it yet.
        outside.append(store._depth())
        try:
            store._enter(self.notes)
        except BaseException:
            _end(store, self._key, get_ident(), outside, level)
            raise
        return self

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        store, entered = self.store, self._entered()
        outside = entered.outside
        if not outside:
            _forget(self._key, outside)
            if kind is GeneratorExit and sys.is_finalizing():
                # The end of the interpreter has ended it before.
                return
        if not outside or store._depth() <= outside[-1]:
            raise StoreError("this thread has no transaction to leave")
        # Those within that have not been left (by a generator, say) end with it.
        while store._depth() > outside[-1] + 1:
            store._leave(kind, error, traceback)
        store._leave(kind, error, traceback)
        outside.pop()
        if not outside:
            _forget(self._key, outside)
        # So that nothing is run at its death, where an interrupt would get lost. Last, as it does the
        # rest after an interrupt here.
        del entered.watched[len(outside) :]

    __exit__ = _Exit(_leave)

    def _entered(self, watched: object = None) -> _Entered:
        """Return what this thread has entered: others may use the context too."""
        entered = _thread.entered.get(self._key)
        if entered is None:
            entered = _Entered()
            if watched is not None:
                # Before others know of it: an interrupt in between leaves nothing.
                entered.watched = [self._reference(watched, entered.outside)]
            guard = self._reference(entered, entered.outside)
            _guards[id(entered.outside)] = guard
            _thread.entered[self._key] = entered
        return entered

    def _watch(self, what: object) -> None:
        entered = self._entered(what)
        level, watched = len(entered.outside), entered.watched
        if len(watched) <= level or watched[level]() is not what:
            watched[level:] = [self._reference(what, entered.outside)]

    def _reference(self, what: object, outside: list[int]) -> Any:
        """Return a weak reference to what dies at the end of what is entered next."""
        store, key, thread, level = self.store, self._key, get_ident(), len(outside)
        return ref(what, lambda _: _end(store, key, thread, outside, level))


class _Entered:
    """What a thread has entered by a context, and has not left. Only the thread refers to it."""

    __slots__ = ("__weakref__", "outside", "watched")

    def __init__(self) -> None:
        # Of each __enter__: how deep the thread was before; and what dies at its end at the latest.
        self.outside: list[int] = []
        self.watched: list[Any] = []


class _Thread(_local):
    def __init__(self) -> None:
        self.entered: dict[object, _Entered] = {}


_thread = _Thread()

# What rolls back when the thread ends: a context may live on, in a generator that other threads know.
_guards: dict[int, Any] = {}


def _end(store: Any, key: object, thread: int, outside: list[int], level: int) -> None:
    """Roll back what has been entered and not been left, down to a level."""
    # Another thread is inside something else, if it is inside anything.
    if thread == get_ident():
        while len(outside) > level:
            depth = outside.pop()
            store._abandon(depth)
            if not depth and not store._state.is_known:
                store._thread_ended()
        if not outside:
            _forget(key, outside)


def _forget(key: object, outside: list[int]) -> None:
    _guards.pop(id(outside), None)
    _thread.entered.pop(key, None)
