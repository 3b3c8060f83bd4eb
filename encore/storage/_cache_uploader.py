"""How a caching store uploads what was written to its cache.

``base`` of an entry is what the store had when it was last looked at. An upload is done only if the
store still has that; if not, it is a conflict, unless what the store has came from here: an upload
that was carried out although it failed, or whose process died before it could take note.
"""

from __future__ import annotations

from ._cache_entries import ABSENT, CLEAN, DELETED, DIRTY, Entry, is_version, load, version_of
from ._cache_values import SMALL, CachedValue
from ._changes import Change
from ._metadata import digest
from .errors import PreconditionError, StoreError
from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ._cache_entries import Version
    from ._cache_reader import CacheReader
    from ._upload_queue import UploadQueue
    from .abstract_store import AbstractStore
    from .value import Value
    from .wrapper_store import Changing

    Metadata = dict[str, Any]


class ConflictError(StoreError):
    """The store has something that was written there behind the cache's back."""


class Uploader:
    """Uploads changes.

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
        return f"<Uploader to {self.store!r}>"

    def upload(self, key: str) -> None:
        """Make the store have what the cache has; raise whatever goes wrong."""
        entry = self._announced(key)
        if entry is None or entry.state == CLEAN:
            pending = self.uploads.pending.get(key)
            if pending is not None:
                self.uploads.forget(key, pending.serial)
            return
        if entry.state == DELETED:
            self._delete_in_store(key, entry)
            self._settle(key, entry, None, ABSENT)
        else:
            self._settle(key, entry, *self._set_in_store(key, entry))

    def _announced(self, key: str) -> Entry | None:
        """Return the entry of a key, marked as one that may be in the store from now on.

        Whoever overwrites it, in whatever process, notes its fingerprint in the new one.
        """
        while True:
            entry = load(self.cache, key)
            if entry is None or entry.state == CLEAN or entry.announced:
                return entry
            entry.announced = True
            try:
                self.cache.set_metadata(key, entry.record(), **entry.unchanged)
            except (PreconditionError, KeyError):
                continue
            return entry

    def _set_in_store(self, key: str, entry: Entry) -> tuple[Version | None, Version]:
        """Upload; return the version that the store has of it, if it is sure, and what it has in any case."""
        for base in self._bases(key, entry):
            condition = self._condition(key, base)
            if condition is None:
                continue
            try:
                # A value, not a stream: whoever has to may read it again. In no transaction with what
                # follows, for which all other uploads would wait.
                self.store.set(key, CachedValue(entry, None), **condition)
                value = self.store.get(key)
                break
            except PreconditionError:
                continue
        else:
            return self._recognise(key, entry)
        version = version_of(value)
        size = entry.value.size
        if size is None or size > SMALL or not self.store.info().get("transactional"):
            # It might be what somebody has written since, and to compare it is not cheap.
            return None, version
        if fingerprint(value) == fingerprint_of(entry):
            return version, version
        # Somebody has written since, which is a conflict if it is written here as well.
        return None, {**version, "etag": f"not {version['etag']}"}

    def _bases(self, key: str, entry: Entry) -> Iterator[Version | None]:
        """Return versions that may be overwritten: what was there, or what came from here."""
        yield entry.base
        if entry.tried:
            current = self._current(key)
            if fingerprint(current) in entry.tried:
                yield ABSENT if current is None else version_of(current)

    def _recognise(self, key: str, entry: Entry) -> tuple[Version | None, Version]:
        """Return the version of a value that was uploaded before, or raise ConflictError."""
        current = self._current(key)
        if current is None:
            raise ConflictError(f"{key!r} was deleted in the store meanwhile", key=key)
        if fingerprint(current) != fingerprint_of(entry):
            raise ConflictError(f"{key!r} was changed in the store meanwhile", key=key)
        version = version_of(current)
        return version, version

    def _delete_in_store(self, key: str, entry: Entry) -> None:
        for base in self._bases(key, entry):
            if base is ABSENT or base == ABSENT:
                if self._current(key) is None:
                    return
                continue
            condition = self._condition(key, base)
            if condition is None:
                continue
            try:
                self.store.delete(key, **condition)
                return
            except KeyError:
                return
            except PreconditionError:
                if self._current(key) is None:
                    return
        raise ConflictError(f"{key!r} was changed in the store meanwhile", key=key)

    def _condition(self, key: str, base: Version | None) -> dict[str, Any] | None:
        """Return the condition that the store has a version, None if it has another one."""
        if base is None:
            return {}
        if self.store.info().get("conditional"):
            if base == ABSENT:
                return {"if_none_match": "*"}
            if base["etag"] is not None:
                return {"if_match": base["etag"]}
        current = self._current(key)
        if (base == ABSENT) != (current is None) or (
            current is not None and not is_version(base, current) and _can_tell(base, current)
        ):
            return None
        return {}

    def _current(self, key: str) -> Value | None:
        try:
            return self.store.get(key)
        except KeyError:
            return None

    def _settle(self, key: str, done: Entry, remote: Version | None, base: Version) -> None:
        """The store has an entry: it becomes clean if it is still the same, and else has a new base."""
        while True:
            entry = load(self.cache, key)
            if entry is None or entry.state == CLEAN:
                return
            try:
                if entry.id != done.id:
                    entry.base, entry.tried = base, []
                    # It is dirty since then, at the earliest.
                    entry.since = self.reader.clock()
                    self.cache.set_metadata(key, entry.record(), **entry.unchanged)
                    return
                if entry.state == DELETED:
                    self.cache.delete(key, **entry.unchanged)
                else:
                    entry.state, entry.remote, entry.base = CLEAN, remote, base
                    entry.since, entry.tried, entry.announced = None, [], False
                    entry.checked = self.reader.clock()
                    self.cache.set_metadata(key, entry.record(), **entry.unchanged)
                    self.reader.trust(key, entry.id)
            except (PreconditionError, KeyError):
                continue
            self.uploads.forget(key, self.reader.serial_of(done))
            if entry.state == CLEAN:
                self.reader.keep(key, entry.value.size or 0)
            return

    # Conflicts

    def resolve(self, call: Changing, key: str, keep: str) -> None:
        """End a conflict, in favour of 'ours' or 'theirs'."""
        while True:
            entry = load(self.cache, key)
            if entry is None or entry.state == CLEAN:
                raise KeyError(key)
            current = self._current(key)
            try:
                if keep == "ours":
                    entry.base = ABSENT if current is None else version_of(current)
                    self.cache.set_metadata(key, entry.record(), **entry.unchanged)
                    self.uploads.retry_conflict(key)
                    return
                self.reader.begin({key})
                try:
                    self.cache.delete(key, **entry.unchanged)
                finally:
                    self.reader.end({key})
            except (PreconditionError, KeyError):
                continue
            break
        self.uploads.forget(key, self.reader.serial_of(entry))
        if current is not None:
            kind: Any = StoreSetEvent if entry.state == DELETED else StoreUpdateEvent
            call.add(Change(kind, key, current.metadata))
        elif entry.state == DIRTY:
            call.add(Change(StoreDeleteEvent, key, entry.metadata))


def _can_tell(version: Version, value: Value) -> bool:
    """Whether there is anything to compare."""
    return (version["etag"] is not None and value.etag is not None) or (
        version["modified"] is not None and value.modified is not None
    )


def fingerprint(value: Value | None) -> str:
    """Return a text that two values have only if they are the same, data and metadata."""
    if value is None:
        return "absent"
    from hashlib import blake2b

    hash = blake2b(digest_size=16)
    for piece in value.iterdata():
        hash.update(piece)
    return digest(hash.hexdigest(), value.metadata)


def fingerprint_of(entry: Entry) -> str:
    """Return the fingerprint of what the store has when it has got an entry."""
    return fingerprint(None if entry.state == DELETED else CachedValue(entry, None))
