"""Stores that keep copies of what another one has.

All stores are in memory, so that what is measured is what caching itself takes: a figure is
compared with that of the store without a cache, which is the row above it.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from benchmarks.suite import Row, loop

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.suite import Measure

MANY = 10_000


def plain(count: int = MANY) -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore

    store = DictMemoryStore()
    for n in range(count):
        store.set(f"key{n:07}", (BytesIO(b"x" * 100), {"n": n, "subject": f"subject {n % 100}"}))
    return store


def caching(**options: Any) -> Any:
    from encore.storage.caching_store import CachingStore

    store = CachingStore(plain(), plain(0), **options)
    store.connect()
    store.to_bytes("key0000123")
    return store


def remembering() -> Any:
    from encore.storage.metadata_caching_store import MetadataCachingStore

    store = MetadataCachingStore(plain())
    store.connect()
    list(store.query())
    return store


READ = "s.to_bytes('key0000123')"
METADATA = "s.get_metadata('key0000123')"
SET = "s.from_bytes('key0000123', b'data')"
PAGE = "list(s.keys('key00001', limit=10))"


def read() -> Measure:
    return loop(READ, s=plain())


def read_cached() -> Measure:
    return loop(READ, s=caching())


def read_compared() -> Measure:
    return loop(READ, s=caching(expire=0))


def set_plain() -> Measure:
    return loop(SET, s=plain())


def set_through() -> Measure:
    return loop(SET, s=caching())


def set_back() -> Measure:
    return loop(SET, s=caching(write_back=True, rest=3600))


def metadata() -> Measure:
    return loop(METADATA, s=plain())


def metadata_remembered() -> Measure:
    return loop(METADATA, s=remembering())


def page() -> Measure:
    return loop(PAGE, s=plain())


def page_remembered() -> Measure:
    return loop(PAGE, s=remembering())


ROWS = [
    Row("read", {"encore": read}),
    Row("read, from the cache", {"encore": read_cached}, base="read"),
    Row("read, compared with the store", {"encore": read_compared}, base="read"),
    Row("set", {"encore": set_plain}),
    Row("set, written through", {"encore": set_through}, base="set"),
    Row("set, written back", {"encore": set_back}, base="set"),
    Row("metadata", {"encore": metadata}),
    Row("metadata, remembered", {"encore": metadata_remembered}, base="metadata"),
    Row("page of 10 keys", {"encore": page}),
    Row("page of 10 keys, remembered", {"encore": page_remembered}, base="page of 10 keys"),
]
