"""The base of wrappers that keep copies of what the inner store holds: they learn which keys change.

From just before a key may change in the store until what is kept of it is dropped, the key is being
written: what is kept is not used. In a transaction of this store, that begins with its commit, for
all its keys at once; before, the thread that is in the transaction reads the store, and the others
what was kept.
"""

from __future__ import annotations

from ._changes import ChangeTeller, ThreadState
from ._keys import check_key
from .wrapper_store import WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set
    from typing import Any

    from .wrapper_store import Changing

__all__ = ["WatchingWrapper"]


class WatchingState(ThreadState):
    """What a wrapper knows of the calling thread."""

    #: The keys that the transaction of this thread has written.
    touched: set[str] | None = None


class WatchingWrapper(WrapperStore):
    """A wrapper that learns which keys change.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    event_manager : BaseEventManager, optional
    """

    _state: WatchingState

    def _prepare(self) -> None:
        super()._prepare()
        self._state = WatchingState()

    # Hooks

    def _begin_keys(self, keys: Set[str]) -> None:
        """These keys may change in the store from now on."""
        raise NotImplementedError

    def _end_keys(self, keys: Set[str], lasting: bool) -> None:
        """They have changed, or not; or will, at a time unknown, if it is `lasting`."""
        raise NotImplementedError

    # Writing

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        with self._writing({check_key(key)}):
            super()._write(call, method, key, *args, **conditions)

    def _writing(self, keys: set[str]) -> _Writing:
        """Return a context manager in whose block these keys may change in the store."""
        return _Writing(self, keys)

    # Inside the store, where that is faster than through here.

    def copy(self, source: str, target: str) -> None:
        check_key(source)
        with self._writing({check_key(target)}):
            super().copy(source, target)

    def move(self, source: str, target: str) -> None:
        with self._writing({check_key(source), check_key(target)}):
            super().move(source, target)

    # Transactions

    def _enter(self, notes: str) -> None:
        state = self._state
        outermost = state.touched is None
        if outermost:
            state.touched = set()
        try:
            super()._enter(notes)
        except BaseException:
            if outermost:
                state.touched = None
            raise

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        state = self._state
        unit, touched = state.unit, state.touched
        if touched is None or unit is None or len(unit.marks) != 1:
            super()._leave(kind, error, traceback)
            return
        state.touched = None
        self._begin_keys(touched)
        try:
            super()._leave(kind, error, traceback)
        finally:
            self._end_keys(touched, in_transaction(self.store))

    def _in_transaction(self) -> bool:
        """Whether this thread is in a transaction of this store, or of one within."""
        return self._state.touched is not None or in_transaction(self.store)


class _Writing:
    """A block in which keys may change in the store."""

    def __init__(self, wrapper: WatchingWrapper, keys: set[str]) -> None:
        self._wrapper = wrapper
        self._keys = keys

    def __enter__(self) -> None:
        wrapper, keys = self._wrapper, self._keys
        touched = wrapper._state.touched
        self._begun = touched is None
        if touched is None:
            wrapper._begin_keys(keys)
        else:
            # All of them begin with the commit.
            touched |= keys

    def __exit__(self, *exc_info: object) -> None:
        if self._begun:
            wrapper = self._wrapper
            # Nobody tells when a transaction ends that was begun within.
            wrapper._end_keys(self._keys, in_transaction(wrapper.store))


def in_transaction(store: object) -> bool:
    """Whether the thread is in a transaction of a store, or of one within."""
    while store is not None:
        if isinstance(store, ChangeTeller) and store._depth():
            return True
        for layer in getattr(store, "_lower", ()):
            if in_transaction(layer):
                return True
        store = getattr(store, "store", None)
    return False
