"""How a caching store reads: what it may answer from its cache, and how it puts things there.

An entry is answered without asking the store if it is trusted: this object has learned less than
`expire` seconds ago that the store has the same, and the key has not been written since. What is in
the cache and is not trusted does no harm: it is compared with what the store has, etag with etag.
So nothing depends on an entry being removed in time, or at all.

No lock is held while the store or the cache works. Threads that want the same wait for the one that
is about to fetch it.
"""

from __future__ import annotations

import os
from _thread import RLock, allocate_lock, get_ident
from itertools import count

from ._cache_entries import (
    CLEAN,
    DELETED,
    DamagedEntryError,
    Entry,
    is_version,
    load,
    parse,
    version_of,
)
from ._cache_owner import OWNER_KEY
from ._cache_values import CachedValue, FetchedValue
from ._watching_wrapper import in_transaction
from .errors import PreconditionError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Set
    from typing import Any, BinaryIO

    from .abstract_store import AbstractReadOnlyStore, AbstractStore
    from .value import Value

    Metadata = dict[str, Any]

# Seconds that a thread waits for another one that fetches the same. Then it asks the store itself:
# whoever listens to the cache, while something is put there, may be waiting for this very thread.
_PATIENCE = 30.0

# So many keys are remembered as trusted.
_MOST_TRUSTED = 100_000


class _Flight:
    """What one thread fetches and others wait for."""

    def __init__(self) -> None:
        self.owner = get_ident()
        self.result: Value | None = None
        self.error: BaseException | None = None
        self._gate = allocate_lock()
        self._gate.acquire()

    def land(self) -> None:
        self._gate.release()

    def wait(self) -> bool:
        if not self._gate.acquire(timeout=_PATIENCE):
            return False
        self._gate.release()
        return True


