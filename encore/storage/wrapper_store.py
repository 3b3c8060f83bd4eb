"""The base of stores around another store.

It forwards every method, so that what the inner store does fast stays fast, and tells each change
that it caused as its own, besides what the inner store tells. A wrapper overrides what differs:
public methods, or these hooks:

===============  ====================================================================================
``_write``       what is done for set, set_data, set_metadata, update_metadata and delete
``_call``        how a method that changes a store within is called
``_translate``   what a change of a store within is in this one
``_context``     the transaction within
===============  ====================================================================================

A method that follows from one that a subclass overrides (``to_bytes`` from ``get``, ``multiset`` from
``set``) is not forwarded in that subclass any more: it is what the contract derives.

A store that does not tell its changes to observers, because it was written for EnCore 0.8, is
looked at before and after each change.
"""

from __future__ import annotations

from io import BytesIO

from ._changes import Change, ChangeTeller, TransactionContext, Unit, has_listeners
from ._keys import check_key
from ._metadata import normalise
from ._progress import progress, progress_wanted, unheard
from ._reading_wrapper import ReadingWrapper, derive
from ._streams import BUFFER_SIZE, CountingStream, check_buffer_size, check_readable
from ._transactions import DummyTransactionContext
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import AuthorizationError, StoreError
from .events import (
    StoreDeleteEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from .string_value import StringValue
from .value import Value, check_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from ._changes import Observer
    from ._streams import Readable

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]

__all__ = ["WrapperStore"]

_FOLLOWS = {
    # Not from what only reads: the inner store merges without a gap in between.
    "set_data": ("set",),
    "set_metadata": ("set",),
    "update_metadata": ("set_metadata",),
    "from_bytes": ("set_data", "_write"),
    "from_file": ("set_data", "_write"),
    "multiset": ("set", "_write"),
    "multiset_data": ("set_data", "_write"),
    "multiset_metadata": ("set_metadata", "_write"),
    "multiupdate_metadata": ("update_metadata", "_write"),
    "copy": ("set", "get", "_write"),
    "move": ("set", "get", "delete", "_write"),
}

# What is read without running anybody's code, or waiting for anything.
_AT_HAND = frozenset((BytesIO, StringValue, bytes))


