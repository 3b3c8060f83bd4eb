"""A store of its own data: compressed values in memory, with events, conditions and transactions.

Usage: python examples/leaf_store.py
"""

from __future__ import annotations

import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from encore.storage.base_store import Head
from encore.storage.errors import StoreError
from encore.storage.overlay_store import LOCK_TIMEOUT, OverlayStore
from encore.storage.string_value import StringValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from encore.events.api import BaseEventManager


class Record(NamedTuple):
    """What is kept of a key; never changed in place, so that whoever has it keeps what it was."""

    packed: bytes
    head: Head


class CompressedStore(OverlayStore):
    """Values in memory, compressed."""

    _must_connect = False
    # A lock cannot be pickled; _prepare() makes another one.
    _transient = OverlayStore._transient | {"_mutex"}

    def __init__(self, *, event_manager: BaseEventManager | None = None) -> None:
        super().__init__(event_manager=event_manager)
        self._records: dict[str, Record] = {}

    def _prepare(self) -> None:
        super()._prepare()
        self._mutex = threading.RLock()

    def _forked(self) -> None:
        # The thread that held the lock is not in the child: there it would stay locked for ever.
        super()._forked()
        self._mutex = threading.RLock()

    # Reading: what is committed

    def _load(self, key: str) -> Record | None:
        return self._records.get(key)

    def _load_all(self) -> Iterable[tuple[str, Record]]:
        return list(self._records.items())

    def _head_of(self, key: str, record: Record) -> Head:
        return record.head

    def _value_of(self, key: str, record: Record) -> StringValue:
        metadata, created, modified, _ = record.head
        return StringValue(zlib.decompress(record.packed), metadata, created, modified)

    # Writing

    def _lock(self) -> None:
        if not self._mutex.acquire(timeout=LOCK_TIMEOUT):
            raise StoreError(f"{self!r} is locked by another thread")

    def _unlock(self) -> None:
        # After an interrupt it is called once more, to be sure.
        with suppress(RuntimeError):
            self._mutex.release()

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> tuple[bytes, int]:
        packer, packed, count = zlib.compressobj(), [], 0
        for chunk in chunks:
            packed.append(packer.compress(chunk))
            count += len(chunk)
        return b"".join([*packed, packer.flush()]), count

    def _make(
        self, key: str, old: Record | None, staged: tuple[bytes, int] | None, head: Head
    ) -> Record:
        if staged is not None:
            packed, size = staged
        elif old is not None:
            packed, size = old.packed, old.head.size
        else:
            packed, size = zlib.compress(b""), 0
        return Record(packed, head._replace(size=size))

    def _apply(self, overlay: dict[str, Record | None]) -> None:
        # Readers take no lock: they see the old dict or the new one.
        records: dict[str, Any] = {**self._records, **overlay}
        self._records = {key: record for key, record in records.items() if record is not None}


def main() -> None:
    store = CompressedStore()
    with store.transaction("both or none"):
        store.from_bytes("zeros", bytes(1_000_000))
        store.set_metadata("zeros", {"dull": True})
    size, kept = store.get("zeros").size, len(store._records["zeros"].packed)
    print(*store.query_keys(dull=True), size, "bytes, kept in fewer:", kept < 2000)


if __name__ == "__main__":
    main()
