"""The base of stores around another store.

It forwards every method, so that what the inner store does fast stays fast, and tells each change
that it caused as its own, besides what the inner store tells. A wrapper overrides what differs.

A store that does not tell its changes to observers, because it was written for EnCore 0.8, is
looked at before and after each change.
"""

from __future__ import annotations

from ..events.package_globals import get_event_manager
from ._changes import (
    Change,
    ChangeTeller,
    ThreadState,
    TransactionContext,
    Unit,
    has_listeners,
)
from ._keys import check_key
from ._metadata import check_criteria, check_names, copy_of, matches, normalise
from ._progress import progress, progress_wanted
from ._streams import BUFFER_SIZE, CountingStream, check_buffer_size, check_readable
from ._transactions import DummyTransactionContext
from .abstract_store import (
    AbstractAuthorizingStore,
    AbstractReadOnlyStore,
    AbstractStore,
)
from .errors import StoreError
from .events import (
    StoreDeleteEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from .value import Value, check_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Observer
    from ._streams import Readable
    from .maintenance import Finding

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
            "readonly": not isinstance(self.store, AbstractStore),
            **self.store.info(),
            "type": type(self).__name__,
            # The inner store's permissions cannot be reached through here.
            "authorizing": isinstance(self, AbstractAuthorizingStore),
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
        if where is None:
            return self.store.query_keys(**kwargs)
        if isinstance(self.store, ChangeTeller):
            return self.store.query_keys(where=where, **kwargs)
        return (key for key, _ in self.query(where=where, **kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        return self.store.glob(pattern)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        return self.store.keys(prefix, start_after, limit)

    # Writing

    def check(self) -> list[Finding]:
        return self.store.check()

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        given = self._conditions(if_match, if_none_match)
        if not progress_wanted(self.event_manager):
            with self._changing(key) as call:
                call("set", key, value, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        with open_value(value) as (stream, metadata, size):
            metadata = normalise(metadata)
            with (
                self._changing(key) as call,
                progress(self, "Writing", key, lambda: metadata, size) as step,
            ):
                call("set", key, (CountingStream(stream, step), metadata), buffer_size, **given)

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        given = self._conditions(if_match, if_none_match)
        if not progress_wanted(self.event_manager):
            with self._changing(key) as call:
                call("set_data", key, data, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        check_readable(data)
        with (
            self._changing(key) as call,
            progress(self, "Writing", key, lambda: self._metadata_of(key) or {}, None) as step,
        ):
            call("set_data", key, CountingStream(data, step), buffer_size, **given)

    def _metadata_of(self, key: str) -> Metadata | None:
        try:
            return self.store.get_metadata(key)
        except KeyError:
            return None

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as call:
            call("set_metadata", key, metadata, **self._conditions(if_match, if_none_match))

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as call:
            call("update_metadata", key, metadata, **self._conditions(if_match, if_none_match))

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        with self._changing(key) as call:
            call("delete", key, **self._conditions(if_match, if_none_match))

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
        manager = self.event_manager
        if (
            not isinstance(self.store, ChangeTeller)
            or progress_wanted(manager)
            or has_listeners(manager, StoreTransactionStartEvent)
            or has_listeners(manager, StoreTransactionEndEvent)
        ):
            getattr(super(), method)(*args)
        else:
            with self._changing(None) as call:
                call(method, *args)

    # Telling changes

    def _changing(self, key: str | None) -> _Changing:
        """Give a function that calls a method of the inner store; tell what it changed at the end."""
        return _Changing(self, key)

    def _call(
        self,
        inner: AbstractStore,
        unit: Unit,
        observer: Observer | None,
        key: str | None,
        method: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if isinstance(inner, ChangeTeller):
            state = inner._state
            outer = state.observer
            state.observer = lambda change: self._observe(observer, change)
            try:
                getattr(inner, method)(*args, **kwargs)
            finally:
                state.observer = outer
            return
        assert key is not None
        before = self._metadata_of(key)
        getattr(inner, method)(*args, **kwargs)
        after = self._metadata_of(key)
        if after is not None:
            kind: Any = StoreSetEvent if before is None else StoreUpdateEvent
            unit.changes.append(Change(kind, key, after, observer))
        elif before is not None:
            unit.changes.append(Change(StoreDeleteEvent, key, before, observer))

    def _observe(self, observer: Observer | None, change: Change) -> None:
        mine = change._replace(observer=observer)
        unit = self._state.unit
        if unit is None:
            # The inner store is in a transaction that was not begun here.
            self._tell(mine)
        else:
            unit.changes.append(mine)

    # Transactions

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        if isinstance(self.store, AbstractStore) and (
            self.info()["transactional"]
            # The info() of a store written for 0.8 does not tell.
            or type(self.store.transaction(notes)) is not DummyTransactionContext
        ):
            return TransactionContext(self, notes)
        return DummyTransactionContext(self)

    def _enter(self, notes: str) -> None:
        assert isinstance(self.store, AbstractStore)
        state = self._state
        context = self.store.transaction(notes)
        context.__enter__()
        outer = state.unit
        if outer is None or not outer.marks:
            # The outermost one; but a stream may begin it while it is read by a method of the store.
            state.unit = unit = Unit()
            unit.marks.append(((context, outer), 0))
            try:
                self._tell_transaction(StoreTransactionStartEvent)
            except BaseException as error:
                state.unit = outer
                context.__exit__(type(error), error, error.__traceback__)
                raise
        else:
            outer.marks.append(((context, None), 0))

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        state = self._state
        unit = state.unit
        if unit is None or not unit.marks:
            raise StoreError("this thread has no transaction to leave")
        (context, outer), _ = unit.marks.pop()
        done = False
        try:
            context.__exit__(kind, error, traceback)
            done = kind is None
        finally:
            if not unit.marks:
                state.unit = outer
                self._tell_transaction(StoreTransactionEndEvent, state="done" if done else "failed")
                if done:
                    for change in unit.changes:
                        self._tell(change)


class _Changing:
    """A block of a WrapperStore that calls a method of the inner store, and tells what it changed."""

    def __init__(self, wrapper: WrapperStore, key: str | None) -> None:
        self._wrapper = wrapper
        self._key = key

    def __enter__(self) -> _Changing:
        inner = self._wrapper.store
        if not isinstance(inner, AbstractStore):
            raise StoreError(f"{inner!r} can only be read", key=self._key)
        self._inner = inner
        state = self._wrapper._state
        # What listeners, and the stream, do meanwhile is their own doing.
        self._observer, state.observer = state.observer, None
        unit = state.unit
        self._mine = unit is None
        if unit is None:
            state.unit = unit = Unit()
        self._unit = unit
        return self

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> None:
        self._wrapper._call(
            self._inner, self._unit, self._observer, self._key, method, *args, **kwargs
        )

    def __exit__(self, *exc_info: object) -> None:
        state = self._wrapper._state
        if self._mine:
            state.unit = None
            for change in self._unit.changes:
                self._wrapper._tell(change)
        state.observer = self._observer


class open_value:
    """Takes apart what ``set`` was given: stream, metadata and, where it is known, size."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._opened: BinaryIO | None = None

    def __enter__(self) -> tuple[Readable, dict[str, Any], int | None]:
        value = self._value
        if not isinstance(value, Value):
            source, metadata = check_value(value)
            return source, metadata, None
        self._opened = stream = value.data
        try:
            # In this order: a value behind a URL learns its size when it is opened.
            return stream, value.metadata, value.size
        except BaseException:
            stream.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        if self._opened is not None:
            self._opened.close()
