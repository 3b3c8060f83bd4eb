"""Leaf stores that users write on BaseReadOnlyStore, BaseStore and OverlayStore, with the documented hooks alone."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import threading
import unittest

import pytest

from encore.events.api import EventManager, get_event_manager
from encore.storage.base_store import BaseReadOnlyStore, BaseStore, Head
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import (
    StoreEvent,
    StoreModificationEvent,
    StoreProgressEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
)
from encore.storage.overlay_store import OverlayStore
from encore.storage.string_value import StringValue
from encore.testing.conformance import ReadOnlyStoreConformance, StoreConformance

FIXED = {"a": (b"aaa", {"n": 1}), "b": (b"b", {"n": 2}), "\U0001f40d": (b"", {})}


class FixedStore(BaseReadOnlyStore):
    """The least that can be read."""

    def __init__(self, contents=FIXED, *, event_manager=None):
        super().__init__(event_manager=event_manager)
        self.contents = dict(contents)

    def _read(self, key):
        data, metadata = self.contents[key]
        return StringValue(data, metadata, 1.0, 2.0)

    def _head(self, key):
        if key not in self.contents:
            return None
        data, metadata = self.contents[key]
        return Head(metadata, 1.0, 2.0, len(data))

    def _scan(self, criteria):
        for key, (_, metadata) in list(self.contents.items()):
            if criteria.items() <= metadata.items():
                yield key, metadata


class PlainStore(BaseStore):
    """The least that can be written: a dict that is copied at each savepoint, in a thread's own variable."""

    def __init__(self, *, event_manager=None):
        super().__init__(event_manager=event_manager)
        self.records = {}
        self.staged = 0
        self.opened = 0

    def _prepare(self):
        super()._prepare()
        self.lock = threading.Lock()
        self.mine = threading.local()

    def _forked(self):
        self._prepare()

    def _open(self, credentials):
        self.opened += 1

    def _close(self):
        self.opened -= 1

    def _now(self):
        mine = getattr(self.mine, "records", None)
        return self.records if mine is None else mine

    def _read(self, key):
        data, head = self._now()[key]
        return StringValue(data, head.metadata, head.created, head.modified)

    def _head(self, key):
        data, head = self._now().get(key, (None, None))
        return None if head is None else head._replace(size=len(data))

    def _scan(self, criteria):
        for key, (_, head) in list(self._now().items()):
            if all(
                name in head.metadata and same(head.metadata[name], value)
                for name, value in criteria.items()
            ):
                yield key, head.metadata

    def _stage(self, chunks, size):
        data = b"".join(chunks)
        self.staged += 1
        return data

    def _discard(self, staged):
        self.staged -= 1

    def _save(self, key, staged, head):
        records = self._now()
        if staged is None:
            staged = records[key][0] if key in records else b""
        records[key] = (staged, head)

    def _remove(self, key):
        del self._now()[key]

    def _begin(self):
        self.lock.acquire()
        self.mine.records = dict(self.records)

    def _commit(self):
        self.records = self.mine.records
        self._rollback()

    def _rollback(self):
        if getattr(self.mine, "records", None) is not None:
            self.mine.records = None
            self.lock.release()

    def _savepoint(self):
        return dict(self.mine.records)

    def _rollback_to(self, savepoint):
        self.mine.records = savepoint


def same(one, other):
    """Equality of JSON values, in the short way that a user may find."""
    import json

    def text(value):
        return json.dumps(value, sort_keys=True)

    def exact(value):
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float) and value == int(value):
            return int(value)
        if isinstance(value, list):
            return [exact(item) for item in value]
        if isinstance(value, dict):
            return {name: exact(item) for name, item in value.items()}
        return value

    return text(exact(one)) == text(exact(other))


class SmallOverlayStore(OverlayStore):
    """The least that is written on OverlayStore."""

    def __init__(self, *, event_manager=None):
        super().__init__(event_manager=event_manager)
        self.records = {}
        self.refuse = None
        self.cleaned = 0

    def _prepare(self):
        super()._prepare()
        self.mutex = threading.RLock()

    def _forked(self):
        self._prepare()

    def _lock(self):
        self.mutex.acquire()

    def _unlock(self):
        self.mutex.release()

    def _load(self, key):
        return self.records.get(key)

    def _load_all(self):
        return list(self.records.items())

    def _make(self, key, old, staged, head):
        return ((old[0] if old else b"") if staged is None else staged, head)

    def _head_of(self, key, record):
        return record[1]._replace(size=len(record[0]))

    def _value_of(self, key, record):
        data, head = record
        return StringValue(data, head.metadata, head.created, head.modified)

    def _stage(self, chunks, size):
        return b"".join(chunks)

    def _apply(self, overlay):
        if self.refuse is not None:
            raise self.refuse
        records = dict(self.records)
        for key, record in overlay.items():
            if record is None:
                records.pop(key, None)
            else:
                records[key] = record
        self.records = records

    def _clean(self):
        self.cleaned += 1


