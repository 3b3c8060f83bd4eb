"""A cache belongs to one store, and to one CachingStore that writes to it."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re

import pytest
from spy_store import Clock

from encore.events.event_manager import EventManager
from encore.storage._cache_owner import OWNER_KEY
from encore.storage._places import place_of
from encore.storage.caching_store import CachingStore
from encore.storage.checked_store import CheckedStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.hash_prefix_store import HashPrefixStore
from encore.storage.joined_store import JoinedStore
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.metadata_caching_store import MetadataCachingStore
from encore.storage.mounted_store import MountedStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.retry_store import RetryStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.static_url_store import StaticURLStore
from encore.storage.wrapper_store import WrapperStore


def memory(**contents):
    store = DictMemoryStore(event_manager=EventManager())
    for key, data in contents.items():
        store.from_bytes(key, data)
    return store


def kept(cache):
    return sorted(set(cache.keys()) - {OWNER_KEY})


# Which store a cache belongs to


@pytest.mark.parametrize("write_back", [False, True])
@pytest.mark.parametrize("max_bytes", [None, 1000])
def test_copies_of_another_store_are_dropped(write_back, max_bytes):
    one, two, near = memory(a=b"one", b=b"one"), memory(a=b"two"), memory()
    options = {"write_back": write_back, "max_bytes": max_bytes}
    with CachingStore(one, near, **options) as store:
        assert store.to_bytes("a") + store.to_bytes("b") == b"oneone"
    assert kept(near) == ["a", "b"]
    with CachingStore(two, near, **options) as store:
        assert kept(near) == []
        assert not store.exists("b")
        assert store.to_bytes("a") == b"two"
        assert store.stats()["clean_bytes"] == (3 if max_bytes else 0)


def test_two_stores_at_once_never_answer_with_each_others_copies():
    one, two, near = memory(a=b"one"), memory(a=b"two"), memory()
    first, second = CachingStore(one, near), CachingStore(two, near)
    first.connect()
    second.connect()
    for _ in range(2):
        assert (first.to_bytes("a"), second.to_bytes("a")) == (b"one", b"two")


def test_a_key_that_another_store_had_can_be_written():
    one, two, near = memory(a=b"one"), memory(), memory()
    with CachingStore(one, near) as store:
        store.to_bytes("a")
    record = near.get("a")
    with CachingStore(two, near, write_back=True, workers=0) as store:
        # As if it came from there meanwhile.
        near.set("a", record)
        store.from_bytes("a", b"two")
        store.flush()
    assert two.to_bytes("a") == b"two"


def test_changes_for_another_store_are_refused_and_can_be_adopted():
    one, two, near = memory(a=b"one"), memory(), memory()
    options = {"write_back": True, "workers": 0, "rest": 10}
    store = CachingStore(one, near, **options)
    store.connect()
    store.from_bytes("new", b"data")
    store.delete("a")
    # The process has died.
    store._owner.release()
    for each in (CachingStore(two, near, **options), CachingStore(two, near)):
        with pytest.raises(StoreError, match="2 changes that were written for") as raised:
            each.connect()
        assert not each._is_ready
        for text in (place_of(one), place_of(two), "adopt=True"):
            assert text in str(raised.value)
    assert list(two.keys()) == []
    with CachingStore(two, near, adopt=True, **options) as store:
        assert store.dirty_keys() == ["a", "new"]
        assert store.flush()
    assert list(two.keys()) == ["new"]
    assert one.to_bytes("a") == b"one"


def test_what_is_adopted_may_be_a_conflict():
    one, two, near = memory(a=b"one"), memory(a=b"two"), memory()
    options = {"write_back": True, "workers": 0, "rest": 10}
    store = CachingStore(one, near, **options)
    store.connect()
    store.from_bytes("a", b"ours")
    store._owner.release()
    store = CachingStore(two, near, adopt=True, **options)
    store.connect()
    with pytest.raises(StoreError, match="could not be uploaded"):
        store.flush()
    assert store.conflicts() == ["a"]
    assert two.to_bytes("a") == b"two"
    store.resolve("a", "ours")
    store.disconnect()
    assert two.to_bytes("a") == b"ours"


def test_the_same_path_is_the_same_store(tmp_path):
    near = memory()
    with CachingStore(SqliteStore(tmp_path / "far.db"), near) as store:
        store.from_bytes("a", b"data")
        store.to_bytes("a")
    os.symlink(tmp_path, tmp_path / "link")
    with CachingStore(RetryStore(SqliteStore(tmp_path / "link" / "far.db")), near) as store:
        assert store.to_bytes("a") == b"data"
        assert store.stats()["hits"] + store.stats()["validated"] == 1
        assert store.stats()["fetched"] == 0
    with CachingStore(SqliteStore(tmp_path / "far.db", table="other"), near) as store:
        assert kept(near) == []
        assert not store.exists("a")


def test_a_pickled_store_finds_its_cache():
    far, near = memory(a=b"data"), memory()
    store = CachingStore(far, near)
    with store:
        store.to_bytes("a")
    arrived = pickle.loads(pickle.dumps(store))
    with arrived:
        assert arrived.to_bytes("a") == b"data"
        assert arrived.stats()["fetched"] == 0


class Mine(WrapperStore):
    pass


def test_places(tmp_path):
    path = str(tmp_path)
    init_shared_store(path)
    sqlite = f"SqliteStore({path + '/a.db'!r}, 'store')"
    one = SqliteStore(tmp_path / "a.db")
    assert place_of(one) == place_of(SqliteStore(tmp_path / "a.db")) == sqlite
    for make in (ReadOnlyStore, RetryStore, MetadataCachingStore, WrapperStore):
        assert place_of(make(one)) == sqlite
    assert place_of(CachingStore(one, memory())) == sqlite
    files = f"FileSystemStore({path!r})"
    assert place_of(FileSystemStore(tmp_path)) == place_of(LockingFileSystemStore(path)) == files
    assert place_of(DirectoryStore(tmp_path)) == f"DirectoryStore({path!r})"
    assert place_of(PrefixStore(one, "a/")) == f"PrefixStore({sqlite}, 'a/...')"
    assert place_of(Mine(one)) == f"Mine({sqlite})"
    other = FileSystemStore(tmp_path)
    assert place_of(JoinedStore([one, other])) == f"JoinedStore({sqlite}, {files})"
    assert place_of(MountedStore("m/", one, other)) == f"MountedStore('m/', {sqlite}, {files})"
    different = [
        one,
        other,
        Mine(one),
        CheckedStore(one),
        PrefixStore(one, "a/"),
        PrefixStore(one, "b/"),
        HashPrefixStore(one, 2),
        HashPrefixStore(one, 3),
        JoinedStore([one, other]),
        JoinedStore([other, one]),
        MountedStore("m/", one, other),
        MountedStore("n/", one, other),
        SqliteStore(":memory:"),
        SqliteStore(":memory:"),
        memory(),
        memory(),
    ]
    assert len(set(map(place_of, different))) == len(different)


def test_places_of_urls_show_no_secret():
    url = "http://user:secret@host/{}?token=secret"
    stores = [
        DynamicURLStore(url.format("a"), "http://host/query"),
        DynamicURLStore(url.format("b"), "http://host/query"),
        DynamicURLStore("http://host/a?token=other", "http://host/query"),
        StaticURLStore("http://user:secret@host/", "data/", "index.json"),
        StaticURLStore("http://user:secret@host/", "data2/", "index.json"),
    ]
    places = list(map(place_of, stores))
    assert len(set(places)) == len(places)
    assert "secret" not in "".join(places)
    assert "http://host/a" in places[0]
    assert place_of(DynamicURLStore(url.format("a"), "http://host/query")) == places[0]


def test_the_place_of_what_is_in_memory_is_new_unless_it_is_pickled():
    store = memory()
    assert place_of(store) == place_of(store) == place_of(pickle.loads(pickle.dumps(store)))
    assert place_of(store) != place_of(memory())


# One that writes to it


def writing(far, near, **options):
    manager = EventManager()
    return CachingStore(far, near, write_back=True, workers=0, event_manager=manager, **options)


@pytest.mark.parametrize("write_back", [True, False])
def test_a_second_one_is_refused_until_the_first_has_left(tmp_path, write_back):
    far = memory()
    first = writing(far, SqliteStore(tmp_path / "near.db"))
    first.connect()
    second = CachingStore(far, SqliteStore(tmp_path / "near.db"), write_back=write_back)
    with pytest.raises(StoreError, match=rf"another CachingStore .* of process {os.getpid()} on"):
        second.connect()
    assert not second._is_ready
    assert not second.cache.is_connected()
    first.from_bytes("a", b"data")
    first.connect()
    first.disconnect()
    second.connect()
    assert second.to_bytes("a") == b"data"
    second.disconnect()
    first.connect()
    first.disconnect()
    with first.cache:
        assert kept(first.cache) == list(first.cache.keys())


def test_a_forgotten_one_has_left():
    far, near = memory(), memory()
    first = writing(far, near)
    first.connect()
    first.from_bytes("a", b"data")
    del first
    gc.collect()
    with writing(far, near) as second:
        assert second.dirty_keys() == ["a"]


def test_a_connect_that_fails_leaves_no_owner():
    far, near = memory(), memory()
    near.from_bytes("a", b"")
    near.set_metadata(
        "a", {"state": "dirty", "store": "elsewhere", "entry": '{"id": "1", "metadata": {}}'}
    )
    first = writing(far, near)
    with pytest.raises(StoreError, match="written for elsewhere"):
        first.connect()
    assert list(near.keys()) == ["a"]


def test_a_copy_of_a_cache_in_memory_is_another_one():
    first = writing(memory(), memory())
    first.connect()
    first.from_bytes("a", b"data")
    second = copy.deepcopy(first)
    second.connect()
    assert second.dirty_keys() == ["a"]


def record(near, **changes):
    near.set_metadata(OWNER_KEY, {**near.get_metadata(OWNER_KEY), **changes})


ELSEWHERE = "000000000000-0-1-1"


def test_one_that_cannot_be_seen_counts_for_a_minute(tmp_path):
    far, near, clock = memory(), SqliteStore(tmp_path / "near.db"), Clock()
    near.connect()
    first = writing(far, near, clock=clock)
    first.connect()
    record(near, process=ELSEWHERE, host="elsewhere", id="another")
    clock.now += 59
    second = writing(far, near, clock=clock)
    with pytest.raises(StoreError, match=r"of process .* on elsewhere"):
        second.connect()
    clock.now += 2
    second.connect()
    second.disconnect()


def test_one_that_has_died_counts_for_nothing(tmp_path):
    from encore.storage._owner import this_process

    near = SqliteStore(tmp_path / "near.db")
    near.connect()
    writing(memory(), near).connect()
    me = this_process()
    # A process id that is used again.
    record(near, process=f"{me.place}-{me.machine}-{me.pid}-{me.start + 1}", id="another")
    writing(memory(), near).connect()
    record(near, process="nonsense")
    writing(memory(), near).connect()


def test_whoever_writes_renews_the_record_and_learns_that_it_was_taken_over(tmp_path):
    near, clock, monotonic = SqliteStore(tmp_path / "near.db"), Clock(), Clock()
    near.connect()
    store = writing(memory(), near, clock=clock, monotonic=monotonic)
    store.connect()
    for _ in range(3):
        clock.now += 25
        monotonic.now += 25
        store.from_bytes("a", b"1")
        assert near.get_metadata(OWNER_KEY)["renewed"] == clock.now
    monotonic.now += 25
    near.delete(OWNER_KEY)
    store.from_bytes("a", b"2")
    with writing(memory(), near, adopt=True) as second:
        monotonic.now += 25
        with pytest.raises(StoreError, match="has been taken over by"):
            store.from_bytes("a", b"3")
        assert second.to_bytes("a") == b"2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_shares_it(tmp_path):
    far, near = SqliteStore(tmp_path / "far.db"), SqliteStore(tmp_path / "near.db")
    store = writing(far, near)
    store.connect()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            store.from_bytes("child", b"data")
            store.disconnect()
            try:
                store.connect()
            except StoreError as error:
                status = 0 if re.search("another CachingStore", str(error)) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.cache.exists(OWNER_KEY)
    assert store.to_bytes("child") == b"data"
    store.disconnect()


@pytest.mark.parametrize("write_back", [True, False])
def test_a_value_under_the_key_of_the_record_is_not_cached(write_back):
    far, near = memory(), memory()
    with CachingStore(far, near, write_back=write_back, workers=0) as store:
        store.from_bytes(OWNER_KEY, b"1")
        assert far.to_bytes(OWNER_KEY) == store.to_bytes(OWNER_KEY) == b"1"
        store.update_metadata(OWNER_KEY, {"a": 1})
        assert list(store.query(a=1)) == [(OWNER_KEY, {"a": 1})]
        assert list(store.keys()) == [OWNER_KEY]
        assert near.exists(OWNER_KEY) == write_back
        store.delete(OWNER_KEY)
        assert not store.exists(OWNER_KEY)
        assert near.exists(OWNER_KEY) == write_back
