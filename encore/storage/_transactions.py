"""Transaction contexts for stores that derive from the contract alone.

DummyTransactionContext is for stores that have no transactions, SimpleTransactionContext for those
that define ``_begin_transaction``, ``_commit_transaction`` and ``_rollback_transaction``. Leaf
stores built on BaseStore need neither.
"""

from __future__ import annotations

import sys
from _thread import RLock

from .events import (
    StoreModificationEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar
    from weakref import WeakKeyDictionary, WeakValueDictionary

    from .abstract_store import AbstractReadOnlyStore

    _Self = TypeVar("_Self", bound="DummyTransactionContext")

# class -> store id -> context; a context holds its store, so that an id cannot come back while it
# is in here. Made on first use, so that importing is cheap.
_live: WeakKeyDictionary[type, WeakValueDictionary[int, Any]] | None = None
# The weak dictionaries are not safe against threads that miss the same key at once. Re-entrant,
# because a finalizer may run in between and begin a transaction.
_live_lock = RLock()


def _contexts(cls: type) -> WeakValueDictionary[int, Any]:
    global _live  # noqa: PLW0603
    contexts = None if _live is None else _live.get(cls)
    if contexts is None:
        from weakref import WeakKeyDictionary, WeakValueDictionary

        live: WeakKeyDictionary[type, WeakValueDictionary[int, Any]] = WeakKeyDictionary()
        # Asked again: meanwhile a finalizer may have begun a transaction.
        if _live is None:
            _live = live
        contexts = _live.setdefault(cls, WeakValueDictionary())
    return contexts


class DummyTransactionContext:
    """A context manager that does nothing, for stores without transactions; one at a time for each store.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    """

    store: AbstractReadOnlyStore

    def __new__(cls: type[_Self], store: AbstractReadOnlyStore) -> _Self:
        fresh = super().__new__(cls)
        fresh.store = store
        fresh._prepare()
        with _live_lock:
            context: _Self = _contexts(cls).setdefault(id(store), fresh)
        return context

    def __init__(self, store: AbstractReadOnlyStore) -> None:
        # Nothing: the context may be in use. But a subclass's constructor calls it.
        pass

    def _prepare(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.store!r}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        return None


class SimpleTransactionContext(DummyTransactionContext):
    """A transaction over a store's begin, commit and rollback; only the outermost of nested ones counts.

    The store's modification events are kept back: they are delivered in order after the commit,
    and dropped after a rollback.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    """

    def _prepare(self) -> None:
        self._depth = 0

    def begin(self) -> None:
        """Begin: the store's ``_begin_transaction()``, where there is one."""
        self._call("_begin_transaction")

    def commit(self) -> None:
        """Commit: the store's ``_commit_transaction()``, where there is one."""
        self._call("_commit_transaction")

    def rollback(self) -> None:
        """Roll back: the store's ``_rollback_transaction()``, where there is one."""
        self._call("_rollback_transaction")

    def _call(self, name: str) -> None:
        method = getattr(self.store, name, None)
        if method is not None:
            method()

    def __enter__(self: _Self) -> _Self:
        assert isinstance(self, SimpleTransactionContext)
        if self._depth:
            self._depth += 1
            return self
        self.begin()
        self._depth = 1
        # The store's manager may be another one when the transaction ends.
        self._manager = self.store.event_manager
        self._held = self._manager.held(
            StoreModificationEvent,
            {"source": lambda source: source is self.store},
            discard_on_error=True,
        )
        self._held.__enter__()
        try:
            self._manager.emit(StoreTransactionStartEvent(self.store))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        done = False
        try:
            if kind is None:
                try:
                    self.commit()
                    done = True
                except BaseException:
                    self.rollback()
                    raise
            else:
                self.rollback()
        finally:
            state = "done" if done else "failed"
            try:
                self._manager.emit(StoreTransactionEndEvent(self.store, state=state))
            finally:
                self._held.__exit__(None if done else RuntimeError, None, None)