PlainStore._transient |= {"lock", "mine"}
SmallOverlayStore._transient |= {"mutex"}


# They keep the contract.


class TestPlainStoreConformance(StoreConformance, unittest.TestCase):
    def make_store(self, event_manager):
        return PlainStore(event_manager=event_manager)


class TestSmallOverlayStoreConformance(StoreConformance, unittest.TestCase):
    def make_store(self, event_manager):
        return SmallOverlayStore(event_manager=event_manager)


del StoreConformance, ReadOnlyStoreConformance


@pytest.fixture
def fixed():
    with FixedStore(event_manager=EventManager()) as store:
        yield store


@pytest.fixture(params=[PlainStore, SmallOverlayStore])
def store(request):
    with request.param(event_manager=EventManager()) as store:
        yield store


def recorded(store, kind=StoreEvent):
    events = []
    store.event_manager.connect(kind, events.append)
    return events


# Reading


def test_a_store_that_can_only_be_read_is_complete(fixed, tmp_path):
    assert fixed.get("a").data.read() == fixed.to_bytes("a") == b"aaa"
    assert fixed.get_metadata("a") == {"n": 1}
    assert fixed.get_data_range("a", -2).read() == b"aa"
    assert fixed.exists("b")
    assert not fixed.exists("c")
    assert dict(fixed.query(n=2)) == {"b": {"n": 2}}
    assert sorted(fixed.query_keys()) == list(fixed.keys()) == sorted(FIXED)
    assert list(fixed.keys("a", limit=1)) == ["a"]
    assert list(fixed.glob("[ab]")) == ["a", "b"]
    assert [value.size for value in fixed.multiget("ab")] == [3, 1]
    fixed.to_file("a", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"aaa"
    assert dict(fixed.mapping()) == {key: data for key, (data, _) in FIXED.items()}
    assert fixed.info()["readonly"] is True
    for method in ("get", "get_metadata", "get_data", "to_bytes"):
        with pytest.raises(KeyError, match="missing"):
            getattr(fixed, method)("missing")


def test_hooks_never_see_a_bad_argument_or_a_disconnected_store():
    class Watched(FixedStore):
        def __getattribute__(self, name):
            if name in ("_read", "_head", "_scan", "_list", "_holds", "_page"):
                raise AssertionError(f"{name} was asked")
            return super().__getattribute__(name)

    store = Watched(event_manager=EventManager())
    for use in (
        store.get,
        store.get_data,
        store.get_data_range,
        store.get_metadata,
        store.exists,
        store.to_bytes,
        lambda key: store.to_file(key, io.BytesIO()),
    ):
        for key, error in (
            (5, TypeError),
            ("", ValueError),
            ("\ud800", ValueError),
            ("k", StoreError),
        ):
            with pytest.raises(error):
                use(key)
    for use in (
        lambda: store.query(a=b""),
        lambda: store.query("abc"),
        lambda: store.query_keys(where=5),
        lambda: store.query_keys(select=5),
        lambda: store.glob(5),
        lambda: store.keys(5),
        lambda: store.get_data_range("a", "1"),
        lambda: store.get_metadata("a", "abc"),
        lambda: store.to_bytes("a", "1"),
    ):
        with pytest.raises(TypeError):
            use()
    for use in (store.query, store.query_keys, store.keys, lambda: store.glob("*")):
        with pytest.raises(StoreError, match="not connected"):
            use()


def test_criteria_that_contradict_each_other_ask_nothing(fixed):
    fixed._scan = None
    assert list(fixed.query(n=1, where={"n": 2})) == []
    assert list(fixed.query_keys(n=1, where={"n": 2})) == []


def test_damaged_metadata_are_a_store_error(store):
    class Damaged(FixedStore):
        def _head(self, key):
            return Head(None, 1.0, 2.0, 3)

    with Damaged(event_manager=EventManager()) as damaged:
        assert damaged.exists("a")
        with pytest.raises(StoreError, match="damaged") as caught:
            damaged.get_metadata("a")
        assert caught.value.key == "a"


# Writing


def test_a_set_without_progress_asks_for_no_more_than_it_needs(store):
    store.set("k", StringValue(b"data", {"a": 1}))
    store.set_data("k", io.BytesIO(b"new"), 2)
    store.set_metadata("k", {"b": 2})
    store.set_metadata("new", {"c": 3})
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"new", {"b": 2})
    assert (store.to_bytes("new"), store.get_metadata("new")) == (b"", {"c": 3})
    store.delete("k")
    assert list(store.keys()) == ["new"]


