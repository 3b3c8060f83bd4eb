"""The base of stores around another store.

It forwards every method, so that what the inner store does fast stays fast, and tells each change
that it caused as its own, besides what the inner store tells. A wrapper overrides what differs.

A store that does not tell its changes to observers, because it was written for EnCore 0.8, is
looked at before and after each change.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from ..events.package_globals import get_event_manager
from ._changes import Change, ChangeTeller, ThreadState, TransactionContext, Unit
from ._keys import check_key
from ._metadata import check_criteria, check_names, copy_of, matches, normalise
from ._progress import progress, progress_wanted
from ._streams import BUFFER_SIZE, CountingStream, Readable, check_buffer_size, check_readable
from ._transactions import DummyTransactionContext
from .abstract_store import AbstractReadOnlyStore, AbstractStore, conditions
from .errors import StoreError
from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
from .value import Value, open_value

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Observer

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]

__all__ = ["WrapperStore"]


class WrapperStore(ChangeTeller, AbstractStore):
    """A store that does what another one does.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self, store: AbstractReadOnlyStore, *, event_manager: BaseEventManager | None = None
    ) -> None:
        if not isinstance(store, AbstractReadOnlyStore):
            raise TypeError(
                f"{type(self).__name__} wraps a store, not {type(store).__name__}: {store!r:.80}"
            )
        super().__init__(event_manager=event_manager)
        self.store = store
        self._prepare()

    def _prepare(self) -> None:
        self._state = ThreadState()
        self._connected_it = False

    def __getstate__(self) -> dict[str, Any]:
        transient = {"event_manager", "_state", "_connected_it"}
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.event_manager = get_event_manager()
        self._prepare()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        if not self.store.is_connected():
            self.store.connect(credentials)
            self._connected_it = True

    def disconnect(self) -> None:
        if self._connected_it:
            self.store.disconnect()
            self._connected_it = False

    def is_connected(self) -> bool:
        return self.store.is_connected()

    def info(self) -> dict[str, Any]:
        return {
            **super().info(),
            "readonly": False,
            **self.store.info(),
            "type": type(self).__name__,
        }

    # Reading

    def get(self, key: str) -> Value:
        return self.store.get(key)

    def get_data(self, key: str) -> BinaryIO:
        return self.store.get_data(key)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        return self.store.get_data_range(key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self.store.get_metadata(key, select)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        data: bytes = self._unless_watched().to_bytes(key, buffer_size)
        return data

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        self._unless_watched().to_file(key, path, buffer_size)

    def _unless_watched(self) -> Any:
        """Return the inner store, or what the contract derives where somebody wants to see this store's progress."""
        return super() if progress_wanted(self.event_manager) else self.store

    def multiget(self, keys: Iterable[str]) -> Iterator[Value]:
        return self.store.multiget(keys)

    def multiget_data(self, keys: Iterable[str]) -> Iterator[BinaryIO]:
        return self.store.multiget_data(keys)

    def multiget_metadata(
        self, keys: Iterable[str], select: Iterable[str] | None = None
    ) -> Iterator[Metadata]:
        return self.store.multiget_metadata(keys, select)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        if where is None:
            return self.store.query(select, **kwargs)
        if isinstance(self.store, ChangeTeller):
            return self.store.query(select, where=where, **kwargs)
        names = check_names(select)
        criteria = check_criteria(where, kwargs)
        if criteria is None:
            return iter(())
        return (
            (key, copy_of(metadata, names))
            for key, metadata in self.store.query()
            if matches(metadata, criteria)
        )

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        return (
            self.store.query_keys(**kwargs)
            if where is None
            else self.store.query_keys(where=where, **kwargs)
        )

    def glob(self, pattern: str) -> Iterator[str]:
        return self.store.glob(pattern)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        return self.store.keys(prefix, start_after, limit)

    # Writing

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        given = conditions(if_match, if_none_match)
        if not progress_wanted(self.event_manager):
            with self._changing(key) as inner:
                inner.set(key, value, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        with open_value(value) as (stream, metadata, size):
            metadata = normalise(metadata)
            with (
                self._changing(key) as inner,
                progress(self, "Writing", key, lambda: metadata, size) as step,
            ):
                inner.set(key, (CountingStream(stream, step), metadata), buffer_size, **given)

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        given = conditions(if_match, if_none_match)
        if not progress_wanted(self.event_manager):
            with self._changing(key) as inner:
                inner.set_data(key, data, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        check_readable(data)
        with (
            self._changing(key) as inner,
            progress(self, "Writing", key, lambda: self._metadata_or_none(key), None) as step,
        ):
            inner.set_data(key, CountingStream(data, step), buffer_size, **given)

    def _metadata_or_none(self, key: str) -> Metadata:
        try:
            return self.store.get_metadata(key)
        except KeyError:
            return {}

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as inner:
            inner.set_metadata(key, metadata, **conditions(if_match, if_none_match))

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as inner:
            inner.update_metadata(key, metadata, **conditions(if_match, if_none_match))

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        with self._changing(key) as inner:
            inner.delete(key, **conditions(if_match, if_none_match))

    def from_bytes(self, key: str, data: bytes, buffer_size: int = BUFFER_SIZE) -> None:
        self._forward("from_bytes", key, data, buffer_size)

    def from_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        self._forward("from_file", key, path, buffer_size)

    def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | tuple[Readable, Metadata]],
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        self._forward("multiset", keys, values, buffer_size)

    def multiset_data(
        self, keys: Iterable[str], datas: Iterable[Readable], buffer_size: int = BUFFER_SIZE
    ) -> None:
        self._forward("multiset_data", keys, datas, buffer_size)

    def multiset_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        self._forward("multiset_metadata", keys, metadatas)

    def multiupdate_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        self._forward("multiupdate_metadata", keys, metadatas)

    def copy(self, source: str, target: str) -> None:
        self._forward("copy", source, target)

    def move(self, source: str, target: str) -> None:
        self._forward("move", source, target)

    def _forward(self, method: str, *args: Any) -> None:
        """Call a method that writes, of the inner store, or as the contract derives it where that is not enough."""
        if progress_wanted(self.event_manager) or not isinstance(self.store, ChangeTeller):
            getattr(super(), method)(*args)
        else:
            with self._changing(None) as inner:
                getattr(inner, method)(*args)

    # Telling changes

    @contextmanager
    def _changing(self, key: str | None) -> Iterator[AbstractStore]:
        """Tell what the inner store changes in the block, at its end."""
        inner = self.store
        if not isinstance(inner, AbstractStore):
            raise StoreError(f"{inner!r} can only be read", key=key)
        state = self._state
        unit = state.unit
        outermost = unit is None
        if unit is None:
            state.unit = unit = Unit()
        try:
            if isinstance(inner, ChangeTeller):
                with inner._observed(partial(self._observe, state.observers)):
                    yield inner
            else:
                assert key is not None
                existed = inner.exists(key)
                before = inner.get_metadata(key) if existed else {}
                yield inner
                if inner.exists(key):
                    kind: Any = StoreUpdateEvent if existed else StoreSetEvent
                    unit.changes.append(Change(kind, key, inner.get_metadata(key), state.observers))
                else:
                    unit.changes.append(Change(StoreDeleteEvent, key, before, state.observers))
        finally:
            if outermost:
                state.unit = None
                for change in unit.changes:
                    self._tell(change)

    def _observe(self, observers: tuple[Observer, ...], change: Change) -> None:
        mine = change._replace(observers=observers)
        unit = self._state.unit
        if unit is None:
            # The inner store is in a transaction that was not begun here.
            self._tell(mine)
        else:
            unit.changes.append(mine)

    # Transactions

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        if not isinstance(self.store, AbstractStore) or not self.info().get("transactional"):
            return DummyTransactionContext(self)
        return TransactionContext(self, notes)

    def _enter(self, notes: str) -> None:
        assert isinstance(self.store, AbstractStore)
        state = self._state
        context = self.store.transaction(notes)
        context.__enter__()
        if state.unit is None:
            state.unit = Unit()
            state.unit.marks.append((context, 0))
            self._tell_transaction(None)
        else:
            state.unit.marks.append((context, 0))

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        state = self._state
        unit = state.unit
        if unit is None:
            raise StoreError("this thread has no transaction to leave")
        context, _ = unit.marks.pop()
        done = False
        try:
            context.__exit__(kind, error, traceback)
            done = kind is None
        finally:
            if not unit.marks:
                state.unit = None
                self._tell_transaction("done" if done else "failed")
                for change in unit.changes:
                    self._tell(change)
