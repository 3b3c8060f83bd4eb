"""Several stores as one."""

from __future__ import annotations

import errno
import inspect
import io
import random
import tempfile
import threading
import unittest
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from unittest import mock

import pytest
from layer_kits import TwoLayers
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit

from encore.events.event_manager import EventManager
from encore.storage.abstract_store import AbstractStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import PreconditionError, StoreError, StoreOSError
from encore.storage.events import StoreModificationEvent, StoreProgressEvent
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.joined_store import JoinedStore
from encore.storage.maintenance import Finding
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.string_value import StringValue
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store, random_steps, same, transcript


class Joined(TwoLayers):
    def combine(self, first, lower, event_manager=None):
        return JoinedStore([first, lower], event_manager=event_manager)


class FilledBelow(Joined):
    """What the kit begins with is in the lower store."""

    def fill(self, contents):
        first, lower = self.store.stores
        for key in contents:
            if first.exists(key):
                first.delete(key)
        everything, self.store = self.store, lower
        super().fill(contents)
        self.store = everything
        return self.store

    @contextmanager
    def failing_commit(self, store):
        # Nothing is promised across stores, so that one alone would leave it half done.
        with super().failing_commit(store), super(TwoLayers, self).failing_commit(store.stores[1]):
            yield

    def damage(self, store, key):
        return False


class TestJoinedDictMemoryStores(Joined, DictKit, unittest.TestCase):
    pass


