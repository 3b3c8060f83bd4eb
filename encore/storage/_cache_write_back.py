"""How a caching store writes to its cache, and not to the store yet.

All that has to survive is in the cache: a dirty entry is a change, and so is an entry of a key that
was deleted. The cache decides between writers by its own conditional writes, so that no lock is
held while anything is read or written; whoever comes too late looks again and does it once more.
"""

from __future__ import annotations

import io
from itertools import chain, islice

from ._cache_entries import (
    ABSENT,
    CLEAN,
    DELETED,
    DIRTY,
    DamagedEntryError,
    Entry,
    is_version,
    load,
    version_of,
)
from ._cache_uploader import fingerprint_of
from ._cache_values import SMALL, CachedValue
from ._changes import Change
from ._copies import Copy
from ._keys import check_key
from ._metadata import copy_of, matches, normalise
from ._streams import buffers_of, check_buffer_size, check_readable
from .errors import PreconditionError, StoreError
from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
from .wrapper_store import open_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ._cache_entries import Version
    from ._cache_reader import CacheReader
    from ._streams import Readable
    from ._upload_queue import UploadQueue
    from .abstract_store import AbstractStore
    from .value import Value
    from .wrapper_store import Changing

    Metadata = dict[str, Any]


# So many fingerprints an entry keeps.
_MOST_TRIED = 8


class _Present:
    """What there is under a key, as far as is known."""

    def __init__(self, entry: Entry | None) -> None:
        #: What the cache has.
        self.entry = entry
        #: The value; None if there is none.
        self.value: Value | None = None
        self.base: Version | None = None
        self.since: float | None = None
        #: Fingerprints of what may be in the store besides.
        self.tried: list[str] = []

    @property
    def metadata(self) -> Metadata | None:
        return None if self.value is None else self.value.metadata


