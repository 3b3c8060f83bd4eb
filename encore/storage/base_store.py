"""The base of leaf stores: keys checked, metadata normalised, events, progress, conditions, transactions.

Each of these has its one home here. A leaf store adds hooks, which may rely on checked arguments
and a connected store:

=================  ==================================================================================
to read            ``_read``, ``_head``, ``_scan``; ``_list`` and ``_holds`` to be faster
to connect         ``_open``, ``_close``
to write           ``_stage`` and ``_discard`` (bytes on their way, outside all locks), ``_save``, ``_remove``
to be atomic       ``_begin``, ``_commit``, ``_rollback``; ``_savepoint``, ``_rollback_to``, ``_release``
to be copied       ``_transient``, ``_prepare`` (attributes that are not pickled), ``_forked`` (locks made anew)
=================  ==================================================================================

Every method that writes is a unit of work between ``_begin`` and ``_commit``, a transaction is a
longer one, and whatever is done inside a unit of the same thread (by a listener, or by a finalizer
that the garbage collector runs) is nested in it by a savepoint.
"""

from __future__ import annotations

import io
import os
import time
from _thread import RLock
from abc import abstractmethod

from ._changes import Change, ChangeTeller, Condition, ThreadState, TransactionContext, Unit
from ._keys import MAX_KEY_BYTES, check_key, check_page, key_matcher, literal_prefix
from ._metadata import check_criteria, check_names, copy_of, digest, normalise
from ._streams import (
    BUFFER_SIZE,
    as_bytes,
    buffers_of,
    check_bounds,
    check_buffer_size,
    check_readable,
)
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import StoreError
from .string_value import StringValue
from .value import Value, check_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO, NoReturn
    from weakref import WeakSet

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Observer
    from ._progress import progress, progress_wanted
    from ._streams import Readable
    from .events import (
        StoreDeleteEvent,
        StoreSetEvent,
        StoreTransactionEndEvent,
        StoreTransactionStartEvent,
        StoreUpdateEvent,
    )

    Metadata = dict[str, Any]

__all__ = ["BaseReadOnlyStore", "BaseStore", "Head"]


class Head:
    """What a leaf store knows of a key without its data; metadata is None if it is damaged.

    It can be taken apart: ``metadata, created, modified, size = head``.
    """

    # All that is used of a NamedTuple, made in half the time, and without importing typing.
    __slots__ = ("created", "metadata", "modified", "size")

    def __init__(
        self, metadata: dict[str, Any] | None, created: float, modified: float, size: int
    ) -> None:
        self.metadata = metadata
        self.created = created
        self.modified = modified
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return iter((self.metadata, self.created, self.modified, self.size))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Head) and [*self] == [*other]

    def __hash__(self) -> int:
        return hash((*self,))

    def __repr__(self) -> str:
        return f"Head({self.metadata!r}, {self.created!r}, {self.modified!r}, {self.size!r})"

    def _replace(self, **changes: Any) -> Head:
        """Return a copy of which some attributes are others, as that of a named tuple."""
        return Head(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

    @property
    def etag(self) -> str:
        return digest(self.created, self.modified, self.size, self.metadata)


def _load() -> None:
    """Import what only a store needs that is in use, so that importing this module is cheap.

    They become globals: a method that imported them would do so at every call.
    """
    global StoreDeleteEvent, StoreSetEvent, StoreTransactionEndEvent  # noqa: PLW0603
    global StoreTransactionStartEvent, StoreUpdateEvent, progress, progress_wanted  # noqa: PLW0603
    from ._progress import progress, progress_wanted
    from .events import (
        StoreDeleteEvent,
        StoreSetEvent,
        StoreTransactionEndEvent,
        StoreTransactionStartEvent,
        StoreUpdateEvent,
    )


# A lock that another thread held at the time of a fork would stay locked in the child for ever.
_stores: WeakSet[BaseReadOnlyStore] | None = None


def _remember(store: BaseReadOnlyStore) -> None:
    global _stores  # noqa: PLW0603 - made on first use, so that importing has no effect
    if _stores is None:
        from weakref import WeakSet

        _load()
        stores: WeakSet[BaseReadOnlyStore] = WeakSet()
        # Asked again: meanwhile another thread, or a finalizer, may have made its first store.
        if _stores is None:
            _stores = stores
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_after_fork)
    _stores.add(store)


def _after_fork() -> None:
    for store in list(_stores or ()):
        store._forked()


