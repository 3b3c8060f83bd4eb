"""The base of leaf stores that keep the changes of a unit of work aside until it is committed.

The overlay of a thread maps keys to the records they will have, None for those that will be gone.
Reads of that thread look there first; nobody else sees it. Beneath it, a store adds hooks:

=============================  ==============================================================================
``_lock``, ``_unlock``         keep other writers out
``_load``, ``_load_all``       committed records, of one key and of all
``_make``                      a record from staged data and a head
``_head_of``, ``_value_of``    what a record says
``_apply``                     make records visible, all at once, or raise and change nothing
``_clean``                     the unit of work is over; drop what it left
=============================  ==============================================================================
"""

from __future__ import annotations

from abc import abstractmethod

from ._changes import ThreadState
from ._metadata import matches
from .base_store import BaseStore, Head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ._changes import Unit
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["LOCK_TIMEOUT", "OverlayState", "OverlayStore"]

# Seconds that a writer waits for another one, which may be a transaction of any length. SQLite's
# advice for its own busy timeout is "several seconds"; all our stores wait as long.
LOCK_TIMEOUT = 30.0

_ABSENT: Any = object()


class OverlayState(ThreadState):
    """What a store knows of the calling thread."""

    #: Keys and their records to be, in a unit of work.
    overlay: dict[str, Any] | None = None
    #: What the overlay held before each change, where there has been a savepoint.
    undo: list[tuple[str, Any]] | None = None
    #: How many units of this thread have, or are about to have, the lock.
    locked = 0


