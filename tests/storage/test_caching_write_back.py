"""CachingStore with write_back: the kit over it, and what becomes of changes that are not uploaded."""

from __future__ import annotations

import gc
import io
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import unittest
import weakref
from contextlib import suppress
from functools import partial

import pytest
from spy_store import PATIENCE, Clock, SpyStore
from store_kits import (
    FAST,
    DictKit,
    FileSystemKit,
    LockingFileSystemKit,
    SqliteKit,
    Wrapped,
)

from encore.events.event_manager import EventManager
from encore.storage._cache_owner import OWNER_KEY
from encore.storage._upload_queue import UploadQueue
from encore.storage.caching_store import CachingStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError, StoreFullError, StoreOSError, TemporaryError
from encore.storage.events import StoreModificationEvent, StoreUploadFailedEvent
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.sqlite_store import SqliteStore
from encore.storage.wrapper_store import WrapperStore
from encore.testing.conformance import Crash
from encore.testing.model import expected_transcript, random_steps, same, transcript


def memory():
    return DictMemoryStore(event_manager=EventManager())


class WritingBack(Wrapped):
    """What is written stays in the cache, unless it is uploaded in the middle of a check."""

    expire = 60
    rest = 3600
    kills = 1

    def new_cache(self):
        return memory()

    def wrap(self, store, event_manager=None):
        return CachingStore(
            store,
            self.new_cache(),
            write_back=True,
            expire=self.expire,
            rest=self.rest,
            event_manager=event_manager,
        )

    def make_handle(self, store):
        # A cache is for one store at a time.
        return None

    def leftovers(self, store):
        # What is not uploaded yet is no leftover.
        store.flush()
        return super().leftovers(store)


class WritingBackOnDisk(WritingBack):
    """Everything is uploaded at once, by threads."""

    rest = 0

    def prepare(self):
        if self._testMethodName == "test_large_values_stream_through":
            # What other threads do meanwhile would be measured too.
            self.rest = 3600
        super().prepare()

    def new_cache(self):
        path = self.new_folder()
        init_shared_store(path)
        return FileSystemStore(path, durability="process", event_manager=EventManager())

    def process_store(self, store):
        # Another process may have the cache when this one has disconnected, as after a kill.
        is_after_a_kill = (
            self._testMethodName == Crash.test_kill_tears_nothing_and_loses_nothing.__name__
        )
        return super().process_store(store) if is_after_a_kill else None

    def test_pickling(self):
        """Life cycle: a pickled store arrives disconnected, and finds the cache when the first one
        has left."""
        self.put("key", b"data", a=1)
        copy = pickle.loads(pickle.dumps(self.store))
        self.assertFalse(copy.is_connected())
        with self.assertRaisesRegex(StoreError, "another CachingStore that writes to it"):
            copy.connect()
        self.assertFalse(copy.is_connected())
        self.store.disconnect()
        with copy:
            self.assertEqual(self.pair("key", copy), (b"data", {"a": 1}))
            with self.assertRaisesRegex(StoreError, f"process {os.getpid()} on"):
                self.store.connect()
        self.store.connect()


class TestWriteBackOverDictMemoryStore(WritingBack, DictKit, unittest.TestCase):
    pass


