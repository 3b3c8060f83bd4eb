"""Large values of an SqliteStore on their way out.

A small part is read at once. A whole value must stay what it is, whatever happens to its key and
however long it is read. There are two ways to see to that:

========  ==========================================================================================
snapshot  a connection of its own with a read transaction, for all values that were got within a
          second. When there are many of them, values that are still in the newest one move there
spool     an unnamed file that has copies of any number of values: for what is in no snapshot as its
          transaction has not been committed, where there is no WAL, where there are very many
          snapshots, and for what is held when the store is disconnected
========  ==========================================================================================

A snapshot costs open files, and keeps the WAL from shrinking; therefore they are given up, and new
values get a new one. A stream that is closed refers to none. Chunks of a blob do not change, and
its number is never used again: whatever snapshot has the number has the blob.
"""

from __future__ import annotations

import io
import os
from _thread import RLock, allocate_lock
from time import monotonic

from ._sqlite_blobs import CHUNK, is_number
from ._sqlite_connections import Errors, Use
from ._sqlite_rows import as_stamp
from ._streams import SourceReader, slice_bounds
from .base_store import Head
from .errors import StoreError, os_errors
from .value import SourceValue, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO
    from weakref import ref

    from ._sqlite_connections import Handle
    from .sqlite_store import SqliteStore

# What is read at once.
_SMALL_PART = 1 << 20

# So many snapshots before values move, or are copied; each costs three open files.
_MAX_SNAPSHOTS = 32

# How long others may join the values of a snapshot, in seconds.
_FRESH = 1.0

# How large a spool may be before another one is begun: its space is given back as a whole.
_MAX_SPOOL = 1 << 28

# How much of what is held is copied, so that the end of a connection is the end of its WAL.
_MAX_LEFT = 1 << 26

_READ_AHEAD = 65536


def read_part(store: SqliteStore, key: str, start: int | None, end: int | None) -> bytes | None:
    """Return a part of a large value, or None if it is no large one, or no small part.

    A snapshot for it would take ten times as long.
    """
    with Use(store) as handle:
        row = handle.row(store._number_sql, key)
        number = row and row[0]
        size = number and handle.blobs.size(number)
        if not size:
            return None
        begin, stop = slice_bounds(start, end, size)
        if begin >= stop:
            return b""
        if stop - begin > _SMALL_PART:
            return None
        part = handle.blobs.read(number, stop - begin, begin)
        # Or it has been changed in between.
        return part if len(part) == stop - begin else None


def read_large(store: SqliteStore, handle: Handle, key: str, row: Any) -> Value:
    """Return the value of a key that has just been seen to be a large one."""
    keeper = store._keeper
    inside = handle.connection.in_transaction
    if store._wal:
        blob = keeper.join(store, row[3])
        if blob is not None:
            return _value(store, key, row, blob)
        snapshot = keeper.snapshot(store)
        if snapshot is not None:
            if not inside:
                row = snapshot.row(store._read_sql, key)
                if row is None:
                    raise KeyError(key)
                if not is_number(row[3]):
                    # It was replaced by a small one since we looked.
                    return store._small_value(key, row)
            blob = keeper.keep(snapshot, row[3])
            if blob is not None or not inside:
                return _value(store, key, row, blob)
            # Only the transaction of this thread knows it.
    if not inside:
        handle.connection.execute("BEGIN")
    try:
        row = handle.row(store._read_sql, key)
        if row is None:
            raise KeyError(key)
        if not is_number(row[3]):
            return store._small_value(key, row)
        return _value(store, key, row, keeper.copy(store, handle, row[3]))
    finally:
        if not inside:
            handle.connection.execute("COMMIT")


def _value(store: SqliteStore, key: str, row: Any, source: Blob | Spooled | None) -> SourceValue:
    if source is None:
        raise StoreError(f"the data of {key!r} in {store!r} are damaged", key=key)
    metadata, created, modified, _ = row
    head = Head(store._metadata(key, metadata), as_stamp(created), as_stamp(modified), source.size)
    return LargeValue(source, head.metadata or {}, head.created, head.modified, head.etag)


class LargeValue(SourceValue):
    """A value of a snapshot or a spool, to which no stream of it refers that is closed."""

    @property
    def data(self) -> BinaryIO:
        return self.range()

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        begin, stop = slice_bounds(start, end, self._source.size)
        if begin == stop:
            return io.BytesIO()
        return io.BufferedReader(_Reader(self._source, begin, stop), min(_READ_AHEAD, stop - begin))


class _Reader(SourceReader):
    def close(self) -> None:
        super().close()
        self.__dict__.pop("_source", None)