class WrapperStore(ReadingWrapper, AbstractStore):
    """A store that does what another one does.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        derive(cls, WrapperStore, AbstractStore, _FOLLOWS)

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
        given = self._conditions(if_match, if_none_match)
        if not progress_wanted(self.event_manager):
            with self._changing(key, value) as call:
                self._write(call, "set", key, value, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        with open_value(value) as (stream, metadata, size):
            metadata = normalise(metadata)
            with (
                self._changing(key) as call,
                progress(self, "Writing", key, lambda: metadata, size) as step,
            ):
                self._write(
                    call, "set", key, (CountingStream(stream, step), metadata), buffer_size, **given
                )

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
            with self._changing(key, data) as call:
                self._write(call, "set_data", key, data, buffer_size, **given)
            return
        check_key(key)
        check_buffer_size(buffer_size)
        check_readable(data)
        with (
            self._changing(key) as call,
            progress(self, "Writing", key, lambda: metadata_of(self, key) or {}, None) as step,
        ):
            self._write(call, "set_data", key, CountingStream(data, step), buffer_size, **given)

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        """Do what one of the methods does that change one key.

        Parameters
        ----------
        call : Changing
            Calls a method of the inner store: ``call(method, key, ...)``.
        method : {'set', 'set_data', 'set_metadata', 'update_metadata', 'delete'}
        key : str
            As the caller gave it.
        *args
            The others that the method takes by position.
        **conditions
            'if_match' or 'if_none_match', if it was given.
        """
        call(method, key, *args, **conditions)

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as call:
            self._write(
                call, "set_metadata", key, metadata, **self._conditions(if_match, if_none_match)
            )

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        with self._changing(key) as call:
            self._write(
                call, "update_metadata", key, metadata, **self._conditions(if_match, if_none_match)
            )

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        with self._changing(key) as call:
            self._write(call, "delete", key, **self._conditions(if_match, if_none_match))

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
            with self._changing(None, args[1]) as call:
                call(method, *args)

    # Telling changes

    def _changing(self, key: str | None, given: Any = None) -> Changing:
        """Give a function that calls a method of the inner store; tell what it changed at the end.

        `given` is what is to be written, a value, a stream, or many.
        """
        state = self._state
        if (
            state.unit is None
            and state.observer is None
            # While anything else is read, which may take long, somebody may begin to listen.
            and (given is None or is_at_hand(given))
            and unheard(self.event_manager)
        ):
            # Then the inner store need not tell it either, and is several times faster.
            return Unheard(self, key)
        return Changing(self, key)

    def _call(
        self, changing: Changing, store: AbstractStore, method: str, /, *args: Any, **kwargs: Any
    ) -> None:
        """Call a method of a store within, and have `changing` observe what it changes."""
        if isinstance(changing, Unheard):
            getattr(store, method)(*args, **kwargs)
            return
        if isinstance(store, ChangeTeller):
            state = store._state
            outer = state.observer
            state.observer = changing.observe
            try:
                getattr(store, method)(*args, **kwargs)
            finally:
                state.observer = outer
            return
        key = args[0]
        before = metadata_of(store, key)
        getattr(store, method)(*args, **kwargs)
        after = metadata_of(store, key)
        if after is not None:
            kind: Any = StoreSetEvent if before is None else StoreUpdateEvent
            changing.observe(Change(kind, key, after))
        elif before is not None:
            changing.observe(Change(StoreDeleteEvent, key, before))

    def _translate(self, change: Change) -> Change | None:
        """Return what a change of a store within is in this store; None if it cannot be seen here."""
        return change

    # Transactions

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        if isinstance(self.store, AbstractStore) and (
            self.info()["transactional"]
            # The info() of a store written for 0.8 does not tell.
            or type(self.store.transaction(notes)) is not DummyTransactionContext
        ):
            return TransactionContext(self, notes)
        return DummyTransactionContext(self)

    def _context(self, notes: str) -> AbstractContextManager[Any]:
        """Return the transaction within that one of this store is."""
        assert isinstance(self.store, AbstractStore)
        return self.store.transaction(notes)

    def _enter(self, notes: str) -> None:
        state = self._state
        context = self._context(notes)
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


class Changing:
    """A block of a WrapperStore that calls methods of stores within, and tells what they changed."""

    _observer: Observer | None = None

    def __init__(self, wrapper: WrapperStore, key: str | None) -> None:
        self._wrapper = wrapper
        self._key = key

    def __enter__(self) -> Changing:
        state = self._wrapper._state
        # What listeners, and the stream, do meanwhile is their own doing.
        self._observer, state.observer = state.observer, None
        unit = state.unit
        self._mine = unit is None
        if unit is None:
            state.unit = unit = Unit()
        self._unit = unit
        return self

    def __call__(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Call a method of the inner store."""
        self.on(self._wrapper.store, method, *args, **kwargs)

    def on(self, store: AbstractReadOnlyStore, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Call a method of a store within."""
        if not isinstance(store, AbstractStore):
            raise StoreError(f"{store!r} can only be read", key=self._key)
        self._wrapper._call(self, store, method, *args, **kwargs)

    def observe(self, change: Change) -> None:
        """Take note of a change of a store within."""
        mine = self._wrapper._translate(change)
        if mine is not None:
            self.add(mine)

    def add(self, change: Change) -> None:
        """Take note of a change of the wrapper."""
        mine = change._replace(observer=self._observer)
        unit = self._wrapper._state.unit
        if unit is None:
            # The store within is in a transaction that was not begun here.
            self._wrapper._tell(mine)
        else:
            unit.changes.append(mine)

    def __exit__(self, *exc_info: object) -> None:
        state = self._wrapper._state
        if self._mine:
            state.unit = None
            for change in self._unit.changes:
                self._wrapper._tell(change)
        state.observer = self._observer


class Unheard(Changing):
    """The same where nobody would notice."""

    def __enter__(self) -> Changing:
        return self

    def observe(self, change: Change) -> None:
        pass

    def add(self, change: Change) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


def is_at_hand(given: Any) -> bool:
    """Whether what is to be written is in memory already."""
    if type(given) is tuple and given:
        given = given[0]
    return type(given) in _AT_HAND


def metadata_of(store: AbstractReadOnlyStore, key: str) -> Metadata | None:
    """Return the metadata of a key, None if it is not there, or must not be read."""
    try:
        return store.get_metadata(key)
    except (KeyError, AuthorizationError):
        return None


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
