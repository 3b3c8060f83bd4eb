"""CachingStore: the kit over it, and what it answers from its cache."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
import unittest
from contextlib import suppress

import pytest
from spy_store import PATIENCE, Clock, SpyStore
from store_kits import (
    DictKit,
    FileSystemKit,
    LockingFileSystemKit,
    SqliteKit,
    Wrapped,
)

from encore.events.event_manager import EventManager
from encore.storage.caching_store import CachingStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.joined_store import JoinedStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store


def memory():
    return DictMemoryStore(event_manager=EventManager())


class Caching(Wrapped):
    """Changes of other handles are to be seen, so that nothing is answered without asking."""

    expire = 0
    kills = 1

    def new_cache(self):
        return memory()

    def wrap(self, store, event_manager=None):
        return CachingStore(
            store, self.new_cache(), expire=self.expire, event_manager=event_manager
        )


class CachingOnDisk(Caching):
    def new_cache(self):
        path = self.new_folder()
        init_shared_store(path)
        return FileSystemStore(path, durability="process", event_manager=EventManager())


class TestCachingStoreOverDictMemoryStore(Caching, DictKit, unittest.TestCase):
    expire = 60


@pytest.mark.slow
class TestCachingStoreOverSqliteStore(CachingOnDisk, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestCachingStoreOverFileSystemStore(CachingOnDisk, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestCachingStoreOverLockingFileSystemStore(
    CachingOnDisk, LockingFileSystemKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestCachingStoreOverAWrapper(Caching, DictKit, unittest.TestCase):
    expire = 60

    def wrap(self, store, event_manager=None):
        return super().wrap(WrapperStore(store, event_manager=EventManager()), event_manager)

    def failing_commit(self, store):
        return super().failing_commit(store.store)


@pytest.mark.slow
class TestCachingStoreOverACachingStore(Caching, DictKit, unittest.TestCase):
    expire = 60

    def wrap(self, store, event_manager=None):
        return super().wrap(super().wrap(store, EventManager()), event_manager)

    def failing_commit(self, store):
        return super().failing_commit(store.store)


class Setup:
    """A slow store, a cache, and a caching store over them, with clocks that stand still."""

    def __init__(self, spy=None, cache=None, **options):
        self.spy = SpyStore() if spy is None else spy
        self.cache = memory() if cache is None else cache
        self.clock, self.monotonic = Clock(), Clock(5.0)
        self.options = options
        self.store = self.another()

    def another(self, **options):
        options = {"clock": self.clock, "monotonic": self.monotonic, **self.options, **options}
        store = CachingStore(self.spy, self.cache, event_manager=EventManager(), **options)
        store.connect()
        return store

    def sleep(self, seconds):
        self.clock.now += seconds
        self.monotonic.now += seconds

    def asked(self):
        """Return what was asked of the slow store since this was last called."""
        calls = dict(self.spy.calls)
        self.spy.calls.clear()
        return calls

    def behind(self, key, data, **metadata):
        """Write behind the back of the caching store."""
        self.spy.store.set(key, (io.BytesIO(data), metadata))


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "the thread has not come back, or failed"
    return results[0]


@pytest.fixture
def setup():
    return Setup()


def test_a_fresh_entry_is_answered_without_asking_the_store(setup):
    setup.behind("key", b"data", a=1)
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get": 1, "read": 1}
    setup.sleep(59.9)
    before = setup.store.get("key")
    assert before.data.read() == b"data"
    assert before.metadata == setup.store.get_metadata("key") == {"a": 1}
    assert setup.store.get_metadata("key", ["b"]) == {}
    assert setup.store.exists("key")
    assert setup.asked() == {}
    value = setup.spy.store.get("key")
    assert (before.size, before.created, before.modified, before.etag) == (
        (4, value.created, value.modified, value.etag)
    )
    assert setup.store.stats()["hits"] == 4


def test_an_expired_entry_is_compared_and_not_fetched(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.asked()
    setup.sleep(60)
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get": 1}
    # It is fresh again.
    setup.sleep(59)
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {}


def test_an_expired_entry_that_differs_is_fetched(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.behind("key", b"DATA", a=1)
    assert setup.store.to_bytes("key") == b"data"
    setup.sleep(60)
    setup.asked()
    assert setup.store.to_bytes("key") == b"DATA"
    assert setup.store.get_metadata("key") == {"a": 1}
    assert setup.asked() == {"get": 1, "read": 1}


@pytest.mark.parametrize("skew", [-1e9, 0, 1e9])
def test_the_clock_of_the_store_does_not_matter(setup, skew):
    """A store without etags is asked for its own time of modification, whatever it is."""
    setup.spy.has_etags = False
    setup.spy.store._clock = lambda: setup.clock.now + skew
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.sleep(61)
    setup.asked()
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get": 1}
    setup.behind("key", b"atad")
    setup.sleep(61)
    assert setup.store.to_bytes("key") == b"atad"


def test_without_etag_and_time_it_is_fetched_when_it_has_expired(setup):
    setup.spy.has_etags = False
    setup.behind("key", b"data")
    plain = setup.spy.get

    def get(key):
        value = plain(key)
        value.modified = None
        return value

    setup.spy.get = get
    setup.store.to_bytes("key")
    setup.asked()
    setup.store.to_bytes("key")
    assert setup.asked() == {}
    setup.sleep(60)
    setup.behind("key", b"atad")
    assert setup.store.to_bytes("key") == b"atad"


def test_a_key_that_is_gone_is_dropped(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.spy.store.delete("key")
    setup.sleep(60)
    with pytest.raises(KeyError, match="key"):
        setup.store.get("key")
    assert not setup.store.exists("key")
    assert list(setup.cache.keys()) == []


def test_many_threads_fetch_a_key_once(setup):
    setup.behind("key", b"data")
    begun, go = threading.Semaphore(0), threading.Event()

    def wait(key):
        begun.release()
        assert go.wait(PATIENCE)

    setup.spy.hooks["get"] = setup.spy.hooks["read"] = wait
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(setup.store.to_bytes("key")), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=PATIENCE)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [b"data"] * 8
    assert setup.asked() == {"get": 1, "read": 1}


def test_one_thread_puts_a_value_into_the_cache():
    """Others that have asked before wait, and find it there."""
    setup = Setup(cache=SpyStore(), expire=0)
    setup.behind("key", b"data")
    values = [setup.store.get("key") for _ in range(2)]
    looked = threading.Event()
    found = []

    def read(key):
        setup.cache.hooks["get"] = lambda key: looked.set()
        setup.spy.hooks.clear()
        thread.start()
        assert looked.wait(PATIENCE)

    thread = threading.Thread(target=lambda: found.append(values[1].data.read()), daemon=True)
    setup.spy.hooks["read"] = read
    assert values[0].data.read() == b"data"
    thread.join(PATIENCE)
    assert found == [b"data"]
    assert setup.asked()["read"] == 1


def test_a_stampede_on_what_is_not_there(setup):
    begun, go = threading.Event(), threading.Event()

    def wait(key):
        begun.set()
        assert go.wait(PATIENCE)

    setup.spy.hooks["get"] = wait
    found = []

    def look():
        try:
            setup.store.get("no")
        except KeyError as error:
            found.append(error.args)

    threads = [threading.Thread(target=look, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(PATIENCE)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [("no",)] * 8


def test_what_is_written_while_it_is_fetched_is_seen(setup):
    """A fetch that was begun before is not answered afterwards."""
    setup.behind("key", b"old")

    def overwrite(key):
        setup.spy.hooks.clear()
        in_thread(lambda: setup.store.from_bytes("key", b"new"))
        assert in_thread(lambda: setup.store.to_bytes("key")) == b"new"

    for moment in ("get", "read"):
        setup.spy.hooks[moment] = overwrite
        setup.store.to_bytes("key")
        assert setup.store.to_bytes("key") == b"new"
        setup.behind("key", b"old")
        setup.sleep(60)


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.set("key", (io.BytesIO(b"new"), {"a": 2})),
        lambda store: store.set_data("key", io.BytesIO(b"new")),
        lambda store: store.from_bytes("key", b"new"),
        lambda store: store.from_file("key", io.BytesIO(b"new")),
        lambda store: store.multiset(["key"], [(io.BytesIO(b"new"), {})]),
        lambda store: store.multiset_data(["key"], [io.BytesIO(b"new")]),
        lambda store: store.copy("other", "key"),
        lambda store: store.move("other", "key"),
        lambda store: store.mapping().update({"key": b"new"}),
    ],
)
def test_what_is_written_is_seen_at_once(setup, write):
    setup.behind("key", b"old", a=1)
    setup.behind("other", b"new")
    setup.store.to_bytes("key")
    write(setup.store)
    assert setup.store.to_bytes("key") == in_thread(lambda: setup.store.to_bytes("key")) == b"new"


def test_metadata_and_deletes_are_seen_at_once(setup):
    setup.behind("key", b"old", a=1)
    setup.store.to_bytes("key")
    setup.store.update_metadata("key", {"b": 2})
    assert setup.store.get_metadata("key") == {"a": 1, "b": 2}
    setup.store.to_bytes("key")
    setup.store.multiset_metadata(["key"], [{"c": 3}])
    assert setup.store.get("key").metadata == {"c": 3}
    setup.store.to_bytes("key")
    setup.store.move("key", "moved")
    assert not setup.store.exists("key")
    assert setup.store.to_bytes("moved") == b"old"
    setup.store.delete("moved")
    assert not setup.store.exists("moved")


class Broken(WrapperStore):
    """A cache of which some methods fail."""

    def __init__(self, *methods):
        super().__init__(memory(), event_manager=EventManager())
        self.methods = set(methods)

    def fail(self, method):
        if method in self.methods:
            raise RuntimeError("the cache is broken")

    def get(self, key):
        self.fail("get")
        return super().get(key)

    def query(self, /, select=None, *, where=None, **kwargs):
        self.fail("query")
        return super().query(select, where=where, **kwargs)

    def _write(self, call, method, key, /, *args, **conditions):
        self.fail(method)
        super()._write(call, method, key, *args, **conditions)


@pytest.mark.parametrize(
    "methods", [["get"], ["set"], ["delete"], ["query"], ["get", "set", "delete", "query"]]
)
def test_a_failing_cache_fails_no_read(methods):
    setup = Setup(cache=Broken(*methods))
    setup.behind("key", b"data", a=1)
    for _ in range(3):
        assert setup.store.to_bytes("key") == b"data"
        assert setup.store.get_metadata("key") == {"a": 1}
        assert setup.store.exists("key")
    for data in (b"new", b"newer"):
        setup.store.from_bytes("key", data)
        assert setup.store.to_bytes("key") == data
    setup.store.delete("key")
    assert not setup.store.exists("key")
    with pytest.raises(KeyError):
        setup.store.get("key")


def test_a_cache_that_fails_to_forget_is_not_believed():
    setup = Setup(cache=Broken())
    setup.behind("key", b"old")
    setup.store.to_bytes("key")
    another = setup.another()
    setup.cache.methods = {"get", "delete"}
    another.from_bytes("key", b"new")
    setup.cache.methods = set()
    assert another.to_bytes("key") == b"new"


def test_a_cache_that_fails_while_it_is_read(tmp_path):
    """The rest comes from the store, as long as that has the same."""
    init_shared_store(tmp_path)
    setup = Setup(cache=FileSystemStore(tmp_path, durability="process"))
    data = bytes(range(256)) * 2000
    setup.behind("key", data)
    setup.store.to_bytes("key")
    setup.asked()
    for cut in (0, 1000, 400_000):
        value = setup.store.get("key")
        stream = value.data
        ahead = stream.read(100)
        with open(tmp_path / "key.data", "r+b") as file:
            file.truncate(cut)
        assert ahead + stream.read() == data
        for start, end in ((200_000, 500_000), (399_000, 401_000)):
            with value.range(start, end) as part:
                assert part.read() == data[start:end]
        stream.seek(-5, io.SEEK_END)
        assert stream.read() == data[-5:]
        # What is shorter than it was is dropped, and fetched again.
        assert setup.store.to_bytes("key") == data
        assert (tmp_path / "key.data").stat().st_size == len(data)
    value = setup.store.get("key")
    with open(tmp_path / "key.data", "r+b") as file:
        file.truncate(0)
    setup.behind("key", b"other")
    with pytest.raises(StoreError, match="has changed"):
        value.data.read()


@pytest.mark.parametrize(
    "record",
    [
        (b"foreign", {}),
        (b"foreign", {"state": "clean"}),
        (b"foreign", {"state": "clean", "entry": "{"}),
        (b"foreign", {"state": "clean", "entry": "[1]"}),
        (b"foreign", {"state": "clean", "entry": "{}"}),
        (b"foreign", {"state": "clean", "entry": '{"id": 1, "metadata": {}}'}),
        (b"foreign", {"state": "clean", "entry": '{"id": "1", "metadata": []}'}),
        (b"foreign", {"state": "unknown", "entry": '{"id": "1", "metadata": {}}'}),
        (b"foreign", {"state": 5, "entry": 5}),
        (b"foreign", {"state": "clean", "entry": "[" * 100_000}),
    ],
)
def test_damaged_entries_are_dropped(setup, record):
    setup.behind("key", b"data", a=1)
    setup.cache.set("key", (io.BytesIO(record[0]), record[1]))
    assert setup.store.exists("key")
    assert setup.store.to_bytes("key") == b"data"
    setup.asked()
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {}


def test_a_torn_entry_is_dropped(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.cache.from_bytes("key", b"dat")
    assert setup.store.to_bytes("key") == b"data"


def test_an_entry_is_put_in_one_step():
    cache = SpyStore()
    setup = Setup(cache=cache)
    setup.behind("key", b"data", a=1)
    cache.calls.clear()
    setup.store.to_bytes("key")
    writing = {"set", "set_data", "set_metadata", "update_metadata", "delete"}
    assert {name: count for name, count in cache.calls.items() if name in writing} == {"set": 1}


def test_a_store_that_fails_is_not_hidden(setup):
    setup.behind("key", b"data")

    def fail(key):
        raise StoreError("the network is down")

    setup.spy.hooks["read"] = fail
    value = setup.store.get("key")
    with pytest.raises(StoreError, match="network"):
        value.data.read()
    assert list(setup.cache.keys()) == []
    setup.spy.hooks = {"get": fail}
    with pytest.raises(StoreError, match="network"):
        setup.store.get("key")
    setup.spy.hooks = {}
    assert setup.store.to_bytes("key") == b"data"


def test_nothing_of_a_transaction_is_cached_before_its_end(setup):
    store = setup.store
    for key in ("left", "right"):
        setup.behind(key, b"old")
        store.to_bytes(key)
    with suppress(ZeroDivisionError), store.transaction("fails"):
        store.from_bytes("left", b"new")
        assert store.to_bytes("left") == b"new"
        assert in_thread(lambda: store.to_bytes("left")) == b"old"
        raise ZeroDivisionError
    assert store.to_bytes("left") == b"old"
    with store.transaction("works"):
        store.multiset(["left", "right"], [(io.BytesIO(b"new"), {}), (io.BytesIO(b"new"), {})])
        assert store.to_bytes("right") == b"new"
        assert in_thread(lambda: store.to_bytes("right")) == b"old"
    assert store.to_bytes("left") == store.to_bytes("right") == b"new"


def test_a_commit_is_seen_whole(setup):
    """Not one key from the store and the other from the cache, in the moment of the commit."""
    store, seen = setup.store, []
    for key in ("left", "right"):
        setup.behind(key, b"old")
        store.to_bytes(key)

    class Context:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *exc_info):
            self.inner.__exit__(*exc_info)
            seen.append(in_thread(lambda: [store.to_bytes(key) for key in ("left", "right")]))

    begin = setup.spy.transaction
    setup.spy.transaction = lambda notes="": Context(begin(notes))
    with store.transaction("both"):
        store.from_bytes("left", b"new")
        store.from_bytes("right", b"new")
    assert seen == [[b"new", b"new"]]


def test_nobody_waits_for_an_answer_from_before_a_commit(setup):
    """Who asks after the commit does not share the answer of who asked before it."""
    store = setup.store
    for key in ("left", "right"):
        setup.behind(key, b"old")
    has_old, go = threading.Event(), threading.Event()
    found = []
    plain, begin = setup.spy.get, setup.spy.transaction

    def get(key):
        value = plain(key)
        if threading.current_thread() is slow:
            has_old.set()
            assert go.wait(PATIENCE)
        return value

    slow = threading.Thread(target=lambda: found.append(store.to_bytes("right")), daemon=True)

    class Context:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *exc_info):
            slow.start()
            assert has_old.wait(PATIENCE)
            self.inner.__exit__(*exc_info)
            found.append(in_thread(lambda: [store.to_bytes(key) for key in ("left", "right")]))
            go.set()

    setup.spy.get, setup.spy.transaction = get, lambda notes="": Context(begin(notes))
    with store.transaction("both"):
        store.from_bytes("left", b"new")
        store.from_bytes("right", b"new")
    slow.join(PATIENCE)
    assert found == [[b"new", b"new"], b"old"]
    assert store.to_bytes("right") == b"new"


def test_a_transaction_within_is_committed_at_a_time_unknown(setup):
    store = setup.store
    setup.behind("key", b"old")
    with setup.spy.transaction("not begun by the caching store"):
        store.from_bytes("key", b"new")
        assert in_thread(lambda: store.to_bytes("key")) == b"old"
    assert store.to_bytes("key") == in_thread(lambda: store.to_bytes("key")) == b"new"


def test_nothing_of_a_transaction_within_is_cached(setup):
    store = setup.store
    setup.behind("key", b"old")
    with suppress(ZeroDivisionError), setup.spy.transaction("not begun by the caching store"):
        store.from_bytes("key", b"new")
        assert store.to_bytes("key") == b"new"
        raise ZeroDivisionError
    assert store.to_bytes("key") == b"old"
    assert in_thread(lambda: store.to_bytes("key")) == b"old"


def test_nothing_of_a_transaction_of_a_lower_layer_is_cached():
    layers = [DictMemoryStore(event_manager=EventManager()) for _ in range(2)]
    cache = DictMemoryStore(event_manager=EventManager())
    store = CachingStore(JoinedStore(layers), cache, event_manager=EventManager())
    store.connect()
    layers[1].from_bytes("key", b"old")
    with suppress(ZeroDivisionError), layers[1].transaction("not begun by the caching store"):
        layers[1].from_bytes("key", b"new")
        assert store.to_bytes("key") == b"new"
        raise ZeroDivisionError
    assert store.to_bytes("key") == b"old"


def test_conditions_are_those_of_the_store(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.behind("key", b"changed")
    etag = setup.store.get("key").etag
    with pytest.raises(PreconditionError):
        setup.store.set_data("key", io.BytesIO(b"lost"), if_match=etag)
    # Whoever has failed sees why.
    etag = setup.store.get("key").etag
    setup.store.set_data("key", io.BytesIO(b"won"), if_match=etag)
    assert setup.store.to_bytes("key") == b"won"


def test_a_small_part_of_a_large_value_is_not_a_reason_to_fetch_it(setup):
    setup.behind("large", b"x" * 4_000_000)
    setup.spy.bytes = 0
    assert setup.store.get_data_range("large", -5).read() == b"xxxxx"
    assert setup.store.get("large").range(100, 110).read() == b"x" * 10
    assert setup.spy.bytes == 15
    assert list(setup.cache.keys()) == []
    with setup.store.get("large").range(0, 3_000_000) as most:
        assert len(most.read()) == 3_000_000
    assert setup.spy.bytes == 15 + 4_000_000
    assert setup.store.get_data_range("large", 10, 20).read() == b"x" * 10
    assert setup.spy.bytes == 15 + 4_000_000
    setup.behind("small", b"x" * 1000)
    assert setup.store.get_data_range("small", 10, 20).read() == b"x" * 10
    assert list(setup.cache.keys()) == ["large", "small"]


def test_max_bytes():
    setup = Setup(max_bytes=1000)
    for number in range(4):
        setup.behind(f"key{number}", b"x" * 300)
        setup.store.to_bytes(f"key{number}")
    assert list(setup.cache.keys()) == ["key1", "key2", "key3"]
    assert setup.store.stats()["clean_bytes"] == 900
    setup.behind("large", b"x" * 1001)
    assert len(setup.store.to_bytes("large")) == 1001
    assert list(setup.cache.keys()) == ["key1", "key2", "key3"]
    setup.behind("fits", b"x" * 1000)
    setup.store.to_bytes("fits")
    assert list(setup.cache.keys()) == ["fits"]
    setup.store.delete("fits")
    assert setup.store.stats()["clean_bytes"] == 0


def test_max_bytes_where_the_size_is_not_known():
    setup = Setup(max_bytes=1000)
    plain = setup.spy.get

    def get(key):
        value = plain(key)
        value.size = None
        return value

    setup.spy.get = get
    for size, kept in [(1001, []), (1000, ["key"])]:
        setup.behind("key", b"x" * size)
        assert setup.store.to_bytes("key") == b"x" * size
        assert list(setup.cache.keys()) == kept


def test_what_another_process_has_left_is_fresh_until_it_expires(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.asked()
    setup.sleep(59)
    assert setup.another().to_bytes("key") == b"data"
    assert setup.asked() == {}
    setup.sleep(1)
    assert setup.another().to_bytes("key") == b"data"
    assert setup.asked() == {"get": 1}
    # A clock that went back does not keep anything fresh for ever.
    setup.clock.now -= 10_000
    setup.another().to_bytes("key")
    assert setup.asked() == {"get": 1}


def test_what_was_left_counts_for_max_bytes():
    setup = Setup(max_bytes=1000)
    for number in range(3):
        setup.behind(f"key{number}", b"x" * 300)
        setup.store.to_bytes(f"key{number}")
        setup.sleep(1)
    another = setup.another()
    assert another.stats()["clean_bytes"] == 900
    setup.behind("new", b"x" * 300)
    another.to_bytes("new")
    assert list(setup.cache.keys()) == ["key1", "key2", "new"]


def test_expire_0_asks_always():
    setup = Setup(expire=0)
    setup.behind("key", b"data")
    assert setup.store.to_bytes("key") == setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get": 2, "read": 1}
    setup.behind("key", b"atad")
    assert setup.store.to_bytes("key") == b"atad"


def test_deep_metadata_fits_into_an_entry(setup):
    deep = []
    for _ in range(190):
        deep = [deep]
    setup.behind("key", b"data", deep=deep)
    setup.store.to_bytes("key")
    setup.asked()
    assert setup.store.get_metadata("key") == {"deep": deep}
    assert setup.asked() == {}


def test_a_store_that_can_only_be_read(tmp_path):
    (tmp_path / "key").write_bytes(b"data")
    with CachingStore(DirectoryStore(tmp_path), memory()) as store:
        assert store.info()["readonly"]
        assert store.to_bytes("key") == store.to_bytes("key") == b"data"
        assert store.stats()["hits"] == 1
        with pytest.raises(StoreError, match="only be read"):
            store.from_bytes("key", b"new")
        assert list(store.keys()) == ["key"]
    with pytest.raises(TypeError, match="write_back"):
        CachingStore(DirectoryStore(tmp_path), memory(), write_back=True)


def test_it_connects_and_disconnects_what_is_not_connected(tmp_path):
    inner, cache = SqliteStore(tmp_path / "store"), SqliteStore(tmp_path / "cache")
    with CachingStore(inner, cache) as store:
        assert inner.is_connected()
        assert cache.is_connected()
        store.from_bytes("key", b"data")
    assert not inner.is_connected()
    assert not cache.is_connected()
    with inner, cache:
        with CachingStore(inner, cache) as store:
            assert store.to_bytes("key") == b"data"
        assert inner.is_connected()
        assert cache.is_connected()


def test_a_cache_that_cannot_be_connected(tmp_path):
    inner = SqliteStore(tmp_path / "store")
    store = CachingStore(inner, SqliteStore(tmp_path / "no" / "cache"))
    with pytest.raises(StoreError):
        store.connect()
    assert not inner.is_connected()
    assert not store.is_connected()


def test_what_was_written_while_the_cache_was_not_there_is_seen(tmp_path):
    inner = memory()
    inner.from_bytes("key", b"old")
    with CachingStore(inner, SqliteStore(tmp_path / "cache")) as another:
        assert another.to_bytes("key") == b"old"
    store = CachingStore(inner, SqliteStore(tmp_path / "cache"))
    store.from_bytes("key", b"new")
    with store:
        assert store.to_bytes("key") == b"new"


def test_without_connect_nothing_is_cached():
    inner, cache = memory(), memory()
    store = CachingStore(inner, cache)
    store.from_bytes("key", b"data")
    assert store.to_bytes("key") == b"data"
    assert list(cache.keys()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_use_it(setup):
    setup.behind("key", b"data")
    setup.store.to_bytes("key")
    setup.asked()
    # As if another thread were in the middle of something.
    setup.store._reader.lock.acquire()
    setup.store._reader.begin({"other"})
    child = os.fork()
    if not child:
        status = 1
        try:
            assert setup.store.to_bytes("key") == b"data"
            assert setup.asked() == {}
            setup.store.from_bytes("key", b"new")
            assert setup.store.to_bytes("key") == b"new"
            setup.store.from_bytes("other", b"data")
            setup.store.to_bytes("other")
            setup.asked()
            assert setup.store.to_bytes("other") == b"data"
            assert setup.asked() == {}
            status = 0
        finally:
            os._exit(status)
    setup.store._reader.lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert setup.store.to_bytes("key") == b"data"


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"expire": -1}),
        (ValueError, {"expire": float("nan")}),
        (TypeError, {"expire": None}),
        (TypeError, {"max_bytes": "1"}),
        (ValueError, {"max_dirty_bytes": -1}),
        (TypeError, {"workers": True}),
        (ValueError, {"full": "drop"}),
    ],
)
def test_arguments_are_checked(error, options):
    with pytest.raises(error):
        CachingStore(memory(), memory(), **options)


def test_what_is_no_cache_is_refused():
    store = memory()
    with pytest.raises(TypeError, match="cache"):
        CachingStore(store, {})
    with pytest.raises(ValueError, match="own cache"):
        CachingStore(store, store)


def test_repr_pickle_and_copy(setup):
    store = CachingStore(memory(), memory(), expire=7)
    assert repr(store).startswith("CachingStore(")
    for other in (pickle.loads(pickle.dumps(store)), copy.copy(store)):
        with other:
            other.from_bytes("key", b"data")
            assert other.to_bytes("key") == other.to_bytes("key") == b"data"
            assert other.stats()["hits"] == 1
    assert setup.store.dirty_keys() == setup.store.conflicts() == []
    assert setup.store.flush()
    with pytest.raises(KeyError):
        setup.store.resolve("key", "ours")


def test_threads_never_see_something_older(setup):
    """Each key is written by one thread; whoever has seen a version sees no older one."""
    keys = ["a", "b", "c"]
    for key in keys:
        setup.behind(key, b"0")
    store = Setup(setup.spy, setup.cache, max_bytes=1).another(max_bytes=None)
    stop = threading.Event()
    errors = []

    def write(key):
        for number in range(1, 60):
            store.from_bytes(key, b"%d" % number)
            if int(store.to_bytes(key)) < number:
                errors.append((key, number))

    def read():
        seen = dict.fromkeys(keys, 0)
        while not stop.is_set():
            for key in keys:
                number = int(store.to_bytes(key))
                if number < seen[key]:
                    errors.append((key, number, seen[key]))
                seen[key] = number

    writers = [threading.Thread(target=write, args=(key,), daemon=True) for key in keys]
    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join(PATIENCE)
    stop.set()
    for thread in readers:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in writers + readers)
    assert errors == []
    assert [store.to_bytes(key) for key in keys] == [b"59"] * 3


@pytest.mark.parametrize("seed", range(3))
def test_it_does_what_the_model_does(seed):
    def make(event_manager):
        return CachingStore(memory(), memory(), event_manager=event_manager)

    check_store(make, seed, 150)
