"""MetadataCachingStore: the kit over it, and what it answers without asking the store."""

from __future__ import annotations

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
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.joined_store import JoinedStore
from encore.storage.metadata_caching_store import MetadataCachingStore
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store


class Remembering(Wrapped):
    """Changes of other handles are to be seen, so that nothing is remembered."""

    expire = 0
    kills = 1

    def wrap(self, store, event_manager=None):
        return MetadataCachingStore(store, expire=self.expire, event_manager=event_manager)


class WithoutHandles:
    """The same, where nobody else writes."""

    expire = 60

    def make_handle(self, store):
        return None

    def process_store(self, store):
        return None

    # The copy is another handle.
    test_pickling = None


class TestMetadataCachingStoreOverDictMemoryStore(
    WithoutHandles, Remembering, DictKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestMetadataCachingStoreOverSqliteStore(Remembering, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestMetadataCachingStoreThatRemembersOverSqliteStore(
    WithoutHandles, Remembering, SqliteKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestMetadataCachingStoreOverFileSystemStore(
    WithoutHandles, Remembering, FileSystemKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestMetadataCachingStoreOverLockingFileSystemStore(
    Remembering, LockingFileSystemKit, unittest.TestCase
):
    pass


@pytest.mark.slow
class TestMetadataCachingStoreOverAWrapper(WithoutHandles, Remembering, DictKit, unittest.TestCase):
    def wrap(self, store, event_manager=None):
        return super().wrap(WrapperStore(store, event_manager=EventManager()), event_manager)

    def failing_commit(self, store):
        return super().failing_commit(store.store)


class Setup:
    """A slow store, and one that remembers what it says, with a clock that stands still."""

    def __init__(self, **options):
        self.spy = SpyStore()
        self.clock = Clock()
        self.store = MetadataCachingStore(
            self.spy, clock=self.clock, event_manager=EventManager(), **options
        )
        self.store.connect()

    def asked(self):
        """Return what was asked of the slow store since this was last called."""
        calls = dict(self.spy.calls)
        self.spy.calls.clear()
        return calls

    def behind(self, key, data=b"data", **metadata):
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


def test_metadata_is_remembered_until_it_expires(setup):
    setup.behind("key", a=[1], b=2)
    for _ in range(3):
        assert setup.store.get_metadata("key") == {"a": [1], "b": 2}
        assert setup.store.get_metadata("key", ["b"]) == {"b": 2}
        assert setup.store.exists("key")
    assert setup.asked() == {"get_metadata": 1}
    setup.store.get_metadata("key")["a"].append("not ours")
    assert list(setup.store.multiget_metadata(["key"], ["a"])) == [{"a": [1]}]
    setup.behind("key", c=3)
    setup.clock.now += 59.9
    assert setup.store.get_metadata("key", ["c"]) == {}
    setup.clock.now += 0.1
    assert setup.store.get_metadata("key") == {"c": 3}


def test_what_is_not_there_is_remembered(setup):
    for _ in range(2):
        for call in (setup.store.get_metadata, setup.store.get, setup.store.to_bytes):
            with pytest.raises(KeyError, match="no"):
                call("no")
        assert not setup.store.exists("no")
    assert setup.asked() == {"get_metadata": 1}
    setup.behind("no")
    assert not setup.store.exists("no")
    setup.clock.now += 60
    assert setup.store.exists("no")


def test_existence_is_remembered_and_says_nothing_of_metadata(setup):
    setup.behind("key", a=1)
    assert setup.store.exists("key")
    assert setup.store.exists("key")
    assert setup.asked() == {"exists": 1}
    assert setup.store.get_metadata("key") == {"a": 1}
    assert setup.store.to_bytes("key") == b"data"
    assert setup.asked() == {"get_metadata": 1, "get": 1, "read": 1}


def test_data_is_always_the_store_s(setup):
    setup.behind("key", b"old")
    assert setup.store.to_bytes("key") == b"old"
    setup.behind("key", b"new")
    assert setup.store.to_bytes("key") == setup.store.get_data("key").read() == b"new"
    assert setup.store.get_data_range("key", 1).read() == b"ew"


def test_a_listing_is_fetched_once_with_all_metadata(setup):
    for number in range(10):
        setup.behind(f"key{number}", n=number % 2)
    assert sorted(setup.store.query_keys()) == [f"key{number}" for number in range(10)]
    assert setup.asked() == {"query_keys": 1, "query": 1}
    assert setup.store.get_metadata("key1") == {"n": 1}
    assert sorted(setup.store.query_keys(n=1)) == [f"key{number}" for number in (1, 3, 5, 7, 9)]
    assert dict(setup.store.query(["x"], where={"n": 0}))["key0"] == {}
    assert list(setup.store.keys("key", "key3", 2)) == ["key4", "key5"]
    assert list(setup.store.keys("kex")) == list(setup.store.keys("key", limit=0)) == []
    assert sorted(setup.store.glob("*[78]")) == ["key7", "key8"]
    assert setup.store.exists("key5")
    # What is not in a listing does not exist.
    assert not setup.store.exists("key10")
    with pytest.raises(KeyError):
        setup.store.get("key10")
    assert setup.asked() == {}
    setup.behind("key10")
    setup.clock.now += 60
    assert setup.store.exists("key10")
    assert "key10" in set(setup.store.keys())


def test_a_part_of_a_listing_is_no_reason_to_fetch_it_all(setup):
    for number in range(10):
        setup.behind(f"key{number}", n=number % 2)
    list(setup.store.keys(limit=3))
    list(setup.store.keys("key1"))
    list(setup.store.glob("key1*"))
    list(setup.store.query(n=1))
    assert setup.asked() == {"keys": 2, "glob": 1, "query": 1}
    list(setup.store.keys())
    assert setup.asked() == {"query_keys": 1, "query": 1}


def test_what_is_written_is_seen_at_once(setup):
    for key in ("a", "b", "c"):
        setup.behind(key, n=1)
    list(setup.store.query())
    setup.asked()
    setup.store.set_metadata("a", {"n": 2})
    setup.store.delete("b")
    setup.store.from_bytes("d", b"")
    setup.store.copy("a", "e")
    setup.store.move("c", "f")
    setup.asked()

    def look():
        return (
            dict(setup.store.query()),
            list(setup.store.keys()),
            sorted(setup.store.query_keys(n=1)),
            [setup.store.exists(key) for key in "abcdef"],
            setup.store.get_metadata("a"),
        )

    expected = (
        {"a": {"n": 2}, "d": {}, "e": {"n": 2}, "f": {"n": 1}},
        ["a", "d", "e", "f"],
        ["f"],
        [True, False, False, True, True, True],
        {"n": 2},
    )
    assert look() == in_thread(look) == expected
    # The listing is mended, not fetched again.
    assert "query" not in setup.asked()


def test_a_listing_of_which_too_much_was_written_is_fetched_again(setup):
    list(setup.store.query())
    setup.asked()
    for number in range(150):
        setup.store.from_bytes(f"key{number}", b"")
    setup.asked()
    assert len(list(setup.store.query_keys())) == 150
    assert setup.asked() == {"query_keys": 1, "query": 1}


def test_so_many_entries_are_kept_and_no_longer_listing():
    setup = Setup(max_entries=3)
    for number in range(4):
        setup.behind(f"key{number}", n=number)
    for _ in range(2):
        assert len(list(setup.store.query())) == len(list(setup.store.keys())) == 4
    # Once in vain, to learn that.
    assert setup.asked() == {"query_keys": 1, "query": 2, "keys": 2}
    for number in range(4):
        setup.store.get_metadata(f"key{number}")
    setup.asked()
    for number in (1, 2, 3):
        setup.store.get_metadata(f"key{number}")
    assert setup.asked() == {}
    setup.store.get_metadata("key0")
    assert setup.asked() == {"get_metadata": 1}
    setup.spy.store.delete("key0")
    setup.clock.now += 60
    list(setup.store.keys())
    setup.asked()
    list(setup.store.keys())
    assert setup.asked() == {}


@pytest.mark.parametrize("moment", ["get_metadata", "exists", "query"])
def test_an_answer_from_before_a_change_is_not_remembered(setup, moment):
    setup.behind("key", n=1)
    plain = getattr(SpyStore, moment)

    def ask(*args, **kwargs):
        answer = plain(setup.spy, *args, **kwargs)
        answer = list(answer) if moment == "query" else answer
        delattr(setup.spy, moment)
        in_thread(lambda: setup.store.delete("key"))
        return iter(answer) if moment == "query" else answer

    setattr(setup.spy, moment, ask)
    ask = getattr(setup.store, moment)
    list(ask()) if moment == "query" else ask("key")
    assert not setup.store.exists("key")
    assert list(setup.store.query()) == []
    with pytest.raises(KeyError):
        setup.store.get_metadata("key")


def test_forget(setup):
    setup.behind("key", n=1)
    list(setup.store.query())
    assert not setup.store.exists("new")
    setup.behind("key", n=2)
    setup.behind("new")
    setup.store.forget()
    assert setup.store.exists("new")
    assert setup.store.get_metadata("key") == {"n": 2}
    setup.store.disconnect()
    setup.behind("key", n=3)
    setup.store.connect()
    assert setup.store.get_metadata("key") == {"n": 3}


def test_transactions(setup):
    store = setup.store
    setup.behind("key", n=1)
    list(store.query())
    with suppress(ZeroDivisionError), store.transaction("fails"):
        store.set_metadata("key", {"n": 2})
        store.from_bytes("new", b"")
        assert store.get_metadata("key") == dict(store.query())["key"] == {"n": 2}
        assert list(store.keys()) == ["key", "new"]
        assert in_thread(lambda: dict(store.query())) == {"key": {"n": 1}}
        assert in_thread(lambda: store.exists("new")) is False
        raise ZeroDivisionError
    assert dict(store.query()) == {"key": {"n": 1}}
    assert not store.exists("new")
    with store.transaction("works"):
        store.set_metadata("key", {"n": 2})
        assert in_thread(lambda: store.get_metadata("key")) == {"n": 1}
    assert store.get_metadata("key") == in_thread(lambda: dict(store.query())["key"]) == {"n": 2}


def test_a_commit_is_seen_whole(setup):
    """Also by those who ask in the moment of the commit, or whose listing is being mended then."""
    store, seen = setup.store, []
    for key in ("left", "right"):
        setup.behind(key, n=1)
    list(store.query())
    begin, plain = setup.spy.transaction, setup.spy.get_metadata

    class Context:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *exc_info):
            self.inner.__exit__(*exc_info)
            seen.append(in_thread(lambda: dict(store.query())))
            seen.append(in_thread(lambda: {k: store.get_metadata(k) for k in ("left", "right")}))

    def commit(number):
        with store.transaction("both"):
            for key in ("left", "right"):
                store.set_metadata(key, {"n": number})

    setup.spy.transaction = lambda notes="": Context(begin(notes))
    commit(2)
    assert seen == [{"left": {"n": 2}, "right": {"n": 2}}] * 2

    def get_metadata(key, select=None):
        metadata = plain(key, select)
        setup.spy.get_metadata = plain
        in_thread(lambda: commit(3))
        return metadata

    setup.spy.get_metadata = get_metadata
    assert dict(store.query()) == {"left": {"n": 3}, "right": {"n": 3}}
    assert dict(store.query()) == {"left": {"n": 3}, "right": {"n": 3}}


def test_a_transaction_within_is_not_remembered(setup):
    store = setup.store
    setup.behind("key", n=1)
    list(store.query())
    with suppress(ZeroDivisionError), setup.spy.transaction("not begun here"):
        store.set_metadata("key", {"n": 2})
        assert store.get_metadata("key") == {"n": 2}
        assert dict(store.query()) == {"key": {"n": 2}}
        raise ZeroDivisionError
    assert store.get_metadata("key") == dict(store.query())["key"] == {"n": 1}


def test_a_transaction_of_a_lower_layer_is_not_remembered():
    layers = [DictMemoryStore(event_manager=EventManager()) for _ in range(2)]
    store = MetadataCachingStore(JoinedStore(layers), event_manager=EventManager())
    store.connect()
    layers[1].set_metadata("key", {"n": 1})
    with suppress(ZeroDivisionError), layers[1].transaction("not begun here"):
        layers[1].set_metadata("key", {"n": 2})
        assert store.get_metadata("key") == dict(store.query())["key"] == {"n": 2}
        raise ZeroDivisionError
    assert store.get_metadata("key") == dict(store.query())["key"] == {"n": 1}


def test_a_transaction_within_is_committed_at_a_time_unknown(setup):
    store = setup.store
    setup.behind("key", n=1)
    with setup.spy.transaction("not begun here"):
        store.set_metadata("key", {"n": 2})
        assert in_thread(lambda: (store.get_metadata("key"), dict(store.query()))) == (
            ({"n": 1}, {"key": {"n": 1}})
        )
    assert store.get_metadata("key") == dict(store.query())["key"] == {"n": 2}


def test_a_key_that_cannot_be_read_hides_no_other(setup):
    for key in ("a", "b"):
        setup.behind(key)
    list(setup.store.query())
    setup.store.set_metadata("a", {})

    def fail(key):
        raise StoreError("damaged")

    setup.spy.hooks = {"get_metadata": fail}
    assert sorted(setup.store.query_keys()) == list(setup.store.keys()) == ["a", "b"]


def test_a_key_whose_metadata_are_damaged_is_there(setup, monkeypatch):
    for key in ("a", "b"):
        setup.behind(key)
    query = setup.spy.query
    monkeypatch.setattr(
        setup.spy,
        "query",
        lambda *args, **kwargs: (i for i in query(*args, **kwargs) if i[0] != "a"),
    )

    def fail(key):
        if key == "a":
            raise StoreError("damaged")

    setup.spy.hooks = {"get_metadata": fail, "get": fail}
    for _ in range(2):
        assert list(setup.store.keys()) == sorted(setup.store.query_keys()) == ["a", "b"]
        assert sorted(setup.store.glob("*")) == ["a", "b"]
        assert [key for key, _ in setup.store.query()] == ["b"]
        assert setup.store.exists("a")
        for method in (setup.store.get, setup.store.get_metadata, setup.store.to_bytes):
            with pytest.raises(StoreError, match="damaged"):
                method("a")


def test_a_store_that_fails_is_asked_again(setup):
    def fail(key):
        raise StoreError("the network is down")

    setup.behind("key", n=1)
    for moment in ("get_metadata", "query"):
        setup.spy.hooks = {moment: fail}
        with pytest.raises(StoreError, match="network"):
            setup.store.get_metadata("key") if moment == "get_metadata" else setup.store.query()
        setup.spy.hooks = {}
    assert setup.store.get_metadata("key") == {"n": 1}
    assert dict(setup.store.query()) == {"key": {"n": 1}}


def test_expire_0_remembers_nothing():
    setup = Setup(expire=0)
    setup.behind("key", n=1)
    for number in range(3):
        setup.behind("key", n=number)
        assert setup.store.get_metadata("key") == dict(setup.store.query())["key"] == {"n": number}


def test_the_store_may_be_changed_while_a_listing_is_read(setup):
    for number in range(5):
        setup.behind(f"key{number}", n=number)
    seen = []
    for key, metadata in setup.store.query():
        seen.append(key)
        setup.store.delete(key)
        setup.store.set_metadata(f"{key} copy", metadata)
    assert sorted(seen) == [f"key{number}" for number in range(5)]
    assert sorted(setup.store.query_keys()) == [f"key{number} copy" for number in range(5)]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"expire": -1}),
        (TypeError, {"expire": "1"}),
        (TypeError, {"max_entries": None}),
        (ValueError, {"max_entries": -1}),
    ],
)
def test_arguments_are_checked(error, options):
    with pytest.raises(error):
        MetadataCachingStore(DictMemoryStore(), **options)


