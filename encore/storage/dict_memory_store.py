"""A store in a dict.

A change goes the long way of OverlayStore where there is something to be done on it: a transaction,
progress, a condition, a subclass. Otherwise it goes a short way: the new record is made without a
lock, and takes the place of the old one if that is still there. Only that moment is locked, so that
nobody waits in it; and while a unit of work has the long lock, nobody gets there.

Pages of keys are cut out of a sorted list, which is made when a second page is asked for. It is never
changed: which keys have come or gone since is noted beside it, before they do.
"""

from __future__ import annotations

import os
import stat
from _thread import RLock
from io import BufferedReader, BytesIO, FileIO

from ._changes import Change
from ._keys import prefix_end
from ._metadata import matches
from .base_store import Head, no_positional_manager
from .errors import StoreError
from .overlay_store import LOCK_TIMEOUT, OverlayStore
from .string_value import StringValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Condition
    from ._progress import progress_wanted, unheard
    from ._streams import Readable
    from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

    Metadata = dict[str, Any]
    # data, metadata, created, modified
    Record = tuple[bytes, Metadata, float, float]

__all__ = ["DictMemoryStore"]

# What is small beside any page.
_FEW = 100

#: Stands where a key is about to be taken out. It has no metadata that could be found.
_GONE: Any = (b"", {}, 0.0, 0.0)


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent, progress_wanted, unheard  # noqa: PLW0603
    from ._progress import progress_wanted, unheard
    from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent


class _Order:
    """The keys of a store in order, and which of them may have come or gone since they were sorted."""

    __slots__ = ("changed", "keys", "most")

    def __init__(self, most: int) -> None:
        #: None until they are sorted.
        self.keys: list[str] | None = None
        #: None when there have been more than `most`: the store is written more than it is listed.
        self.changed: set[str] | None = set()
        self.most = most

    def note(self, keys: Iterable[str]) -> None:
        changed = self.changed
        if changed is not None:
            changed.update(keys)
            if len(changed) > self.most:
                # In this order, as state() has the other.
                self.keys = None
                self.changed = None

    def state(self) -> tuple[list[str] | None, set[str] | None]:
        changed = self.changed
        return self.keys, changed


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
    _transient = OverlayStore._transient | {
        "_mutex",
        "_moment",
        "_direct",
        "_steady",
        "_order",
    }

    def __init__(self, *misplaced: NoReturn, event_manager: BaseEventManager | None = None) -> None:
        if misplaced:
            no_positional_manager(*misplaced)
            raise TypeError("DictMemoryStore() takes no positional arguments")
        super().__init__(event_manager=event_manager)
        self._store: dict[str, Record] = {}

    def _prepare(self) -> None:
        _load()
        super()._prepare()
        self._make_locks()

    def _forked(self) -> None:
        super()._forked()
        if self._steady is None:
            # Another thread was in the middle of a commit: the changes have been made.
            self._store = dict(self._load_all())
        self._make_locks()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_store": dict(self._load_all())}

    def _make_locks(self) -> None:
        # Re-entrant only because such a lock knows whether this thread holds it.
        self._mutex = RLock()
        # Re-entrant because a signal handler may change the store in between.
        self._moment = RLock()
        # Whether the short way is open: nobody has the mutex. What a subclass has changed may be
        # any step of the long one.
        self._direct = type(self) is DictMemoryStore
        # Another object after each commit, None in the middle of one.
        self._steady: object | None = object()
        # None until a page is asked for.
        self._order: _Order | None = None

    def info(self) -> dict[str, Any]:
        return {**super().info(), "durable": "none", "streaming": False}

    # Reading. What walks over the dict walks over a copy, which is made in one step for other
    # threads and for what the garbage collector runs. (A walk over the dict itself misses entries
    # unnoticed where as many come as go.)

    def _record(self, key: str) -> Record | None:
        record: Record | None = self._store.get(key) if self._direct else super()._record(key)
        return None if record is _GONE else record

    def _load(self, key: str) -> Record | None:
        record = self._store.get(key)
        return None if record is _GONE else record

    def _load_all(self) -> Iterable[tuple[str, Record]]:
        return [item for item in self._store.copy().items() if item[1] is not _GONE]

    def _load_keys(self) -> Iterable[str]:
        steady = self._steady
        keys = list(self._store)
        if steady is not None and self._steady is steady:
            return keys
        return [key for key, record in self._store.copy().items() if record is not _GONE]

    def _list(self, prefix: str = "") -> Iterable[str]:
        keys = super()._list()
        return [key for key in keys if key.startswith(prefix)] if prefix else keys

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        if self._state.overlay:
            return super()._scan(criteria)
        return iter(_find(self._store.copy(), criteria))

    def _head_of(self, key: str, record: Record) -> Head:
        data, metadata, created, modified = record
        return Head(metadata, created or 0.0, modified or 0.0, len(data))

    def _value_of(self, key: str, record: Record) -> StringValue:
        data, metadata, created, modified = record
        return StringValue.of_normalised(data, metadata, created or 0.0, modified or 0.0)

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        page = self._cut(prefix, start_after, limit)
        if page is not None:
            return iter(page)
        keys = self._list(prefix)
        if start_after is not None:
            keys = [key for key in keys if key > start_after]
        if limit is None:
            return iter(sorted(keys))
        from heapq import nsmallest

        return iter(nsmallest(limit, keys))

    def _cut(self, prefix: str, start_after: str | None, limit: int | None) -> list[str] | None:
        """Return a page of the keys in order, None if all of them have to be looked at."""
        from bisect import bisect_left, bisect_right

        steady, order = self._steady, self._order
        keys, changed = (None, None) if order is None else order.state()
        if steady is None:
            return None
        if changed is None:
            # Perhaps it is the only page: to sort all for it would take longer.
            self._order = self._new_order()
            return None
        if (
            keys is None
            or (len(changed) > _FEW and len(changed) ** 2 > len(keys))
            or not self._is_whole(keys, changed)
        ):
            # Before it is filled, so that nothing is missed meanwhile.
            self._order = order = self._new_order()
            order.keys = keys = sorted(self._load_keys())
            changed = order.changed or set()
        # A copy: others go on.
        changed = changed.union(self._state.overlay or ())
        first = bisect_left(keys, prefix)
        if start_after is not None:
            first = max(first, bisect_right(keys, start_after))
        end = prefix_end(prefix)
        last = len(keys) if end is None else bisect_left(keys, end)
        if limit is not None:
            last = min(last, first + limit + len(changed))
        page = keys[first:last]
        if changed:
            page = [key for key in page if key not in changed]
            page += [
                key
                for key in changed
                if key.startswith(prefix)
                and (start_after is None or key > start_after)
                and self._record(key) is not None
            ]
            page.sort()
        # Nothing of a commit is seen, or all.
        if self._steady is not steady:
            return None
        return page if limit is None else page[:limit]

    def _new_order(self) -> _Order:
        return _Order(_FEW + len(self._store) // 4)

    def _is_whole(self, keys: list[str], changed: set[str]) -> bool:
        """Whether so many keys are there as should be; others than us may plant and remove some."""
        from bisect import bisect_left

        store, count = self._store, len(keys)
        for key in changed.copy():
            at = bisect_left(keys, key)
            count += (key in store) - (at < len(keys) and keys[at] == key)
        return count == len(store)

    # The long way

    def _lock(self) -> None:
        # First, since an interrupt may come anywhere; _unlock() undoes what was done.
        self._state.locked += 1
        if not self._mutex.acquire(False) and not self._mutex.acquire(timeout=LOCK_TIMEOUT):
            raise StoreError(f"{self!r} is locked by another thread")
        with self._moment:
            self._direct = False

    def _unlock(self) -> None:
        # Otherwise this thread never got it, or was interrupted after it had let it go.
        if self._mutex._is_owned():  # type: ignore[attr-defined]
            self._direct = type(self) is DictMemoryStore
            self._mutex.release()

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> bytes:
        first = next(chunks, b"")
        second = next(chunks, None)
        if second is None:
            return first
        # Nothing is copied when it grows (mremap), nor at the end; join() would hold all twice.
        whole = BytesIO()
        whole.write(first)
        whole.write(second)
        del first, second
        for chunk in chunks:
            whole.write(chunk)
        return whole.getvalue()

    def _make(self, key: str, old: Record | None, staged: bytes | None, head: Head) -> Record:
        if staged is None:
            staged = b"" if old is None else old[0]
        assert head.metadata is not None
        return (staged, head.metadata, head.created, head.modified)

    def _apply(self, overlay: dict[str, Record | None]) -> None:
        store = self._store
        # What is replaced or removed stays alive until the end: its finalizers may run anything.
        replaced = [store.get(key) for key in overlay]
        records = {key: _GONE if record is None else record for key, record in overlay.items()}
        self._steady = None
        try:
            while True:
                order = self._order
                if order is not None:
                    order.note(overlay)
                if order is self._order:
                    # One step for other threads: it runs no Python code, as the keys are exact strs.
                    store.update(records)
                    break
        finally:
            for key in overlay:
                if store.get(key) is _GONE:
                    del store[key]
            self._steady = object()
        del replaced

    # The short way

    def _write(
        self,
        key: str,
        stream: Readable,
        metadata: Metadata | None,
        size: int | None,
        buffer_size: int,
        condition: Condition | None,
    ) -> None:
        if (
            self._direct
            and condition is None
            and (type(stream) is BytesIO or _is_file(stream))
            and self._state.observer is None
        ):
            manager = self.event_manager
            quiet = unheard(manager)
            if quiet or not progress_wanted(manager):
                data: bytes = stream.read(-1)
                store, moment = self._store, self._moment
                while self._direct:
                    old = store.get(key)
                    # As _modify() has it.
                    now = created = (self._clock() * 1e6 + 0.5) // 1 / 1e6
                    if old is None:
                        found = metadata or {}
                    else:
                        _, found, created, modified = old
                        if modified and now <= modified:
                            now = round(modified * 1e6 + 1) / 1e6
                        found = {**found} if metadata is None else metadata
                    record = (data, found, created or 0.0, now)
                    done = False
                    # "with moment" takes twice as long.
                    try:
                        moment.acquire()
                        # From the last look to the change there is neither a call nor a jump, so
                        # that no signal handler comes in between.
                        if old is None:
                            order = self._order
                            if order is not None:
                                order.note((key,))
                            if key not in store and self._direct and order is self._order:
                                store[key] = record
                                done = True
                        elif key in store and store[key] is old and self._direct:
                            store[key] = record
                            done = True
                    finally:
                        try:
                            moment.release()
                        except RuntimeError:
                            # This thread was interrupted before it got it.
                            pass
                    if not done:
                        continue
                    if not quiet:
                        kind = StoreSetEvent if old is None else StoreUpdateEvent
                        self._tell(Change(kind, key, found))
                    return
                stream = BytesIO(data)
        super()._write(key, stream, metadata, size, buffer_size, condition)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        if if_match is if_none_match is None and type(key) is str and self._state.observer is None:
            moment = self._moment
            try:
                moment.acquire()
                order = self._order
                if order is not None:
                    order.note((key,))
                old = None
                if self._direct and order is self._order:
                    old = self._store.pop(key, None)
            finally:
                try:
                    moment.release()
                except RuntimeError:
                    pass
            if old is not None:
                if not unheard(self.event_manager):
                    self._tell(Change(StoreDeleteEvent, key, old[1]))
                return
        super().delete(key, if_match=if_match, if_none_match=if_none_match)


def _is_file(stream: Readable) -> bool:
    """Whether this is a plain file, of which nobody sees that it is not read piece by piece."""
    return (
        type(stream) is BufferedReader
        and type(stream.raw) is FileIO
        and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    )


def _find(records: dict[str, Record], criteria: Metadata) -> list[tuple[str, Metadata]]:
    """Return keys and metadata that match.

    A plain criterion is compared in one expression, and says which are looked at for the others.
    """
    compared = 0
    for name, value in criteria.items():
        kind = type(value)
        if kind is str or kind is int or kind is float or kind is bool:
            try:
                # Mostly all have the name, and asking whether they do takes a quarter of the time.
                found = [(key, r[1]) for key, r in records.items() if r[1][name] == value]
            except KeyError:
                found = [(key, r[1]) for key, r in records.items() if r[1].get(name) == value]
            if kind is not str:
                # Numbers and truth values equal one another.
                truth = kind is bool
                found = [item for item in found if (type(item[1][name]) is bool) is truth]
            compared = 1
            break
    else:
        found = [(key, r[1]) for key, r in records.items() if r is not _GONE]
    if len(criteria) == compared:
        return found
    return [item for item in found if matches(item[1], criteria)]
