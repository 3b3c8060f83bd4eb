"""EnCore 0.8's test mixins, at their old path."""

import os
import unittest

import pytest

from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.tests.abstract_test import (
    TEST1,
    TEST1_METADATA,
    StoreReadTestMixin,
    StoreWriteTestMixin,
    create_file_like_data,
    temp_dir,
)


def fill(store, contents):
    store.multiset(
        contents, [(create_file_like_data(data), metadata) for data, metadata in contents.values()]
    )
    return store


def read_contents():
    contents = {"test1": (TEST1, TEST1_METADATA)}
    for i in range(10):
        metadata = {"query_test1": "value", "query_test2": i}
        contents[f"key{i}"] = (
            b"value%d" % i,
            {**metadata, "optional": True} if i % 2 == 0 else metadata,
        )
    return contents


def write_contents():
    contents = {
        f"existing_key{i}": (b"existing_value%d" % i, {"meta": True, "meta1": -i})
        for i in range(10)
    }
    return {"test1": (TEST1, TEST1_METADATA), **contents}


class TestDictRead(StoreReadTestMixin, unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.store = fill(DictMemoryStore(), read_contents())

    def utils_large(self):
        self.store.from_bytes("test3", b"test4" * 10_000_000)


class TestDictWrite(StoreWriteTestMixin, unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.store = fill(DictMemoryStore(), write_contents())


class TestSqliteRead(StoreReadTestMixin, unittest.TestCase):
    def setUp(self):
        super().setUp()
        folder = temp_dir()
        path = folder.__enter__()
        self.addCleanup(folder.__exit__, None, None, None)
        self.store = SqliteStore(os.path.join(path, "store.db"), durability="process")
        with self.store:
            fill(self.store, read_contents())


class TestSqliteWrite(StoreWriteTestMixin, unittest.TestCase):
    resolution = "second"

    def setUp(self):
        super().setUp()
        self.store = SqliteStore(":memory:")
        self.store.connect()
        self.addCleanup(self.store.disconnect)
        fill(self.store, write_contents())


def checks(mixin):
    return [name for name in dir(mixin) if name.startswith("test_")]


@pytest.mark.parametrize(
    ("mixin", "method", "check"),
    [
        (StoreReadTestMixin, "query_keys", "test_query_keys"),
        (StoreReadTestMixin, "glob", "test_glob"),
        (StoreReadTestMixin, "get_metadata", "test_get_copies"),
        (StoreWriteTestMixin, "delete", "test_delete"),
        (StoreWriteTestMixin, "set_data", "test_set_data"),
        (StoreWriteTestMixin, "update_metadata", "test_update_metadata"),
        (StoreWriteTestMixin, "multiset", "test_multiset"),
    ],
)
def test_a_store_without_a_working_method_is_caught(mixin, method, check):
    contents = read_contents() if mixin is StoreReadTestMixin else write_contents()

    class Case(mixin, unittest.TestCase):
        def setUp(self):
            super().setUp()
            self.store = fill(DictMemoryStore(), contents)
            setattr(self.store, method, lambda *args, **kwargs: iter(()))

    result = unittest.TestResult()
    Case(check).run(result)
    assert result.failures or result.errors


def test_temp_dir_is_removed():
    with temp_dir() as path:
        assert os.path.isdir(path)
    assert not os.path.exists(path)


def test_create_file_like_data():
    assert create_file_like_data(b"data").read() == b"data"


def test_the_mixins_have_checks():
    assert len(checks(StoreReadTestMixin)) > 15
    assert len(checks(StoreWriteTestMixin)) > 15
