"""A store at a place among the keys of another one."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import random
import threading
import unittest
from contextlib import suppress
from fnmatch import fnmatchcase
from glob import escape
from itertools import count
from unittest import mock

import pytest
from layer_kits import TwoLayers
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit

from encore.events.event_manager import EventManager
from encore.events.package_globals import get_event_manager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import StoreEvent, StoreModificationEvent
from encore.storage.mounted_store import MountedStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.utils import DummyTransactionContext
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import (
    check_store,
    expected_transcript,
    random_steps,
    same,
    transcript,
)


class Mounted(TwoLayers):
    """The kit of a store that is mounted at the beginning of all keys."""

    def combine(self, first, lower, event_manager=None):
        return MountedStore("", first, lower, event_manager=event_manager)

    def members(self, store):
        return store.mount_store, store.backing_store


class UnderMountPoint(TwoLayers):
    """The kit of what is under a mount point, two wrappers deep."""

    def combine(self, first, lower, event_manager=None):
        mounted = MountedStore("m/[*]\u00fc", first, lower, event_manager=EventManager())
        return PrefixStore(mounted, "m/[*]\u00fc", event_manager=event_manager)

    def members(self, store):
        return store.store.mount_store, store.store.backing_store


class TestMountedDictMemoryStore(UnderMountPoint, DictKit, unittest.TestCase):
    pass


class TestMountedSqliteStore(Mounted, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestSqliteStoreUnderMountPoint(UnderMountPoint, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestMountedFileSystemStore(UnderMountPoint, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestMountedLockingFileSystemStore(UnderMountPoint, LockingFileSystemKit, unittest.TestCase):
    pass


# A model


def random_changes(seed, count):
    """Steps that delete nothing: what shows through cannot be deleted."""
    steps = random_steps(seed, count)
    return [step for step in steps if step[0] not in ("delete", "move")]


class Pushing(MountedStore):
    """A store whose keys are pushed now and then, which nobody should notice."""

    def exists(self, key):
        if super().exists(key) and not self._depth() and self.store.exists(key):
            self.push(key)
        return super().exists(key)


def pushing(event_manager):
    mount, backing = (DictMemoryStore(event_manager=EventManager()) for _ in range(2))
    return Pushing("", mount, backing, event_manager=event_manager)


@pytest.mark.parametrize("seed", range(20))
def test_it_does_what_the_model_does(seed):
    steps = random_changes(seed, 150)
    assert same(transcript(pushing, steps), expected_transcript(steps))


def plain(event_manager):
    return MountedStore("", DictMemoryStore(), DictMemoryStore(), event_manager=event_manager)


def moved(event_manager):
    mounted = MountedStore("m*", DictMemoryStore(), DictMemoryStore(), event_manager=EventManager())
    return PrefixStore(mounted, "m*", event_manager=event_manager)


@pytest.mark.parametrize("make", [plain, moved])
@pytest.mark.parametrize("seed", range(100, 108))
def test_a_mount_alone_does_what_the_model_does(make, seed):
    check_store(make, seed, 150)


@pytest.mark.slow
def test_long_sequences():
    for _ in range(50):
        seed = random.randrange(10**9)
        print("seed", seed)
        steps = random_changes(seed, 1000)
        assert same(transcript(pushing, steps), expected_transcript(steps))
        check_store(moved, seed, 1000)


# What it is made of


class Recorder(list):
    """The events of a store, and of what it is made of."""

    def __init__(self, mounted):
        super().__init__()
        self.mounted = mounted
        mounted.event_manager.connect(StoreEvent, self.note)

    def note(self, event):
        if isinstance(event, StoreModificationEvent) and event.source is self.mounted:
            self.append((event.action, event.key, event.metadata))


def fill(store, keys):
    for key, (data, metadata) in keys.items():
        store.set(key, (io.BytesIO(data), metadata))
    return store


def contents(store):
    return {key: (store.to_bytes(key), metadata) for key, metadata in store.query()}


def new(mount_point="m/", mount=None, backing=None, kinds=(DictMemoryStore, DictMemoryStore)):
    """A mounted store and its events."""
    manager = EventManager()
    stores = [
        fill(kind(event_manager=manager), keys or {})
        for kind, keys in zip(kinds, (mount, backing), strict=True)
    ]
    mounted = MountedStore(mount_point, *stores, event_manager=manager)
    return mounted, Recorder(mounted)


def test_it_takes_a_mount_point_and_two_stores():
    one, other = DictMemoryStore(event_manager=EventManager()), DictMemoryStore()
    for wrong in (None, b"m/", 5, one):
        with pytest.raises(TypeError, match="mount point"):
            MountedStore(wrong, one, other)
    for wrong in ("\ud800", "m" * 1024, "\u00fc" * 512):
        with pytest.raises(ValueError, match="mount point"):
            MountedStore(wrong, one, other)
    for wrong in (None, "store", [one]):
        with pytest.raises(TypeError, match="two stores"):
            MountedStore("m/", wrong, other)
        with pytest.raises(TypeError, match="two stores"):
            MountedStore("m/", one, wrong)
    with pytest.raises(ValueError, match="mounted on itself"):
        MountedStore("m/", one, one)
    with pytest.raises(TypeError, match="event_manager="):
        MountedStore(EventManager(), "m/", one, other)
    with pytest.raises(TypeError, match="event_manager="):
        MountedStore("m/", one, other, EventManager())
    with pytest.raises(TypeError, match="three positional"):
        MountedStore("m/", one, other, other)
    mounted = MountedStore("m/", one, other)
    assert (mounted.mount_point, mounted.mount_store, mounted.backing_store) == ("m/", one, other)
    assert repr(mounted) == f"MountedStore('m/', {one!r}, {other!r})"


def test_it_makes_no_event_manager_of_the_process(monkeypatch):
    from encore.events import package_globals

    monkeypatch.setattr(package_globals, "_event_manager", None)
    manager = EventManager()
    mounted = MountedStore(
        "m/",
        DictMemoryStore(event_manager=manager),
        DictMemoryStore(event_manager=manager),
        event_manager=manager,
    )
    mounted.from_bytes("m/a", b"")
    assert package_globals._event_manager is None


def test_what_is_mounted_covers_what_is_beneath():
    mounted, _ = new(
        mount={"a": (b"mount", {"n": 1}), "m/a": (b"deep", {})},
        backing={
            "a": (b"backing", {"n": 2}),
            "m/a": (b"covered", {"n": 3, "k": 1}),
            "m/b": (b"through", {"n": 3}),
            "m/": (b"the point", {}),
            "m": (b"before", {}),
        },
    )
    expected = {
        "a": (b"backing", {"n": 2}),
        "m/a": (b"mount", {"n": 1}),
        "m/b": (b"through", {"n": 3}),
        "m/": (b"the point", {}),
        "m": (b"before", {}),
        "m/m/a": (b"deep", {}),
    }
    assert contents(mounted) == expected
    assert sorted(mounted.query_keys()) == list(mounted.keys()) == sorted(expected)
    assert sorted(mounted.glob("*")) == sorted(expected)
    assert list(mounted.query_keys(n=3)) == ["m/b"]
    assert list(mounted.query(k=1)) == []
    for key, (data, metadata) in expected.items():
        assert mounted.get(key).data.read() == mounted.get_data(key).read() == data
        assert mounted.get_metadata(key) == metadata
        assert mounted.exists(key)
    with pytest.raises(KeyError) as caught:
        mounted.get("m/c")
    assert caught.value.args == ("m/c",)


def test_writing_goes_into_the_mount():
    backing = {"m/b": (b"through", {"n": 1}), "m/c": (b"", {"n": 1}), "m/d": (b"old", {"n": 1})}
    mounted, events = new(backing=backing)
    mounted.set("m/a", (io.BytesIO(b"new"), {}))
    mounted.update_metadata("m/b", {"k": 1})
    mounted.set_metadata("m/c", {"k": 2})
    mounted.from_bytes("m/d", b"data")
    mounted.copy("m/b", "m/e")
    expected = {
        "a": (b"new", {}),
        "b": (b"through", {"n": 1, "k": 1}),
        "c": (b"", {"k": 2}),
        "d": (b"data", {"n": 1}),
        "e": (b"through", {"n": 1, "k": 1}),
    }
    assert contents(mounted.mount_store) == expected
    assert contents(mounted) == {f"m/{key}": value for key, value in expected.items()}
    assert contents(mounted.backing_store) == backing
    assert events == [
        ("set", "m/a", {}),
        ("update", "m/b", {"n": 1, "k": 1}),
        ("update", "m/c", {"k": 2}),
        ("update", "m/d", {"n": 1}),
        ("set", "m/e", {"n": 1, "k": 1}),
    ]
    mounted.delete("m/a")
    assert events[-1] == ("delete", "m/a", {})


@pytest.mark.parametrize("key", ["a", "m", "m/", "M/a", "/m/a"])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_written_outside_the_mount_point(key, there):
    backing = {key: (b"outside", {"n": 1})} if there else {}
    mounted, events = new(backing={**backing, "m/b": (b"", {})})
    stream = io.BytesIO(b"data")
    writes = {
        "set": lambda: mounted.set(key, (stream, {})),
        "create": lambda: mounted.set(key, (stream, {}), if_none_match="*"),
        "set_data": lambda: mounted.set_data(key, stream),
        "set_metadata": lambda: mounted.set_metadata(key, {}),
        "from_bytes": lambda: mounted.from_bytes(key, b"data"),
        "multiset": lambda: mounted.multiset(["m/x", key], [(io.BytesIO(), {})] * 2),
        "copy": lambda: mounted.copy("m/b", key),
    }
    changes = {
        "delete": lambda: mounted.delete(key),
        "update_metadata": lambda: mounted.update_metadata(key, {"k": 1}),
        "move": lambda: mounted.move(key, "m/c"),
    }
    for call in (writes | changes if there else writes).values():
        with pytest.raises(StoreError) as caught:
            call()
        assert repr(mounted.mount_point) in str(caught.value)
        if call is not writes["create"]:
            assert not isinstance(caught.value, PreconditionError)
    if not there:
        for call in changes.values():
            with pytest.raises(KeyError) as caught:
                call()
            assert caught.value.args == (key,)
    for method in (mounted.set_metadata, mounted.update_metadata):
        with pytest.raises(TypeError):
            method(key, {"a": b"no JSON"})
    assert stream.tell() == 0
    assert events == []
    assert contents(mounted) == {**backing, "m/b": (b"", {})}


@pytest.mark.parametrize("covered", [False, True])
def test_what_shows_through_cannot_be_deleted(covered):
    mount = {"a": (b"mount", {"n": 1})} if covered else {}
    mounted, events = new(mount=mount, backing={"m/a": (b"backing", {})})
    before = contents(mounted)
    for call in (
        lambda: mounted.delete("m/a"),
        lambda: mounted.move("m/a", "m/b"),
        lambda: mounted.delete("m/a", if_match=mounted.get("m/a").etag),
        lambda: mounted.mapping().pop("m/a"),
    ):
        with pytest.raises(StoreError, match="shows through from the backing store"):
            call()
        with (
            mounted.transaction(),
            pytest.raises(StoreError, match="shows through from the backing store"),
        ):
            call()
    with pytest.raises(PreconditionError):
        mounted.delete("m/a", if_match="stale")
    assert events == []
    assert contents(mounted) == before
    assert len(contents(mounted.mount_store)) == covered


def test_a_move_that_is_refused_leaves_no_target_where_there_are_no_transactions():
    class Plain(WrapperStore):
        def info(self):
            return {**super().info(), "transactional": False}

        def transaction(self, notes=""):
            return DummyTransactionContext(self)

    mounted, _ = new(backing={"m/a": (b"", {})})
    mounted = MountedStore("m/", Plain(mounted.mount_store), mounted.backing_store)
    with pytest.raises(StoreError, match="shows through"):
        mounted.move("m/a", "m/b")
    assert contents(mounted.mount_store) == {}


def test_conditions():
    mounted, events = new(backing={"m/a": (b"backing", {"n": 1})})
    with pytest.raises(PreconditionError):
        mounted.set("m/a", (io.BytesIO(), {}), if_none_match="*")
    with pytest.raises(PreconditionError):
        mounted.set_metadata("m/a", {}, if_match="stale")
    mounted.set_metadata("m/a", {"n": 2}, if_match=mounted.get("m/a").etag)
    with pytest.raises(PreconditionError):
        mounted.set_metadata("m/a", {}, if_match=mounted.backing_store.get("m/a").etag)
    mounted.set_data("m/b", io.BytesIO(b"new"), if_none_match="*")
    assert contents(mounted) == {"m/a": (b"backing", {"n": 2}), "m/b": (b"new", {})}
    assert events == [("update", "m/a", {"n": 2}), ("set", "m/b", {})]


def test_transactions_are_those_of_the_mount():
    mounted, events = new(mount={"a": (b"", {})}, backing={"m/b": (b"through", {"n": 1})})
    with suppress(ZeroDivisionError), mounted.transaction():
        mounted.delete("m/a")
        mounted.update_metadata("m/b", {"k": 1})
        mounted.set("m/c", (io.BytesIO(), {}))
        assert sorted(mounted.query()) == [("m/b", {"n": 1, "k": 1}), ("m/c", {})]
        _ = 1 / 0
    assert contents(mounted) == {"m/a": (b"", {}), "m/b": (b"through", {"n": 1})}
    assert events == []
    with mounted.transaction():
        mounted.update_metadata("m/b", {"k": 1})
        mounted.delete("m/a")
    assert events == [("update", "m/b", {"n": 1, "k": 1}), ("delete", "m/a", {})]


def test_a_mount_that_can_only_be_read():
    mounted, _ = new(mount={"a": (b"", {})}, backing={"m/b": (b"", {})})
    reading = MountedStore("m/", ReadOnlyStore(mounted.mount_store), mounted.backing_store)
    assert reading.info()["readonly"] is True
    assert sorted(reading.query_keys()) == ["m/a", "m/b"]
    for call in (
        lambda: reading.from_bytes("m/a", b""),
        lambda: reading.set("m/a", (io.BytesIO(), {})),
        lambda: reading.delete("m/a"),
        lambda: reading.update_metadata("m/b", {}),
        lambda: reading.push("m/a"),
    ):
        with pytest.raises(StoreError, match="can only be read"):
            call()


def test_it_connects_both(tmp_path):
    stores = [SqliteStore(tmp_path / name, durability="process") for name in ("a", "b")]
    stores[1].connect()
    mounted = MountedStore("m/", *stores)
    for _ in range(2):
        assert not mounted.is_connected()
        with mounted:
            assert mounted.is_connected()
            mounted.from_bytes("m/a", b"data")
        assert [store.is_connected() for store in stores] == [False, True]
    stores[1].disconnect()
    with pytest.raises(StoreError, match="not connected"):
        mounted.get("m/a")


def test_a_copy_that_was_pickled_tells_its_changes_once():
    mounted, _ = new(mount={"a": (b"mount", {})}, backing={"m/b": (b"backing", {"n": 1})})
    copy = pickle.loads(pickle.dumps(mounted))
    assert contents(copy) == contents(mounted)
    manager = copy.event_manager = EventManager()
    copy.mount_store.event_manager = manager
    assert copy.mount_store is copy.store.store
    sources = []
    told = []

    def listen(event):
        sources.append(event.source)
        told.append(event.key)

    for each in {id(get_event_manager()): get_event_manager(), id(manager): manager}.values():
        each.connect(StoreModificationEvent, listen)
    try:
        copy.update_metadata("m/b", {"k": 1})
    finally:
        get_event_manager().disconnect(StoreModificationEvent, listen)
    assert sources == [copy.mount_store, copy]
    assert told == ["b", "m/b"]
    assert not mounted.mount_store.exists("b")
    copy.push("m/b")


# Keys and listings


def test_keys_that_are_too_long_under_the_mount_point():
    mounted, _ = new("m" * 1000, mount={"x" * 24: (b"", {})})
    for n in range(5):
        mounted.mount_store.from_bytes(f"a{n}" + "x" * 23, b"")
        mounted.mount_store.from_bytes(f"a{n}" + "\u00fc" * 12, b"")
    mounted.mount_store.from_bytes("b", b"")
    expected = ["m" * 1000 + "b", "m" * 1000 + "x" * 24]
    assert sorted(mounted.query_keys()) == list(mounted.keys()) == expected
    assert [key for key, _ in mounted.query()] == expected[::-1]
    for limit in range(4):
        assert list(mounted.keys(limit=limit)) == expected[:limit]
    assert list(mounted.keys("", expected[0], 1)) == expected[1:]
    mounted.from_bytes("m" * 1000 + "y" * 24, b"")
    with pytest.raises(ValueError, match="1024"):
        mounted.from_bytes("m" * 1000 + "y" * 25, b"")


@pytest.mark.parametrize("mount_point", ["", "m", "m/", "*[a]?", "\u00fc", "\U00010000"])
def test_pages_and_patterns(mount_point):
    dice = random.Random(mount_point)
    letters = ["m", "/", "*", "a", "\u00fc", "\U00010000", "[", "]", "?", "\uffff"]

    def some(count, start=""):
        return {start + "".join(dice.choices(letters, k=dice.randint(1, 3))) for _ in range(count)}

    mount, backing = some(30), some(20) | some(20, mount_point) | {mount_point or "x"}
    mounted, _ = new(
        mount_point, dict.fromkeys(mount, (b"", {})), dict.fromkeys(backing, (b"", {}))
    )
    everything = sorted({mount_point + key for key in mount} | backing)
    assert sorted(mounted.query_keys()) == list(mounted.keys()) == everything
    beginnings = ["", "m", "m/", "m/a", "*", "\u00fc", "\U00010000", mount_point, mount_point + "a"]
    for prefix in beginnings:
        for after in [None, *beginnings, "zzz"]:
            for limit in (None, 0, 1, 3, 1000):
                expected = [
                    key for key in everything if key.startswith(prefix) and key > (after or "")
                ][:limit]
                assert list(mounted.keys(prefix, after, limit)) == expected, (prefix, after, limit)
    patterns = ["*", "m*", "m/?", "[m]/*", "[*]*", "\u00fc*", mount_point, escape(mount_point)]
    for pattern in [*patterns, mount_point + "*", escape(mount_point) + "[!a]*"]:
        expected = [key for key in everything if fnmatchcase(key, pattern)]
        assert sorted(mounted.glob(pattern)) == expected, pattern


def test_listings_check_their_arguments():
    mounted, _ = new()
    for call in (lambda: mounted.glob(5), lambda: mounted.keys(5), lambda: mounted.keys("", 5)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="negative"):
        mounted.keys(limit=-1)


# Pushing


def test_push_moves_a_key_down():
    mounted, events = new(
        mount={"a": (b"mount", {"n": [1]}), "b": (b"new", {})}, backing={"m/b": (b"old", {"o": 1})}
    )
    mounted.push("m/a")
    mounted.push("m/b")
    assert contents(mounted.mount_store) == {}
    expected = {"m/a": (b"mount", {"n": [1]}), "m/b": (b"new", {})}
    assert contents(mounted.backing_store) == contents(mounted) == expected
    assert events == []
    # It can be covered again.
    mounted.update_metadata("m/a", {"k": 1})
    assert contents(mounted)["m/a"] == (b"mount", {"n": [1], "k": 1})


def test_push_is_told_by_the_stores_themselves():
    mounted, _ = new(mount={"a": (b"mount", {})})
    told = []

    def listen(event):
        told.append((event.source, event.action, event.key))

    mounted.event_manager.connect(StoreModificationEvent, listen)
    mounted.push("m/a")
    assert told == [
        (mounted.backing_store, "set", "m/a"),
        (mounted.mount_store, "delete", "a"),
    ]


def test_push_of_what_is_not_in_the_mount():
    mounted, _ = new(backing={"m/a": (b"", {}), "b": (b"", {})})
    for key in ("m/a", "m/no", "b", "m/", "no"):
        with pytest.raises(KeyError) as caught:
            mounted.push(key)
        assert caught.value.args == (key,)
    for key, error in ((5, TypeError), ("", ValueError)):
        with pytest.raises(error):
            mounted.push(key)


def test_push_into_what_can_only_be_read():
    mounted, _ = new(mount={"a": (b"mount", {})})
    reading = MountedStore("m/", mounted.mount_store, ReadOnlyStore(mounted.backing_store))
    with pytest.raises(StoreError, match="can only be read"):
        reading.push("m/a")
    with pytest.raises(KeyError):
        reading.push("m/b")
    assert contents(reading) == {"m/a": (b"mount", {})}


def test_push_inside_a_transaction_is_refused():
    mounted, _ = new(mount={"a": (b"mount", {})})
    for transaction in (mounted.transaction, mounted.mount_store.transaction):
        with transaction(), pytest.raises(StoreError, match="transaction"):
            mounted.push("m/a")
    assert contents(mounted.backing_store) == {}


class Meddling(DictMemoryStore):
    """A store in which something happens after each set."""

    meddle = None
    turns = 1000000

    def set(self, key, value, *args, **kwargs):
        super().set(key, value, *args, **kwargs)
        if self.meddle is not None and self.turns:
            self.turns -= 1
            self.meddle(key)


@pytest.mark.parametrize(
    "meddle",
    [
        lambda store, key: store.from_bytes(key, b"wrong"),
        lambda store, key: store.from_bytes(key, b"moun"),
        lambda store, key: store.set_metadata(key, {"n": True}),
        lambda store, key: store.delete(key),
    ],
)
def test_push_deletes_nothing_that_is_not_there(meddle):
    mounted, events = new(mount={"a": (b"mount", {"n": 1})}, kinds=(DictMemoryStore, Meddling))
    mounted.backing_store.meddle = lambda key: meddle(mounted.backing_store, key)
    with pytest.raises(StoreError):
        mounted.push("m/a")
    assert contents(mounted) == {"m/a": (b"mount", {"n": 1})}
    assert events == []
    mounted.backing_store.meddle = None
    mounted.push("m/a")
    assert contents(mounted.backing_store) == {"m/a": (b"mount", {"n": 1})}


class Unconditional(WrapperStore):
    """A store that has no conditions."""

    def info(self):
        return {**super().info(), "conditional": False}


@pytest.mark.parametrize("conditional", [True, False])
def test_push_never_loses_a_newer_value(conditional):
    mounted, events = new(mount={"a": (b"old", {"n": 1})}, kinds=(DictMemoryStore, Meddling))
    backing = mounted.backing_store
    if not conditional:
        mounted = MountedStore(
            "m/",
            Unconditional(mounted.mount_store, event_manager=EventManager()),
            backing,
            event_manager=mounted.event_manager,
        )
        events = Recorder(mounted)
    backing.meddle = lambda key: mounted.from_bytes(key, b"newer")
    backing.turns = 2
    mounted.push("m/a")
    assert contents(mounted.mount_store) == {}
    assert contents(mounted) == contents(backing) == {"m/a": (b"newer", {"n": 1})}
    assert events == [("update", "m/a", {"n": 1})] * 2


def test_push_of_what_changes_all_the_time_ends():
    mounted, _ = new(mount={"a": (b"old", {})}, kinds=(DictMemoryStore, Meddling))
    counter = count()
    mounted.backing_store.meddle = lambda key: mounted.from_bytes(key, b"%d" % next(counter))
    with pytest.raises(StoreError, match="faster than"):
        mounted.push("m/a")
    assert contents(mounted) == {"m/a": (b"%d" % (next(counter) - 1), {})}


def test_what_is_being_pushed_cannot_be_deleted_nor_pushed():
    mounted, events = new(mount={"a": (b"old", {})}, kinds=(DictMemoryStore, Meddling))
    errors = []

    def meddle(key):
        # Nothing but the backing store knows of it yet.
        super(Meddling, mounted.backing_store).delete(key)
        for call in (mounted.delete, mounted.push):
            with pytest.raises(StoreError) as caught:
                call(key)
            errors.append(str(caught.value))
        DictMemoryStore.set(mounted.backing_store, key, (io.BytesIO(b"old"), {}))

    mounted.backing_store.meddle = meddle
    mounted.push("m/a")
    assert len(errors) == 2
    assert "shows through" in errors[0]
    assert "being pushed" in errors[1]
    assert contents(mounted.backing_store) == {"m/a": (b"old", {})}
    assert events == []
    assert mounted._pushing == set()


def test_push_of_what_another_has_pushed_meanwhile():
    mounted, _ = new(mount={"a": (b"old", {})}, kinds=(DictMemoryStore, Meddling))
    mounted.backing_store.meddle = lambda key: mounted.mount_store.delete("a")
    mounted.push("m/a")
    assert contents(mounted) == contents(mounted.backing_store) == {"m/a": (b"old", {})}


def test_a_slow_push_puts_nothing_old_over_what_another_has_pushed():
    mounted, _ = new(mount={"a": (b"old", {})})
    backing = mounted.backing_store
    other = MountedStore("m/", mounted.mount_store, backing, event_manager=EventManager())
    real = backing.set
    turns = []

    def slow(*args, **kwargs):
        if not turns:
            turns.append(1)
            other.push("m/a")
            other.from_bytes("m/a", b"newer")
            other.push("m/a")
        real(*args, **kwargs)

    with mock.patch.object(backing, "set", slow):
        mounted.push("m/a")
    assert contents(mounted) == contents(backing) == {"m/a": (b"newer", {})}


class UnconditionalMemory(Unconditional):
    def __init__(self, *, event_manager):
        super().__init__(DictMemoryStore(event_manager=event_manager), event_manager=event_manager)


@pytest.mark.parametrize("backing", [DictMemoryStore, UnconditionalMemory])
def test_pushes_and_other_writers_at_once(backing):
    for turn in range(20):
        mounted, _ = new(mount={"a": (b"old", {"n": 0})}, kinds=(DictMemoryStore, backing))
        other = MountedStore(
            "m/", mounted.mount_store, mounted.backing_store, event_manager=EventManager()
        )
        barrier = threading.Barrier(4)
        errors = []

        def run(call, *args, barrier=barrier, errors=errors):
            barrier.wait(20)
            try:
                call(*args)
            except KeyError:
                # Pushed by another.
                if call.__name__ != "push":
                    errors.append(call)
            except Exception as error:
                errors.append(error)

        calls = [
            (mounted.push, "m/a"),
            (other.push, "m/a"),
            (mounted.update_metadata, "m/a", {"k": 1}),
            (other.set_data, "m/a", io.BytesIO(b"new")),
        ]
        threads = [threading.Thread(target=run, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == [], turn
        # Whatever the order, neither change is lost.
        assert contents(mounted) == {"m/a": (b"new", {"n": 0, "k": 1})}, turn


@pytest.mark.parametrize("listing", ["query", "query_keys", "glob", "keys", "criteria"])
def test_a_key_that_is_pushed_during_a_loop_appears_once(listing, monkeypatch):
    monkeypatch.setattr("encore.storage._layers_reading._PAGE", 2)
    everything = [f"m/{letter}" for letter in "abcdefgh"]
    mounted, _ = new(
        mount={key[2:]: (b"", {"n": 1}) for key in everything[:6]},
        backing={key: (b"", {"n": 1}) for key in everything[4:]},
    )
    walk = {
        "query": lambda: (key for key, _ in mounted.query()),
        "criteria": lambda: (key for key, _ in mounted.query(n=1)),
        "query_keys": mounted.query_keys,
        "glob": lambda: mounted.glob("m/?"),
        "keys": mounted.keys,
    }[listing]()
    found = [next(walk), next(walk)]
    for key in everything[1:6]:
        mounted.push(key)
    mounted.update_metadata(everything[7], {"k": 1})
    found += walk
    assert sorted(found) == everything


def test_push_in_a_child_that_was_forked_off_in_the_middle_of_one():
    mounted, _ = new(mount={"a": (b"old", {})})
    mounted._pushing.add((os.getpid() + 1, "m/a"))
    mounted.push("m/a")
    assert contents(mounted.backing_store) == {"m/a": (b"old", {})}


def test_push_of_what_only_the_backing_store_has_says_so():
    mounted, _ = new(backing={"m/a": (b"", {}), "b": (b"", {})})
    for store in (
        mounted,
        MountedStore("m/", mounted.mount_store, ReadOnlyStore(mounted.backing_store)),
    ):
        for key in ("m/a", "b"):
            with pytest.raises(KeyError) as caught:
                store.push(key)
            assert (
                str(caught.value) == f"{key!r} is in the backing store only, not in the mount store"
            )
        with pytest.raises(KeyError) as caught:
            store.push("m/no")
        assert str(caught.value) == "'m/no'"


# Discarding


def test_discard_drops_what_covers_a_key():
    mounted, _ = new(
        mount={"a": (b"mount", {"n": 1}), "b": (b"new", {"n": 2})},
        backing={"m/a": (b"old", {"o": 1})},
    )
    kinds = []
    mounted.event_manager.connect(
        StoreModificationEvent,
        lambda event: kinds.append((event.action, event.key, event.metadata)),
        filter={"source": mounted},
    )
    with pytest.raises(StoreError, match="backing store; discard\\(\\) would drop what covers it"):
        mounted.delete("m/a")
    mounted.discard("m/a")
    mounted.discard("m/b")
    assert contents(mounted.mount_store) == {}
    assert contents(mounted) == {"m/a": (b"old", {"o": 1})}
    assert kinds == [("update", "m/a", {"o": 1}), ("delete", "m/b", {"n": 2})]
    for key in ("m/a", "m/no", "b", "m/"):
        with pytest.raises(KeyError) as caught:
            mounted.discard(key)
        assert caught.value.args == (key,)
    with pytest.raises(StoreError, match=r"shows through from the backing store$"):
        mounted.delete("m/a")
    for key, error in ((5, TypeError), ("", ValueError)):
        with pytest.raises(error):
            mounted.discard(key)


def test_discard_is_part_of_a_transaction():
    mounted, events = new(mount={"a": (b"mount", {})}, backing={"m/a": (b"old", {})})
    with suppress(LookupError), mounted.transaction():
        mounted.discard("m/a")
        assert mounted.to_bytes("m/a") == b"old"
        raise LookupError
    assert mounted.to_bytes("m/a") == b"mount"
    assert events == []


def test_discard_of_what_can_only_be_read():
    mounted, _ = new(mount={"a": (b"mount", {})})
    store = MountedStore("m/", ReadOnlyStore(mounted.mount_store), mounted.backing_store)
    with pytest.raises(StoreError, match="can only be read"):
        store.discard("m/a")


def test_its_signature_can_be_read():
    parameters = list(inspect.signature(MountedStore).parameters)
    assert parameters == ["mount_point", "mount_store", "backing_store", "event_manager"]