class Keeper:
    """What keeps the large values of one store."""

    def __init__(self) -> None:
        from weakref import WeakSet

        self._newest: ref[Snapshot] | None = None
        self._blobs: WeakSet[Blob] = WeakSet()
        self._spool: ref[Spool] | None = None

    def join(self, store: SqliteStore, number: int) -> Blob | None:
        """Return a blob if the newest snapshot has it and is fresh, else None."""
        snapshot = None if self._newest is None else self._newest()
        if (
            snapshot is None
            or snapshot.handle.owner is not store._owner
            or monotonic() - snapshot.begun > _FRESH
        ):
            return None
        return self.keep(snapshot, number)

    def snapshot(self, store: SqliteStore) -> Snapshot | None:
        """Return a new snapshot; None if there are too many already, of which none can be given up."""
        from weakref import ref

        many = len(Snapshot.live) >= _MAX_SNAPSHOTS
        snapshot = Snapshot(store)
        if many:
            self._move(snapshot)
            if len(Snapshot.live) > _MAX_SNAPSHOTS:
                return None
        self._newest = ref(snapshot)
        return snapshot

    def keep(self, snapshot: Snapshot, number: int) -> Blob | None:
        """Return a blob of a snapshot, None if it does not have it."""
        size = snapshot.size(number)
        if size is None:
            return None
        blob = Blob(snapshot, number, size)
        self._blobs.add(blob)
        return blob

    def _move(self, snapshot: Snapshot) -> None:
        """Let blobs of older snapshots be blobs of this one, where it has them."""
        from ._sqlite_base import listed

        for blob in listed(self._blobs):
            if blob.snapshot is not None and snapshot.size(blob.number) is not None:
                blob.snapshot = snapshot

    def leave(self, store: SqliteStore) -> None:
        """Copy what is held, as far as it is not too much, so that no snapshot is needed for it."""
        from ._sqlite_base import listed

        left = _MAX_LEFT
        for blob in listed(self._blobs):
            snapshot = blob.snapshot
            if snapshot is None or snapshot.is_inherited() or blob.size > left:
                continue
            left -= blob.size
            try:
                blob.copied = self._spooled(store, snapshot.read, blob.number, blob.size)
            except StoreError:
                # On a full disk, say. The snapshot has it.
                continue
            blob.snapshot = None

    def copy(self, store: SqliteStore, handle: Handle, number: int) -> Spooled | None:
        """Return a copy of a blob as a connection sees it, None if that does not have it."""
        size = handle.blobs.size(number)
        return None if size is None else self._spooled(store, handle.blobs.read, number, size)

    def _spooled(
        self,
        store: SqliteStore,
        read: Callable[[int, int, int], bytes],
        number: int,
        size: int,
    ) -> Spooled:
        from weakref import ref

        spool = None if self._spool is None else self._spool()
        if spool is None or spool.size > _MAX_SPOOL:
            spool = Spool(store._temporary_file())
            self._spool = ref(spool)
        return spool.add(read, number, size)


class Snapshot:
    """A read transaction on a connection of its own."""

    #: Those there are in this process. Unlike a number, a set is right whatever thread or finalizer
    #: changes it, and whenever. They leave it by a call in C, where no interrupt gets lost.
    live: set[ref[Snapshot]] = set()

    def __init__(self, store: SqliteStore) -> None:
        from weakref import ref

        self.live.add(ref(self, self.live.discard))
        self.begun = monotonic()
        self._store = store
        self._lock = RLock()
        self._process = os.getpid()
        self.handle = store._new_handle()
        with self._lock, Errors(store._path):
            # Values are read once and in order, so that pages need not be kept.
            self.handle.connection.execute("PRAGMA cache_size=-256")
            # This alone would begin when something is read.
            self.handle.connection.execute("BEGIN")
            self.handle.connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    def row(self, sql: str, key: str) -> Any:
        with self._lock, Errors(self._store._path):
            return self.handle.row(sql, key)

    def size(self, number: int) -> int | None:
        with self._lock, Errors(self._store._path):
            return self.handle.blobs.size(number)

    def is_inherited(self) -> bool:
        """Whether it is that of the process that this one was forked from."""
        return os.getpid() != self._process

    def read(self, number: int, size: int, position: int) -> bytes:
        if self.is_inherited():
            raise StoreError(
                "a value of a database cannot be read in a child process: get it there"
            )
        with self._lock, Errors(self._store._path):
            with self._store._gate:
                self.handle.users += 1
            try:
                return self.handle.blobs.read(number, size, position)
            finally:
                self.handle.users -= 1


class Blob:
    """A blob that a snapshot keeps, or once kept: a `Source`."""

    def __init__(self, snapshot: Snapshot, number: int, size: int) -> None:
        #: None if it has been copied.
        self.snapshot: Snapshot | None = snapshot
        self.copied: Spooled | None = None
        self.number = number
        self.size = size

    def pread(self, size: int, position: int, /) -> bytes:
        snapshot = self.snapshot
        if snapshot is not None:
            return snapshot.read(self.number, size, position)
        assert self.copied is not None
        return self.copied.pread(size, position)


class Spool:
    """An unnamed file that has copies of blobs, one after the other, and lives as long as one of them."""

    def __init__(self, file: Any) -> None:
        from weakref import finalize

        self.size = 0
        self._lock = allocate_lock()
        self.fd: int = file.fileno()
        finalize(self, file.close)

    def add(self, read: Callable[[int, int, int], bytes], number: int, size: int) -> Spooled:
        """Return a copy of a blob."""
        with self._lock:
            begin = self.size
            self.size += size
        position = 0
        with os_errors():
            while position < size:
                piece = read(number, min(16 * CHUNK, size - position), position)
                if not piece:
                    raise StoreError("the data of a large value are damaged")
                written = 0
                while written < len(piece):
                    written += os.pwrite(self.fd, piece[written:], begin + position + written)
                position += len(piece)
        return Spooled(self, begin, size)


class Spooled:
    """A copy in a spool: a `Source`."""

    def __init__(self, spool: Spool, begin: int, size: int) -> None:
        self._spool = spool
        self._begin = begin
        self.size = size

    def pread(self, size: int, position: int, /) -> bytes:
        with os_errors():
            size = min(size, self.size - position)
            return os.pread(self._spool.fd, size, self._begin + position)