class WriteBack:
    """Writes to the cache, and from there to the store.

    Parameters
    ----------
    store, cache : AbstractStore
    reader : CacheReader
    uploads : UploadQueue
    """

    def __init__(
        self, store: AbstractStore, cache: AbstractStore, reader: CacheReader, uploads: UploadQueue
    ) -> None:
        self.store = store
        self.cache = cache
        self.reader = reader
        self.uploads = uploads

    def __repr__(self) -> str:
        return f"<WriteBack to {self.store!r}>"

    # What is left of another process

    def load(self, adopt: bool) -> list[str]:
        """Learn what the cache has; return the keys whose entries cannot be read.

        What was written for another store is made to belong to this one if `adopt` says so, and is
        a StoreError if not.
        """
        self.uploads.reset()
        now, wall = self.uploads.monotonic(), self.reader.clock()
        changes, damaged = self.reader.survey()
        if not adopt:
            self.reader.check_own(changes)
        for key in self.reader.foreign(changes):
            self._adopt(key)
        for key, entry in changes.items():
            # A clock that went back makes nothing wait longer.
            rested = max(0.0, wall - (entry.since or 0.0))
            due = now + max(0.0, self.uploads.rest - rested)
            size = entry.size
            if size is None:
                size = self.cache.get(key).size or 0
            self.uploads.note(key, size, self.reader.serial_of(entry), due)
        return damaged

    def _adopt(self, key: str) -> None:
        while True:
            entry = load(self.cache, key)
            if entry is None or entry.place == self.reader.place:
                return
            # With the version that the other store had: if this one has another, it is a conflict.
            entry.place = self.reader.place
            try:
                self.cache.set_metadata(key, entry.record(), **entry.unchanged)
            except (PreconditionError, KeyError):
                continue
            return

    # Writing

    def write(self, owner: Any, call: Changing, method: str, key: str, /, *args: Any) -> None:
        """Do what one of the methods of `owner` does that change one key, in the cache."""
        getattr(self, f"_{method}")(owner, call, check_key(key), *args)

    def _set(self, owner: Any, call: Changing, key: str, value: Any, buffer_size: int) -> None:
        check_buffer_size(buffer_size)
        with open_value(value) as (stream, metadata, _):
            metadata = normalise(metadata)
            owner._check_connected()
            self._put(owner, call, key, stream, metadata, buffer_size)

    def _set_data(
        self, owner: Any, call: Changing, key: str, stream: Readable, buffer_size: int
    ) -> None:
        check_buffer_size(buffer_size)
        check_readable(stream)
        owner._check_connected()
        self._put(owner, call, key, stream, None, buffer_size)

    def _put(
        self,
        owner: Any,
        call: Changing,
        key: str,
        stream: Readable,
        metadata: Metadata | None,
        buffer_size: int,
    ) -> None:
        with _Again(key, stream, buffer_size) as again, self._room(owner, key, again.size or 0):
            while True:
                present = self._look(key, must_know=metadata is None)
                new = (present.metadata or {}) if metadata is None else metadata
                entry = self._next(present, DIRTY, new, again.size)
                if self._try(key, present, entry, again.open(), buffer_size):
                    break
        kind = StoreSetEvent if present.value is None else StoreUpdateEvent
        call.add(Change(kind, key, new))

    def _set_metadata(self, owner: Any, call: Changing, key: str, metadata: Metadata) -> None:
        self._put_metadata(owner, call, key, metadata, False)

    def _update_metadata(self, owner: Any, call: Changing, key: str, metadata: Metadata) -> None:
        self._put_metadata(owner, call, key, metadata, True)

    def _put_metadata(
        self, owner: Any, call: Changing, key: str, metadata: Metadata, merge: bool
    ) -> None:
        metadata = normalise(metadata)
        owner._check_connected()
        while True:
            present = self._look(key)
            value, old = present.value, present.entry
            if value is None and merge:
                raise KeyError(key)
            new = {**(present.metadata or {}), **metadata} if merge else metadata
            size = 0 if value is None else value.size
            entry = self._next(present, DIRTY, new, size)
            with self._room(owner, key, size or 0):
                if value is None:
                    done = self._try(key, present, entry, io.BytesIO())
                elif isinstance(value, CachedValue) and old is not None:
                    # The data stays where it is.
                    done = self._try(key, present, entry, None)
                else:
                    with value.data as stream:
                        done = self._try(key, present, entry, stream)
            if done:
                break
        kind = StoreSetEvent if value is None else StoreUpdateEvent
        call.add(Change(kind, key, new))

    def _delete(self, owner: Any, call: Changing, key: str) -> None:
        owner._check_connected()
        while True:
            present = self._look(key)
            if present.value is None:
                raise KeyError(key)
            entry = self._next(present, DELETED, {}, 0)
            if self._try(key, present, entry, io.BytesIO()):
                break
        call.add(Change(StoreDeleteEvent, key, present.metadata or {}))

    def _room(self, owner: Any, key: str, size: int) -> _Room:
        """Return a context manager that has room for an entry, as soon as there is any."""
        self.uploads.reserve(key, size, owner._upload)
        return _Room(self.uploads, size)

    def _look(self, key: str, must_know: bool = True) -> _Present:
        """Find out what there is under a key, asking the store only where the cache does not know."""
        entry = self._load(key)
        present = _Present(entry)
        if entry is not None:
            present.base = entry.base
            present.since = entry.since
            present.tried = entry.tried
            if entry.state != CLEAN:
                if entry.announced:
                    present.tried = [*entry.tried, fingerprint_of(entry)][-_MOST_TRIED:]
                if entry.state == DIRTY:
                    present.value = CachedValue(entry, None)
                return present
            present.since, present.tried = None, []
            if self.reader.is_trusted(key, entry):
                present.value = CachedValue(entry, None)
                return present
        try:
            value = self.store.get(key)
        except KeyError:
            present.base = ABSENT
            return present
        except StoreError:
            if must_know:
                raise
            # It can be written without knowing; what the upload finds is compared with the base.
            if entry is not None:
                present.value = CachedValue(entry, None)
            return present
        present.base = version_of(value)
        unchanged = entry is not None and is_version(entry.remote, value)
        present.value = CachedValue(entry, None) if entry is not None and unchanged else value
        return present

    def _load(self, key: str) -> Entry | None:
        while True:
            try:
                entry = load(self.cache, key)
                if entry is None or entry.state != CLEAN or entry.place == self.reader.place:
                    return entry
                # A copy of what another store has.
                unchanged = entry.unchanged
            except DamagedEntryError as error:
                # Nobody can tell what it was.
                unchanged = error.unchanged
            try:
                self.cache.delete(key, **unchanged)
            except (KeyError, PreconditionError):
                # Somebody else was faster, and may have written it anew.
                pass

    def _next(self, present: _Present, state: str, metadata: Metadata, size: int | None) -> Entry:
        """Return the entry that follows what is present."""
        value = present.value
        wall = self.reader.clock()
        now = round(wall * 1e6) / 1e6
        old = present.entry.modified if present.entry is not None else None
        if value is not None and value.modified is not None:
            old = max(old or 0.0, value.modified)
        if old is not None:
            # It moves whatever the clock did.
            now = max(now, round(old * 1e6 + 1) / 1e6)
        id = self.reader.new_id()
        created = now if value is None or value.created is None else value.created
        return Entry(
            state,
            self.reader.place,
            {
                "id": id,
                "metadata": metadata,
                "created": created,
                "modified": now,
                "etag": id,
                "size": size,
                "base": present.base,
                "since": wall if present.since is None else present.since,
                "session": self.reader.session,
                "tried": present.tried,
            },
        )

    def _try(
        self,
        key: str,
        present: _Present,
        entry: Entry,
        data: Readable | None,
        buffer_size: int = SMALL,
    ) -> bool:
        """Write an entry, unless something was written since it was looked what is present."""
        condition = self.reader.condition(present.entry)
        self.reader.begin({key})
        try:
            if data is None:
                self.cache.set_metadata(key, entry.record(), **condition)
            else:
                self.cache.set(key, (data, entry.record()), buffer_size, **condition)
            size = entry.size
            if size is None:
                size = self.cache.get(key).size or 0
        except PreconditionError:
            return False
        except BaseException:
            if self._may_be_there(key, entry):
                self.uploads.note(key, entry.size or 0, self.reader.serial_of(entry))
            raise
        finally:
            self.reader.end({key})
        self.uploads.note(key, size, self.reader.serial_of(entry))
        self.reader.uncount(key)
        return True

    def _may_be_there(self, key: str, entry: Entry) -> bool:
        """Whether the cache may have an entry that could not be written, or so it said."""
        try:
            found = load(self.cache, key)
        except Exception:
            # If it has not, the upload finds nothing to do.
            return True
        return found is not None and found.id == entry.id

    # Listing: what is here, and of what the store has all the rest

    def changes(self) -> dict[str, Metadata | None]:
        """Return the keys that are dirty with their metadata, None for those that are deleted."""
        found: dict[str, Metadata | None] = {}
        for key in list(self.uploads.pending):
            entry = load(self.cache, key)
            if entry is not None and entry.state != CLEAN:
                found[key] = None if entry.state == DELETED else entry.metadata
        return found

    def query(
        self, names: list[str] | None, criteria: Metadata, by_name: bool
    ) -> Iterator[tuple[str, Metadata]]:
        """As the contract says; the store is given the criteria if they can be given `by_name`."""
        # First: what is uploaded from now on is found here.
        changes = self.changes()
        found = self.store.query(names, **criteria) if by_name else self.store.query()
        if not by_name:
            found = (
                (key, copy_of(metadata, names))
                for key, metadata in found
                if matches(metadata, criteria)
            )
        here = [
            (key, copy_of(metadata, names))
            for key, metadata in changes.items()
            if metadata is not None and matches(metadata, criteria)
        ]
        return chain(here, (item for item in found if item[0] not in changes))

    def filtered(
        self, below: Callable[[], Iterable[str]], match: Callable[[str], object]
    ) -> Iterator[str]:
        """Return keys that match; `below` gives those that the store has."""
        changes = self.changes()
        here = [key for key, metadata in changes.items() if metadata is not None and match(key)]
        return chain(here, (key for key in below() if key not in changes))

    def keys(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        """As the contract says."""
        from heapq import merge

        changes = self.changes()
        within = {
            key
            for key in changes
            if key.startswith(prefix) and (start_after is None or key > start_after)
        }
        # So many of the store's do not count.
        most = None if limit is None else limit + len(within)
        others = (key for key in self.store.keys(prefix, start_after, most) if key not in within)
        here = sorted(key for key in within if changes[key] is not None)
        return islice(merge(here, others), limit)


class _Room:
    """Room for an entry, until it is there or will never be."""

    def __init__(self, uploads: UploadQueue, size: int) -> None:
        self._uploads = uploads
        self._size = size

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self._uploads.release(self._size)


class _Again:
    """What a stream gives, to be read once more where another writer was faster.

    What is small is kept in memory, and what cannot be rewound in a temporary file.
    """

    def __init__(self, key: str, stream: Readable, buffer_size: int) -> None:
        self._stream: Any = stream
        self._buffer_size = buffer_size
        self._copy = Copy(key)
        self._position = 0
        self.size: int | None = None

    def __enter__(self) -> _Again:
        stream: Any = self._stream
        position = None
        try:
            if stream.seekable():
                position = stream.tell()
        except (AttributeError, OSError, ValueError):
            pass
        if position is None:
            self._take()
            return self
        done, pieces = 0, []
        for piece in buffers_of(stream, self._buffer_size, None):
            pieces.append(piece)
            done += len(piece)
            if done > SMALL:
                self._position = position
                return self
        self._stream, self.size = io.BytesIO(b"".join(pieces)), done
        return self

    def _take(self) -> None:
        try:
            self._copy.take(self._stream, self._buffer_size)
            self._stream, self.size = self._copy.stream(), self._copy.size
        except BaseException:
            self._copy.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._copy.close()

    def open(self) -> Readable:
        self._stream.seek(self._position)
        stream: Readable = self._stream
        return stream
