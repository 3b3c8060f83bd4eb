"""A store in front of a slow one, which keeps copies in a third."""

from __future__ import annotations

import time
from _thread import RLock

from ._cache_owner import OWNER_KEY
from ._cache_reader import CacheReader
from ._changes import has_listeners
from ._keys import check_key, check_page, key_matcher
from ._metadata import check_criteria, check_names, copy_of
from ._transactions import DummyTransactionContext
from ._watching_wrapper import WatchingWrapper, in_transaction
from .abstract_store import AbstractStore
from .base_store import _remember
from .errors import StoreError, shown
from .events import StoreUploadFailedEvent
from .wrapper_store import Changing, WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set
    from contextlib import AbstractContextManager
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from ._cache_owner import CacheOwner
    from ._cache_uploader import Uploader
    from ._cache_write_back import WriteBack
    from .abstract_store import AbstractReadOnlyStore
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["CachingStore"]

_DURABILITY = ("none", "process", "power")

# When so many uploads have failed, disconnect() leaves the rest in the cache.
_MOST_FAILURES = 3


class CachingStore(WatchingWrapper):
    """A store that answers from a cache what a slow store has, and may write to the cache first.

    What the cache holds is answered for `expire` seconds. Then the store is asked for its etag (or
    for its time of modification and size, where it has no etags), and for data only if that has
    changed. A value is put into the cache when its data is wanted; a small part of a large value is
    read from the store. One thread fetches what many want. A cache that fails, or is damaged, fails
    no read.

    Without `write_back` all that is written goes to the store, with its transactions and conditions,
    and what the cache has of it is dropped.

    With `write_back` it goes to the cache, and is uploaded when it has rested for a while. It is there
    when the call returns, as safe as the cache is: another process with the same cache goes on where
    one has died. What cannot be uploaded is kept, told by a StoreUploadFailedEvent, and tried again,
    after twice the time each time. It is uploaded only if the store has what it had when the key was
    written here; otherwise it is a conflict, which is kept until resolve() is called. There are no
    transactions and no conditions then; a thread that is in a transaction of the store itself
    uploads nothing.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    cache : AbstractStore
        A store for this purpose alone, and for one CachingStore at a time. With `write_back` it must
        have conditional writes. It remembers which store its entries belong to, by kind and place:
        connect() drops copies of what another store has.
    expire : float >= 0, in seconds
        How long what the cache has is answered without asking the store. 0 asks always.
    write_back : bool
        Whether to write to the cache first.
    max_bytes : int, optional
        The most that the copies may have together; the oldest are dropped. A larger value is not
        put into the cache.
    max_dirty_bytes : int, optional
        The most that is kept without having been uploaded.
    adopt : bool
        Whether changes in the cache that were written for another store are uploaded into this one:
        if it has moved, say. Where it has something else than the other one had, that is a conflict.
        Otherwise connect() refuses such a cache.
    full : {'wait', 'error'}
        What a writer does then: wait for the uploads, or raise StoreFullError. It is raised too where
        no upload succeeds.
    rest : float >= 0, in seconds
        How long a change rests before it is uploaded, counted from the first one of the key.
    workers : int >= 0
        How many uploads are done at once, in threads that exist while there is something to do. With 0
        flush() does them.
    retry, max_retry : float, in seconds
        How long a change waits after its first failure, and at most.
    clock : callable
        The time of day, as time.time().
    monotonic : callable
        As time.monotonic().
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        cache: AbstractStore,
        *,
        expire: float = 60.0,
        write_back: bool = False,
        adopt: bool = False,
        max_bytes: int | None = None,
        max_dirty_bytes: int | None = None,
        full: str = "wait",
        rest: float = 5.0,
        workers: int = 4,
        retry: float = 1.0,
        max_retry: float = 300.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        if not isinstance(cache, AbstractStore):
            raise TypeError(f"a cache is a store that can be written, not {shown(cache)}")
        if cache is store:
            raise ValueError("a store cannot be its own cache")
        if full not in ("wait", "error"):
            raise ValueError(f"full is 'wait' or 'error', not {shown(full)}")
        numbers = {"expire": expire, "rest": rest, "retry": retry, "max_retry": max_retry}
        for name, number in {**numbers, "workers": workers}.items():
            _check_number(name, number)
        for name, most in {"max_bytes": max_bytes, "max_dirty_bytes": max_dirty_bytes}.items():
            if most is not None:
                _check_number(name, most)
        if write_back:
            if not isinstance(store, AbstractStore):
                raise TypeError(f"write_back needs a store that can be written, not {store!r:.80}")
            if not cache.info().get("conditional"):
                raise ValueError(f"write_back needs a cache with conditional writes, not {cache!r}")
        self.cache = cache
        self.write_back = bool(write_back)
        self._adopts = bool(adopt)
        self._clocks = clock, monotonic
        self._expire = expire
        self._max_bytes = max_bytes
        self._uploading = (workers, rest, retry, max_retry, max_dirty_bytes, full == "wait")
        super().__init__(store, event_manager=event_manager)

    _transient = WrapperStore._transient | {
        "_reader",
        "_behind",
        "_uploader",
        "_life_cycle",
        "_is_ready",
        "_must_load",
        "_connected_cache",
        "_owner",
    }

    def _prepare(self) -> None:
        super()._prepare()
        self._life_cycle = RLock()
        self._is_ready = False
        self._must_load = False
        self._connected_cache = False
        clock, monotonic = self._clocks
        self._behind: WriteBack | None = None
        self._uploader: Uploader | None = None
        self._owner: CacheOwner | None = None
        options = (self.store, self.cache, self._expire, self._max_bytes, clock, monotonic)
        if self.write_back:
            from ._cache_uploader import Uploader
            from ._cache_write_back import WriteBack
            from ._upload_queue import UploadQueue

            uploads = UploadQueue(*self._uploading, monotonic)
            self._reader = CacheReader(*options, uploads.pending, False)
            store: Any = self.store
            parts = (store, self.cache, self._reader, uploads)
            self._behind = WriteBack(*parts)
            self._uploader = Uploader(*parts)
        else:
            self._reader = CacheReader(*options, (), True)
        remember: Any = _remember
        remember(self)

    def _forked(self) -> None:
        connected = self._connected_it, self._connected_cache, self._is_ready
        WatchingWrapper._prepare(self)
        self._life_cycle = RLock()
        self._connected_it, self._connected_cache, self._is_ready = connected
        self._reader.reset()
        if self._behind is not None:
            self._behind.uploads.reset()
            self._must_load = self._is_ready

    def __repr__(self) -> str:
        mode = ", write_back=True" if self.write_back else ""
        return f"{type(self).__name__}({self.store!r}, {self.cache!r}{mode})"

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        """Connect store and cache where they are not; what was left to upload is uploaded from now on.

        Raises
        ------
        StoreError
            Also if the cache has changes that were never uploaded, and there is no `write_back`, or
            they were written for another store; or if another CachingStore writes to it.
        """
        with self._life_cycle:
            if self._is_ready:
                super().connect(credentials)
                return
            try:
                super().connect(credentials)
                if not self.cache.is_connected():
                    self.cache.connect()
                    self._connected_cache = True
                self._take_cache()
                damaged = self._load()
                self._is_ready = True
            except BaseException:
                self._disconnect()
                raise
        for key in damaged:
            error = StoreError(f"what the cache has of {key!r} is damaged", key=key)
            self._tell_failure(key, error, 0, None)

    def _take_cache(self) -> None:
        from ._cache_owner import CacheOwner, OwnedCacheError, check_unowned

        clock, monotonic = self._clocks
        if self._behind is None:
            try:
                check_unowned(self.cache, clock)
            except OwnedCacheError:
                raise
            except Exception:
                # A cache that fails is no reason not to read.
                pass
            return
        owner = CacheOwner(self.cache, clock, monotonic)
        owner.take()
        self._owner = owner

    def _load(self) -> list[str]:
        if self._behind is not None:
            damaged = self._behind.load(self._adopts)
            self._must_load = False
            self._behind.uploads.start(self)
            return damaged
        try:
            changes, _ = self._reader.survey()
        except Exception:
            # A cache that fails is no reason not to read.
            return []
        self._reader.check_own(changes)
        if changes:
            were = "change that was" if len(changes) == 1 else "changes that were"
            raise StoreError(
                f"{self.cache!r} has {len(changes)} {were} not uploaded; "
                "write_back=True would do that"
            )
        return []

    def disconnect(self) -> None:
        """Upload what is left, and disconnect store and cache where connect() connected them.

        What cannot be uploaded stays in the cache.

        Raises
        ------
        StoreError
            If something stays in the cache that ends with the process. The store is disconnected.
        """
        failed: dict[str, Exception] = {}
        behind = self._behind
        if behind is None or not self._is_ready:
            self._disconnect()
            return
        try:
            self._check_connected()
            _, failed = behind.uploads.flush(self._upload, None, False, _MOST_FAILURES)
        finally:
            with self._life_cycle:
                self._is_ready = False
                behind.uploads.stop()
                self._disconnect()
        if failed and self.cache.info().get("durable", "none") == "none":
            raise _not_uploaded(failed)

    def _disconnect(self) -> None:
        with self._life_cycle:
            self._is_ready = False
            owner, self._owner = self._owner, None
            try:
                if owner is not None:
                    owner.release()
                if self._connected_cache:
                    self._connected_cache = False
                    self.cache.disconnect()
            finally:
                super().disconnect()

    def is_connected(self) -> bool:
        return (self._is_ready or self._behind is None) and super().is_connected()

    def _check_connected(self) -> None:
        """Raise StoreError before connect(), if there is something that has to be there."""
        if not self._is_ready:
            raise StoreError(f"{self!r} is not connected")
        if self._must_load:
            with self._life_cycle:
                if self._must_load:
                    self._load()

    def info(self) -> dict[str, Any]:
        info, cache = super().info(), self.cache.info()
        info["streaming"] = bool(info.get("streaming") and cache.get("streaming"))
        if self._behind is not None:
            durable = info.get("durable", "none"), cache.get("durable", "none")
            info["durable"] = min(durable, key=_DURABILITY.index)
            info["transactional"] = info["conditional"] = False
        return info

    # Reading

    def _uses_cache(self) -> bool:
        if self._behind is not None:
            self._check_connected()
            return True
        return self.store.is_connected() and not self._in_transaction()

    def get(self, key: str) -> Value:
        key = check_key(key)
        return self._reader.get(key) if self._uses_cache() else self.store.get(key)

    def _held(self, key: str) -> Value | None:
        """Return what the cache has by itself of a key; KeyError if that is that it was deleted."""
        if self._uses_cache():
            entry = self._reader.peek(key)
            if entry is not None:
                return self._reader.known(key, entry)
        return None

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        key = check_key(key)
        names = check_names(select)
        value = self._held(key)
        if value is None:
            return self.store.get_metadata(key, names)
        return copy_of(value.metadata, names)

    def exists(self, key: str) -> bool:
        key = check_key(key)
        try:
            return self._held(key) is not None or self.store.exists(key)
        except KeyError:
            return False

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        if self._behind is None:
            return super().query(select, where=where, **kwargs)
        names = check_names(select)
        criteria = check_criteria(where, kwargs)
        self._check_connected()
        if criteria is None:
            return iter(())
        return self._behind.query(names, criteria, where is None)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        if self._behind is None:
            return super().query_keys(where=where, **kwargs)
        check_names(kwargs.pop("select", None))
        if where is not None or kwargs:
            return (key for key, _ in self.query((), where=where, **kwargs))
        self._check_connected()
        return self._behind.filtered(self.store.query_keys, lambda key: True)

    def glob(self, pattern: str) -> Iterator[str]:
        if self._behind is None:
            return super().glob(pattern)
        match = key_matcher(pattern)
        self._check_connected()
        return self._behind.filtered(lambda: self.store.glob(pattern), match)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        if self._behind is None:
            return super().keys(prefix, start_after, limit)
        check_page(prefix, start_after, limit)
        self._check_connected()
        return self._behind.keys(prefix, start_after, limit)

    def check(self) -> list[Finding]:
        # The store's own way: what the contract derives would put everything into the cache.
        return self.store.check()

    # Writing

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        if self._behind is None:
            super()._write(call, method, key, *args, **conditions)
            return
        owner = self._owner
        if owner is not None:
            owner.renew()
        if key == OWNER_KEY:
            self._check_connected()
            super()._write(call, method, key, *args)
        else:
            self._behind.write(self, call, method, key, *args)

    def _begin_keys(self, keys: Set[str]) -> None:
        self._reader.begin(keys)

    def _end_keys(self, keys: Set[str], lasting: bool) -> None:
        try:
            if self._is_ready or self.cache.is_connected():
                self._reader.forget(keys)
            else:
                self._reader.distrust(keys)
        finally:
            self._reader.end(keys, lasting)

    def copy(self, source: str, target: str) -> None:
        if self._behind is None:
            super().copy(source, target)
        else:
            AbstractStore.copy(self, source, target)

    def move(self, source: str, target: str) -> None:
        if self._behind is None:
            super().move(source, target)
        else:
            AbstractStore.move(self, source, target)

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        if self._behind is None:
            return super().transaction(notes)
        self._check_connected()
        return DummyTransactionContext(self)

    # Uploading

    def _upload(self, key: str) -> None:
        """Upload a change that the calling thread has claimed, and tell if it fails."""
        uploader = self._uploader
        assert uploader is not None
        from ._cache_uploader import ConflictError

        error: Exception | None = None
        wait: float | None = None
        pending = uploader.uploads.pending.get(key)
        try:
            if in_transaction(self.store):
                # A rollback would take it back, and nobody would know.
                raise StoreError(f"{key!r} cannot be uploaded inside a transaction", key=key)
            uploader.upload(key)
        except Exception as raised:
            error = raised
        finally:
            wait = uploader.uploads.done(key, error, isinstance(error, ConflictError))
        if error is not None:
            self._tell_failure(key, error, 0 if pending is None else pending.failures, wait)

    def _tell_failure(
        self, key: str, error: Exception, attempts: int, retry_in: float | None
    ) -> None:
        if not has_listeners(self.event_manager, StoreUploadFailedEvent):
            return
        try:
            metadata = self._reader.cache.get_metadata(key)
        except Exception:
            metadata = {}
        from ._cache_entries import parse

        try:
            metadata = parse(metadata).metadata
        except StoreError:
            metadata = {}
        self.event_manager.emit(
            StoreUploadFailedEvent(
                self,
                key=key,
                metadata=copy_of(metadata),
                error=error,
                attempts=attempts,
                retry_in=retry_in,
            )
        )

    def flush(self, timeout: float | None = None, *, due: bool = False) -> bool:
        """Upload what has been written until now; each change is tried once.

        Parameters
        ----------
        timeout : float, optional, in seconds
            Return when so much time has passed; the uploads go on.
        due : bool
            Upload only what has rested, and what has waited long enough after a failure.

        Returns
        -------
        bool
            Whether there was time for all of it.

        Raises
        ------
        StoreError
            If a change could not be uploaded, or is a conflict. It stays in the cache.
        """
        if self._behind is None:
            return True
        self._check_connected()
        done, failed = self._behind.uploads.flush(self._upload, timeout, due)
        if failed:
            raise _not_uploaded(failed)
        return done

    def dirty_keys(self) -> list[str]:
        """Return the keys that were written or deleted, and not uploaded yet."""
        if self._behind is None:
            return []
        self._check_connected()
        return sorted(self._behind.uploads.pending)

    def conflicts(self) -> list[str]:
        """Return the keys that were changed here and in the store; see resolve()."""
        if self._behind is None:
            return []
        self._check_connected()
        pending = list(self._behind.uploads.pending.items())
        return sorted(key for key, change in pending if change.is_conflict)

    def resolve(self, key: str, keep: str) -> None:
        """End a conflict; KeyError if `key` is not dirty.

        Parameters
        ----------
        key : str
        keep : {'ours', 'theirs'}
            What was written here is uploaded over what the store has now; or dropped.
        """
        key = check_key(key)
        if keep not in ("ours", "theirs"):
            raise ValueError(f"keep is 'ours' or 'theirs', not {shown(keep)}")
        if self._uploader is None:
            raise KeyError(key)
        self._check_connected()
        with Changing(self, key) as call:
            self._uploader.resolve(call, key, keep)

    def stats(self) -> dict[str, int]:
        """Return counts.

        Returns
        -------
        dict of str to int
            'hits': answered without asking the store; 'validated': compared and found the same;
            'fetched': put into the cache; 'cache_failures'; 'clean_bytes' (0 without `max_bytes`);
            'dirty', 'dirty_bytes', 'uploading', 'failing', 'conflicts': changes that are not
            uploaded.
        """
        reader = self._reader
        pending = [] if self._behind is None else list(self._behind.uploads.pending.values())
        return {
            **reader.counts,
            "clean_bytes": reader.kept_bytes,
            "dirty": len(pending),
            "dirty_bytes": sum(change.size for change in pending),
            "uploading": sum(change.busy is not None for change in pending),
            "failing": sum(change.error is not None for change in pending),
            "conflicts": sum(change.is_conflict for change in pending),
        }


def _not_uploaded(failed: dict[str, Exception]) -> StoreError:
    first = min(failed)
    cause = failed[first]
    reason = str(cause) if isinstance(cause, StoreError | OSError) and str(cause) else repr(cause)
    if len(failed) == 1:
        text = f"1 change could not be uploaded, and stays in the cache: {first!r} ({reason})"
    else:
        names = ", ".join(map(repr, sorted(failed)[:3]))
        more = ", ..." if len(failed) > 3 else ""
        text = (
            f"{len(failed)} changes could not be uploaded, and stay in the cache: {names}{more} "
            f"({first!r}: {reason})"
        )
    error = StoreError(text, key=first)
    error.__cause__ = cause
    return error


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise TypeError(f"{name} is a number, not {shown(number)}")
    if not number >= 0:
        raise ValueError(f"{name} is not negative: {number}")
