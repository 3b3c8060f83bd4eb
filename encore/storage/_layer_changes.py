"""Changes of stores made of layers: the order in which they are told, and their transactions."""

from __future__ import annotations

from ._changes import Change, has_listeners
from ._reading_wrapper import ReadingWrapper
from .events import StoreSetEvent, StoreUpdateEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from .abstract_store import AbstractReadOnlyStore, AbstractStore
    from .wrapper_store import Changing


class Pending(Change):
    """The place of a change among the others of a transaction; done when the layer has told it."""

    __slots__ = ("done",)
    done: bool


class Note:
    """What one call of a layer changes, as the composite tells it.

    A layer that is in a transaction tells its change when that is over, and not at all if it is
    rolled back; but the place of the change is where it was made, and whether the key was there is
    asked then too.
    """

    def __init__(self, store: Any, call: Changing, key: str) -> None:
        self._store = store
        self._call = call
        self._key = key
        self._seen = False
        self._below: bool | None = None
        self._pending: Pending | None = None
        self._unit = store._state.unit

    def observe(self, change: Change) -> None:
        self._seen = True
        kind = change.kind
        if kind is StoreSetEvent and self._was_below():
            kind = StoreUpdateEvent
        pending = self._pending
        if pending is None or self._store._state.unit is not self._unit:
            self._call.add(Change(kind, self._key, change.metadata))
        else:
            pending.kind, pending.metadata = kind, change.metadata
            pending.done = True

    def wait(self) -> None:
        """The call is over; if nothing has been told, it will be."""
        if self._seen:
            return
        self._was_below()
        if self._store._depth():
            unit = self._unit
            assert unit is not None
            self._pending = Pending(StoreSetEvent, self._key, {}, self._call._observer)
            self._pending.done = False
            unit.changes.append(self._pending)

    def _was_below(self) -> bool:
        if self._below is None:
            try:
                self._below = (
                    self._call._observer is not None
                    or has_listeners(self._store.event_manager, StoreSetEvent, StoreUpdateEvent)
                ) and self._store._lies_below(self._key)
            except Exception:
                # Out of reach; but the change has been made, and is to be told.
                self._below = False
        return self._below


class Nobody:
    """Observes changes that are not to be told."""

    def observe(self, change: Change) -> None:
        pass


NOBODY = Nobody()


class LayersContext:
    """A transaction of the first layer, and of those lower ones in which something is deleted."""

    def __init__(self, store: AbstractStore, notes: str) -> None:
        self._notes = notes
        self._contexts: list[tuple[AbstractReadOnlyStore, AbstractContextManager[Any]]] = []
        self._first = store
        #: Whether a value has gone into the first layer from a lower one.
        self.has_moved = False

    def __enter__(self) -> None:
        self._enter(self._first)

    def _enter(self, layer: AbstractStore) -> None:
        context = layer.transaction(self._notes)
        context.__enter__()
        self._contexts.append((leaf_of(layer), context))

    def join(self, layer: AbstractStore) -> None:
        """Let a layer take part."""
        leaf = leaf_of(layer)
        if not any(leaf is other for other, _ in self._contexts):
            self._enter(layer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        failure: BaseException | None = None
        # Lower layers first: if it ends in between, what is gone there is still covered. But what was
        # moved would be lost.
        if self.has_moved and self._contexts:
            self._contexts.append(self._contexts.pop(0))
        while self._contexts:
            _, context = self._contexts.pop()
            try:
                context.__exit__(kind, error, traceback)
            except BaseException as raised:
                if failure is None:
                    failure = raised
                kind, error, traceback = type(raised), raised, raised.__traceback__
        if failure is not None:
            raise failure


def leaf_of(store: AbstractReadOnlyStore) -> AbstractReadOnlyStore:
    """Return the store in the middle of all wrappers."""
    while isinstance(store, ReadingWrapper):
        store = store.store
    return store