def no_positional_manager(*arguments: object) -> None:
    """Raise TypeError if one of the arguments is an event manager, as in texts older than 0.8."""
    from ..events.abstract_event_manager import BaseEventManager

    if any(isinstance(argument, BaseEventManager) for argument in arguments):
        raise TypeError("the event manager is given by name: event_manager=...")


class BaseReadOnlyStore(ChangeTeller, AbstractReadOnlyStore):
    """The base of leaf stores that can only be read.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
    """

    #: Whether the store refuses to work before connect().
    _must_connect = True

    #: Attributes that are made anew in another process.
    _transient: frozenset[str] = frozenset({"event_manager", "_state", "_connected", "_life_cycle"})

    def __init__(self, *, event_manager: BaseEventManager | None = None) -> None:
        super().__init__(event_manager=event_manager)
        self._prepare()

    def _prepare(self) -> None:
        """Make the transient attributes."""
        self._state = ThreadState()
        self._life_cycle = RLock()
        _remember(self)

    def _forked(self) -> None:
        """Make the store usable in the child after a fork."""
        self._state = ThreadState()
        self._life_cycle = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from ..events.package_globals import get_event_manager

        self.__dict__.update(state)
        self.event_manager = get_event_manager()
        self._prepare()

    # Hooks

    def _open(self, credentials: Any) -> None:
        """Acquire what the store needs."""

    def _close(self) -> None:
        """Release it."""

    @abstractmethod
    def _read(self, key: str) -> Value:
        """Return a value that stays what it is now; KeyError(key) if there is none."""

    @abstractmethod
    def _head(self, key: str) -> Head | None:
        """Return what is known of a key, None if there is none; its metadata are not copied."""

    @abstractmethod
    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        """Return keys and metadata that match, from a snapshot or a walk that is safe; metadata are not copied."""

    def _list(self, prefix: str = "") -> Iterable[str]:
        """Return all keys that begin with `prefix`, and others as it suits; a snapshot or a safe walk."""
        return (key for key, _ in self._scan({}))

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        """Return a page of keys in code point order."""
        return super().keys(prefix, start_after, limit)

    def _holds(self, key: str) -> bool:
        """Whether there is such a key."""
        return self._head(key) is not None

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        with self._life_cycle:
            if not self._connected:
                self._open(credentials)
                self._connected = True

    def disconnect(self) -> None:
        if self._state.unit is not None:
            raise StoreError("a store cannot be disconnected inside its own transaction")
        with self._life_cycle:
            if self._connected:
                self._connected = False
                self._close()

    def _check_connected(self) -> None:
        if not self._connected and self._must_connect:
            raise StoreError(f"{self!r} is not connected")

    # Reading

    def get(self, key: str) -> Value:
        key = check_key(key)
        if not self._connected:
            self._check_connected()
        return self._read(key)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        key = check_key(key)
        check_bounds(start, end)
        self._check_connected()
        return self._read(key).range(start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        key = check_key(key)
        names = check_names(select)
        self._check_connected()
        head = self._head(key)
        if head is None:
            raise KeyError(key)
        if head.metadata is None:
            self._damaged(key)
        return copy_of(head.metadata, names)

    def _damaged(self, key: str) -> NoReturn:
        raise StoreError(f"the metadata of {key!r} in {self!r} are damaged", key=key)

    def exists(self, key: str) -> bool:
        key = check_key(key)
        if not self._connected:
            self._check_connected()
        return self._holds(key)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        names = check_names(select)
        criteria = check_criteria(where, kwargs)
        self._check_connected()
        if criteria is None:
            return iter(())
        return ((key, copy_of(metadata, names)) for key, metadata in self._scan(criteria))

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        check_names(kwargs.pop("select", None))
        criteria = check_criteria(where, kwargs)
        self._check_connected()
        if criteria is None:
            return iter(())
        return (key for key, _ in self._scan(criteria)) if criteria else iter(self._list())

    def glob(self, pattern: str) -> Iterator[str]:
        match = key_matcher(pattern)
        self._check_connected()
        return filter(match, self._list(literal_prefix(pattern)))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        self._check_connected()
        return self._page(prefix, start_after, limit)


class BaseStore(BaseReadOnlyStore, AbstractStore):
    """The base of leaf stores.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
    """

    _clock: Callable[[], float] = staticmethod(time.time)

    # Hooks

    @abstractmethod
    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Any:
        """Take in data, outside all locks, and return what stands for them; `size` is a hint.

        What the iterator raises passes through, and then nothing may be left behind.
        """

    def _discard(self, staged: Any) -> None:
        """Drop what _stage() returned; called also after _save() has used it."""

    @abstractmethod
    def _save(self, key: str, staged: Any, head: Head) -> None:
        """Put staged data under a key, or keep the data it has (those of a new key are empty) if `staged` is None.

        The size in `head` is not to be relied on.
        """

    @abstractmethod
    def _remove(self, key: str) -> None:
        """Remove a key that is there."""

    @abstractmethod
    def _begin(self) -> None:
        """Keep other writers out."""

    @abstractmethod
    def _commit(self) -> None:
        """Make what was done since _begin() visible to all, and let other writers in; or raise."""

    @abstractmethod
    def _rollback(self) -> None:
        """Undo what was done since _begin() and let other writers in; called also if _begin() or _commit() raised."""

    @abstractmethod
    def _savepoint(self) -> Any:
        """Return what stands for the state of the unit of work now."""

    @abstractmethod
    def _rollback_to(self, savepoint: Any) -> None:
        """Go back to a savepoint; done again after an interrupt."""

    def _release(self, savepoint: Any) -> None:
        """A savepoint is needed no more."""

    # Units of work

    def _perform(self, step: Callable[[], Change]) -> list[Change]:
        """Run a step that makes one change as a unit of work; return the changes that are to be told now."""
        state = self._state
        unit = state.unit
        if unit is not None:
            savepoint, count = self._savepoint(), len(unit.changes)
            try:
                unit.changes.append(step())
            except BaseException:
                del unit.changes[count:]
                self._rollback_to(savepoint)
                raise
            self._release(savepoint)
            return []
        unit = Unit(is_step=True)
        try:
            self._open_unit(unit)
            self._begin()
            # Changes of whatever was nested in the step come first: they were made before it was over.
            unit.changes.append(step())
            self._commit()
            state.unit = None
        except BaseException:
            try:
                self._rollback()
            finally:
                state.unit = None
            raise
        return unit.changes

    def _open_unit(self, unit: Unit) -> None:
        self._state.unit = unit

    def _enter(self, notes: str) -> None:
        self._check_connected()
        unit = self._state.unit
        if unit is not None:
            unit.marks.append((self._savepoint(), len(unit.changes)))
            return
        try:
            self._open_unit(Unit())
            self._begin()
            self._tell_transaction(StoreTransactionStartEvent)
        except BaseException:
            self._state.unit = None
            self._rollback()
            raise

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        succeeded = kind is None
        unit = self._state.unit
        if unit is None:
            raise StoreError("this thread has no transaction to leave")
        if unit.marks:
            savepoint, count = unit.marks[-1]
            if succeeded:
                unit.marks.pop()
                self._release(savepoint)
            else:
                del unit.changes[count:]
                self._rollback_to(savepoint)
                # Not before: after an interrupt it is done again.
                unit.marks.pop()
            return
        done = False
        try:
            if succeeded:
                self._commit()
                done = True
        finally:
            try:
                if not done:
                    self._rollback()
            finally:
                self._state.unit = None
            self._tell_transaction(StoreTransactionEndEvent, state="done" if done else "failed")
        if done:
            for change in unit.changes:
                self._tell(change)

    def _depth(self) -> int:
        unit = self._state.unit
        return 0 if unit is None else 1 + len(unit.marks)

    def _abandon(self, depth: int) -> None:
        try:
            super()._abandon(depth)
        finally:
            if not depth:
                # The unit may be over already, and what it has begun not be.
                self._rollback()
                self._state.unit = None

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        return TransactionContext(self, notes)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "transactional": True, "conditional": True}

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
        # What most calls are given is looked at without further calls.
        if type(key) is not str or not key.isascii() or not 0 < len(key) <= MAX_KEY_BYTES:
            key = check_key(key)
        if buffer_size is not BUFFER_SIZE:
            check_buffer_size(buffer_size)
        condition = None
        if if_match is not None or if_none_match is not None:
            condition = Condition.of(if_match, if_none_match)
        if type(value) is not tuple and isinstance(value, Value):
            self._check_connected()
            with value.data as stream:
                metadata = value._metadata if type(value) is StringValue else value.metadata
                self._write(key, stream, normalise(metadata), value.size, buffer_size, condition)
            return
        if type(value) is tuple and len(value) == 2 and type(value[0]) is io.BytesIO:
            source, metadata = value
        else:
            source, metadata = check_value(value)
        metadata = normalise(metadata)
        if not self._connected:
            self._check_connected()
        self._write(key, source, metadata, None, buffer_size, condition)

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        key = check_key(key)
        check_buffer_size(buffer_size)
        check_readable(data)
        condition = Condition.of(if_match, if_none_match)
        self._check_connected()
        self._write(key, data, None, None, buffer_size, condition)

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        self._write_metadata(key, metadata, False, if_match, if_none_match)

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        self._write_metadata(key, metadata, True, if_match, if_none_match)

    def _write_metadata(
        self,
        key: str,
        metadata: Metadata,
        merge: bool,
        if_match: str | None,
        if_none_match: str | None,
    ) -> None:
        key = check_key(key)
        metadata = normalise(metadata)
        condition = Condition.of(if_match, if_none_match)
        self._check_connected()
        observer = self._state.observer
        for change in self._perform(
            lambda: self._modify(key, None, metadata, merge, condition, observer)
        ):
            self._tell(change)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        key = check_key(key)
        condition = Condition.of(if_match, if_none_match)
        self._check_connected()

        def step() -> Change:
            head = self._head(key)
            if condition is not None:
                condition.check(key, head)
            if head is None:
                raise KeyError(key)
            self._remove(key)
            return Change(StoreDeleteEvent, key, head.metadata or {}, self._state.observer)

        for change in self._perform(step):
            self._tell(change)

    def from_bytes(self, key: str, data: bytes, buffer_size: int = BUFFER_SIZE) -> None:
        key = check_key(key)
        data = as_bytes(data, "from_bytes() takes")
        check_buffer_size(buffer_size)
        self._check_connected()
        self._write(key, io.BytesIO(data), None, len(data), buffer_size, None)

    def from_file(
        self, key: str, path: str | os.PathLike[str] | BinaryIO, buffer_size: int = BUFFER_SIZE
    ) -> None:
        from ._files import reading

        key = check_key(key)
        check_buffer_size(buffer_size)
        self._check_connected()
        with reading(path) as stream:
            size = None if stream is path else os.fstat(stream.fileno()).st_size
            self._write(key, stream, None, size, buffer_size, None)

    def _write(
        self,
        key: str,
        stream: Readable,
        metadata: Metadata | None,
        size: int | None,
        buffer_size: int,
        condition: Condition | None,
    ) -> None:
        if condition is not None:
            # Asked again when it counts; but a stream should not be used up for nothing.
            condition.check(key, self._head(key))
        state = self._state
        # What listeners, and the stream, do meanwhile is their own doing.
        observer, state.observer = state.observer, None
        try:
            if progress_wanted(self.event_manager):
                with progress(
                    self, "Writing", key, lambda: self._shown_metadata(key, metadata), size
                ) as step:
                    chunks = buffers_of(stream, buffer_size, step)
                    changes = self._put_chunks(key, chunks, metadata, size, condition, observer)
            else:
                chunks = buffers_of(stream, buffer_size, None)
                changes = self._put_chunks(key, chunks, metadata, size, condition, observer)
        finally:
            state.observer = observer
        for change in changes:
            self._tell(change)

    def _put_chunks(
        self,
        key: str,
        chunks: Iterator[bytes],
        metadata: Metadata | None,
        size: int | None,
        condition: Condition | None,
        observer: Observer | None,
    ) -> list[Change]:
        staged = self._stage(chunks, size)
        try:
            return self._perform(
                lambda: self._modify(key, staged, metadata, False, condition, observer)
            )
        finally:
            self._discard(staged)

    def _shown_metadata(self, key: str, metadata: Metadata | None) -> Metadata:
        if metadata is None:
            head = self._head(key)
            metadata = (head and head.metadata) or {}
        return copy_of(metadata)

    def _modify(
        self,
        key: str,
        staged: Any,
        metadata: Metadata | None,
        merge: bool,
        condition: Condition | None,
        observer: Observer | None,
    ) -> Change:
        """Write data, metadata or both; one home for the rules of conditions, merging and stamps."""
        head = self._head(key)
        if condition is not None:
            condition.check(key, head)
        # Whole microseconds: what every store can keep exactly.
        now = round(self._clock() * 1e6) / 1e6
        if head is None:
            if merge:
                raise KeyError(key)
            # A composite may have had the key elsewhere.
            created, self._state.created = self._state.created, None
            new = Head(
                {} if metadata is None else metadata,
                now if created is None else min(now, round(created * 1e6) / 1e6),
                now,
                0,
            )
        else:
            if metadata is None or merge:
                if head.metadata is None:
                    self._damaged(key)
                metadata = {**head.metadata, **(metadata or {})}
            # It moves whatever the clock did.
            new = Head(
                metadata, head.created, max(now, round(head.modified * 1e6 + 1) / 1e6), head.size
            )
        self._save(key, staged, new)
        kind = StoreSetEvent if head is None else StoreUpdateEvent
        return Change(kind, key, {} if metadata is None else metadata, observer)
