"""Stores written for EnCore 0.8: they override public methods, with the arguments of 0.8."""

from __future__ import annotations

import io
from collections.abc import MutableMapping

import pytest

from encore.events.api import EventManager, get_event_manager
from encore.storage.abstract_store import AbstractReadOnlyStore, AbstractStore, Value
from encore.storage.copying import copy_store
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from encore.storage.mapping import ReadOnlyStoreMapping
from encore.storage.string_value import StringValue
from encore.storage.utils import (
    DummyTransactionContext,
    SimpleTransactionContext,
    StoreProgressManager,
    buffer_iterator,
)


class OldValue(Value):
    """0.8: data, metadata, size and the stamps; nothing of etags."""

    def __init__(self, data, metadata):
        self._data = data
        self._metadata = metadata
        self.size = len(data)
        self.created = self.modified = 1.0

    @property
    def data(self):
        return io.BytesIO(self._data)

    @property
    def metadata(self):
        return self._metadata.copy()


class OldReadOnlyStore(AbstractReadOnlyStore):
    def __init__(self, contents):
        super().__init__()
        self.contents = contents
        self.log = []
        self._credentials = None

    def connect(self, credentials=None):
        self._credentials = credentials or "anybody"

    def disconnect(self):
        self._credentials = None

    def is_connected(self):
        return self._credentials is not None

    def info(self):
        return {"readonly": True, "name": "old"}

    def get(self, key):
        self.log.append(("get", key))
        data, metadata = self.contents[key]
        return OldValue(data, metadata)

    def query(self, select=None, **kwargs):
        self.log.append(("query", select, kwargs))
        for key, (_, metadata) in list(self.contents.items()):
            if all(name in metadata and metadata[name] == value for name, value in kwargs.items()):
                if select is not None:
                    metadata = {name: metadata[name] for name in select if name in metadata}
                yield key, metadata.copy()


class OldStore(OldReadOnlyStore, AbstractStore):
    """As 0.8's documents show one: it emits its own events and keeps its own transactions."""

    def __init__(self, event_manager=None):
        super().__init__({})
        if event_manager is not None:
            self.event_manager = event_manager
        self._saved = None

    def info(self):
        return {"readonly": False}

    def set(self, key, value, buffer_size=1048576):
        self.log.append(("set", key, buffer_size))
        if isinstance(value, Value):
            data, metadata = value.data, value.metadata
        else:
            data, metadata = value
        with StoreProgressManager(
            self.event_manager,
            source=self,
            message="Setting " + key,
            steps=-1,
            key=key,
            metadata=metadata,
        ) as progress:
            data = b"".join(buffer_iterator(data, buffer_size, progress))
        self._put(key, data, metadata)

    def set_data(self, key, data, buffer_size=1048576):
        self.log.append(("set_data", key, buffer_size))
        metadata = self.contents[key][1] if key in self.contents else {}
        self._put(key, b"".join(buffer_iterator(data, buffer_size)), metadata)

    def _put(self, key, data, metadata):
        kind = StoreUpdateEvent if key in self.contents else StoreSetEvent
        self.contents[key] = (data, dict(metadata))
        self.event_manager.emit(kind(self, key=key, metadata=dict(metadata)))

    def delete(self, key):
        self.log.append(("delete", key))
        metadata = self.contents.pop(key)[1]
        self.event_manager.emit(StoreDeleteEvent(self, key=key, metadata=metadata))

    def transaction(self, notes):
        self.log.append(("transaction", notes))
        return SimpleTransactionContext(self)

    def _begin_transaction(self):
        self._saved = self.contents.copy()

    def _commit_transaction(self):
        self._saved = None

    def _rollback_transaction(self):
        self.contents, self._saved = self._saved, None


CONTENTS = {
    "a": (b"aaa", {"n": 1, "even": False}),
    "b": (b"bbbb", {"n": 2, "even": True}),
    "c/d": (b"", {"n": 1.0, "select": "x", "where": 5}),
}


@pytest.fixture
def reader():
    return OldReadOnlyStore(dict(CONTENTS))


@pytest.fixture
def store():
    store = OldStore(EventManager())
    store.contents.update(CONTENTS)
    return store


@pytest.fixture(params=[OldReadOnlyStore, OldStore])
def either(request, reader, store):
    return reader if request.param is OldReadOnlyStore else store


def recorded(store, kind=StoreEvent):
    events = []
    store.event_manager.connect(kind, events.append)
    return events


# Reading


def test_the_manager_of_the_process_is_the_default(reader):
    assert reader.event_manager is get_event_manager()


def test_the_life_cycle(either):
    assert not either.is_connected()
    with either as entered:
        assert entered is either
        assert either.is_connected()
    assert not either.is_connected()
    either.connect("me")
    with either:
        assert either._credentials == "me"
    assert "not connected" in repr(either)