class TestJoinedSqliteStores(FilledBelow, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestJoinedDictMemoryStoresFilledBelow(FilledBelow, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestJoinedFileSystemStores(FilledBelow, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestJoinedLockingFileSystemStores(Joined, LockingFileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestJoinedTwice(Joined, SqliteKit, unittest.TestCase):
    """Two wrappers deep."""

    def combine(self, first, lower, event_manager=None):
        inner = JoinedStore([first, lower], event_manager=EventManager())
        lowest = DictMemoryStore(event_manager=EventManager())
        return JoinedStore([inner, lowest], event_manager=event_manager)

    def members(self, store):
        return store.stores[0].stores

    def process_store(self, store):
        return store


# A model


class Sinking(JoinedStore):
    """A store whose keys go down by themselves now and then, which nobody should notice."""

    def sink(self, key):
        first, *lower = self.stores
        dice = self.__dict__.setdefault("dice", random.Random(1))
        if self._depth() or not first.exists(key):
            return
        target = dice.choice(lower)
        if dice.random() < 0.3:
            target.set(key, (io.BytesIO(b"below another"), {"n": 1, "old": True}))
            return
        target.set(key, first.get(key))
        for layer in lower:
            if layer is target:
                break
            if layer.exists(key):
                layer.delete(key)
        first.delete(key)

    # What the sequences look at, outside of what they compare.

    def exists(self, key):
        self.sink(key)
        return super().exists(key)

    def glob(self, pattern):
        for key in list(super().query_keys()):
            self.sink(key)
        return super().glob(pattern)


def sinking(event_manager):
    stores = [DictMemoryStore(event_manager=EventManager()) for _ in range(3)]
    return Sinking(stores, event_manager=event_manager)


@pytest.mark.parametrize("seed", range(30))
def test_it_does_what_the_model_does(seed):
    check_store(sinking, seed, 150)


def test_its_transcript_is_that_of_a_plain_store():
    steps = random_steps(1234, 400)
    plain = transcript(lambda manager: DictMemoryStore(event_manager=manager), steps)
    assert same(transcript(sinking, steps), plain)


@pytest.mark.slow
def test_long_sequences():
    for _ in range(50):
        seed = random.randrange(10**9)
        print("seed", seed)
        check_store(sinking, seed, 1000)


# What it is made of


def new(*contents, kind=JoinedStore):
    """A joined store, the events of all, and its members."""
    manager = EventManager()
    stores = [DictMemoryStore(event_manager=manager) for _ in contents]
    for store, keys in zip(stores, contents, strict=True):
        for key, (data, metadata) in keys.items():
            store.set(key, (io.BytesIO(data), metadata))
    joined = kind(stores, event_manager=manager)
    events = Events()

    def listen(event):
        source = joined if event.source is joined else stores.index(event.source)
        events.append((source, event.action, event.key, event.metadata))

    manager.connect(StoreModificationEvent, listen)
    events.listener = listen
    return joined, events, stores


class Events(list):
    listener = None


def own(events, joined):
    """What the joined store itself told."""
    return [event[1:] for event in events if event[0] is joined]


def contents(store):
    return {key: (store.to_bytes(key), metadata) for key, metadata in store.query()}


def test_it_takes_stores():
    one = DictMemoryStore(event_manager=EventManager())
    with pytest.raises(ValueError, match="at least one"):
        JoinedStore([])
    with pytest.raises(ValueError, match="only once"):
        JoinedStore([one, DictMemoryStore(), one])
    for wrong in (one, None, 5, [one, None], "ab", [one, "b"]):
        with pytest.raises(TypeError, match="store"):
            JoinedStore(wrong)
    with pytest.raises(TypeError, match="event_manager="):
        JoinedStore([one], EventManager())
    with pytest.raises(TypeError, match="event_manager="):
        JoinedStore(EventManager(), [one])
    with pytest.raises(TypeError, match="one positional"):
        JoinedStore([one], one)
    assert JoinedStore(iter([one])).stores == [one]
    assert repr(one) in repr(JoinedStore([one]))


def test_the_first_that_holds_a_key_counts():
    joined, _, _ = new(
        {"a": (b"0", {"n": 0})},
        {"a": (b"1", {"n": 1, "m": 1}), "b": (b"1", {"n": 1})},
        {"a": (b"2", {"n": 2}), "b": (b"2", {"n": 2, "m": 1}), "c": (b"2", {"n": 2})},
    )
    expected = {"a": (b"0", {"n": 0}), "b": (b"1", {"n": 1}), "c": (b"2", {"n": 2})}
    assert contents(joined) == expected
    for key, (data, metadata) in expected.items():
        value = joined.get(key)
        assert (value.data.read(), value.metadata) == (data, metadata)
        assert joined.get_metadata(key, iter(["n"])) == metadata
        assert joined.get_data(key).read() == joined.get_data_range(key, 0, 5).read() == data
        assert joined.exists(key)
    assert sorted(joined.query_keys()) == sorted(joined.glob("?")) == list(joined.keys())
    assert list(joined.query(n=1)) == [("b", {"n": 1})]
    assert list(joined.query(n=2)) == [("c", {"n": 2})]
    # What is covered is not found.
    assert list(joined.query(m=1)) == list(joined.query_keys(m=1)) == []
    assert list(joined.query_keys(where={"n": 0})) == ["a"]
    assert list(joined.query(select=iter(["m"]), n=1)) == [("b", {})]


def test_a_key_that_is_nowhere():
    joined, _, _ = new({}, {})
    for call in (joined.get, joined.get_data, joined.get_metadata, joined.delete, joined.to_bytes):
        with pytest.raises(KeyError) as caught:
            call("no")
        assert caught.value.args == ("no",)
    with pytest.raises(KeyError):
        joined.update_metadata("no", {})
    with pytest.raises(KeyError):
        joined.move("no", "other")


def test_listings_with_odd_names_of_metadata():
    joined, _, _ = new({}, {"a": (b"", {"select": 1, "where": 2, "self": 3})})
    joined_08 = JoinedStore([DictMemoryStore(), Old({"a": (b"", {"select": 1, "self": 3})})])
    assert list(joined.query_keys(where={"select": 1, "where": 2})) == ["a"]
    assert list(joined.query_keys(where={"select": 2})) == []
    assert list(joined_08.query_keys(where={"select": 1})) == ["a"]
    assert list(joined_08.query(["self"], where={"select": 1})) == [("a", {"self": 3})]


class Old(AbstractStore):
    """A store as it was written for 0.8."""

    def __init__(self, contents):
        super().__init__(event_manager=EventManager())
        self.contents = dict(contents)

    def get(self, key):
        data, metadata = self.contents[key]
        return StringValue(data, metadata)

    def query(self, select=None, **kwargs):
        for key, (_, metadata) in list(self.contents.items()):
            if all(metadata.get(name) == value for name, value in kwargs.items()):
                names = metadata if select is None else select
                yield key, {name: metadata[name] for name in names if name in metadata}

    def set(self, key, value, buffer_size=1):
        data, metadata = (value.data, value.metadata) if isinstance(value, Value) else value
        self.contents[key] = data.read(), metadata

    def delete(self, key):
        del self.contents[key]


def test_stores_of_08_can_be_joined():
    first, lower = Old({}), Old({"a": (b"1", {"n": 1}), "b": (b"2", {})})
    manager = EventManager()
    joined = JoinedStore([first, lower], event_manager=manager)
    events = []

    def listen(event):
        events.append((event.action, event.key, event.metadata))

    manager.connect(StoreModificationEvent, listen)
    assert joined.info()["conditional"] is joined.info()["transactional"] is False
    joined.update_metadata("a", {"m": 2})
    joined.set_data("b", io.BytesIO(b"new"))
    joined.set("c", (io.BytesIO(b"3"), {}))
    assert first.contents == {"a": (b"1", {"n": 1, "m": 2}), "b": (b"new", {}), "c": (b"3", {})}
    joined.move("a", "d")
    joined.delete("b")
    assert (list(joined.keys()), list(lower.contents)) == (["c", "d"], [])
    assert events == [
        ("update", "a", {"n": 1, "m": 2}),
        ("update", "b", {}),
        ("set", "c", {}),
        ("set", "d", {"n": 1, "m": 2}),
        ("delete", "a", {"n": 1, "m": 2}),
        ("delete", "b", {}),
    ]
    with pytest.raises(NotImplementedError):
        joined.delete("c", if_match="x")


# Writing


@pytest.mark.parametrize(
    ("change", "data", "metadata"),
    [
        (lambda store: store.set_metadata("a", {"k": 1}), b"below", {"k": 1}),
        (lambda store: store.update_metadata("a", {"k": 1}), b"below", {"n": 1, "k": 1}),
        (lambda store: store.multiupdate_metadata(["a"], [{"k": 1}]), b"below", {"n": 1, "k": 1}),
        (lambda store: store.set_data("a", io.BytesIO(b"new")), b"new", {"n": 1}),
        (lambda store: store.from_bytes("a", b"new"), b"new", {"n": 1}),
        (lambda store: store.mapping().update(a=b"new"), b"new", {"n": 1}),
        (lambda store: store.set("a", (io.BytesIO(b"new"), {})), b"new", {}),
        (lambda store: store.copy("a", "a"), b"below", {"n": 1}),
    ],
)
@pytest.mark.parametrize("conditional", [False, True])
def test_what_is_changed_comes_up_as_a_pair(change, data, metadata, conditional):
    class Conditional(JoinedStore):
        def _write(self, call, method, key, /, *args, **conditions):
            if conditional:
                conditions["if_match"] = self.get(key).etag
            super()._write(call, method, key, *args, **conditions)

    joined, events, (first, middle, lowest) = new(
        {}, {"a": (b"below", {"n": 1})}, {"a": (b"lowest", {"n": 2})}, kind=Conditional
    )
    change(joined)
    assert contents(first) == contents(joined) == {"a": (data, metadata)}
    assert contents(middle) == {"a": (b"below", {"n": 1})}
    assert contents(lowest) == {"a": (b"lowest", {"n": 2})}
    # In one change, of which each store has its own opinion.
    assert [event[1:] for event in events] == [("set", "a", metadata), ("update", "a", metadata)]


@pytest.mark.parametrize("method", ["set", "set_data", "set_metadata", "update_metadata"])
def test_conditions_are_those_of_what_is_seen(method):
    def do(**conditions):
        arguments = {
            "set": ((io.BytesIO(b"new"), {"new": 1}),),
            "set_data": (io.BytesIO(b"new"),),
            "set_metadata": ({"new": 1},),
            "update_metadata": ({"new": 1},),
        }
        getattr(joined, method)("a", *arguments[method], **conditions)

    joined, events, (first, lower) = new({}, {"a": (b"below", {"n": 1})})
    with pytest.raises(PreconditionError):
        do(if_none_match="*")
    with pytest.raises(PreconditionError):
        do(if_match="stale")
    assert (contents(first), events[:]) == ({}, [])
    etag = joined.get("a").etag
    do(if_match=etag)
    assert joined.get("a").etag != etag
    with pytest.raises(PreconditionError):
        do(if_match=lower.get("a").etag)
    do(if_match=joined.get("a").etag)
    assert [event[1] for event in events if event[0] is joined] == ["update", "update"]


def test_a_stream_is_not_used_up_for_a_condition_that_does_not_hold():
    joined, _, _ = new({}, {"a": (b"below", {})})
    stream = io.BytesIO(b"data")
    with pytest.raises(PreconditionError):
        joined.set("a", (stream, {}), if_none_match="*")
    assert stream.tell() == 0


def test_a_caller_s_stream_is_read_while_others_can_write():
    joined, _, (first, _) = new({}, {"a": (b"below", {"n": 1}), "b": (b"", {})})
    read = []

    class Stream(io.BytesIO):
        def read(self, size=-1, /):
            thread = threading.Thread(target=first.from_bytes, args=("other", b""))
            thread.start()
            thread.join(10)
            read.append(thread.is_alive())
            return super().read(size)

    joined.set_data("a", Stream(b"x" * 10))
    joined.set("b", (Stream(b"y"), {}), if_match=joined.get("b").etag)
    assert read
    assert not any(read)
    assert joined.to_bytes("a") == b"x" * 10


def test_large_values_are_not_kept_in_memory(monkeypatch):
    monkeypatch.setattr("encore.storage._copies.IN_MEMORY", 1000)
    files = []
    make = tempfile.TemporaryFile

    def temporary(*args, **kwargs):
        files.append(make(*args, **kwargs))
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    data = bytes(range(256)) * 20
    joined, _, _ = new({}, {"a": (data, {}), "b": (b"", {"n": 1}), "small": (b"x" * 1000, {})})
    joined.update_metadata("a", {"n": 2})
    joined.set_data("b", io.BytesIO(data), 100)
    joined.update_metadata("small", {"n": 3})
    assert contents(joined)["a"] == (data, {"n": 2})
    assert contents(joined)["b"] == (data, {"n": 1})
    assert len(files) == 2
    assert all(file.closed for file in files)


def test_a_full_disk_keeps_what_was_there(monkeypatch):
    monkeypatch.setattr("encore.storage._copies.IN_MEMORY", 0)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    joined, events, _ = new({}, {"a": (b"below", {"n": 1})})
    with pytest.raises(StoreOSError) as caught:
        joined.set_data("a", io.BytesIO(b"data"))
    assert caught.value.errno == errno.ENOSPC
    assert (contents(joined), events[:]) == ({"a": (b"below", {"n": 1})}, [])


def test_progress_is_told_once():
    joined, _, stores = new({}, {"a": (b"x" * 25, {"n": 1})})
    manager = joined.event_manager = EventManager()
    for store in stores:
        store.event_manager = EventManager()
    steps = []

    def listen(event):
        steps.append((type(event).__name__, event.source, getattr(event, "step", None)))

    manager.connect(StoreProgressEvent, listen)
    joined.set_data("a", io.BytesIO(b"y" * 25), 10)
    assert [step for _, _, step in steps[1:-1]] == [10, 20, 25]
    assert {source for _, source, _ in steps} == {joined}


@pytest.mark.parametrize("late", ["lower", "upper"])
def test_it_begins_again_if_the_layers_change_meanwhile(late):
    joined, _, (first, lower) = new({}, {"a": (b"below", {"n": 1})})
    find, done = joined._find, []

    def finding(key):
        found = find(key)
        if not done:
            done.append(True)
            store = lower if late == "lower" else first
            store.set("a", (io.BytesIO(b"late"), {"m": 1}))
        return found

    joined._find = finding
    joined.update_metadata("a", {"k": 1})
    assert contents(joined) == {"a": (b"late", {"m": 1, "k": 1})}


def race(*functions):
    """What functions return that are called at once, or what they raise."""
    barrier = threading.Barrier(len(functions))
    results = [None] * len(functions)

    def run(number):
        barrier.wait(20)
        try:
            results[number] = functions[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_of_several_writers_with_one_condition_one_wins():
    for number in range(30):
        joined, _, stores = new({}, {"a": (b"below", {"n": 1})})
        etag = joined.get("a").etag
        one, other = [JoinedStore(stores, event_manager=EventManager()) for _ in range(2)]
        results = race(
            partial(joined.delete, "a", if_match=etag),
            partial(one.set_metadata, "a", {"by": 2}, if_match=etag),
            partial(other.set, "a", (io.BytesIO(b"new"), {"by": 3}), if_match=etag),
            partial(joined.set_data, "a", io.BytesIO(b"by 4"), if_match=etag),
            partial(joined.update_metadata, "a", {"by": 5}, if_match=etag),
        )
        winners = [n for n, result in enumerate(results) if result is None]
        assert len(winners) == 1, results
        losers = [result for result in results if result is not None]
        assert all(isinstance(loser, PreconditionError) for loser in losers), results
        expected = [
            {},
            {"a": (b"below", {"by": 2})},
            {"a": (b"new", {"by": 3})},
            {"a": (b"by 4", {"n": 1})},
            {"a": (b"below", {"n": 1, "by": 5})},
        ]
        assert contents(joined) == expected[winners[0]], number


def test_what_is_deleted_does_not_come_up_again():
    for _ in range(30):
        joined, _, _ = new({}, {"a": (b"below", {"n": 1})})
        deleted, updated = race(
            partial(joined.delete, "a"), partial(joined.update_metadata, "a", {"m": 1})
        )
        assert deleted is None
        assert updated is None or isinstance(updated, KeyError)
        assert contents(joined) == {}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file system"])
@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.set_metadata("a", {"k": 1}),
        lambda store: store.update_metadata("a", {"k": 1}),
        lambda store: store.set_data("a", io.BytesIO(b"new")),
        lambda store: store.set("a", (io.BytesIO(b"new"), {})),
        lambda store: store.set("a", (io.BytesIO(), {}), if_match=store.get("a").etag),
    ],
)
def test_a_key_that_comes_up_keeps_when_it_came_to_be(change, kind, tmp_path):
    def store(name):
        if kind == "memory":
            return DictMemoryStore(event_manager=EventManager())
        if kind == "sqlite":
            return SqliteStore(tmp_path / name, durability="process")
        init_shared_store(tmp_path / name)
        return FileSystemStore(tmp_path / name, durability="process")

    with JoinedStore([PrefixStore(store("first"), "p/"), store("lower")]) as joined:
        joined.stores[1].from_bytes("a", b"below")
        before = joined.get("a")
        change(joined)
        after = joined.get("a")
        assert joined.stores[0].exists("a")
        assert after.created == before.created
        assert after.modified > before.modified
        # It is not that of others.
        joined.from_bytes("b", b"")
        assert joined.get("b").created > before.created
        joined.stores[0].from_bytes("c", b"")
        assert joined.get("c").created > before.created


def test_set_works_while_a_lower_store_is_out_of_reach():
    joined, events, (first, lower) = new({}, {"a": (b"below", {})})
    with mock.patch.object(lower, "_record", side_effect=StoreError("out of reach")):
        joined.set("a", (io.BytesIO(b"new"), {}))
        with pytest.raises(StoreError, match="out of reach"):
            joined.set("b", (io.BytesIO(), {}), if_none_match="*")
        with pytest.raises(StoreError, match="out of reach"):
            joined.set_metadata("b", {})
    assert contents(first) == {"a": (b"new", {})}
    assert own(events, joined) == [("set", "a", {})]


# Deleting


def test_delete_leaves_no_copy():
    joined, events, stores = new(
        {"a": (b"0", {"n": 0})}, {"a": (b"1", {"n": 1}), "b": (b"1", {"n": 1})}, {"a": (b"2", {})}
    )
    joined.delete("a")
    joined.delete("b")
    assert [contents(store) for store in stores] == [{}, {}, {}]
    assert own(events, joined) == [("delete", "a", {"n": 0}), ("delete", "b", {"n": 1})]
    # From the bottom to the top, and the whole at the end.
    assert [event[0] for event in events] == [2, 1, 0, joined, 1, joined]


class Locked(WrapperStore):
    """A store that says that it can only be read."""

    def info(self):
        return {**super().info(), "readonly": True}

    def delete(self, key, **conditions):
        raise AssertionError("it was asked to delete")


@pytest.mark.parametrize("readonly", [ReadOnlyStore, Locked])
@pytest.mark.parametrize("level", [0, 1])
def test_delete_touches_nothing_where_it_cannot_delete_all(readonly, level):
    copies = {"a": (b"1", {"n": 1})}
    joined, events, stores = new({} if level else copies, copies, copies)
    layers = [stores[0], readonly(stores[1]), stores[2]]
    store = JoinedStore(layers, event_manager=joined.event_manager)
    before = [contents(each) for each in stores]
    for call in (
        lambda: store.delete("a"),
        lambda: store.move("a", "b"),
        lambda: store.delete("a", if_match=store.get("a").etag),
    ):
        with pytest.raises(StoreError, match="can only be read"):
            call()
        with pytest.raises(StoreError, match="can only be read"), store.transaction():
            call()
        assert [contents(each) for each in stores] == before
        assert events[:] == []
    store.set_metadata("a", {"m": 1})
    assert contents(store) == {"a": (b"1", {"m": 1})}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_end_in_the_middle_of_delete_changes_nothing_that_is_seen(number):
    joined, events, stores = new(*[{"a": (b"%d" % n, {"n": n})} for n in range(3)])
    with (
        mock.patch.object(stores[number], "delete", side_effect=StoreError("it ends")),
        pytest.raises(StoreError, match="it ends"),
    ):
        joined.delete("a")
    assert contents(joined) == {"a": (b"0", {"n": 0})}
    assert own(events, joined) == []
    joined.delete("a")
    assert [contents(store) for store in stores] == [{}, {}, {}]


def test_no_lock_is_held_while_listeners_hear_of_deletes_below():
    joined, _, (first, _) = new({}, {"a": (b"", {}), "b": (b"", {})})
    written = []

    def write(event):
        written.append(event.source)
        results = race(lambda: first.from_bytes(f"by a listener {len(written)}", b""))
        assert results == [None]

    joined.event_manager.connect(StoreModificationEvent, write, {"key": "a"})
    joined.delete("a")
    joined.event_manager.connect(StoreModificationEvent, write, {"key": "b"})
    joined.delete("b", if_match=joined.get("b").etag)
    assert written == [joined.stores[1], joined] * 2
    assert len(contents(first)) == 4


@pytest.mark.parametrize("first_comes", ["delete", "update"])
def test_who_comes_meanwhile_is_kept_away(first_comes):
    joined, _, (first, lower) = new({}, {"a": (b"below", {"n": 1})})
    results = []

    def attempt(call, *args):
        try:
            call(*args)
            results.append(None)
        except KeyError as error:
            results.append(error)

    delete, update = (joined.delete, "a"), (joined.update_metadata, "a", {"m": 1})
    store, method, other = (
        (lower, "delete", update) if first_comes == "delete" else (first, "set", delete)
    )
    threads = []
    real = getattr(store, method)

    def interrupted(*args, **kwargs):
        threads.append(threading.Thread(target=attempt, args=other))
        threads[0].start()
        # One that is let in would be done in this time; one that is not loses it.
        threads[0].join(0.1)
        assert threads[0].is_alive()
        real(*args, **kwargs)

    with mock.patch.object(store, method, interrupted):
        if first_comes == "delete":
            joined.delete("a")
        else:
            joined.update_metadata("a", {"m": 1})
    threads[0].join(20)
    assert contents(joined) == {}
    assert [type(result) for result in results] == [
        KeyError if first_comes == "delete" else type(None)
    ]


def test_conditions_of_delete():
    joined, events, (first, lower) = new({"a": (b"0", {})}, {"a": (b"1", {}), "b": (b"1", {})})
    for key in "ab":
        with pytest.raises(PreconditionError):
            joined.delete(key, if_match="stale")
        with pytest.raises(PreconditionError):
            joined.delete(key, if_none_match="*")
    with pytest.raises(PreconditionError):
        joined.delete("a", if_match=lower.get("a").etag)
    with pytest.raises(PreconditionError):
        joined.delete("no", if_match="etag")
    assert len(contents(lower)) == 2
    assert events[:] == []
    joined.delete("a", if_match=first.get("a").etag)
    joined.delete("b", if_match=lower.get("b").etag)
    assert contents(joined) == contents(lower) == {}


# Transactions


class Undone(Exception):
    pass


@contextmanager
def undone(store):
    """A transaction that fails at its end."""
    with suppress(Undone), store.transaction("undone"):
        yield
        raise Undone


def test_deletes_below_are_rolled_back():
    joined, events, stores = new({"c": (b"", {})}, {"a": (b"1", {"n": 1})}, {"b": (b"2", {})})
    before = [contents(store) for store in stores]
    with undone(joined):
        joined.set("new", (io.BytesIO(), {}))
        joined.delete("a")
        joined.delete("b")
        assert sorted(joined.query_keys()) == ["c", "new"]
        # Nobody else sees it.
        assert race(lambda: sorted(joined.query_keys())) == [["a", "b", "c"]]
    assert [contents(store) for store in stores] == before
    assert events[:] == []


def test_inner_and_outer_rollbacks():
    joined, events, (_, lower) = new({}, {key: (b"", {"k": key}) for key in "abcd"})

    def fail(*keys):
        with undone(joined):
            for key in keys:
                joined.delete(key)

    with joined.transaction("outer"):
        fail("a", "b")
        assert list(joined.keys()) == ["a", "b", "c", "d"]
        with joined.transaction("inner"):
            joined.delete("a")
            fail("b")
            joined.set_metadata("b", {"k": "new"})
        joined.set("e", (io.BytesIO(), {}))
        joined.delete("c")
        joined.set("a", (io.BytesIO(), {"again": 1}))
        assert list(joined.keys()) == ["a", "b", "d", "e"]
    assert own(events, joined) == [
        ("delete", "a", {"k": "a"}),
        ("update", "b", {"k": "new"}),
        ("set", "e", {}),
        ("delete", "c", {"k": "c"}),
        ("set", "a", {"again": 1}),
    ]
    assert sorted(lower.query_keys()) == ["b", "d"]
    with undone(joined):
        with joined.transaction("inner"):
            joined.delete("d")
        assert not joined.exists("d")
    assert joined.exists("d")


def test_lower_stores_are_committed_first():
    joined, _, stores = new({"a": (b"0", {})}, {"a": (b"1", {})})
    order = []
    for number, store in enumerate(stores):
        mock.patch.object(
            store, "_commit", lambda n=number, commit=store._commit: (order.append(n), commit())
        ).start()
    with joined.transaction():
        joined.delete("a")
    assert order == [1, 0]
    assert [contents(store) for store in stores] == [{}, {}]


def test_a_lower_store_that_fails_to_commit_rolls_the_others_back():
    joined, events, (first, _, lowest) = new({}, {"a": (b"1", {})}, {"a": (b"2", {})})

    def change():
        with joined.transaction():
            joined.set("b", (io.BytesIO(), {}))
            joined.delete("a")

    with (
        mock.patch.object(lowest, "_commit", side_effect=StoreError("it is full")),
        pytest.raises(StoreError, match="it is full"),
    ):
        change()
    assert contents(first) == {}
    assert own(events, joined) == []
    joined.set("b", (io.BytesIO(), {}))


def test_a_delete_is_refused_where_a_lower_store_has_no_transactions():
    first, old = DictMemoryStore(event_manager=EventManager()), Old({"a": (b"1", {})})
    joined = JoinedStore([first, old], event_manager=EventManager())
    with joined.transaction():
        joined.set_metadata("a", {"n": 1})
        with pytest.raises(StoreError, match="inside a transaction"):
            joined.delete("a")
        with pytest.raises(StoreError, match="inside a transaction"):
            joined.move("a", "b")
    assert contents(joined) == {"a": (b"1", {"n": 1})}
    joined.move("a", "b")
    assert contents(joined) == {"b": (b"1", {"n": 1})}
    assert old.contents == {}


def test_two_tables_of_one_database(tmp_path):
    path = tmp_path / "store.db"
    stores = [SqliteStore(path, table=name, durability="process") for name in ("one", "two")]
    with JoinedStore(stores) as joined:
        for number, store in enumerate(stores):
            store.from_bytes("both", b"%d" % number)
        stores[1].from_bytes("below", b"1")
        with joined.transaction(), pytest.raises(StoreError, match="inside a transaction"):
            # It would wait for itself.
            joined.delete("below")
        joined.delete("below")
        joined.move("both", "moved")
        assert contents(joined) == contents(stores[0]) == {"moved": (b"0", {})}
        assert contents(stores[1]) == {}


def test_two_parts_of_one_store():
    base = DictMemoryStore(event_manager=EventManager())
    stores = [PrefixStore(base, prefix, event_manager=EventManager()) for prefix in ("a/", "b/")]
    joined = JoinedStore(stores, event_manager=EventManager())
    for key in "xyz":
        base.from_bytes(f"b/{key}", b"")
    with joined.transaction():
        with joined.transaction():
            joined.delete("x")
        with undone(joined):
            joined.delete("y")
        joined.delete("z")
    assert list(base.keys()) == ["b/y"]
    joined.delete("y")
    assert list(base.keys()) == []


def test_writing_to_members_in_a_transaction_of_their_own():
    joined, events, (first, _) = new({}, {"a": (b"", {"n": 1})})
    with first.transaction():
        joined.update_metadata("a", {"m": 1})
        joined.set("b", (io.BytesIO(), {}))
        assert own(events, joined) == []
    assert own(events, joined) == [("update", "a", {"n": 1, "m": 1}), ("set", "b", {})]


# Listing


def test_pages():
    keys = [f"{prefix}{n}" for prefix in ("a", "b", "ü") for n in range(7)]
    dice = random.Random(5)
    parts = [{key: (b"", {}) for key in keys if dice.random() < 0.5} for _ in range(3)]
    joined, _, stores = new(*parts)
    everything = sorted({key for part in parts for key in part})
    assert list(joined.keys()) == everything
    for size in (1, 2, 3, 5, 100):
        found, after = [], None
        while page := list(joined.keys("", after, size)):
            assert len(page) <= size
            found += page
            after = page[-1]
        assert found == everything
    assert (
        list(joined.keys("b", "b2", 3))
        == [key for key in everything if key[0] == "b" and key > "b2"][:3]
    )
    assert list(joined.keys(limit=0)) == []
    # A page asks for no more than a page.
    for store in stores:
        mock.patch.object(store, "keys", wraps=store.keys).start()
    list(joined.keys("", "a3", 4))
    assert [store.keys.call_args.args for store in stores] == [("", "a3", 4)] * 3
    mock.patch.stopall()


def test_a_long_listing_goes_page_by_page(monkeypatch):
    monkeypatch.setattr("encore.storage._layers_reading._PAGE", 2)
    monkeypatch.setattr("encore.storage._layers_reading._LARGEST_PAGE", 4)
    keys = [f"{n:03}" for n in range(50)]
    joined, _, (first, lower) = new(
        {key: (b"", {}) for key in keys[::3]}, {key: (b"", {}) for key in keys[::2]}
    )
    expected = sorted({*keys[::3], *keys[::2]})
    assert list(joined.keys()) == expected
    found = []
    for key in joined.keys():  # noqa: SIM118 - no dict
        found.append(key)
        # What goes down on the way, and what is deleted.
        for other in keys[::3]:
            if other > key and first.exists(other) and not lower.exists(other):
                lower.set(other, first.get(other))
                first.delete(other)
                break
    assert found == expected


def test_what_was_done_is_told_even_if_the_layers_below_cannot_be_asked(monkeypatch):
    first, second = (DictMemoryStore(event_manager=EventManager()) for _ in range(2))
    store = JoinedStore([first, second], event_manager=EventManager())
    heard = []
    store.event_manager.connect(StoreModificationEvent, lambda event: heard.append(event.key))
    asked = []

    def fail(key):
        if asked:
            raise OSError("of a store that wraps nothing")
        return bool(asked.append(key))

    monkeypatch.setattr(second, "exists", fail)
    store.set_metadata("key", {})
    assert heard == ["key"]


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_store_has_committed_is_told_where_another_one_fails(monkeypatch, failing):
    stores = [DictMemoryStore(event_manager=EventManager()) for _ in range(2)]
    store = JoinedStore(stores, event_manager=EventManager())
    stores[1].from_bytes("gone", b"")
    heard = []
    store.event_manager.connect(StoreModificationEvent, lambda e: heard.append((e.action, e.key)))
    monkeypatch.setattr(stores[failing], "_commit", mock.Mock(side_effect=StoreError("full")))

    def change():
        with store.transaction():
            store.from_bytes("new", b"")
            store.delete("gone")

    with pytest.raises(StoreError, match="full"):
        change()
    assert heard == ([("delete", "gone")] if failing == 0 else [])
    assert list(store.keys()) == ([] if failing == 0 else ["gone"])


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_moved_from_below_is_not_lost_where_the_first_store_fails(monkeypatch, whole):
    """Whichever comes between: the source is still there, or the target is."""
    first, second = (DictMemoryStore(event_manager=EventManager()) for _ in range(2))
    store = JoinedStore([first, second], event_manager=EventManager())
    second.from_bytes("key", b"data")

    def fail():
        raise StoreError("disk full")

    monkeypatch.setattr(first, "_commit", fail)
    with (
        pytest.raises(StoreError, match="disk full"),
        store.transaction("mine") if whole else nullcontext(),
    ):
        store.move("key", "other")
    assert {key: store.to_bytes(key) for key in store.keys()} == {"key": b"data"}  # noqa: SIM118


@pytest.mark.parametrize("listing", ["query", "query_keys", "glob", "criteria"])
def test_a_key_that_moves_during_a_loop_appears_once(listing):
    everything = {key: (b"", {"n": 1}) for key in "abcdefgh"}
    joined, _, (first, lower) = new(
        {key: everything[key] for key in "abcd"}, {key: everything[key] for key in "efgh"}
    )
    walk = {
        "query": lambda: (key for key, _ in joined.query()),
        "criteria": lambda: (key for key, _ in joined.query(n=1)),
        "query_keys": joined.query_keys,
        "glob": lambda: joined.glob("?"),
    }[listing]()
    found = [next(walk)]
    for key in "bcd":
        lower.set(key, first.get(key))
        first.delete(key)
    joined.set_metadata("e", {"n": 1, "new": 1})
    joined.set_metadata("f", {"n": 1})
    found += walk
    assert sorted(found) == sorted(everything)


# Life cycle


class Connecting(DictMemoryStore):
    """A store that notes its life."""

    def __init__(self, log, fails=()):
        super().__init__(event_manager=EventManager())
        self.log, self.fails = log, fails

    def _open(self, credentials):
        if "connect" in self.fails:
            raise StoreError("it cannot be connected")
        self.log.append((self, "connect", credentials))

    def _close(self):
        self.log.append((self, "disconnect", None))
        if "disconnect" in self.fails:
            raise StoreError("it cannot be disconnected")


def test_it_connects_what_is_not_connected():
    log = []
    stores = [Connecting(log) for _ in range(3)]
    stores[1].connect()
    log.clear()
    joined = JoinedStore(stores)
    for _ in range(2):
        assert not joined.is_connected()
        joined.connect("credentials")
        joined.connect()
        assert joined.is_connected()
        joined.disconnect()
        joined.disconnect()
        assert [store.is_connected() for store in stores] == [False, True, False]
        assert log == [
            (stores[0], "connect", "credentials"),
            (stores[2], "connect", "credentials"),
            (stores[2], "disconnect", None),
            (stores[0], "disconnect", None),
        ]
        log.clear()
    # One that was lost in between.
    joined.connect()
    stores[0].disconnect()
    assert not joined.is_connected()
    joined.connect()
    joined.disconnect()
    assert [store.is_connected() for store in stores] == [False, True, False]


def test_if_one_cannot_be_connected_the_others_are_disconnected():
    log = []
    stores = [Connecting(log), Connecting(log), Connecting(log, ["connect"])]
    stores[1].connect()
    joined = JoinedStore(stores)
    with pytest.raises(StoreError, match="cannot be connected"):
        joined.connect()
    assert [store.is_connected() for store in stores] == [False, True, False]
    stores[2].fails = ()
    with joined:
        assert joined.is_connected()
    assert [store.is_connected() for store in stores] == [False, True, False]


def test_if_one_cannot_be_disconnected_the_others_are():
    log = []
    stores = [Connecting(log), Connecting(log, ["disconnect"]), Connecting(log)]
    joined = JoinedStore(stores)
    joined.connect()
    with pytest.raises(StoreError, match="cannot be disconnected"):
        joined.disconnect()
    assert [store.is_connected() for store in stores] == [False] * 3


def test_it_is_not_disconnected_inside_its_transaction():
    joined, _, _ = new({}, {})
    with joined:
        with joined.transaction(), pytest.raises(StoreError, match="transaction"):
            joined.disconnect()
        assert joined.is_connected()


def test_a_lower_store_that_is_not_connected(tmp_path):
    lower = SqliteStore(tmp_path / "store.db", durability="process")
    joined = JoinedStore([DictMemoryStore(), lower])
    for call in (
        lambda: joined.get("a"),
        lambda: joined.exists("a"),
        joined.query,
        joined.query_keys,
        joined.keys,
        lambda: joined.glob("*"),
        lambda: joined.delete("a"),
        lambda: joined.set_metadata("a", {}),
    ):
        with pytest.raises(StoreError, match="not connected"):
            call()


def test_a_first_store_that_can_only_be_read():
    _, _, stores = new({"a": (b"0", {})}, {"a": (b"1", {}), "b": (b"1", {})})
    for first in (ReadOnlyStore(stores[0]), WrapperStore(ReadOnlyStore(stores[0]))):
        joined = JoinedStore([first, stores[1]], event_manager=EventManager())
        info = joined.info()
        assert info["readonly"] is True
        assert info["transactional"] is info["conditional"] is False
        assert contents(joined) == {"a": (b"0", {}), "b": (b"1", {})}
        stream = io.BytesIO(b"data")
        for call in (
            partial(joined.set, "c", (stream, {})),
            partial(joined.set_data, "b", stream),
            partial(joined.from_bytes, "b", b""),
            partial(joined.set_metadata, "b", {}),
            partial(joined.update_metadata, "b", {}),
            partial(joined.delete, "b"),
            partial(joined.move, "b", "c"),
            partial(joined.copy, "b", "c"),
        ):
            with pytest.raises(StoreError, match="can only be read"):
                call()
        assert stream.tell() == 0
        with joined.transaction():
            pass
        assert contents(stores[1]) == {"a": (b"1", {}), "b": (b"1", {})}


def test_info_is_that_of_the_first_and_of_the_weakest(tmp_path):
    def sqlite(durability):
        return SqliteStore(tmp_path / f"{durability}.db", durability=durability)

    def info(*stores):
        return JoinedStore(stores).info()

    power, process = sqlite("power"), sqlite("process")
    old = Old({})
    assert info(power)["durable"] == "power"
    assert info(power, process)["durable"] == "process"
    assert info(power, DictMemoryStore())["durable"] == "none"
    assert info(power, process)["streaming"] is True
    assert info(power, DictMemoryStore())["streaming"] is False
    assert info(power, old)["transactional"] is info(power, old)["conditional"] is True
    assert info(old, power)["transactional"] is info(old, power)["conditional"] is False
    assert info(power, process)["type"] == "JoinedStore"


def test_check_tells_of_all_copies():
    class Damaged(DictMemoryStore):
        def check(self):
            return [Finding("a", "it is damaged")]

    joined = JoinedStore([DictMemoryStore(), Damaged()])
    joined.set("a", (io.BytesIO(), {}))
    assert joined.check() == [Finding("a", "it is damaged")]


def test_a_subclass_that_overrides_get_is_asked_by_all():
    class Shouting(JoinedStore):
        def get(self, key):
            value = super().get(key)
            return StringValue(value.data.read().upper(), {**value.metadata, "shouts": True})

    shouting = Shouting([DictMemoryStore(), DictMemoryStore()], event_manager=EventManager())
    shouting.set("a", (io.BytesIO(b"data"), {}))
    assert shouting.get_data("a").read() == shouting.to_bytes("a") == b"DATA"
    assert shouting.get_metadata("a") == {"shouts": True}


def test_a_subclass_that_overrides_set_is_called_by_all():
    class Stamping(JoinedStore):
        def set(self, key, value, buffer_size=1048576, **conditions):
            super().set(key, (value[0], {**value[1], "stamp": 1}), buffer_size, **conditions)

    stamping = Stamping([DictMemoryStore(), DictMemoryStore()], event_manager=EventManager())
    stamping.from_bytes("a", b"data")
    stamping.set_metadata("b", {"n": 1})
    assert contents(stamping) == {"a": (b"data", {"stamp": 1}), "b": (b"", {"n": 1, "stamp": 1})}


def test_its_signature_can_be_read():
    assert list(inspect.signature(JoinedStore).parameters) == ["stores", "event_manager"]

    class Own(JoinedStore):
        def __init__(self, one, other):
            super().__init__([one, other])

    assert list(inspect.signature(Own).parameters) == ["one", "other"]