def test_the_clock_may_go_back(store):
    times = iter([100.0, 50.0, 50.0, 200.123456789])
    store._clock = lambda: next(times)
    modified = []
    for _ in range(4):
        store.from_bytes("k", b"x")
        modified.append(store.get("k").modified)
    assert modified == [100.0, 100.000001, 100.000002, 200.123457]
    assert store.get("k").created == 100.0


@pytest.mark.parametrize("error", [LookupError(), KeyboardInterrupt(), StoreError("no")], ids=repr)
@pytest.mark.parametrize(
    ("hook", "use"),
    [
        *((hook, "from_bytes") for hook in ("_stage", "_begin", "_head", "_save", "_commit")),
        *((hook, "set_metadata") for hook in ("_begin", "_head", "_save", "_commit")),
        *((hook, "delete") for hook in ("_begin", "_head", "_remove", "_commit")),
    ],
)
def test_what_a_hook_raises_changes_nothing(hook, use, error, monkeypatch):
    with PlainStore(event_manager=EventManager()) as store:
        store.set("k", StringValue(b"old", {"n": 1}))
        events = recorded(store, StoreModificationEvent)

        def fail(*args):
            raise error

        arguments = {"from_bytes": ["k", b"new"], "set_metadata": ["k", {}], "delete": ["k"]}[use]
        with monkeypatch.context() as patch:
            patch.setattr(store, hook, fail)
            with pytest.raises(type(error)) as caught:
                getattr(store, use)(*arguments)
        assert caught.value is error
        assert events == []
        assert (store.to_bytes("k"), store.get_metadata("k")) == (b"old", {"n": 1})
        assert store.staged == 0
        assert not store.lock.locked()
        getattr(store, use)(*arguments)
        assert [event.key for event in events] == ["k"]


def test_a_failing_stream_leaves_nothing_staged():
    class Failing:
        def read(self, size):
            raise KeyboardInterrupt

    with PlainStore(event_manager=EventManager()) as store:
        with pytest.raises(KeyboardInterrupt):
            store.set_data("k", Failing())
        assert store.staged == 0
        assert not store.exists("k")


def test_a_condition_that_fails_reads_no_stream(store):
    store.from_bytes("k", b"x")
    stream = io.BytesIO(b"data")
    with pytest.raises(PreconditionError):
        store.set_data("k", stream, if_none_match="*")
    with pytest.raises(PreconditionError):
        store.set_data("other", stream, if_match="etag")
    assert stream.tell() == 0


@pytest.mark.parametrize(
    ("conditions", "error"),
    [
        ({"if_match": 5}, TypeError),
        ({"if_none_match": 5}, TypeError),
        ({"if_none_match": "etag"}, ValueError),
        ({"if_match": "etag", "if_none_match": "*"}, ValueError),
    ],
)
def test_wrong_conditions(store, conditions, error):
    for use in (
        lambda: store.set("k", StringValue(), **conditions),
        lambda: store.set_data("k", io.BytesIO(), **conditions),
        lambda: store.set_metadata("k", {}, **conditions),
        lambda: store.delete("k", **conditions),
    ):
        with pytest.raises(error):
            use()


def test_what_happens_inside_a_unit_is_nested_in_it(store):
    """A finalizer, or whatever else runs while a store is at work, may use the store too."""
    events = recorded(store, StoreModificationEvent)
    save = store._save

    def busy(key, staged, head):
        if key == "a":
            store.from_bytes("b", b"inner")
            with pytest.raises(KeyError):
                store.delete("missing")
        save(key, staged, head)

    store._save = busy
    store.from_bytes("a", b"outer")
    assert store.to_bytes("a") == b"outer"
    assert store.to_bytes("b") == b"inner"
    assert [event.key for event in events] == ["b", "a"]


# Transactions


