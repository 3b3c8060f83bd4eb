"""A store in a dict."""

from __future__ import annotations

from _thread import allocate_lock

from .base_store import Head, no_positional_manager
from .errors import StoreError
from .overlay_store import LOCK_TIMEOUT, OverlayStore
from .string_value import StringValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn

    from ..events.abstract_event_manager import BaseEventManager

    # data, metadata, created, modified
    Record = tuple[bytes, dict[str, Any], float, float]

__all__ = ["DictMemoryStore"]


class DictMemoryStore(OverlayStore):
    """A store that lives in memory, in one process, and can be used without connect().

    Parameters
    ----------
    event_manager : BaseEventManager, optional

    Notes
    -----
    Records are never changed in place, so that readers need no lock. Pickled, it takes its data
    along.
    """

    _must_connect = False
    _transient = OverlayStore._transient | {"_mutex"}

    def __init__(self, *misplaced: NoReturn, event_manager: BaseEventManager | None = None) -> None:
        if misplaced:
            no_positional_manager(*misplaced)
            raise TypeError("DictMemoryStore() takes no positional arguments")
        super().__init__(event_manager=event_manager)
        self._store: dict[str, Record] = {}

    def _prepare(self) -> None:
        super()._prepare()
        self._mutex = allocate_lock()

    def _forked(self) -> None:
        super()._forked()
        self._mutex = allocate_lock()

    def info(self) -> dict[str, Any]:
        return {**super().info(), "durable": "none", "streaming": False}

    # Reading

    def _load(self, key: str) -> Record | None:
        return self._store.get(key)

    def _load_all(self) -> Iterable[tuple[str, Record]]:
        return [item for item in list(self._store.items()) if item[1] is not None]

    def _head_of(self, key: str, record: Record) -> Head:
        data, metadata, created, modified = record
        return Head(metadata, created or 0.0, modified or 0.0, len(data))

    def _value_of(self, key: str, record: Record) -> StringValue:
        data, metadata, created, modified = record
        return StringValue.of_normalised(data, metadata, created or 0.0, modified or 0.0)

    # Writing

    def _lock(self) -> None:
        if not self._mutex.acquire(timeout=LOCK_TIMEOUT):
            raise StoreError(f"{self!r} is locked by another thread")

    def _unlock(self) -> None:
        self._mutex.release()

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> bytes:
        return b"".join(chunks)

    def _make(self, key: str, old: Record | None, staged: bytes | None, head: Head) -> Record:
        if staged is None:
            staged = b"" if old is None else old[0]
        assert head.metadata is not None
        return (staged, head.metadata, head.created, head.modified)

    def _apply(self, overlay: dict[str, Record | None]) -> None:
        store: dict[str, Any] = self._store
        # update() is one step for other threads: it runs no Python code, as the keys are exact
        # strs and the replaced records stay alive. None marks a record as gone until it is taken
        # out.
        replaced = [store.get(key) for key in overlay]
        store.update(overlay)
        for key, record in overlay.items():
            if record is None:
                store.pop(key, None)
        del replaced