class TestWriteBackOverSqliteStore(WritingBackOnDisk, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestWriteBackOverFileSystemStore(WritingBackOnDisk, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestWriteBackOverLockingFileSystemStore(
    WritingBackOnDisk, LockingFileSystemKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestWriteBackOverAWrapper(WritingBack, DictKit, unittest.TestCase):
    rest = 0

    def wrap(self, store, event_manager=None):
        return super().wrap(WrapperStore(store, event_manager=EventManager()), event_manager)


@pytest.mark.slow
@pytest.mark.parametrize("rest", [0, 3600])
@pytest.mark.parametrize("kit", [SqliteKit, FileSystemKit])
def test_many_kills(kit, rest):
    attributes = {"kills": 100, "rest": rest}
    case = type("Case", (WritingBackOnDisk, kit, unittest.TestCase), attributes)(
        Crash.test_kill_tears_nothing_and_loses_nothing.__name__
    )
    case.debug()


class Setup:
    """A slow store, a cache, and a store that writes back, with clocks that stand still.

    No thread uploads anything: flush() does, and flush(due=True) what a thread would do by now.
    """

    def __init__(self, spy=None, cache=None, **options):
        self.spy = SpyStore() if spy is None else spy
        self.cache = memory() if cache is None else cache
        self.clock, self.monotonic = Clock(), Clock(5.0)
        self.options = {"workers": 0, "rest": 10, "retry": 1, "max_retry": 8, **options}
        self.events = []
        self.store = None
        self.store = self.another()

    def another(self, **options):
        """Return what another process opens with the same cache; the one before has died, and
        lives on here."""
        if self.store is not None:
            self.store._owner.release()
        options = {"clock": self.clock, "monotonic": self.monotonic, **self.options, **options}
        manager = EventManager()
        store = CachingStore(
            self.spy, self.cache, write_back=True, event_manager=manager, **options
        )
        manager.connect(StoreUploadFailedEvent, self.events.append)
        store.connect()
        return store

    def sleep(self, seconds):
        self.clock.now += seconds
        self.monotonic.now += seconds

    def asked(self):
        calls = dict(self.spy.calls)
        self.spy.calls.clear()
        return calls

    def behind(self, key, data, **metadata):
        """Write behind the back of the caching store."""
        self.spy.store.set(key, (io.BytesIO(data), metadata))

    def there(self):
        """Return what the slow store has."""
        store = self.spy.store
        return {key: store.to_bytes(key) for key in store.keys()}  # noqa: SIM118

    def here(self, store=None):
        store = store or self.store
        return {key: store.to_bytes(key) for key in store.keys()}  # noqa: SIM118

    def kept(self):
        """Return the keys of which the cache has anything."""
        return sorted(set(self.cache.keys()) - {OWNER_KEY})

    def upload_due(self):
        """Upload what is due; return the keys that were."""
        before = set(self.store.dirty_keys())
        try:
            self.store.flush(due=True)
        except StoreError:
            pass
        return sorted(before - set(self.store.dirty_keys()))


class Failing:
    """A hook that fails as often as it is told to."""

    def __init__(self, times=10**6):
        self.times = times

    def __call__(self, key):
        if self.times:
            self.times -= 1
            raise StoreError("the network is down")


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


# Before the upload


def test_what_is_written_is_in_the_cache_and_not_in_the_store(setup):
    setup.behind("old", b"old", a=1)
    setup.store.set("new", (io.BytesIO(b"new"), {"b": 2}))
    setup.store.update_metadata("old", {"b": 2})
    assert setup.there() == {"old": b"old"}
    assert setup.spy.store.get_metadata("old") == {"a": 1}
    for store in (setup.store, setup.another()):
        assert setup.here(store) == {"new": b"new", "old": b"old"}
        assert store.get_metadata("old") == {"a": 1, "b": 2}
        assert sorted(store.query_keys(b=2)) == ["new", "old"]
        assert store.dirty_keys() == ["new", "old"]
    assert setup.store.flush()
    assert setup.there() == {"new": b"new", "old": b"old"}
    assert setup.spy.store.get_metadata("old") == {"a": 1, "b": 2}
    assert setup.store.dirty_keys() == []


def test_what_is_deleted_is_not_there(setup):
    for key in ("a", "b", "c"):
        setup.behind(key, b"data", n=1)
    setup.store.delete("b")
    setup.store.from_bytes("new", b"")
    setup.store.delete("new")
    for store in (setup.store, setup.another()):
        assert list(store.keys()) == sorted(store.query_keys()) == ["a", "c"]
        assert sorted(store.glob("*")) == sorted(key for key, _ in store.query(n=1)) == ["a", "c"]
        assert list(store.keys(limit=1, start_after="a")) == ["c"]
        assert not store.exists("b")
        for call in (store.get, store.get_metadata, store.to_bytes, store.delete):
            for key in ("b", "new"):
                with pytest.raises(KeyError, match=key):
                    call(key)
    setup.store.flush()
    assert sorted(setup.there()) == ["a", "c"]
    assert setup.kept() == []


def test_pages_merge_what_is_here_and_there(setup):
    everything = [f"{number:02}" for number in range(30)]
    for key in everything[::2]:
        setup.behind(key, b"")
    for key in everything[1::2]:
        setup.store.from_bytes(key, b"")
    for key in everything[::5]:
        setup.store.delete(key)
    left = [key for key in everything if key not in everything[::5]]
    for size in (1, 2, 7, 100):
        pages, after = [], None
        while page := list(setup.store.keys(start_after=after, limit=size)):
            pages += page
            after = page[-1]
        assert pages == left
    assert list(setup.store.keys("1")) == [key for key in left if key.startswith("1")]
    assert list(setup.store.keys(limit=0)) == []


def test_a_fresh_copy_is_not_asked_for_again(setup):
    setup.behind("key", b"data", a=1)
    setup.store.to_bytes("key")
    setup.asked()
    setup.store.update_metadata("key", {"b": 2})
    setup.store.from_bytes("key", b"new")
    setup.store.delete("key")
    assert setup.asked() == {}


def test_writing_works_while_the_store_does_not():
    setup = Setup()
    setup.spy.hooks = {"get": Failing()}
    setup.store.set("key", (io.BytesIO(b"data"), {"a": 1}))
    setup.store.update_metadata("key", {"b": 2})
    setup.store.from_bytes("key", b"atad")
    assert setup.store.to_bytes("key") == b"atad"
    assert setup.store.get_metadata("key") == {"a": 1, "b": 2}
    # Only the store could tell whether there is something to keep.
    for call in (partial(setup.store.from_bytes, "no", b""), partial(setup.store.delete, "no")):
        with pytest.raises(StoreError, match="network"):
            call()
    setup.spy.hooks = {}
    setup.store.flush()
    assert setup.there() == {"key": b"atad"}


def test_a_cache_that_loses_a_change_is_told():
    """What is in the cache alone is not answered from the store."""
    setup = Setup()
    setup.behind("key", b"old")
    setup.store.from_bytes("key", b"new")
    setup.cache.set_metadata("key", {"damaged": True})
    with pytest.raises(StoreError, match="in the cache only"):
        setup.store.get("key")
    with pytest.raises(StoreError, match="could not be uploaded"):
        setup.store.flush()
    setup.events.clear()
    another = setup.another()
    assert [event.key for event in setup.events] == ["key"]
    assert another.to_bytes("key") == b"old"
    another.from_bytes("key", b"newer")
    another.flush()
    assert setup.there() == {"key": b"newer"}


def test_without_write_back_such_a_cache_is_refused(setup):
    setup.store.from_bytes("key", b"data")
    setup.store._owner.release()
    store = CachingStore(setup.spy, setup.cache)
    with pytest.raises(StoreError, match="1 change that was not uploaded"):
        store.connect()
    setup.store.flush()
    store.connect()


def test_a_cache_needs_conditional_writes():
    class Unconditional(WrapperStore):
        def info(self):
            return {**super().info(), "conditional": False}

    with pytest.raises(ValueError, match="conditional"):
        CachingStore(memory(), Unconditional(memory()), write_back=True)


def test_before_connect_there_is_nothing():
    before = threading.active_count()
    store = CachingStore(memory(), memory(), write_back=True)
    for call in (
        lambda: store.get("key"),
        lambda: store.from_bytes("key", b""),
        store.flush,
        store.dirty_keys,
        store.keys,
        lambda: store.transaction("none"),
    ):
        with pytest.raises(StoreError, match="not connected"):
            call()
    assert threading.active_count() == before


def test_stamps_and_etag_stay_when_it_is_uploaded(setup):
    setup.behind("key", b"old")
    created = setup.store.get("key").created
    setup.store.set("key", (io.BytesIO(b"new"), {"a": 1}))

    def facts():
        value = setup.store.get("key")
        return value.created, value.modified, value.etag, value.size, value.metadata

    before = facts()
    setup.store.flush()
    assert facts() == before
    assert before[0] == created
    assert before[1] > created


# When it is uploaded


def test_a_change_is_uploaded_when_it_has_rested(setup):
    setup.store.from_bytes("key", b"data")
    setup.sleep(9.9)
    assert setup.upload_due() == []
    setup.sleep(0.1)
    assert setup.upload_due() == ["key"]
    assert setup.there() == {"key": b"data"}


def test_reading_and_writing_again_postpone_nothing(setup):
    setup.store.from_bytes("key", b"0")
    for number in range(1, 10):
        setup.sleep(1)
        setup.store.to_bytes("key")
        setup.store.get_metadata("key")
        setup.store.from_bytes("key", b"%d" % number)
        assert setup.upload_due() == []
    setup.sleep(1)
    assert setup.upload_due() == ["key"]
    assert setup.there() == {"key": b"9"}


def test_changes_are_uploaded_in_the_order_in_which_they_are_due(setup):
    order = []
    setup.spy.hooks = {"set": order.append, "delete": order.append}
    setup.behind("z", b"")
    for key in ("c", "a", "b"):
        setup.store.from_bytes(key, b"1")
        setup.sleep(1)
    setup.store.delete("z")
    setup.store.from_bytes("c", b"2")
    setup.sleep(10)
    setup.upload_due()
    assert order == ["c", "a", "b", "z"]


def test_rest_goes_on_in_another_process(setup):
    setup.store.from_bytes("key", b"data")
    setup.sleep(5)
    setup.store.from_bytes("key", b"atad")
    setup.sleep(1)
    setup.store = setup.another(monotonic=setup.monotonic)
    setup.sleep(3.9)
    assert setup.upload_due() == []
    setup.sleep(0.1)
    assert setup.upload_due() == ["key"]
    # A clock that went back makes nothing wait longer than it would.
    setup.store.from_bytes("key", b"more")
    setup.clock.now -= 10_000
    setup.store = setup.another(monotonic=setup.monotonic)
    setup.sleep(10)
    assert setup.upload_due() == ["key"]


def test_what_was_uploaded_is_fresh(setup):
    setup.store.from_bytes("key", b"data")
    setup.sleep(100)
    setup.store.flush()
    setup.asked()
    setup.sleep(59.9)
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {}
    setup.sleep(0.1)
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get": 1}


def test_what_was_written_between_an_upload_and_the_look_at_it_is_seen():
    """The store's new etag says nothing if it may be that of somebody else's value."""
    setup = Setup(SpyStore(**PLAIN))
    setup.store.from_bytes("key", b"ours")
    setup.spy.after["set"] = lambda key: setup.behind("key", b"theirs")
    setup.store.flush()
    setup.sleep(60)
    assert setup.store.to_bytes("key") == b"theirs"


# What happens meanwhile


def test_what_changes_while_it_is_uploaded_is_uploaded_again(setup):
    setup.store.from_bytes("key", b"first")

    def change(key):
        del setup.spy.hooks["set"]
        in_thread(lambda: setup.store.from_bytes("key", b"second"))

    setup.spy.hooks["set"] = change
    setup.store.flush()
    assert setup.there() == {"key": b"first"}
    assert setup.store.to_bytes("key") == b"second"
    assert setup.store.dirty_keys() == ["key"]
    # It rests once more.
    setup.sleep(9.9)
    assert setup.upload_due() == []
    setup.sleep(0.1)
    assert setup.upload_due() == ["key"]
    assert setup.there() == {"key": b"second"}
    assert setup.events == []


@pytest.mark.parametrize("moment", ["hooks", "after"])
@pytest.mark.parametrize("existed", [False, True])
def test_what_is_deleted_while_it_is_uploaded_does_not_come_back(moment, existed):
    setup = Setup()
    if existed:
        setup.behind("key", b"old")
    setup.store.from_bytes("key", b"new")

    def delete(key):
        getattr(setup.spy, moment).clear()
        in_thread(lambda: setup.store.delete("key"))

    getattr(setup.spy, moment)["set"] = delete
    setup.store.flush()
    assert not setup.store.exists("key")
    setup.store.flush()
    assert setup.there() == {}
    assert setup.kept() == []
    assert setup.events == []
    assert not setup.store.exists("key")


def test_what_is_moved_while_it_is_uploaded_does_not_come_back(setup):
    setup.store.from_bytes("key", b"data")

    def move(key):
        setup.spy.hooks.clear()
        in_thread(lambda: setup.store.move("key", "moved"))

    setup.spy.hooks["set"] = move
    setup.store.flush()
    setup.store.flush()
    assert setup.there() == setup.here() == {"moved": b"data"}


def test_what_is_written_while_it_is_deleted_stays(setup):
    setup.behind("key", b"old")
    setup.store.delete("key")

    def write(key):
        getattr(setup.spy, moment).clear()
        in_thread(lambda: setup.store.from_bytes("key", b"new"))

    for moment in ("hooks", "after"):
        getattr(setup.spy, moment)["delete"] = write
        setup.store.flush()
        setup.store.flush()
        assert setup.there() == setup.here() == {"key": b"new"}
        setup.store.delete("key")
    assert setup.events == []


def test_a_fetch_from_before_does_not_bring_back_the_past(setup):
    setup.behind("key", b"old")

    def change(key):
        setup.spy.hooks.clear()
        setup.store.from_bytes("key", b"new")
        setup.store.flush()
        setup.store.delete("key")
        setup.store.flush()

    setup.spy.hooks["read"] = change
    assert setup.store.get("key").data.read() == b"old"
    assert not setup.store.exists("key")
    assert setup.store.dirty_keys() == []


def test_nothing_of_a_transaction_of_the_store_is_cached(setup):
    setup.behind("key", b"old")
    with suppress(ZeroDivisionError), setup.spy.store.transaction("fails"):
        setup.behind("key", b"new")
        assert setup.store.to_bytes("key") == b"new"
        raise ZeroDivisionError
    assert setup.store.to_bytes("key") == b"old"
    assert in_thread(lambda: setup.store.to_bytes("key")) == b"old"


@pytest.mark.parametrize("end", [None, ZeroDivisionError])
def test_nothing_is_uploaded_inside_a_transaction_of_the_store(end):
    """It would be undone with it, and look as if it were uploaded."""
    setup = Setup(max_dirty_bytes=1)
    setup.store.from_bytes("key", b"data")
    with suppress(ZeroDivisionError), setup.spy.store.transaction("mine"):
        with pytest.raises(StoreError, match="could not be uploaded") as raised:
            setup.store.flush()
        assert "inside a transaction" in str(raised.value.__cause__)
        # Where no thread does it, a writer uploads to have room.
        with pytest.raises(StoreFullError):
            setup.store.from_bytes("other", b"data")
        if end:
            raise end
    assert setup.there() == {}
    assert setup.store.dirty_keys() == ["key"]
    assert setup.store.flush()
    assert setup.there() == {"key": b"data"}


def test_what_is_written_just_after_a_deletion_was_uploaded_while_the_clock_goes_back(setup):
    setup.behind("key", b"old")
    delete = setup.cache.delete

    def late(key, **conditions):
        delete(key, **conditions)
        setup.cache.delete = delete
        setup.clock.now -= 1000
        setup.store.from_bytes("key", b"new")

    setup.store.delete("key")
    setup.cache.delete = late
    setup.store.flush()
    assert setup.store.dirty_keys() == ["key"]
    assert setup.there() == {}
    setup.store.flush()
    assert setup.there() == {"key": b"new"}


@pytest.mark.parametrize(
    "use", [CachingStore.to_bytes, partial(CachingStore.set_metadata, metadata={})]
)
def test_a_damaged_entry_that_was_written_anew_stays(setup, monkeypatch, use):
    """By another thread, which has not said so yet."""
    setup.behind("key", b"old")
    setup.cache.from_bytes("key", b"no entry")
    get, uploads, notes = setup.cache.get, setup.store._behind.uploads, []

    def late(key):
        value = get(key)
        setup.cache.get = get
        with monkeypatch.context() as patch:
            patch.setattr(uploads, "note", lambda *args: notes.append(args))
            setup.store.from_bytes("key", b"new")
        return value

    setup.cache.get = late
    use(setup.store, key="key")
    for note in notes:
        uploads.note(*note)
    setup.store.flush()
    assert setup.there() == {"key": b"new"}


@pytest.mark.parametrize("error", [StoreError("lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["set", "set_metadata"])
def test_a_write_that_was_done_although_the_cache_failed_is_uploaded(setup, method, error):
    setup.store.from_bytes("key", b"data")
    setup.store.flush()
    write = getattr(setup.cache, method)

    def fail(*args, **kwargs):
        write(*args, **kwargs)
        setattr(setup.cache, method, write)
        raise error

    setattr(setup.cache, method, fail)
    with pytest.raises(type(error)):
        setup.store.set_metadata("key" if method == "set_metadata" else "new", {"n": 1})
    setup.store.flush()
    assert dict(setup.spy.store.query()) == dict(setup.store.query())
    assert {"n": 1} in dict(setup.spy.store.query()).values()


def test_a_write_that_fails_leaves_nothing_to_upload(setup):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 2**20:
                raise OSError("broken")
            return super().read(size)

    with pytest.raises(OSError, match="broken"):
        setup.store.set("key", (Broken(bytes(2**21)), {}))
    assert setup.store.dirty_keys() == []


def test_the_later_entry_counts():
    """Of two writers, the one that was first may be the last to say so."""
    uploads = UploadQueue(0, 0.0, 1.0, 1.0, None, True, Clock())
    uploads.note("key", 5, 2.0)
    uploads.note("key", 9, 1.0)
    assert uploads.bytes == 5
    uploads.forget("key", 1.0)
    assert list(uploads.pending) == ["key"]
    uploads.forget("key", 2.0)
    assert uploads.bytes == len(uploads.pending) == 0


def test_no_lock_is_held_while_anybody_listens(setup):
    seen = []

    def meddle(event):
        seen.append(in_thread(lambda: setup.store.exists("key")))
        in_thread(lambda: setup.store.set_metadata("other", {"n": len(seen)}))

    for manager in (setup.spy.event_manager, setup.cache.event_manager):
        manager.connect(StoreModificationEvent, meddle, {"key": "key"})
    setup.store.from_bytes("key", b"data")
    setup.store.flush()
    setup.store.delete("key")
    setup.store.flush()
    assert len(seen) >= 5


def test_one_event_for_each_change_and_none_for_uploads(setup):
    events = []
    setup.store.event_manager.connect(StoreModificationEvent, events.append)
    setup.behind("old", b"")
    setup.store.from_bytes("new", b"")
    setup.store.from_bytes("old", b"1")
    setup.store.flush()
    setup.store.delete("new")
    setup.store.from_bytes("new", b"2")
    setup.store.flush()
    assert [(event.action, event.key) for event in events] == [
        ("set", "new"),
        ("update", "old"),
        ("delete", "new"),
        ("set", "new"),
    ]
    assert all(event.source is setup.store for event in events)


# Failures


@pytest.mark.parametrize("method", ["set", "delete"])
def test_a_failing_upload_is_kept_and_tried_less_and_less_often(method):
    setup = Setup()
    setup.behind("key", b"old")
    if method == "set":
        setup.store.set("key", (io.BytesIO(b"new"), {"a": 1}))
    else:
        setup.store.delete("key")
    setup.spy.hooks[method] = Failing(6)
    setup.sleep(10)
    waits = []
    for _ in range(6):
        assert setup.upload_due() == []
        waits.append(setup.events[-1].retry_in)
        calls = setup.spy.calls[method]
        setup.sleep(waits[-1] - 0.1)
        assert setup.upload_due() == []
        assert setup.spy.calls[method] == calls
        setup.sleep(0.1)
    assert waits == [1, 2, 4, 8, 8, 8]
    assert setup.there() == {"key": b"old"}
    assert setup.store.stats()["failing"] == 1
    assert setup.upload_due() == ["key"]
    assert setup.there() == ({"key": b"new"} if method == "set" else {})
    assert [event.attempts for event in setup.events] == [1, 2, 3, 4, 5, 6]
    event = setup.events[0]
    assert event.source is setup.store
    assert event.key == "key"
    assert event.metadata == ({"a": 1} if method == "set" else {})
    assert "network" in str(event.error)


def test_a_store_may_ask_for_time(setup):
    def busy(key):
        raise TemporaryError("too many requests", retry_after=100)

    setup.spy.hooks["set"] = busy
    setup.store.from_bytes("key", b"data")
    setup.sleep(10)
    setup.upload_due()
    assert [event.retry_in for event in setup.events] == [100]


def test_flush_tries_everything_once_and_says_what_failed(setup):
    for key in ("a", "b", "c"):
        setup.store.from_bytes(key, b"data")
    fail = Failing()
    setup.spy.hooks["set"] = lambda key: fail(key) if key == "b" else None
    with pytest.raises(StoreError, match="could not be uploaded") as caught:
        setup.store.flush()
    assert caught.value.key == "b"
    cause = caught.value.__cause__
    assert "network" in str(cause)
    assert str(caught.value) == (
        f"1 change could not be uploaded, and stays in the cache: 'b' ({cause})"
    )
    assert setup.there() == {"a": b"data", "c": b"data"}
    assert setup.asked()["set"] == 3
    with pytest.raises(StoreError):
        setup.store.flush()
    fail.times = 0
    assert setup.store.flush()


def test_one_change_that_fails_holds_up_no_other(setup):
    setup.store.from_bytes("bad", b"")
    fail = Failing()
    setup.spy.hooks["set"] = lambda key: fail(key) if key == "bad" else None
    setup.sleep(10)
    setup.upload_due()
    setup.store.from_bytes("good", b"")
    setup.sleep(10)
    assert setup.upload_due() == ["good"]


class Lost:
    """A hook that fails after the store has done what it was asked to."""

    def __init__(self):
        self.done = 0

    def __call__(self, key):
        self.done += 1
        if self.done == 1:
            raise StoreError("the answer was lost")


# Not in a transaction of the store, which would undo it.
PLAIN = {"transactional": False}


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("then", ["nothing", "written", "deleted", "another process"])
def test_an_upload_that_was_done_although_it_failed_is_no_conflict(existed, then):
    setup = Setup(SpyStore(**PLAIN))
    if existed:
        setup.behind("key", b"old")
    setup.store.set("key", (io.BytesIO(b"first"), {"a": 1}))
    setup.spy.after["set"] = Lost()
    with pytest.raises(StoreError, match="could not be uploaded"):
        setup.store.flush()
    assert setup.there() == {"key": b"first"}
    expected = {"key": b"first"}
    if then == "another process":
        setup.store = setup.another()
    if then in ("written", "another process"):
        setup.store.from_bytes("key", b"second")
        expected = {"key": b"second"}
    elif then == "deleted":
        setup.store.delete("key")
        expected = {}
    assert setup.store.flush()
    assert setup.there() == setup.here() == expected
    assert setup.store.dirty_keys() == []
    assert len(setup.events) == 1


def test_an_upload_that_failed_while_it_was_overwritten(setup):
    setup.spy.facts = PLAIN
    setup.store.from_bytes("key", b"first")

    def overwrite(key):
        setup.spy.after.clear()
        setup.store.from_bytes("key", b"second")
        raise StoreError("the answer was lost")

    setup.spy.after["set"] = overwrite
    with pytest.raises(StoreError):
        setup.store.flush()
    assert setup.store.flush()
    assert setup.there() == {"key": b"second"}


@pytest.mark.parametrize("moment", ["hooks", "after"])
@pytest.mark.parametrize("first", ["written", "deleted"])
@pytest.mark.parametrize("second", ["written", "deleted"])
def test_what_another_process_was_uploading_is_no_conflict(moment, first, second):
    """It has died in the middle, when what it was uploading had been overwritten already."""
    setup = Setup(SpyStore(**PLAIN))
    setup.behind("key", b"old")
    setup.store.to_bytes("key")

    def change(what, data):
        if what == "written":
            setup.store.from_bytes("key", data)
        else:
            setup.store.delete("key")

    def die(key):
        getattr(setup.spy, moment).clear()
        change(second, b"second")
        raise Died

    change(first, b"first")
    if first == second == "deleted":
        setup.store.from_bytes("key", b"between")
    getattr(setup.spy, moment).update(set=die, delete=die)
    with pytest.raises(Died):
        setup.store.flush()
    another = setup.another()
    assert another.flush()
    assert setup.there() == ({} if second == "deleted" else {"key": b"second"})
    assert setup.events == []


def test_an_upload_that_begins_just_before_it_is_overwritten():
    setup = Setup(SpyStore(**PLAIN), SpyStore())
    setup.behind("key", b"old")
    setup.store.to_bytes("key")
    setup.store.from_bytes("key", b"first")

    def die(key):
        raise Died

    def upload(key):
        setup.cache.hooks.clear()
        with pytest.raises(Died):
            setup.store.flush()

    setup.spy.after["set"] = die
    setup.cache.hooks["set"] = upload
    setup.store.from_bytes("key", b"second")
    setup.spy.after.clear()
    assert setup.another().flush()
    assert setup.there() == {"key": b"second"}
    assert setup.events == []


class Died(BaseException):
    pass


# Conflicts


def conflict(setup, change):
    """Make a conflict of 'key'."""
    if change != "created":
        setup.behind("key", b"old")
        setup.store.to_bytes("key")
    setup.store.set("key", (io.BytesIO(b"ours"), {"a": 1}))
    if change == "deleted":
        setup.spy.store.delete("key")
    else:
        setup.behind("key", b"theirs")


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("change", ["changed", "deleted", "created"])
def test_a_conflict_is_kept_and_told(change, conditional):
    setup = Setup(SpyStore(conditional=conditional))
    conflict(setup, change)
    theirs = setup.there()
    with pytest.raises(StoreError, match="could not be uploaded"):
        setup.store.flush()
    assert setup.there() == theirs
    assert setup.store.to_bytes("key") == b"ours"
    assert setup.store.conflicts() == setup.store.dirty_keys() == ["key"]
    assert [(event.key, event.retry_in) for event in setup.events] == [("key", None)]
    # It is not tried for ever, nor silently left out.
    calls = setup.spy.calls["set"]
    setup.sleep(10_000)
    setup.upload_due()
    with pytest.raises(StoreError):
        setup.store.flush()
    assert setup.spy.calls["set"] == calls
    # Another process finds the same.
    another = setup.another()
    with pytest.raises(StoreError):
        another.flush()
    assert another.conflicts() == ["key"]
    assert setup.there() == theirs


@pytest.mark.parametrize("change", ["changed", "deleted", "created"])
def test_resolve_keeps_ours(setup, change):
    conflict(setup, change)
    with pytest.raises(StoreError):
        setup.store.flush()
    setup.store.resolve("key", "ours")
    assert setup.store.conflicts() == []
    assert setup.store.flush()
    assert setup.there() == {"key": b"ours"}


@pytest.mark.parametrize("change", ["changed", "deleted", "created"])
def test_resolve_keeps_theirs(setup, change):
    conflict(setup, change)
    theirs = setup.there()
    with pytest.raises(StoreError):
        setup.store.flush()
    events = []
    setup.store.event_manager.connect(StoreModificationEvent, events.append)
    setup.store.resolve("key", "theirs")
    assert setup.store.dirty_keys() == []
    assert setup.here() == setup.there() == theirs
    assert [event.action for event in events] == ["update" if theirs else "delete"]
    assert setup.store.flush()


def test_a_delete_can_be_a_conflict(setup):
    setup.behind("key", b"old")
    setup.store.delete("key")
    setup.behind("key", b"theirs")
    with pytest.raises(StoreError):
        setup.store.flush()
    assert setup.there() == {"key": b"theirs"}
    assert not setup.store.exists("key")
    assert setup.store.conflicts() == ["key"]
    setup.store.resolve("key", "theirs")
    assert setup.here() == {"key": b"theirs"}
    setup.store.delete("key")
    setup.spy.store.delete("key")
    # What is gone on both sides is gone.
    assert setup.store.flush()
    assert setup.here() == {}


def test_a_second_change_behind_is_a_second_conflict(setup):
    conflict(setup, "changed")
    with pytest.raises(StoreError):
        setup.store.flush()
    setup.store.resolve("key", "ours")
    setup.behind("key", b"theirs again")
    with pytest.raises(StoreError):
        setup.store.flush()
    assert setup.there() == {"key": b"theirs again"}


def test_resolve_checks_its_arguments(setup):
    with pytest.raises(KeyError, match="no"):
        setup.store.resolve("no", "ours")
    with pytest.raises(ValueError, match="'ours' or 'theirs'"):
        setup.store.resolve("no", "mine")


def test_the_same_on_both_sides_is_no_conflict(setup):
    setup.store.set("key", (io.BytesIO(b"same"), {"a": 1}))
    setup.behind("key", b"same", a=1)
    assert setup.store.flush()
    assert setup.store.dirty_keys() == []


# Room


def test_full_is_an_error_if_that_is_asked_for():
    setup = Setup(max_dirty_bytes=1000, full="error")
    setup.store.from_bytes("a", b"x" * 600)
    for _ in range(2):
        with pytest.raises(StoreFullError) as caught:
            setup.store.from_bytes("b", b"x" * 600)
        assert caught.value.key == "b"
    assert not setup.store.exists("b")
    setup.store.from_bytes("a", b"x" * 1000)
    setup.store.update_metadata("a", {"n": 1})
    setup.store.delete("a")
    setup.store.from_bytes("b", b"x" * 600)
    setup.store.flush()
    # One that is larger than all there is comes in alone.
    setup.store.from_bytes("large", b"x" * 5000)
    assert setup.store.stats()["dirty_bytes"] == 5000
    with pytest.raises(StoreFullError):
        setup.store.from_bytes("b", b"x")


def test_a_full_cache_is_emptied_by_the_writer_where_no_thread_does_it():
    setup = Setup(max_dirty_bytes=1000)
    for number in range(10):
        setup.store.from_bytes(f"key{number}", b"x" * 400)
        assert setup.store.stats()["dirty_bytes"] <= 1000
    assert setup.asked()["set"] == 8
    setup.spy.hooks["set"] = Failing()
    with pytest.raises(StoreFullError) as caught:
        setup.store.from_bytes("more", b"x" * 400)
    assert "network" in str(caught.value.__cause__)


def test_writers_wait_until_there_is_room():
    setup = Setup(max_dirty_bytes=1000, workers=2, rest=10_000)
    begun, go = threading.Event(), threading.Event()

    def wait(key):
        begun.set()
        assert go.wait(PATIENCE)

    setup.spy.hooks["set"] = wait
    setup.store.from_bytes("a", b"x" * 600)
    done = threading.Event()

    def write():
        setup.store.from_bytes("b", b"x" * 600)
        done.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    # The first one is uploaded at once, although it has not rested.
    assert begun.wait(PATIENCE)
    assert not done.is_set()
    assert not setup.store.exists("b")
    go.set()
    assert done.wait(PATIENCE)
    assert setup.store.to_bytes("b") == b"x" * 600
    setup.store.disconnect()
    assert sorted(setup.there()) == ["a", "b"]


def test_clean_entries_are_dropped_and_dirty_ones_never():
    setup = Setup(max_bytes=1000)
    for number in range(5):
        setup.store.from_bytes(f"dirty{number}", b"x" * 400)
    setup.behind("clean", b"x" * 400)
    setup.store.to_bytes("clean")
    assert len(setup.store.dirty_keys()) == 5
    assert setup.store.stats()["clean_bytes"] == 400
    setup.store.update_metadata("clean", {"a": 1})
    assert setup.store.stats()["clean_bytes"] == 0
    setup.store.flush()
    assert setup.store.stats()["clean_bytes"] == 800
    assert len(setup.kept()) == 2
    assert len(setup.here()) == 6


# Threads


def test_threads_upload_what_is_due_and_end():
    before = set(threading.enumerate())
    store = CachingStore(memory(), memory(), write_back=True, rest=0, workers=3)
    store.connect()
    assert set(threading.enumerate()) == before
    for number in range(20):
        store.from_bytes(f"key{number}", b"data")
    assert store.flush(PATIENCE)
    assert len(list(store.store.keys())) == 20
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    store.disconnect()


def test_disconnect_flushes_and_ends_a_thread_that_sleeps():
    before = set(threading.enumerate())
    store = CachingStore(memory(), memory(), write_back=True, rest=10_000)
    store.connect()
    store.from_bytes("key", b"data")
    threads = set(threading.enumerate()) - before
    assert len(threads) == 1
    assert all(thread.daemon for thread in threads)
    store.disconnect()
    assert not any(thread.is_alive() for thread in threads)
    assert store.store.to_bytes("key") == b"data"
    assert not store.is_connected()


def test_a_store_that_is_forgotten_is_collected_and_its_thread_ends():
    before = set(threading.enumerate())
    store = CachingStore(memory(), memory(), write_back=True, rest=10_000)
    store.connect()
    store.from_bytes("key", b"data")
    (thread,) = set(threading.enumerate()) - before
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_flush_does_not_wait_longer_than_it_may():
    setup = Setup(workers=1, rest=10_000)
    begun, go = threading.Event(), threading.Event()

    def wait(key):
        begun.set()
        assert go.wait(PATIENCE)

    setup.spy.hooks["set"] = wait
    setup.store.from_bytes("key", b"data")
    assert setup.store.flush(0) is False
    setup.store._behind.uploads.hurry()
    assert begun.wait(PATIENCE)
    assert setup.store.flush(0) is False
    go.set()
    assert setup.store.flush(PATIENCE)
    assert setup.there() == {"key": b"data"}


def test_flush_does_not_wait_for_a_conflict():
    """Which it became while flush() waited for the upload that had begun before."""
    begun, found = threading.Event(), []

    def monotonic():
        begun.set()
        return 0.0

    uploads = UploadQueue(1, 0.0, 1.0, 1.0, None, True, monotonic)
    uploads.note("key", 5, 1.0)
    assert uploads.claim() == ("key", None)
    begun.clear()
    thread = threading.Thread(
        target=lambda: found.append(uploads.flush(lambda key: None, None, False)), daemon=True
    )
    thread.start()
    assert begun.wait(PATIENCE)
    error = StoreError("changed meanwhile")
    uploads.done("key", error, is_conflict=True)
    thread.join(PATIENCE)
    assert found == [(True, {"key": error})]


def test_a_listener_may_flush(setup):
    """Also while the thread that it runs in uploads something."""
    setup.spy.event_manager.connect(StoreModificationEvent, lambda event: setup.store.flush())
    setup.store.from_bytes("a", b"")
    setup.store.from_bytes("b", b"")
    setup.store.flush()
    assert sorted(setup.there()) == ["a", "b"]


def test_what_cannot_be_uploaded_is_kept_by_disconnect(tmp_path):
    setup = Setup(cache=SqliteStore(tmp_path / "cache"))
    setup.spy.hooks["set"] = Failing()
    for number in range(9):
        setup.store.from_bytes(f"key{number}", b"data")
    setup.asked()
    setup.store.disconnect()
    assert setup.asked()["set"] == 3
    setup.spy.hooks.clear()
    setup.store.connect()
    assert len(setup.store.dirty_keys()) == 9
    setup.store.disconnect()
    assert len(setup.there()) == 9


def test_no_lock_is_held_while_disconnect_uploads(setup):
    """Another thread may connect meanwhile, and does not wait for this one."""
    seen = []
    setup.spy.event_manager.connect(
        StoreModificationEvent, lambda event: seen.append(in_thread(setup.store.connect))
    )
    setup.store.from_bytes("key", b"data")
    setup.store.disconnect()
    assert setup.there() == {"key": b"data"}
    assert seen == [None]


def test_disconnect_says_what_would_be_lost(setup):
    setup.spy.hooks["set"] = Failing()
    setup.store.from_bytes("key", b"data")
    with pytest.raises(StoreError, match="stays in the cache"):
        setup.store.disconnect()
    assert not setup.store.is_connected()
    setup.store.disconnect()


# Processes


CHILD = """
import io, os, sys
from encore.storage.caching_store import CachingStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.errors import StoreError
from encore.storage.wrapper_store import WrapperStore

def say(line):
    # In one piece, whatever other threads say.
    os.write(1, line.encode() + b"\\n")

class Slow(WrapperStore):
    # Tells that an upload was done, and never returns.
    def _write(self, call, method, key, /, *args, **conditions):
        super()._write(call, method, key, *args, **conditions)
        say("uploaded " + key)
        sys.stdin.read()

folder, rest = sys.argv[1], float(sys.argv[2])
slow = Slow(SqliteStore(folder + "/store", durability="process"))
cache = SqliteStore(folder + "/cache", durability="process")
store = CachingStore(slow, cache, write_back=True, rest=rest, workers=1)
store.connect()
for number in range(10):
    store.set(f"key{number}", (io.BytesIO(b"new" * number), {"n": number}))
    say("written")
store.delete("old")
say("done")
sys.stdin.read()
"""


@pytest.mark.parametrize("rest", [3600, 0])
def test_another_process_goes_on_after_kill_9(rest):
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        with SqliteStore(os.path.join(folder, "store"), durability="process") as store:
            store.from_bytes("old", b"old")
            store.from_bytes("key1", b"old")
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, folder, str(rest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        lines = []
        try:
            while (line := child.stdout.readline().strip()) and line != "done":
                lines.append(line)
            if not rest:
                # What was uploaded is still dirty.
                while not any(line.startswith("uploaded") for line in lines):
                    lines.append(child.stdout.readline().strip())
                    assert lines[-1], "the child has ended"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(PATIENCE)
            child.stdin.close()
            child.stdout.close()
        assert lines.count("written") == 10
        failed = []
        manager = EventManager()
        manager.connect(StoreUploadFailedEvent, failed.append)
        inner = SqliteStore(os.path.join(folder, "store"), durability="process")
        cache = SqliteStore(os.path.join(folder, "cache"), durability="process")
        # As the child called it.
        slow = type("Slow", (WrapperStore,), {})(inner)
        store = CachingStore(slow, cache, write_back=True, rest=3600, event_manager=manager)
        expected = {f"key{number}": (b"new" * number, {"n": number}) for number in range(10)}
        with store:
            assert len(store.dirty_keys()) == 11
            found = {key: (store.to_bytes(key), store.get_metadata(key)) for key in store.keys()}  # noqa: SIM118
            assert found == expected
            assert store.flush()
        assert failed == []
        with inner:
            found = {key: (inner.to_bytes(key), inner.get_metadata(key)) for key in inner.keys()}  # noqa: SIM118
            assert found == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_use_it(tmp_path):
    inner = SqliteStore(tmp_path / "store", durability="process")
    cache = SqliteStore(tmp_path / "cache", durability="process")
    store = CachingStore(inner, cache, write_back=True, rest=10_000)
    store.connect()
    store.from_bytes("key", b"parent")
    # As if another thread were in the middle of something.
    store._reader.lock.acquire()
    store._behind.uploads.lock.acquire()
    child = os.fork()
    if not child:
        status = 1
        try:
            assert store.dirty_keys() == ["key"]
            assert store.to_bytes("key") == b"parent"
            store.from_bytes("child", b"child")
            store.flush()
            status = 0
        finally:
            os._exit(status)
    store._reader.lock.release()
    store._behind.uploads.lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert store.to_bytes("key") == b"parent"
    store.disconnect()
    with inner:
        assert {key: inner.to_bytes(key) for key in inner.keys()} == {  # noqa: SIM118
            "key": b"parent",
            "child": b"child",
        }


# All of it


def test_threads_and_uploads_at_once():
    """Each key is written by one thread; whoever has seen a version sees no older one."""
    keys = [f"key{number}" for number in range(4)]
    inner, cache = memory(), memory()
    manager = EventManager()
    failed = []
    manager.connect(StoreUploadFailedEvent, failed.append)
    store = CachingStore(
        inner, cache, write_back=True, rest=0, workers=3, max_bytes=20, event_manager=manager
    )
    stop, errors, last = threading.Event(), [], {}

    def write(key):
        dice = random.Random(key)
        for number in range(1, 60):
            if dice.random() < 0.2 and last.get(key) is not None:
                store.delete(key)
                last[key] = None
                if store.exists(key):
                    errors.append((key, "is back"))
            else:
                store.set(key, (io.BytesIO(b"%d" % number), {"n": number}))
                last[key] = number
                if store.get_metadata(key) != {"n": number}:
                    errors.append((key, number))

    def read():
        seen = dict.fromkeys(keys, 0)
        while not stop.is_set():
            for key in keys:
                try:
                    value = store.get(key)
                    number = int(value.data.read())
                except KeyError:
                    continue
                if value.metadata != {"n": number} or number < seen[key]:
                    errors.append((key, number, value.metadata, seen[key]))
                seen[key] = number

    with store:
        writers = [threading.Thread(target=write, args=(key,), daemon=True) for key in keys]
        readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join(PATIENCE)
        stop.set()
        for thread in readers:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in writers + readers)
        assert errors == []
        while store.dirty_keys():
            assert store.flush(PATIENCE)
    assert failed == []
    expected = {key: b"%d" % number for key, number in last.items() if number is not None}
    assert {key: inner.to_bytes(key) for key in inner.keys()} == expected  # noqa: SIM118


def test_many_writers_of_one_key_lose_nothing():
    """Merging takes what is there; a large stream is not used up by a race that was lost."""
    with CachingStore(memory(), memory(), write_back=True, rest=0) as store:
        store.from_bytes("key", b"")

        def merge(name):
            for number in range(20):
                store.update_metadata("key", {f"{name}{number}": True})

        def write():
            for _ in range(3):
                store.set_data("key", Unseekable(b"x" * 2_000_000))
                store.from_bytes("key", b"y" * 2_000_000)

        functions = [partial(merge, name) for name in "abc"] + [write]
        threads = [threading.Thread(target=function, daemon=True) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(store.get_metadata("key")) == 60
        assert store.to_bytes("key") == b"y" * 2_000_000


def test_large_values_stream_through_both_stores(tmp_path):
    stores = []
    for name in ("store", "cache"):
        path = tmp_path / name
        init_shared_store(path)
        stores.append(FileSystemStore(path, durability="process", event_manager=EventManager()))
    with CachingStore(*stores, write_back=True, workers=0) as store:
        store.from_bytes("small", b"")
        store.flush()
        data = b"x" * 20_000_000
        tracemalloc.start()
        try:
            store.set_data("large", Unseekable(data))
            store.update_metadata("large", {"a": 1})
            store.flush()
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()
        assert stores[0].get("large").size == len(data)


class Unseekable:
    def __init__(self, data):
        self.data, self.position = memoryview(data), 0

    def read(self, size, /):
        piece = bytes(self.data[self.position : self.position + min(size, 100_000)])
        self.position += len(piece)
        return piece


@pytest.mark.parametrize("rest", [0, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_it_does_what_the_model_does(seed, rest):
    """Without transactions, and what is one where there are any."""
    steps = [
        step
        for step in random_steps(seed, 200, False, False)
        if not step[0].startswith(("multi", "move"))
    ]

    def make(event_manager):
        return CachingStore(
            memory(), memory(), write_back=True, rest=rest, event_manager=event_manager
        )

    assert same(transcript(make, steps), expected_transcript(steps))


def test_a_process_ends_that_has_forgotten_to_disconnect():
    program = """
from encore.storage.api import CachingStore, DictMemoryStore
stores = [CachingStore(DictMemoryStore(), DictMemoryStore(), write_back=True) for _ in range(8)]
for store in stores:
    store.connect()
    store.from_bytes("a", b"1")
"""
    # The thread that is to upload may have the lock of the queue when the interpreter ends.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    subprocess.run(
        [sys.executable, "-c", program],
        timeout=PATIENCE,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_beneath_a_large_stream_is_a_store_error(monkeypatch):
    class Pipe:
        left = 2**22

        def read(self, size):
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    with CachingStore(memory(), memory(), write_back=True, workers=0) as store:
        store.from_bytes("a", b"old")
        full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - closed by the store
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(StoreOSError) as caught:
            store.set_data("a", Pipe())
        assert caught.value.key == "a"
        assert full.closed
        assert store.to_bytes("a") == b"old"


def test_uploads_to_a_transactional_store_are_parallel():
    """No upload keeps the others out while it is under way."""
    spy = SpyStore()
    assert spy.info()["transactional"]
    together = threading.Barrier(4)
    # Looked at after the upload: where a transaction is open, nobody else gets there.
    spy.after["set"] = lambda key: together.wait(PATIENCE)
    setup = Setup(spy, workers=4, rest=0)
    for number in range(4):
        setup.store.from_bytes(f"key{number}", b"data")
    assert setup.store.flush(PATIENCE)
    assert setup.there() == {f"key{number}": b"data" for number in range(4)}
    # They are known to be what the store has.
    setup.sleep(1000)
    setup.asked()
    assert setup.store.to_bytes("key0") == b"data"
    assert setup.store.stats()["fetched"] == 0
    setup.store.disconnect()


def test_what_is_written_just_after_an_upload_is_a_conflict(setup):
    setup.spy.after["set"] = lambda key: setup.behind(key, b"theirs")
    setup.store.from_bytes("key", b"ours")
    setup.store.flush()
    setup.store.from_bytes("key", b"ours again")
    with pytest.raises(StoreError, match="could not be uploaded"):
        setup.store.flush()
    assert setup.store.conflicts() == ["key"]
    assert setup.there() == {"key": b"theirs"}


def test_flush_says_of_several_changes_why_the_first_has_failed(setup):
    for key in ("a", "b", "c", "d"):
        setup.store.from_bytes(key, b"data")
    trouble = {"a": TemporaryError("no route to the host"), "b": RuntimeError("b")}

    def fail(key):
        raise trouble.get(key, ValueError(key))

    setup.spy.hooks["set"] = fail
    with pytest.raises(StoreError) as caught:
        setup.store.flush()
    assert str(caught.value) == (
        "4 changes could not be uploaded, and stay in the cache: 'a', 'b', 'c', ... "
        "('a': no route to the host)"
    )
    setup.spy.hooks.clear()