def test_repr_and_pickle():
    store = MetadataCachingStore(DictMemoryStore(), expire=5)
    assert repr(store).startswith("MetadataCachingStore(")
    with store:
        store.set_metadata("key", {"n": 1})
        list(store.query())
        with pickle.loads(pickle.dumps(store)) as other:
            other.set_metadata("key", {"n": 2})
            assert other.get_metadata("key") == {"n": 2}
        assert store.get_metadata("key") == {"n": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_use_it(setup):
    setup.behind("key", n=1)
    # As if another thread were in the middle of something.
    setup.store._kept.lock.acquire()
    child = os.fork()
    if not child:
        status = 1
        try:
            assert setup.store.get_metadata("key") == {"n": 1}
            status = 0
        finally:
            os._exit(status)
    setup.store._kept.lock.release()
    assert os.waitpid(child, 0)[1] == 0


def test_threads_never_see_something_older(setup):
    """Each key is written by one thread; whoever has seen a version sees no older one."""
    keys = ["a", "b", "c"]
    for key in keys:
        setup.behind(key, n=0)
    store, stop, errors = setup.store, threading.Event(), []

    def write(key):
        for number in range(1, 80):
            store.set_metadata(key, {"n": number})
            if store.get_metadata(key) != {"n": number}:
                errors.append((key, number))

    def read():
        seen = dict.fromkeys(keys, 0)
        while not stop.is_set():
            listed = dict(store.query())
            for key in keys:
                for number in (listed[key]["n"], store.get_metadata(key)["n"]):
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


@pytest.mark.parametrize("seed", range(3))
def test_it_does_what_the_model_does(seed):
    def make(event_manager):
        inner = DictMemoryStore(event_manager=EventManager())
        return MetadataCachingStore(inner, event_manager=event_manager)

    check_store(make, seed, 150)


def test_stats_count_what_was_asked():
    store = MetadataCachingStore(DictMemoryStore(event_manager=EventManager()))
    with store:
        store.from_bytes("a", b"")
        assert store.stats() == {"hits": 0, "asked": 0, "listings": 0, "entries": 0}
        for _ in range(3):
            store.get_metadata("a")
        assert store.stats() == {"hits": 2, "asked": 1, "listings": 0, "entries": 1}
        list(store.keys())
        assert store.stats()["listings"] == 1
        assert not store.exists("b")
        with pytest.raises(KeyError):
            store.get("c")
        list(store.query_keys())
        assert store.stats() == {"hits": 5, "asked": 1, "listings": 1, "entries": 1}
        store.forget()
        assert store.stats()["entries"] == 0