class CacheReader:
    """Reads from a cache, and from the store where it has to.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    cache : AbstractStore
    expire : float, in seconds
    max_bytes : int or None
        The most that clean entries may have together.
    clock, monotonic : callable
    dirty : container of str
        The keys whose entries are known to be the only copy.
    ignores_dirty : bool
        Whether entries that are not clean are left alone and not shown.
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        cache: AbstractStore,
        expire: float,
        max_bytes: int | None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        dirty: Container[str],
        ignores_dirty: bool,
    ) -> None:
        self.store = store
        self.cache = cache
        self.expire = expire
        self.max_bytes = max_bytes
        self.clock = clock
        self.monotonic = monotonic
        self.dirty = dirty
        self.ignores_dirty = ignores_dirty
        self.counts = dict.fromkeys(("hits", "validated", "fetched", "cache_failures"), 0)
        self.session = os.urandom(9).hex()
        #: Key -> the id of the entry that is trusted, and since when.
        self.trusted: dict[str, tuple[str, float]] = {}
        #: Keys that are always compared with the store.
        self.distrusted: set[str] = set()
        #: Counts the beginnings and ends of writing.
        self.turns = 0
        #: Clean entries and their sizes, oldest first, if they are counted.
        self.kept: dict[str, int] = {}
        self.kept_bytes = 0
        self._place: str | None = None
        self.reset()

    @property
    def place(self) -> str:
        """What tells the store from others."""
        if self._place is None:
            from ._places import place_of

            self._place = place_of(self.store)
        return self._place

    def reset(self) -> None:
        """Forget what the threads of this process are doing: in the child of a fork there are none."""
        self.lock = RLock()
        self._ids = count(1)
        self._id_prefix = os.urandom(9).hex()
        #: Key -> how many calls are writing it.
        self.writing: dict[str, int] = {}
        self.flights: dict[tuple[str, str], _Flight] = {}

    def __repr__(self) -> str:
        return f"<CacheReader of {self.store!r}>"

    def new_id(self) -> str:
        """Return a text that no other entry has."""
        return f"{self._id_prefix}{next(self._ids)}"

    def serial_of(self, entry: Entry) -> int:
        """Return a number by which an entry that was written here comes after all that it replaced."""
        prefix, number = entry.id[: len(self._id_prefix)], entry.id[len(self._id_prefix) :]
        return int(number) if prefix == self._id_prefix and number.isdigit() else 0

    def survey(self) -> tuple[dict[str, Entry], list[str]]:
        """Count what there is, and drop copies of what another store has.

        Return the entries that are not clean, and the keys of what is no entry.
        """
        # Asked anew: a store may say more when it is connected.
        self._place = None
        place = self.place
        changes, clean, found, foreign = {}, [], {OWNER_KEY}, []
        counts = self.max_bytes is not None
        with self.lock:
            self.kept.clear()
            self.kept_bytes = 0
        for key, metadata in self.cache.query():
            if metadata.get("state") == CLEAN:
                if metadata.get("store") != place:
                    found.add(key)
                    foreign.append(key)
                    continue
                if not counts:
                    found.add(key)
                    continue
            try:
                entry = parse(metadata)
            except DamagedEntryError:
                continue
            found.add(key)
            if entry.state == CLEAN:
                clean.append((entry.checked or 0.0, key, entry.size))
            else:
                changes[key] = entry
        for key in foreign:
            self.peek(key)
        for _, key, size in sorted(clean, key=lambda item: item[:2]):
            self.keep(key, self.cache.get(key).size or 0 if size is None else size)
        return changes, sorted(key for key in self.cache.keys() if key not in found)  # noqa: SIM118

    def foreign(self, changes: dict[str, Entry]) -> list[str]:
        """Return the keys of entries that belong to another store."""
        return [key for key, entry in changes.items() if entry.place != self.place]

    def check_own(self, changes: dict[str, Entry]) -> None:
        """Raise StoreError if there are entries that belong to another store."""
        foreign = self.foreign(changes)
        if foreign:
            places = sorted({changes[key].place or "a store unknown" for key in foreign})
            raise StoreError(
                f"{self.cache!r} has {len(foreign)} changes that were written for "
                f"{' and '.join(places)}, and not uploaded; this is a cache of {self.place}: "
                "use it with the former, or adopt them: CachingStore(..., write_back=True, adopt=True)"
            )

    # Reading

    def get(self, key: str) -> Value:
        """Return a value as the contract says."""
        entry = self.peek(key)
        if entry is not None:
            value = self.known(key, entry)
            if value is not None:
                return value
        return self.ask(key, entry)

    def peek(self, key: str) -> Entry | None:
        """Return the entry of a key, if there is one of this store, and it can be read."""
        if key == OWNER_KEY:
            return None
        try:
            entry = load(self.cache, key)
        except Exception as error:
            self._failed(key, error)
            return None
        if entry is not None and entry.state == CLEAN and entry.place != self.place:
            self.drop(key, entry)
            return None
        return None if entry is None or (entry.state != CLEAN and self.ignores_dirty) else entry

    def known(self, key: str, entry: Entry) -> Value | None:
        """Return what an entry says by itself, None if the store has to be asked; or KeyError."""
        if entry.state == DELETED:
            raise KeyError(key)
        if entry.state == CLEAN and not self.is_trusted(key, entry):
            return None
        self.counts["hits"] += 1
        return CachedValue(entry, None) if entry.state != CLEAN else self._cached(key, entry)

    def is_trusted(self, key: str, entry: Entry) -> bool:
        """Whether the store need not be asked."""
        with self.lock:
            if key in self.writing or key in self.distrusted:
                return False
            trusted = self.trusted.get(key)
        if trusted is not None and trusted[0] == entry.id:
            return self.monotonic() - trusted[1] < self.expire
        if entry.session == self.session or entry.checked is None:
            return False
        # What another process has left; its clock may have been ahead.
        return 0 <= self.clock() - entry.checked < self.expire

    def ask(self, key: str, entry: Entry | None) -> Value:
        """Ask the store for a value, of which there may be an entry; KeyError if there is none."""
        # What this thread sees in a transaction is not for others.
        while not in_transaction(self.store):
            with self.lock:
                if key in self.writing:
                    break
                if self.expire <= 0:
                    # Somebody who waits for a fetch that was begun before is answered from the past.
                    flight, leads = _Flight(), True
                else:
                    flight, leads = self._join("get", key)
            if leads:
                try:
                    flight.result = self._compare(key, entry)
                except KeyError:
                    flight.error = KeyError(key)
                    raise
                except BaseException as error:
                    flight.error = error
                    raise
                finally:
                    self._land("get", key, flight)
                return flight.result
            if flight.owner == get_ident() or not flight.wait():
                break
            if flight.result is not None:
                return flight.result
            if isinstance(flight.error, Exception):
                raise flight.error
        return self.store.get(key)

    def _compare(self, key: str, entry: Entry | None) -> Value:
        turn, now, wall = self.turns, self.monotonic(), self.clock()
        try:
            value = self.store.get(key)
        except KeyError:
            if entry is not None:
                self.drop(key, entry)
            raise
        if entry is not None and is_version(entry.remote, value):
            self.counts["validated"] += 1
            with self.lock:
                # If the key was written meanwhile, the cache has another entry by now, or none.
                self._trust(key, entry.id, now)
            return self._cached(key, entry)
        return FetchedValue(self, key, value, turn, now, wall)

    def _cached(self, key: str, entry: Entry) -> CachedValue:
        def reopen() -> Value:
            self._failed(key, None)
            value = self.store.get(key)
            if not is_version(entry.remote, value):
                raise StoreError(f"{key!r} has changed, and its copy cannot be read", key=key)
            return value

        return CachedValue(entry, reopen)

    # Fetching

    def fetch(self, key: str, value: Value, turn: int, now: float, wall: float) -> Value:
        """Put a value of the store into the cache, and return what its data is to be read from."""
        size = value.size
        if size is not None and self.max_bytes is not None and size > self.max_bytes:
            return value
        if key == OWNER_KEY:
            return value
        for _ in range(2):
            entry = self.peek(key)
            if entry is not None:
                if is_version(entry.remote, value) and entry.state == CLEAN:
                    return self._cached(key, entry)
                if entry.state != CLEAN:
                    break
            with self.lock:
                if key in self.writing:
                    break
                flight, leads = self._join("fetch", key)
            if leads:
                try:
                    return self._put(key, entry, value, turn, now, wall)
                finally:
                    self._land("fetch", key, flight)
            if flight.owner == get_ident() or not flight.wait():
                break
        return value

    def _put(
        self, key: str, old: Entry | None, value: Value, turn: int, now: float, wall: float
    ) -> Value:
        version = version_of(value)
        entry = Entry(
            CLEAN,
            self.place,
            {
                "id": self.new_id(),
                "metadata": value.metadata,
                "created": value.created,
                "modified": value.modified,
                "etag": value.etag,
                "size": value.size,
                "remote": version,
                "base": version,
                "checked": wall,
                "session": self.session,
            },
        )
        source = _Source(value.data, self.max_bytes)
        try:
            with source.stream:
                self.cache.set(key, (source, entry.record()), **self.condition(old))
        except BaseException as error:
            if error is source.error or not isinstance(error, Exception):
                raise
            if not isinstance(error, PreconditionError | _TooLarge):
                self._failed(key, error)
            return value
        self.counts["fetched"] += 1
        found = self.peek(key)
        if found is None or found.id != entry.id:
            return value
        with self.lock:
            # If anything was written since the store was asked, it is asked again next time.
            if self.turns == turn:
                self._trust(key, entry.id, now)
        self.keep(key, found.value.size or 0)
        return self._cached(key, found)

    def condition(self, entry: Entry | None) -> dict[str, Any]:
        """Return the condition that the cache has an entry, or none: what is dirty must not be lost."""
        if self.ignores_dirty:
            return {}
        return {"if_none_match": "*"} if entry is None else entry.unchanged

    def _join(self, kind: str, key: str) -> tuple[_Flight, bool]:
        flight = self.flights.get((kind, key))
        if flight is not None:
            return flight, False
        self.flights[kind, key] = flight = _Flight()
        return flight, True

    def _land(self, kind: str, key: str, flight: _Flight) -> None:
        with self.lock:
            if self.flights.get((kind, key)) is flight:
                del self.flights[kind, key]
        flight.land()

    # Trust

    def trust(self, key: str, entry_id: str) -> None:
        """The store has, as of now, what an entry says."""
        with self.lock:
            if key not in self.writing:
                self._trust(key, entry_id, self.monotonic())

    def _trust(self, key: str, entry_id: str, now: float) -> None:
        self.trusted.pop(key, None)
        self.trusted[key] = entry_id, now
        if len(self.trusted) > _MOST_TRUSTED:
            del self.trusted[next(iter(self.trusted))]

    def begin(self, keys: Set[str]) -> None:
        """These keys may change in the store from now on: nothing that is kept of them is trusted."""
        with self.lock:
            self.turns += 1
            for key in keys:
                self.writing[key] = self.writing.get(key, 0) + 1
                self.trusted.pop(key, None)
                # Whoever asks from now on does not wait for an answer from before.
                for kind in ("get", "fetch"):
                    self.flights.pop((kind, key), None)

    def end(self, keys: Set[str], lasting: bool = False) -> None:
        """They have changed; if it is `lasting`, they may change at any time."""
        with self.lock:
            self.turns += 1
            if lasting:
                self.distrust(keys)
            for key in keys:
                count = self.writing.pop(key, 1) - 1
                if count:
                    self.writing[key] = count

    def distrust(self, keys: Set[str]) -> None:
        """Compare these keys with the store from now on, whatever the cache has."""
        with self.lock:
            self.distrusted.update(keys)

    # Dropping

    def forget(self, keys: Set[str]) -> None:
        """Drop the entries of keys that are being written."""
        for key in keys:
            if key == OWNER_KEY:
                continue
            try:
                entry = load(self.cache, key)
                if entry is not None and entry.state == CLEAN:
                    self._delete(key, entry)
            except Exception as error:
                self.distrust({key})
                self._failed(key, error)

    def drop(self, key: str, entry: Entry) -> None:
        """Drop an entry if it is clean, and still there."""
        if entry.state != CLEAN:
            return
        try:
            self._delete(key, entry)
        except PreconditionError:
            pass
        except Exception as error:
            self._failed(key, error)

    def _delete(self, key: str, entry: Entry) -> None:
        try:
            self.cache.delete(key, **self.condition(entry))
        except KeyError:
            pass
        with self.lock:
            self.kept_bytes -= self.kept.pop(key, 0)

    def keep(self, key: str, size: int) -> None:
        """Count a clean entry, and drop the oldest ones if they have become too many."""
        if self.max_bytes is None:
            return
        with self.lock:
            self.kept_bytes += size - self.kept.pop(key, 0)
            self.kept[key] = size
        while True:
            with self.lock:
                if self.kept_bytes <= self.max_bytes or not self.kept:
                    return
                oldest = next(iter(self.kept))
                self.kept_bytes -= self.kept.pop(oldest)
            entry = self.peek(oldest)
            if entry is not None:
                self.drop(oldest, entry)

    def uncount(self, key: str) -> None:
        """An entry is not clean any more."""
        with self.lock:
            self.kept_bytes -= self.kept.pop(key, 0)

    def _failed(self, key: str, error: Exception | None) -> None:
        """The cache has failed; a read goes on with the store, unless what is lost is the only copy."""
        self.counts["cache_failures"] += 1
        if key in self.dirty:
            raise StoreError(
                f"what was written to {key!r} is in the cache only, and cannot be read: {error}",
                key=key,
            ) from error
        if isinstance(error, DamagedEntryError):
            try:
                # Unless somebody has written it anew.
                self.cache.delete(key, **({} if self.ignores_dirty else error.unchanged))
            except Exception:
                # It stays, and is never used.
                pass


class _TooLarge(Exception):
    """A value of unknown size has more bytes than the cache may keep."""


class _Source:
    """A stream of the store that is put into the cache; tells whose error it was."""

    def __init__(self, stream: BinaryIO, most: int | None) -> None:
        self.stream = stream
        self.error: BaseException | None = None
        self._most = most
        self._done = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self.stream.read(size)
        except BaseException as error:
            self.error = error
            raise
        self._done += len(data)
        if self._most is not None and self._done > self._most:
            raise _TooLarge
        return data
