"""What only the store in memory has; the rest is in the conformance kit."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import threading
import warnings
from collections import OrderedDict

import pytest

from encore.events.api import EventManager, get_event_manager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.string_value import StringValue


@pytest.fixture
def store():
    return DictMemoryStore(event_manager=EventManager())


@pytest.fixture
def planted(store):
    store._store["k"] = (b"data", {"a": 1, "b": [1, 2]}, 1.0, 2.0)
    return store


def test_it_needs_no_connection(store):
    assert not store.is_connected()
    store.from_bytes("k", b"x")
    assert store.to_bytes("k") == b"x"
    store.connect()
    store.disconnect()
    assert store.to_bytes("k") == b"x"
    assert repr(store) == "<DictMemoryStore not connected>"


def test_info(store):
    assert store.info() == {
        "type": "DictMemoryStore",
        "readonly": False,
        "authorizing": False,
        "transactional": True,
        "conditional": True,
        "streaming": False,
        "durable": "none",
    }


def test_the_manager_is_given_by_name():
    for arguments in ((EventManager(),), (5, EventManager())):
        with pytest.raises(TypeError, match="event_manager="):
            DictMemoryStore(*arguments)
    with pytest.raises(TypeError, match="no positional arguments"):
        DictMemoryStore(5)
    assert DictMemoryStore().event_manager is get_event_manager()
    manager = EventManager()
    assert DictMemoryStore(event_manager=manager).event_manager is manager


# Planted records


def test_planted_records_are_read(planted):
    value = planted.get("k")
    assert isinstance(value, StringValue)
    assert value.data.read() == planted.to_bytes("k") == b"data"
    assert value.metadata == planted.get_metadata("k") == {"a": 1, "b": [1, 2]}
    assert (value.size, value.created, value.modified) == (4, 1.0, 2.0)
    assert planted.exists("k")
    assert dict(planted.query(a=1)) == {"k": {"a": 1, "b": [1, 2]}}
    assert (
        list(planted.query_keys(b=[1, 2]))
        == list(planted.glob("?"))
        == list(planted.keys())
        == ["k"]
    )


def test_planted_metadata_may_be_changed_in_place(planted):
    etag = planted.get("k").etag
    metadata = planted._store["k"][1]
    metadata["a"] = 5
    metadata["b"].append(3)
    metadata["c"] = None
    assert (
        planted.get_metadata("k")
        == planted.get("k").metadata
        == {"a": 5, "b": [1, 2, 3], "c": None}
    )
    assert list(planted.query_keys(a=1)) == []
    assert list(planted.query_keys(a=5, c=None)) == ["k"]
    assert planted.get("k").etag != etag


def test_planted_metadata_are_not_handed_out(planted):
    planted._store["k"][1]["d"] = OrderedDict(e=[1])
    events = []
    planted.event_manager.connect(StoreModificationEvent, events.append)
    copies = [
        planted.get("k").metadata,
        planted.get_metadata("k"),
        dict(planted.query())["k"],
        planted.get_metadata("k", ["d", "b"]),
    ]
    planted.set_data("k", io.BytesIO(b"x"))
    copies.append(events[0].metadata)
    for each in copies:
        each["b"].append("changed")
        each["d"]["e"].append("changed")
        each["d"]["f"] = "changed"
    assert planted.get_metadata("k") == {"a": 1, "b": [1, 2], "d": {"e": [1]}}


def test_planted_records_are_changed_like_all_others(planted):
    planted.update_metadata("k", {"a": 2})
    assert planted._store["k"][:3] == (b"data", {"a": 2, "b": [1, 2]}, 1.0)
    assert planted.get("k").modified > 2.0
    planted.set_data("k", io.BytesIO(b"new"))
    assert planted.get("k").created == 1.0
    etag = planted.get("k").etag
    planted.set_metadata("k", {}, if_match=etag)
    with pytest.raises(PreconditionError):
        planted.delete("k", if_match=etag)
    planted.delete("k")
    assert planted._store == {}


def test_a_planted_etag_holds(planted):
    planted.set_metadata("k", {"new": True}, if_match=planted.get("k").etag)
    assert planted.get_metadata("k") == {"new": True}


def test_what_is_stored_is_a_record_of_four():
    store = DictMemoryStore(event_manager=EventManager())
    store.set("k", (io.BytesIO(b"data"), {"a": (1,)}))
    data, metadata, created, modified = store._store["k"]
    assert (data, metadata) == (b"data", {"a": [1]})
    assert created == modified == store.get("k").created


def test_removing_a_planted_record_removes_the_key(planted):
    del planted._store["k"]
    assert not planted.exists("k")
    with pytest.raises(KeyError):
        planted.get("k")


def test_a_rollback_restores_a_planted_record(planted):
    record = planted._store["k"]
    with pytest.raises(LookupError), planted.transaction():  # noqa: PT012 - the block is what fails
        planted.set_metadata("k", {})
        planted.delete("k")
        planted.from_bytes("k", b"x")
        raise LookupError
    assert planted._store["k"] is record


# Copies of the store


@pytest.mark.parametrize(
    "twin_of", [lambda store: pickle.loads(pickle.dumps(store)), copy.deepcopy]
)
def test_a_pickled_store_takes_its_data_along(planted, twin_of):
    planted.connect()
    twin = twin_of(planted)
    assert not twin.is_connected()
    assert twin.event_manager is get_event_manager()
    assert twin.to_bytes("k") == b"data"
    assert twin.get("k").created == 1.0
    with twin.transaction():
        twin.from_bytes("k", b"other")
        twin.from_bytes("l", b"x")
    assert planted.to_bytes("k") == b"data"
    assert not planted.exists("l")


def test_a_store_is_pickled_as_others_see_it(planted):
    with planted.transaction():
        planted.from_bytes("k", b"uncommitted")
        twin = pickle.loads(pickle.dumps(planted))
    assert twin.to_bytes("k") == b"data"
    twin.from_bytes("k", b"x")


def in_child(function):
    """Run a function in a forked child; return whether it came to its end."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks in processes with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            # A child that hangs fails the test instead of stopping it.
            signal.alarm(60)
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_store_can_be_used_in_a_forked_child(planted):
    def child():
        planted.from_bytes("l", b"x")
        with planted.transaction():
            planted.delete("k")
        assert list(planted.keys()) == ["l"]

    assert in_child(child)
    assert list(planted.keys()) == ["k"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_writes_leaves_no_lock(planted):
    began, forked = threading.Event(), threading.Event()

    def write():
        with planted.transaction():
            planted.from_bytes("uncommitted", b"x")
            began.set()
            assert forked.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    assert began.wait(60)

    def child():
        assert not planted.exists("uncommitted")
        planted.from_bytes("l", b"x")

    try:
        assert in_child(child)
    finally:
        forked.set()
        thread.join(60)
    assert planted.exists("uncommitted")


# Threads


def test_readers_see_all_of_a_transaction_or_nothing(store):
    keys = [f"key{n}" for n in range(20)]
    stop, failures = threading.Event(), []

    def set_all(number):
        with store.transaction():
            for key in keys:
                store.set(key, (io.BytesIO(b"%d" % number), {"n": number}))

    set_all(0)

    def read():
        while not stop.is_set():
            numbers = {metadata["n"] for _, metadata in store.query()}
            if len(numbers) != 1:
                failures.append(numbers)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        set_all(number)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_deleted_keys_are_never_seen_half_deleted(store):
    stop, failures = threading.Event(), []

    def read():
        try:
            while not stop.is_set():
                for key, metadata in store.query():
                    assert metadata == {"key": key}
                for key in ("a", "b"):
                    try:
                        assert store.get(key).data.read() == b"x"
                    except KeyError:
                        continue
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        with store.transaction():
            for key in ("a", "b"):
                store.set(key, (io.BytesIO(b"x"), {"key": key}))
        with store.transaction():
            store.delete("a")
            store.delete("b")
    stop.set()
    thread.join(60)
    assert failures == []


def test_a_writer_does_not_wait_for_ever(store, monkeypatch):
    monkeypatch.setattr("encore.storage.dict_memory_store.LOCK_TIMEOUT", 0.001)
    began, done = threading.Event(), threading.Event()

    def hold():
        with store.transaction():
            began.set()
            assert done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert began.wait(60)
    with pytest.raises(StoreError, match="locked by another thread"):
        store.from_bytes("k", b"x")
    with pytest.raises(StoreError, match="locked by another thread"), store.transaction():
        pytest.fail("it did not begin")
    done.set()
    thread.join(60)
    store.from_bytes("k", b"x")
    assert store.to_bytes("k") == b"x"
