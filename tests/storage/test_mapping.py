"""A store as a mapping of keys to bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, MutableMapping

import pytest

from encore.events.api import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.events import StoreModificationEvent
from encore.storage.mapping import ReadOnlyStoreMapping, StoreMapping


@pytest.fixture
def store():
    store = DictMemoryStore(event_manager=EventManager())
    store.set("a", (io.BytesIO(b"1"), {"name": "first"}))
    store.set("b", (io.BytesIO(b"22"), {}))
    return store


def test_it_is_a_mutable_mapping_of_bytes(store):
    mapping = store.mapping()
    assert isinstance(mapping, StoreMapping)
    assert isinstance(mapping, MutableMapping)
    assert mapping == {"a": b"1", "b": b"22"}
    assert mapping["a"] == b"1"
    assert len(mapping) == 2
    assert sorted(mapping) == ["a", "b"]
    assert "a" in mapping
    assert "c" not in mapping
    assert mapping.get("c") is None
    assert mapping.get("c", b"x") == b"x"
    assert sorted(mapping.items()) == [("a", b"1"), ("b", b"22")]
    assert ("a", b"1") in mapping.items()
    assert mapping.keys() & {"a", "z"} == {"a"}
    with pytest.raises(KeyError):
        mapping["c"]
    with pytest.raises(KeyError):
        del mapping["c"]


def test_it_is_a_view_in_both_directions(store):
    mapping = store.mapping()
    store.from_bytes("c", b"333")
    assert mapping["c"] == b"333"
    mapping["d"] = b"4"
    assert store.to_bytes("d") == b"4"
    del mapping["a"]
    assert not store.exists("a")


def test_setting_data_keeps_the_metadata(store):
    store.mapping()["a"] = b"new"
    assert store.get_metadata("a") == {"name": "first"}


@pytest.mark.parametrize("data", [bytearray(b"xy"), memoryview(b"xy")])
def test_bytes_like_data_become_bytes(store, data):
    store.mapping()["a"] = data
    assert type(store.mapping()["a"]) is bytes
    assert store.mapping()["a"] == b"xy"


@pytest.mark.parametrize("data", ["text", None, 1, [1], io.BytesIO(b"x")])
def test_other_data_are_a_type_error(store, data):
    with pytest.raises(TypeError):
        store.mapping()["a"] = data
    assert store.to_bytes("a") == b"1"


@pytest.mark.parametrize("key", [None, 1, b"a", "", "\ud800", "x" * 1025, ["a"]])
def test_what_can_be_no_key_is_not_in_it(store, key):
    assert key not in store.mapping()
    with pytest.raises((TypeError, ValueError)):
        store.mapping()[key] = b""
    assert len(store.mapping()) == 2


def test_the_inherited_methods(store):
    mapping = store.mapping()
    assert mapping.pop("a") == b"1"
    assert mapping.pop("a", None) is None
    assert mapping.setdefault("b", b"x") == b"22"
    assert mapping.setdefault("c", b"x") == b"x"
    mapping.update({"d": b"4"}, e=b"5")
    assert dict(mapping) == {"b": b"22", "c": b"x", "d": b"4", "e": b"5"}
    key, data = mapping.popitem()
    assert len(mapping) == 3
    assert {"b": b"22", "c": b"x", "d": b"4", "e": b"5"}[key] == data


def test_clear_deletes_each_key_once_without_reading_it(store, monkeypatch):
    deleted = []
    store.event_manager.connect(
        StoreModificationEvent, lambda event: deleted.append((event.action, event.key))
    )
    monkeypatch.setattr(store, "to_bytes", None)
    store.mapping().clear()
    assert sorted(deleted) == [("delete", "a"), ("delete", "b")]
    assert list(store.keys()) == []
    store.mapping().clear()


def test_clear_does_not_mind_who_else_deletes(store):
    def delete_others(event):
        for key in list(store.query_keys()):
            store.delete(key)

    store.event_manager.connect(StoreModificationEvent, delete_others, filter={"key": "a"})
    store.mapping().clear()
    assert len(store.mapping()) == 0


def test_a_store_that_can_only_be_read_has_a_mapping_that_can_only_be_read(tmp_path):
    (tmp_path / "x").write_bytes(b"data")
    with DirectoryStore(tmp_path, event_manager=EventManager()) as store:
        mapping = store.mapping()
        assert type(mapping) is ReadOnlyStoreMapping
        assert isinstance(mapping, Mapping)
        assert not isinstance(mapping, MutableMapping)
        assert dict(mapping) == {"x": b"data"}
        with pytest.raises(TypeError):
            mapping["x"] = b""


def test_repr_names_the_store(store):
    assert repr(store.mapping()) == f"StoreMapping({store!r})"
    assert repr(ReadOnlyStoreMapping(store)) == f"ReadOnlyStoreMapping({store!r})"


@pytest.mark.parametrize("data", ["str", None, 5, io.BytesIO()])
def test_what_is_set_is_bytes(store, data):
    mapping = store.mapping()
    with pytest.raises(TypeError, match="the data of a key are bytes, not"):
        mapping["a"] = data
    with pytest.raises(ValueError, match="key"):
        mapping[""] = data
    assert mapping["a"] == b"1"
    mapping["a"] = bytearray(b"3")
    mapping["b"] = memoryview(b"4")
    assert mapping == {"a": b"3", "b": b"4"}
