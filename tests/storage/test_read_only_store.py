"""ReadOnlyStore: the reading half of any store."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import unittest

import pytest
from store_kits import FAST

from encore.events.api import EventManager
from encore.storage.abstract_store import AbstractStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.mapping import StoreMapping
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.sqlite_store import SqliteStore
from encore.testing.conformance import ReadOnlyStoreConformance


class Kit(ReadOnlyStoreConformance):
    def make_filled_store(self, contents, event_manager):
        inner = self.make_inner()
        with inner:
            inner.multiset(list(contents), [(io.BytesIO(d), m) for d, m in contents.values()])
        return ReadOnlyStore(inner, event_manager=event_manager)


class TestReadOnlyOverDictMemoryStore(Kit, unittest.TestCase):
    def make_inner(self):
        return DictMemoryStore(event_manager=EventManager())


class TestReadOnlyOverSqliteStore(Kit, unittest.TestCase):
    def make_inner(self):
        folder = tempfile.TemporaryDirectory(dir=FAST)
        self.addCleanup(folder.cleanup)
        return SqliteStore(f"{folder.name}/store.db", event_manager=EventManager())


def test_nothing_that_changes_the_store_is_there():
    store = ReadOnlyStore(DictMemoryStore())
    assert not isinstance(store, AbstractStore)
    assert not isinstance(store.mapping(), StoreMapping)
    info = store.info()
    assert (info["readonly"], info["transactional"], info["conditional"]) == (True, False, False)
    public = {name for name in dir(AbstractStore) if not name.startswith("_")}
    reading = {name for name in dir(ReadOnlyStore) if not name.startswith("_")}
    assert {"set", "delete", "transaction", "move"} <= public - reading


def test_it_shows_what_changes():
    inner = DictMemoryStore()
    store = pickle.loads(pickle.dumps(ReadOnlyStore(inner)))
    store.store.from_bytes("a", b"1")
    assert store.to_bytes("a") == b"1"
    assert repr(store) == f"ReadOnlyStore({store.store!r})"


def test_what_would_write_is_not_there_and_says_why():
    inner = DictMemoryStore(event_manager=EventManager())
    store = ReadOnlyStore(inner, event_manager=EventManager())
    for name in ("set", "from_bytes", "delete", "transaction"):
        assert not hasattr(store, name)
        with pytest.raises(
            AttributeError, match=f"no attribute '{name}': it can only be read"
        ) as e:
            getattr(store, name)
        assert (e.value.name, e.value.obj) == (name, store)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = store.nothing
    assert copy.deepcopy(store).store is not inner
    # A half made one, as pickle and copy make it.
    with pytest.raises(AttributeError, match=r"no attribute 'store'$"):
        _ = ReadOnlyStore.__new__(ReadOnlyStore).store