def test_nested_transactions(store):
    events = recorded(store)
    store.event_manager.disable(StoreProgressEvent)
    with store.transaction():
        store.from_bytes("a", b"1")
        with pytest.raises(LookupError), store.transaction():  # noqa: PT012 - the block is what fails
            store.from_bytes("a", b"2")
            store.from_bytes("b", b"2")
            with store.transaction():
                store.delete("a")
            raise LookupError
        assert store.to_bytes("a") == b"1"
        assert not store.exists("b")
        with store.transaction():
            store.from_bytes("c", b"3")
    assert [type(event) for event in events[:2]] == [
        StoreTransactionStartEvent,
        StoreTransactionEndEvent,
    ]
    assert [(event.action, event.key) for event in events[2:]] == [("set", "a"), ("set", "c")]
    assert list(store.keys()) == ["a", "c"]


def test_every_combination_of_failures_in_nested_transactions(store):
    for failing in itertools.product([False, True], repeat=3):
        for key in list(store.keys()):
            store.delete(key)
        store.from_bytes("old", b"0")
        expected = {"old": b"0"}

        def work(depth, failing=failing):
            """Return what is there if all goes well, None if not."""
            try:
                with store.transaction():
                    store.from_bytes(f"key{depth}", b"%d" % depth)
                    store.from_bytes("old", b"%d" % depth)
                    result = {f"key{depth}": b"%d" % depth, "old": b"%d" % depth}
                    if depth < 3:
                        result.update(work(depth + 1) or {})
                    if failing[depth - 1]:
                        raise LookupError
                    return result
            except LookupError:
                return None

        expected.update(work(1) or {})
        assert dict(store.mapping()) == expected, failing


def test_a_commit_that_fails(store, monkeypatch):
    store.from_bytes("a", b"old")
    events = recorded(store)

    def fail(*args):
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_commit" if isinstance(store, PlainStore) else "_apply", fail)
        with pytest.raises(StoreError, match="no"), store.transaction():
            store.set_metadata("a", {"n": 1})
        with pytest.raises(StoreError, match="no"):
            store.set_metadata("a", {"n": 1})
    assert [(type(event), getattr(event, "state", None)) for event in events] == [
        (StoreTransactionStartEvent, None),
        (StoreTransactionEndEvent, "failed"),
    ]
    assert store.get_metadata("a") == {}
    with store.transaction():
        store.set_metadata("a", {"n": 2})
    assert store.get_metadata("a") == {"n": 2}


def test_a_transaction_needs_a_connection_and_holds_it(store):
    with store.transaction(), pytest.raises(StoreError, match="inside its own transaction"):
        store.disconnect()
    store.disconnect()
    with pytest.raises(StoreError, match="not connected"), store.transaction():
        pytest.fail("it did not begin")
    context = store.transaction("note")
    assert "note" in repr(context)
    with pytest.raises(StoreError, match="no transaction"):
        context.__exit__(None, None, None)


def test_an_overlay_is_cleaned_after_each_unit():
    with SmallOverlayStore(event_manager=EventManager()) as store:
        store.from_bytes("a", b"1")
        with store.transaction():
            store.from_bytes("b", b"1")
            store.delete("a")
        with pytest.raises(KeyError):
            store.delete("a")
        assert store.cleaned == 3
        assert not store.mutex._is_owned()


# Life cycle


def test_connecting_opens_once_and_disconnecting_closes_once():
    store = PlainStore(event_manager=EventManager())
    store.disconnect()
    assert store.opened == 0
    for _ in range(2):
        store.connect()
        store.connect()
        assert store.opened == 1
        store.disconnect()
        store.disconnect()
        assert store.opened == 0


def test_a_store_that_cannot_be_opened_is_not_connected(monkeypatch):
    store = PlainStore(event_manager=EventManager())

    def fail(credentials):
        raise StoreError("no")

    monkeypatch.setattr(store, "_open", fail)
    with pytest.raises(StoreError):
        store.connect()
    assert not store.is_connected()


@pytest.mark.parametrize(
    "twin_of", [lambda store: pickle.loads(pickle.dumps(store)), copy.deepcopy]
)
def test_pickled_stores_arrive_disconnected(store, twin_of):
    store.from_bytes("a", b"1")
    twin = twin_of(store)
    assert not twin.is_connected()
    assert twin.event_manager is get_event_manager()
    with twin:
        assert twin.to_bytes("a") == b"1"
        twin.from_bytes("b", b"2")
    assert not store.exists("b")


def test_a_store_that_lacks_hooks_says_which():
    for name in ("_read", "_head", "_scan", "_stage", "_save", "_remove", "_begin", "_rollback"):
        with pytest.raises(TypeError, match=rf"abstract .*\b{name}\b"):
            BaseStore(event_manager=EventManager())