class OverlayStore(BaseStore):
    """The base of leaf stores that keep the changes of a unit of work aside.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
    """

    _state: OverlayState

    def _prepare(self) -> None:
        super()._prepare()
        self._state = OverlayState()

    def _forked(self) -> None:
        self._state = OverlayState()

    # Hooks

    @abstractmethod
    def _lock(self) -> None:
        """Keep other writers out, those of other threads too; StoreError after LOCK_TIMEOUT.

        A thread that has the lock may come again: a signal handler, or a finalizer, that changes the
        store while the lock is let go.
        """

    @abstractmethod
    def _unlock(self) -> None:
        """Let them in; called only after _lock(), and again where an interrupt came in between."""

    @abstractmethod
    def _load(self, key: str) -> Any:
        """Return the committed record of a key, None if there is none."""

    @abstractmethod
    def _load_all(self) -> Iterable[tuple[str, Any]]:
        """Return all keys and committed records, a snapshot made now or a safe walk."""

    def _load_keys(self) -> Iterable[str]:
        """Return all committed keys, a snapshot made now or a safe walk."""
        return [key for key, _ in self._load_all()]

    @abstractmethod
    def _make(self, key: str, old: Any, staged: Any, head: Head) -> Any:
        """Return a record; without staged data it has those of `old`, or none if `old` is None."""

    @abstractmethod
    def _head_of(self, key: str, record: Any) -> Head:
        """Return what a record says, without its data."""

    @abstractmethod
    def _value_of(self, key: str, record: Any) -> Value:
        """Return a value that stays what the record is now."""

    @abstractmethod
    def _apply(self, overlay: dict[str, Any]) -> None:
        """Make these records visible, all at once, or raise and change nothing; None is a key that goes."""

    def _clean(self) -> None:
        """The unit of work is over, whatever came of it; drop what it left."""
        pass

    # Reading

    def _record(self, key: str) -> Any:
        overlay = self._state.overlay
        if overlay is not None and key in overlay:
            return overlay[key]
        return self._load(key)

    def _read(self, key: str) -> Value:
        record = self._record(key)
        if record is None:
            raise KeyError(key)
        return self._value_of(key, record)

    def _head(self, key: str) -> Head | None:
        record = self._record(key)
        return None if record is None else self._head_of(key, record)

    def _holds(self, key: str) -> bool:
        return self._record(key) is not None

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        return self._filter(self._heads(), criteria)

    def _heads(self) -> Iterable[tuple[str, Head]]:
        """Return keys and heads; the committed ones are a snapshot made now."""
        records = self._load_all()
        overlay = dict(self._state.overlay or {})
        if not overlay:
            return ((key, self._head_of(key, record)) for key, record in records)
        committed = (
            (key, self._head_of(key, record)) for key, record in records if key not in overlay
        )
        pending = (
            (key, self._head_of(key, record))
            for key, record in overlay.items()
            if record is not None
        )
        return (item for items in (committed, pending) for item in items)

    @staticmethod
    def _filter(
        heads: Iterable[tuple[str, Head]], criteria: Metadata
    ) -> Iterator[tuple[str, Metadata]]:
        # A damaged record matches nothing and hides nothing.
        for key, head in heads:
            metadata = head.metadata
            if metadata is not None and (not criteria or matches(metadata, criteria)):
                yield key, metadata

    def _list(self, prefix: str = "") -> Iterable[str]:
        keys = self._load_keys()
        overlay = self._state.overlay
        if not overlay:
            return keys
        return [
            *(key for key in keys if key not in overlay),
            *(key for key, record in overlay.items() if record is not None),
        ]

    # Writing

    # A signal handler, or a finalizer, that changes the store in the middle of this comes either into
    # the unit, or has one of its own: these two change together, without a call or a jump in between.

    def _open_unit(self, unit: Unit) -> None:
        state = self._state
        overlay: dict[str, Any] = {}
        state.unit, state.overlay, state.undo = unit, overlay, None

    def _begin(self) -> None:
        state = self._state
        locked = state.locked
        self._lock()
        state.locked = locked + 1

    def _finish(self) -> None:
        state = self._state
        state.unit = state.overlay = state.undo = None
        try:
            self._clean()
        finally:
            if state.locked:
                self._unlock()
                # Not before: an interrupt may come anywhere, and then this is called again.
                state.locked -= 1

    def _commit(self) -> None:
        state = self._state
        overlay = state.overlay
        assert overlay is not None
        # What comes into the unit from now on is noted here, and applied afterwards.
        state.undo = []
        done = overlay.copy()
        if done:
            self._apply(done)
        while True:
            ends: Any = (None, None, None), (state.unit, overlay, [])
            # Whether there is something: bool() would be a call.
            noted, (state.unit, state.overlay, state.undo) = state.undo, ends[not not state.undo]  # noqa: SIM208
            if not noted:
                break
            late = {key: overlay[key] for key, _ in noted if key in overlay}
            late = {key: new for key, new in late.items() if new is not done.get(key, _ABSENT)}
            if late:
                self._apply(late)
                done.update(late)
        self._finish()

    def _rollback(self) -> None:
        self._finish()

    def _thread_ended(self) -> None:
        self._unlock()

    def _savepoint(self) -> int:
        state = self._state
        if state.undo is None:
            state.undo = []
        return len(state.undo)

    def _rollback_to(self, savepoint: int) -> None:
        state = self._state
        overlay, undo = state.overlay, state.undo
        while undo and len(undo) > savepoint:
            assert overlay is not None
            key, record = undo.pop()
            if record is _ABSENT:
                # An interrupt may have come before it was put there.
                overlay.pop(key, None)
            else:
                overlay[key] = record

    def _release(self, savepoint: int) -> None:
        # An outer savepoint may still need what was noted since.
        pass

    def _put(self, key: str, record: Any) -> None:
        state = self._state
        overlay, undo = state.overlay, state.undo
        assert overlay is not None
        if undo is not None:
            undo.append((key, overlay.get(key, _ABSENT)))
        overlay[key] = record

    def _save(self, key: str, staged: Any, head: Head) -> None:
        self._put(key, self._make(key, self._record(key), staged, head))

    def _remove(self, key: str) -> None:
        self._put(key, None)