def test_derived_reading_of_one_key(either, tmp_path):
    assert either.get_data("a").read() == b"aaa"
    assert either.get_metadata("a") == {"n": 1, "even": False}
    assert either.get_metadata("a", ["n", "missing"]) == {"n": 1}
    assert either.get_data_range("b", 1, -1).read() == b"bb"
    assert either.exists("a")
    assert not either.exists("z")
    assert either.to_bytes("b", 2) == b"bbbb"
    either.to_file("b", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"bbbb"
    with either.get("a") as stream:
        assert stream.read() == b"aaa"
    assert either.get("a").range(-1).read() == b"a"
    assert either.get("a").etag is None
    for method in ("get_data", "get_metadata", "get_data_range", "to_bytes"):
        with pytest.raises(KeyError):
            getattr(either, method)("z")


def test_derived_reading_of_many_keys(either):
    assert [value.size for value in either.multiget(iter("ab"))] == [3, 4]
    assert [data.read() for data in either.multiget_data("ab")] == [b"aaa", b"bbbb"]
    assert list(either.multiget_metadata("ab", ["n"])) == [{"n": 1}, {"n": 2}]
    values = either.multiget(["a", "z", "b"])
    next(values)
    with pytest.raises(KeyError, match="z"):
        next(values)


def test_derived_listing(either):
    assert sorted(either.query_keys()) == ["a", "b", "c/d"]
    assert list(either.query_keys(even=True)) == ["b"]
    assert sorted(either.glob("?")) == ["a", "b"]
    assert list(either.keys()) == ["a", "b", "c/d"]
    assert list(either.keys("c")) == ["c/d"]
    assert list(either.keys("", "a", 1)) == ["b"]
    assert list(either.keys(limit=0)) == []


def test_where_is_answered_without_being_passed_on(either):
    assert sorted(either.query_keys(where={"n": 1})) == ["a", "c/d"]
    assert list(either.query_keys(where={"select": "x"})) == ["c/d"]
    assert list(either.query_keys(where={"where": 5.0}, n=1)) == ["c/d"]
    assert list(either.query_keys(where={"n": 1}, n=2)) == []
    assert list(either.query_keys(where={"even": 0})) == []
    assert all("where" not in call[2] for call in either.log if call[0] == "query")


def test_progress_of_reading_goes_through_the_attribute(either, tmp_path):
    either.event_manager = EventManager()
    events = recorded(either, StoreProgressEvent)
    either.to_bytes("b", 3)
    assert [type(event) for event in events] == [
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreProgressStepEvent,
        StoreProgressEndEvent,
    ]
    assert events[0].steps == 4
    assert [event.step for event in events[1:3]] == [3, 4]
    assert {(event.source, event.key) for event in events} == {(either, "b")}
    either.to_file("b", tmp_path / "b")
    assert len(events) == 7


def test_a_read_only_mapping(reader):
    mapping = reader.mapping()
    assert type(mapping) is ReadOnlyStoreMapping
    assert not isinstance(mapping, MutableMapping)
    assert dict(mapping) == {key: data for key, (data, _) in CONTENTS.items()}


def test_the_info_of_the_contract():
    class Old(OldReadOnlyStore):
        info = AbstractReadOnlyStore.info

    assert Old({}).info() == {
        "type": "Old",
        "readonly": True,
        "authorizing": False,
        "transactional": False,
        "conditional": False,
        "streaming": False,
        "durable": "none",
    }


# Writing


def test_derived_writing(store, tmp_path):
    store.from_bytes("n", b"new", 2)
    assert store.contents["n"] == (b"new", {})
    assert store.log[-1] == ("set_data", "n", 2)
    (tmp_path / "file").write_bytes(b"from a file")
    store.from_file("a", tmp_path / "file", 5)
    assert store.contents["a"] == (b"from a file", {"n": 1, "even": False})
    store.set_metadata("a", {"x": (1,)})
    assert store.contents["a"] == (b"from a file", {"x": [1]})
    store.set_metadata("fresh", {"y": 1})
    assert store.contents["fresh"] == (b"", {"y": 1})
    store.update_metadata("a", {"z": 2})
    assert store.contents["a"][1] == {"x": [1], "z": 2}
    with pytest.raises(KeyError):
        store.update_metadata("missing", {})
    for metadata in (None, {1: 2}, {"a": b""}):
        with pytest.raises(TypeError):
            store.set_metadata("a", metadata)


def test_set_data_is_derived_where_it_is_not_written(tmp_path):
    class Few(OldStore):
        set_data = AbstractStore.set_data

    store = Few(EventManager())
    store.set("a", (io.BytesIO(b"1"), {"n": 1}))
    store.set_data("a", io.BytesIO(b"23"), 7)
    store.set_data("b", io.BytesIO(b"4"))
    assert store.contents == {"a": (b"23", {"n": 1}), "b": (b"4", {})}
    assert ("set", "a", 7) in store.log


def test_copy_and_move(store):
    store.copy("a", "x")
    assert store.contents["x"] == store.contents["a"]
    store.move("b", "y")
    assert store.contents["y"] == CONTENTS["b"]
    assert "b" not in store.contents
    store.move("a", "a")
    assert store.contents["a"] == CONTENTS["a"]
    for method in (store.copy, store.move):
        with pytest.raises(KeyError):
            method("missing", "z")
        with pytest.raises(ValueError, match="key"):
            method("a", "")


def test_bulk(store):
    store.multiset(iter("xy"), (StringValue(each, {"m": 1}) for each in (b"1", b"2", b"3")), 9)
    assert store.contents["y"] == (b"2", {"m": 1})
    assert store.log[0] == ("transaction", "multiset")
    assert ("set", "x", 9) in store.log
    store.multiset_data(["x", "w"], [io.BytesIO(b"4"), io.BytesIO(b"5")])
    assert store.contents["x"] == (b"4", {"m": 1})
    store.multiset_metadata(["x", "y"], iter([{"k": 1}]))
    assert store.contents["x"] == (b"4", {"k": 1})
    assert store.contents["y"] == (b"2", {"m": 1})
    store.multiupdate_metadata(["x", "y"], [{"l": 2}, {"m": 2}])
    assert store.contents["x"][1] == {"k": 1, "l": 2}
    assert store.contents["y"][1] == {"m": 2}


def test_bulk_is_one_transaction(store):
    before = dict(store.contents)
    events = recorded(store)
    with pytest.raises(KeyError, match="missing"):
        store.multiupdate_metadata(["a", "missing"], [{"x": 1}, {"x": 1}])
    assert store.contents == before
    assert [type(event) for event in events if not isinstance(event, StoreProgressEvent)] == [
        StoreTransactionStartEvent,
        StoreTransactionEndEvent,
    ]


def test_the_store_emits_its_own_events_and_only_those(store):
    events = recorded(store)
    store.set("n", (io.BytesIO(b"xyz"), {"m": 1}))
    store.from_bytes("n", b"2")
    store.delete("n")
    assert [type(event) for event in events] == [
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreProgressEndEvent,
        StoreSetEvent,
        StoreUpdateEvent,
        StoreDeleteEvent,
    ]
    assert {event.source for event in events} == {store}


def test_events_of_a_transaction(store):
    events = recorded(store)
    with store.transaction("note"):
        store.set_data("n", io.BytesIO(b"1"))
        store.delete("a")
        assert [type(event) for event in events] == [StoreTransactionStartEvent]
    assert [(type(event), getattr(event, "key", None)) for event in events[1:]] == [
        (StoreTransactionEndEvent, None),
        (StoreSetEvent, "n"),
        (StoreDeleteEvent, "a"),
    ]


def test_a_mutable_mapping(store):
    mapping = store.mapping()
    assert isinstance(mapping, MutableMapping)
    mapping["a"] = b"new"
    assert store.contents["a"] == (b"new", {"n": 1, "even": False})
    del mapping["b"]
    assert mapping == {"a": b"new", "c/d": b""}
    mapping.clear()
    assert store.contents == {}


def test_no_condition_is_passed_on_unless_it_was_given(store):
    store.set_metadata("a", {})
    store.update_metadata("a", {"x": 1})
    with pytest.raises((TypeError, NotImplementedError)):
        store.set_metadata("a", {}, if_none_match="*")
    with pytest.raises((TypeError, NotImplementedError)):
        store.update_metadata("a", {}, if_match="etag")
    assert store.contents["a"][1] == {"x": 1}


def test_the_dummy_transaction_of_the_contract():
    class Few(OldStore):
        transaction = AbstractStore.transaction

    store = Few(EventManager())
    context = store.transaction()
    assert type(context) is DummyTransactionContext
    assert store.transaction("again") is context
    store.multiset("a", [(io.BytesIO(b"1"), {})])
    store.move("a", "b")
    assert store.contents == {"b": (b"1", {})}


# With other stores


def test_values_go_from_old_to_new_and_back(store):
    new = DictMemoryStore(event_manager=EventManager())
    new.set("a", store.get("a"))
    assert (new.to_bytes("a"), new.get_metadata("a")) == CONTENTS["a"]
    store.set("back", new.get("a"))
    assert store.contents["back"] == CONTENTS["a"]
    store.set("a", store.get("a"))
    assert store.contents["a"] == CONTENTS["a"]


def test_whole_stores_are_copied(store, reader):
    new = DictMemoryStore(event_manager=EventManager())
    copy_store(reader, new)
    assert {key: (new.to_bytes(key), new.get_metadata(key)) for key in list(new.keys())} == CONTENTS
    store.contents.clear()
    copy_store(new, store)
    assert store.contents == CONTENTS


def test_the_old_tuple_of_a_value(reader):
    with pytest.warns(DeprecationWarning, match="tuple"):
        data, metadata = reader.get("a")
    assert (data.read(), metadata) == CONTENTS["a"]
