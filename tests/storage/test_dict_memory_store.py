"""What only the store in memory has; the rest is in the conformance kit."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import signal
import sys
import threading
import tracemalloc
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest

from encore.events.api import EventManager, get_event_manager
from encore.storage import dict_memory_store
from encore.storage._metadata import matches
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import StoreModificationEvent, StoreProgressEvent
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


def in_the_middle_of_a_commit(store, action):
    """Call a function while another key is being taken out by the commit of a transaction."""

    class Store(dict):
        def __delitem__(self, key):
            assert self[key] is not None
            results.append(action())
            super().__delitem__(key)

    results = []
    store.from_bytes("gone", b"1")
    # copy() returns a dict.
    store._store = Store(store._store)
    with store.transaction():
        store.delete("gone")
        store.from_bytes("new", b"2")
    store._store = dict(store._store)
    (result,) = results
    return result


def seen(store):
    return {
        "keys": sorted(store.query_keys()),
        "query": sorted(key for key, _ in store.query()),
        "pages": list(store.keys()),
        "glob": sorted(store.glob("*")),
        "exists": store.exists("gone"),
        "found": list(store.query_keys(a=1)),
    }


def test_what_is_being_removed_is_not_seen(planted):
    def read():
        """In another thread, which is not inside of the transaction."""
        results = []
        thread = threading.Thread(target=lambda: results.append(seen(planted)))
        thread.start()
        thread.join(60)
        return results[0]

    inside = in_the_middle_of_a_commit(planted, read)
    assert inside == seen(planted)
    assert inside["keys"] == ["k", "new"]


def test_what_is_being_removed_is_not_pickled(planted):
    twin = in_the_middle_of_a_commit(planted, lambda: pickle.loads(pickle.dumps(planted)))
    assert seen(twin) == seen(planted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_being_removed_is_not_there_in_a_child(planted):
    def child():
        assert seen(planted)["keys"] == ["k", "new"]
        planted.from_bytes("gone", b"anew")
        assert planted.get("gone").created > 0

    assert in_the_middle_of_a_commit(planted, lambda: in_child(child))


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


# Queries

PLANTED = [
    {},
    {"n": 1},
    {"n": 1.0},
    {"n": True},
    {"n": False},
    {"n": 0},
    {"n": None},
    {"n": "1"},
    {"n": [1]},
    {"n": (1,)},
    {"n": [True]},
    {"n": {"a": 1}},
    {"n": OrderedDict(a=1.0)},
    {"n": 1, "m": "x"},
    {"n": "1", "m": "x"},
    {"m": "x"},
    {"m": None, "n": 2**80},
]


@pytest.mark.parametrize(
    "criteria",
    [
        {"n": value}
        for value in (1, 1.0, True, False, 0, 0.0, None, "1", [1], [True], {"a": 1}, 2**80, "")
    ]
    + [
        {"n": 1, "m": "x"},
        {"m": "x", "n": 1},
        {"n": [1], "m": "x"},
        {"n": None, "m": None},
        {"m": None, "n": 2**80},
        {"o": 1},
        {},
    ],
    ids=repr,
)
def test_queries_find_what_matches(store, criteria):
    for number, metadata in enumerate(PLANTED):
        store._store[f"k{number}"] = (b"", metadata, 1.0, 1.0)
    expected = [f"k{n}" for n, metadata in enumerate(PLANTED) if matches(metadata, criteria)]
    assert [key for key, _ in store.query(**criteria)] == expected
    assert list(store.query_keys(**criteria)) == expected
    with store.transaction():
        store.set_metadata("k", {"n": 1, "m": "x"})
        mine = ["k"] if matches({"n": 1, "m": "x"}, criteria) else []
        assert [key for key, _ in store.query(**criteria)] == expected + mine


class Trigger(str):
    """Text that does something when it is compared for the first time."""

    action = None

    def __eq__(self, other):
        action, self.action = self.action, None
        if action is not None:
            action()
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def plant_trigger(store, action):
    trigger = Trigger("t")
    for key, text in (("a", "old"), ("b", trigger), ("c", "old"), ("d", "old")):
        store._store[key] = (b"", {"n": text}, 1.0, 1.0)
    trigger.action = action


def test_a_query_sees_nothing_of_a_commit_in_its_middle_or_all(store):
    def commit():
        with store.transaction():
            for key in ("a", "c"):
                store.set_metadata(key, {"n": "new"})

    plant_trigger(store, commit)
    assert list(store.query_keys(n="old")) == ["a", "c", "d"]
    assert list(store.query_keys(n="new")) == ["a", "c"]


def test_keys_may_come_and_go_in_the_middle_of_a_query(store):
    def change():
        for number in range(100):
            store.from_bytes(f"new{number}", b"")
        store.delete("c")

    plant_trigger(store, change)
    assert list(store.query_keys(n="old")) == ["a", "c", "d"]


def test_a_query_misses_nothing_where_as_many_come_as_go():
    # After some number of changes a dict closes the holes at its beginning: what follows moves up.
    for changes in range(64):
        store = DictMemoryStore(event_manager=EventManager())
        for number in range(20):
            store.from_bytes(f"c{number}", b"")

        def change(store=store, changes=changes):
            for number in range(changes):
                store.delete(f"c{number}")
                store.from_bytes(f"c{number + 20}", b"")

        plant_trigger(store, change)
        assert list(store.query_keys(n="old")) == ["a", "c", "d"]


# In the middle of a commit: a signal handler, or a finalizer


@pytest.mark.parametrize(
    "point", ["_open_unit", "_begin", "_apply", "_finish", "_clean", "_unlock"]
)
@pytest.mark.parametrize("late", [False, True])
def test_what_comes_in_the_middle_of_a_commit_is_not_lost(store, monkeypatch, point, late):
    told = []
    store.event_manager.connect(StoreModificationEvent, lambda e: told.append((e.action, e.key)))
    real = getattr(store, point)

    def interrupted(*arguments):
        monkeypatch.undo()
        if late:
            real(*arguments)
        store.from_bytes("h", b"")
        store.update_metadata("h", {"n": 1})
        if store.exists("k"):
            store.update_metadata("k", {"h": 1})
        with pytest.raises(KeyError):
            store.delete("none")
        if not late:
            real(*arguments)

    monkeypatch.setattr(store, point, interrupted)
    with store.transaction():
        store.set("k", (io.BytesIO(b"data"), {"k": 1}))
        store.set("l", (io.BytesIO(b"data"), {}))
    assert sorted(store.keys()) == ["h", "k", "l"]
    assert store.get_metadata("h") == {"n": 1}
    assert (store.to_bytes("k"), store.get_metadata("k")["k"]) == (b"data", 1)
    nested = [("set", "h"), ("update", "h")]
    if store.get_metadata("k") == {"k": 1, "h": 1}:
        nested.append(("update", "k"))
    assert sorted(told) == sorted([*nested, ("set", "k"), ("set", "l")])
    assert ("update", "k") in told or point in ("_open_unit", "_begin")
    done = []
    thread = threading.Thread(target=lambda: done.append(store.set_metadata("k", {})))
    thread.start()
    thread.join(60)
    assert done == [None]


def test_an_interrupt_before_a_record_is_kept_undoes_what_was_done(store):
    class Interrupting(dict):
        def __setitem__(self, key, record):
            raise KeyboardInterrupt

    with store.transaction():
        store.from_bytes("a", b"")
        with pytest.raises(KeyboardInterrupt), store.transaction():  # noqa: PT012
            store._state.overlay, kept = Interrupting(store._state.overlay), store._state.overlay
            store.from_bytes("b", b"")
        store._state.overlay = kept
    assert list(store.keys()) == ["a"]


# The short way


def stamps(store, key="k"):
    value = store.get(key)
    return value.created, value.modified


def test_what_has_little_to_do_goes_the_short_way(store, monkeypatch):
    def refuse(self):
        raise AssertionError("that was the long way")

    monkeypatch.setattr(DictMemoryStore, "_begin", refuse)
    store.connect()
    events = []
    store.event_manager.connect(StoreModificationEvent, lambda e: events.append((e.action, e.key)))
    store.set("k", (io.BytesIO(b"1"), {"n": 1}))
    store.set("k", StringValue(b"2", {"n": 2}))
    store.set_data("k", io.BytesIO(b"3"))
    store.from_bytes("l", b"4")
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"3", {"n": 2})
    store.delete("k")
    assert not store.exists("k")
    assert events == [("set", "k"), ("update", "k"), ("update", "k"), ("set", "l"), ("delete", "k")]
    for long in (
        lambda: store.set("k", (io.BytesIO(), {}), if_none_match="*"),
        lambda: store.delete("l", if_match="etag"),
        lambda: store.set_metadata("l", {}),
        lambda: store.transaction().__enter__(),
    ):
        with pytest.raises(AssertionError, match="long way"):
            long()


def test_progress_is_told_of_small_data_too(store):
    events = []
    with store.event_manager.connect(StoreProgressEvent, events.append):
        store.from_bytes("k", b"abc")
    assert [getattr(event, "step", None) for event in events] == [None, 3, None]
    store.from_bytes("k", b"abc")
    assert len(events) == 3


def test_both_ways_make_the_same_record(store):
    class Long(DictMemoryStore):
        pass

    long = Long(event_manager=EventManager())
    assert store._direct
    assert not long._direct
    for each in (store, long):
        times = iter([100.0000004, 100.0, 99.0, 200.123456789, 300.0])
        each._clock = lambda times=times: next(times)
        each.set("k", (io.BytesIO(b"1"), {"n": (1,)}))
        each.set_data("k", io.BytesIO(b"22"))
        each.from_bytes("k", b"333")
        each.set("k", (io.BytesIO(b""), {}))
        each.set_data("l", io.BytesIO(b"4"))
    assert store._store == long._store
    assert stamps(store) == (100.0, 200.123457)


def test_a_subclass_may_change_every_step():
    class Upper(DictMemoryStore):
        def _make(self, key, old, staged, head):
            return super()._make(key, old, staged.upper(), head)

    store = Upper(event_manager=EventManager())
    store.set("k", (io.BytesIO(b"data"), {}))
    assert store.to_bytes("k") == b"DATA"


def test_a_change_that_was_overtaken_is_made_anew(store):
    """The clock is asked between the look at the old record and its replacement."""
    overtaken = []

    def clock():
        if not overtaken:
            overtaken.append(True)
            store.from_bytes("k", b"inner")
            overtaken.append(stamps(store)[1])
        return 100.0

    store._clock = clock
    store.set("k", (io.BytesIO(b"outer"), {}))
    assert store.to_bytes("k") == b"outer"
    assert overtaken[1] == 100.0
    assert stamps(store) == (100.0, 100.000001)


def test_a_transaction_that_begins_in_between_goes_first(store, monkeypatch):
    monkeypatch.setattr(dict_memory_store, "LOCK_TIMEOUT", 0.01)
    began, done = threading.Event(), threading.Event()

    def hold():
        with store.transaction():
            began.set()
            assert done.wait(60)
            store.from_bytes("k", b"first")

    thread = threading.Thread(target=hold)

    def clock():
        if not began.is_set():
            thread.start()
            assert began.wait(60)
        return 100.0

    store._clock = clock
    with pytest.raises(StoreError, match="locked by another thread"):
        store.set("k", (io.BytesIO(b"second"), {}))
    done.set()
    thread.join(60)
    assert store.to_bytes("k") == b"first"


def test_no_change_of_many_threads_is_lost(store):
    store._clock = lambda: 100.0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work(number):
            for _ in range(100):
                store.set("k", (io.BytesIO(b"%d" % number), {"n": number}))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    # Each has moved it by one microsecond.
    assert stamps(store) == (100.0, pytest.approx(100.000399, abs=1e-7))
    assert store.to_bytes("k") == b"%d" % store.get_metadata("k")["n"]


def test_a_transaction_keeps_the_short_way_out(store):
    store.from_bytes("k", b"0")
    began, waiting, read = threading.Event(), threading.Event(), threading.Event()

    def write():
        assert began.wait(60)
        waiting.set()
        store.set("k", (io.BytesIO(b"2"), {}))
        read.set()

    thread = threading.Thread(target=write)
    thread.start()
    with store.transaction():
        began.set()
        assert waiting.wait(60)
        assert store.to_bytes("k") == b"0"
        store.from_bytes("k", b"1")
        assert not read.is_set()
        assert store.to_bytes("k") == b"1"
    thread.join(60)
    assert store.to_bytes("k") == b"2"
    assert store._direct


FILES = {dict_memory_store.__file__}
SOURCE = Path(dict_memory_store.__file__).read_text("utf-8").splitlines()


def writes(store):
    return {
        "set": lambda: store.set("k", (io.BytesIO(b"outer"), {"n": 1})),
        "set_data": lambda: store.set_data("k", io.BytesIO(b"outer")),
        "new": lambda: store.from_bytes("new", b"outer"),
        "delete": lambda: store.delete("k"),
    }


def in_transaction(store):
    with store.transaction():
        store.from_bytes("k", b"inner")
        store.from_bytes("other", b"inner")


@pytest.mark.parametrize("write", ["set", "set_data", "new", "delete"])
@pytest.mark.parametrize(
    "action",
    [
        lambda store: store.from_bytes("other", b"inner"),
        lambda store: store.from_bytes("k", b"inner"),
        in_transaction,
        lambda store: store.exists("k") and store.delete("k"),
        lambda store: list(store.query(n=1)),
    ],
    ids=["other key", "same key", "transaction", "delete", "query"],
)
def test_what_runs_in_the_middle_of_a_change_uses_the_store(
    write, action, monkeypatch, interrupted
):
    """A signal handler, or a finalizer."""
    monkeypatch.setattr(dict_memory_store, "LOCK_TIMEOUT", 0.01)
    for number in range(1, 100):
        store = DictMemoryStore(event_manager=EventManager())
        store.set("k", (io.BytesIO(b"old"), {"n": 0}))
        before = stamps(store)
        events = []
        store.event_manager.connect(StoreModificationEvent, lambda e: events.append(e.key))  # noqa: B023
        try:
            inside = interrupted(writes(store)[write], FILES, number, lambda frame: action(store))  # noqa: B023
        except KeyError:
            assert write == "delete"  # it was deleted before
            inside = True
        if not inside:
            break
        assert store._direct
        if store.exists("k"):
            assert stamps(store)[1] > before[1] or write == "new"
        assert "k" in events or "new" in events
        store.from_bytes("k", b"after")
        with store.transaction():
            assert store.to_bytes("k") == b"after"
    assert 3 < number < 99


@pytest.mark.parametrize("write", ["set", "set_data", "new", "delete"])
def test_an_interrupt_in_the_middle_of_a_change_leaves_no_lock(write, monkeypatch, interrupted):
    monkeypatch.setattr(dict_memory_store, "LOCK_TIMEOUT", 0.01)
    releasing = {"finally:", "try:", "moment.release()", "except RuntimeError:", "pass"}
    interrupts = 0

    def interrupt(frame):
        # What comes in while a lock is being released cannot be helped, in a with statement neither.
        if SOURCE[frame.f_lineno - 1].strip() not in releasing:
            raise KeyboardInterrupt

    for number in range(1, 100):
        store = DictMemoryStore(event_manager=EventManager())
        store.set("k", (io.BytesIO(b"old"), {"n": 0}))
        try:
            inside = interrupted(writes(store)[write], FILES, number, interrupt)
        except KeyboardInterrupt:
            interrupts += 1
        else:
            if not inside:
                break
        pairs = {(data, metadata.get("n")) for data, metadata, _, _ in store._store.values()}
        assert pairs <= {(b"old", 0), (b"outer", 0), (b"outer", 1), (b"outer", None)}
        thread = threading.Thread(target=store.from_bytes, args=("other", b"x"), daemon=True)
        thread.start()
        thread.join(10)
        assert store.exists("other")
        with store.transaction():
            store.from_bytes("k", b"after")
    assert interrupts > 3


# Pages


@pytest.fixture
def walks(store, monkeypatch):
    """What is there when all keys are looked at."""
    found = []

    def load_keys():
        found.append(len(store._store))
        return DictMemoryStore._load_keys(store)

    monkeypatch.setattr(store, "_load_keys", load_keys)
    return found


def fill(store, count):
    for number in range(count):
        store.from_bytes(f"key{number:05}", b"")


def page_of(store, prefix="", start_after=None, limit=None):
    """What keys() should return, without an order."""
    keys = sorted(key for key in store.query_keys() if key.startswith(prefix))
    return [key for key in keys if start_after is None or key > start_after][:limit]


def test_pages_do_not_look_at_all_keys(store, walks):
    fill(store, 1000)
    assert list(store.keys(limit=2)) == ["key00000", "key00001"]
    assert list(store.keys(start_after="key00001", limit=2)) == ["key00002", "key00003"]
    assert len(walks) == 2
    # Nor do they when something has changed.
    store.delete("key00004")
    store.from_bytes("key00005a", b"")
    with store.transaction():
        store.delete("key00006")
        store.from_bytes("key00007a", b"")
        assert list(store.keys(start_after="key00003", limit=2)) == ["key00005", "key00005a"]
    expected = ["key00005", "key00005a", "key00007", "key00007a"]
    assert list(store.keys(start_after="key00003", limit=4)) == expected
    assert list(store.keys("key0099")) == [f"key0099{digit}" for digit in range(10)]
    for number in range(3):
        store.delete(f"key{number:05}")
    assert list(store.keys(limit=1)) == ["key00003"]
    assert len(walks) == 2


def test_the_order_is_made_anew_where_much_has_changed(store, walks):
    fill(store, 1000)
    for _ in range(2):
        list(store.keys(limit=1))
    for number in range(200):
        store.from_bytes(f"new{number:05}", b"")
    assert list(store.keys("new", limit=2)) == ["new00000", "new00001"]
    assert list(store.keys("new", limit=2)) == ["new00000", "new00001"]
    assert len(walks) == 3


def test_there_is_no_order_for_those_who_only_write(store, walks):
    fill(store, 1000)
    assert store._order is None
    for _ in range(2):
        list(store.keys(limit=1))
    assert len(store._order.keys) == 1000
    fill(store, 1000)
    assert not store._order.changed
    for number in range(500):
        store.from_bytes(f"new{number:05}", b"")
    assert store._order.keys is store._order.changed is None
    del walks[:]
    # For a single page all keys are not sorted.
    assert list(store.keys("new0049", limit=2)) == ["new00490", "new00491"]
    assert store._order.keys is None
    assert len(walks) == 1


def test_what_others_plant_is_in_the_pages(store):
    fill(store, 10)
    for _ in range(3):
        list(store.keys(limit=1))
    store._store["a"] = (b"", {}, 1.0, 1.0)
    del store._store["key00000"], store._store["key00001"]
    assert list(store.keys(limit=2)) == ["a", "key00002"]
    store._store = {}
    assert list(store.keys(limit=2)) == []


def test_an_order_is_not_pickled(store):
    fill(store, 10)
    for _ in range(2):
        list(store.keys(limit=1))
    twin = pickle.loads(pickle.dumps(store))
    assert twin._order is None
    assert list(twin.keys(limit=1)) == ["key00000"]


@pytest.mark.parametrize("seed", range(8))
def test_pages_of_a_store_that_changes(store, seed):
    chance = random.Random(seed)
    names = [a + b + c for a in "abé\U0010ffff" for b in "/x" for c in "123456789"]

    for key in chance.sample(names, 40):
        store.from_bytes(key, b"")

    def change():
        key = chance.choice(names)
        if chance.random() < 0.4 and store.exists(key):
            store.delete(key)
        else:
            store.from_bytes(key, b"")

    def look():
        page = {
            "prefix": chance.choice(["", "", "a", "b/", "\U0010ffff", "z"]),
            "start_after": chance.choice([None, "", "a/5", "b", "é", "\U0010ffffx9"]),
            "limit": chance.choice([None, 0, 1, 3, 100]),
        }
        assert list(store.keys(**page)) == page_of(store, **page)

    for _ in range(60):
        for _ in range(chance.choice([0, 1, 5])):
            change()
        look()
        try:
            with store.transaction():
                for _ in range(chance.choice([0, 2])):
                    change()
                    look()
                if chance.random() < 0.3:
                    raise LookupError
        except LookupError:
            pass
        look()


@pytest.fixture
def uncounted(monkeypatch):
    """That the number of keys is wrong would be noticed, too."""
    monkeypatch.setattr(DictMemoryStore, "_is_whole", lambda *args: True)


# In the middle of these lines there is neither a call nor a jump.
STEPS = {"store[key] = record", "old = self._store.pop(key, None)", "store.update(records)"}


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("write", ["set", "new", "delete", "transaction"])
def test_pages_in_the_middle_of_a_change_miss_nothing(write, asked, interrupted):
    def pages(frame):
        if SOURCE[frame.f_lineno - 1].strip() not in STEPS:
            for _ in range(2):
                list(store.keys(limit=1))

    def in_transaction():
        with store.transaction():
            store.from_bytes("k2", b"")
            store.delete("k")

    for number in range(1, 200):
        store = DictMemoryStore(event_manager=EventManager())
        store.from_bytes("k", b"")
        for _ in range(asked):
            list(store.keys(limit=1))
        change = {**writes(store), "transaction": in_transaction}[write]
        inside = interrupted(change, FILES, number, pages)
        assert list(store.keys(limit=9)) == page_of(store)
        assert list(store.keys(limit=9)) == page_of(store)
        if not inside:
            break
    assert 3 < number < 199


@pytest.mark.usefixtures("uncounted")
def test_changes_in_the_middle_of_a_page_are_missed_by_no_later_one(interrupted):
    def change(frame):
        store.from_bytes("new", b"")
        store.delete("k")

    for number in range(1, 200):
        store = DictMemoryStore(event_manager=EventManager())
        for key in ("a", "k", "z"):
            store.from_bytes(key, b"")
        list(store.keys(limit=1))
        got = []
        inside = interrupted(lambda: got.extend(store.keys(limit=9)), FILES, number, change)  # noqa: B023
        assert [key for key in got if key in "az"] == ["a", "z"]
        for _ in range(2):
            assert list(store.keys(limit=9)) == page_of(store)
        if not inside:
            break
    assert 10 < number < 199


def test_a_commit_in_the_middle_of_a_page_is_seen_whole_or_not_at_all(interrupted):
    def change(frame):
        with store.transaction():
            store.delete("k")
            store.from_bytes("l", b"")

    for number in range(1, 200):
        store = DictMemoryStore(event_manager=EventManager())
        for key in ("a", "k", "z"):
            store.from_bytes(key, b"")
        for _ in range(2):
            list(store.keys(limit=1))
        for key in ("k", "l"):
            store.from_bytes(key, b"")
        store.delete("l")
        got = []
        inside = interrupted(lambda: got.extend(store.keys(limit=9)), FILES, number, change)  # noqa: B023
        assert got in (["a", "k", "z"], ["a", "l", "z"])
        if not inside:
            break
    assert 10 < number < 199


def test_pages_see_all_of_a_transaction_or_nothing(store):
    fill(store, 50)
    store.from_bytes("a", b"")
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            page = list(store.keys(limit=99))
            if [key for key in page if not key.startswith("key")] not in (["a"], ["b", "c"]):
                failures.append(page)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for old, new in [(["a"], ["b", "c"]), (["b", "c"], ["a"])] * 100:
            with store.transaction():
                for key in old:
                    store.delete(key)
                for key in new:
                    store.from_bytes(key, b"")
        stop.set()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert list(store.keys(limit=99)) == page_of(store)


def test_data_in_memory_are_not_copied(store, tmp_path):
    data = os.urandom(1 << 20)
    store.set("k", (io.BytesIO(data), {}))
    assert store._store["k"][0] is data
    store.from_bytes("l", data)
    assert store.to_bytes("l") is data


@pytest.mark.parametrize("buffering", [0, 1 << 16])
def test_a_large_file_is_held_once(store, tmp_path, buffering):
    size = 1 << 24
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    with path.open("rb", buffering) as file:
        tracemalloc.start()
        try:
            store.from_file("k", file, 1 << 16)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert not file.closed
    assert store.get("k").size == size
    assert peak < 1.3 * size


def test_files_of_all_kinds(store, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    store.from_file("path", path)
    with path.open("rb") as file:
        file.read(3)
        store.from_file("from its position", file)
        store.from_file("at its end", file)
        assert file.tell() == 10
    with pytest.raises(ValueError, match="closed"):
        store.from_file("closed", file)
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        store.from_file("pipe", pipe)

    class Slow(io.FileIO):
        def readall(self):
            raise AssertionError("more was asked for than the size of a buffer")

    with io.BufferedReader(Slow(path)) as file:
        store.set("raw", (file, {}), 3)
    contents = {key: store.to_bytes(key) for key in store.query_keys()}
    assert contents == {
        "path": b"0123456789",
        "from its position": b"3456789",
        "at its end": b"",
        "pipe": b"piped",
        "raw": b"0123456789",
    }


def test_a_value_of_the_store_is_copied_whole(planted):
    planted.set("copy", planted.get("k"))
    planted._store["k"][1]["b"].append(3)
    planted._store["k"][1]["c"] = 1
    assert planted.get_metadata("copy") == {"a": 1, "b": [1, 2]}
