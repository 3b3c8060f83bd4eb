"""The test mixins of EnCore 0.8; encore.testing.conformance checks far more.

Mix one of them into a ``unittest.TestCase`` whose ``setUp`` leaves a store in ``self.store``. Both
want the key 'test1'; besides, StoreReadTestMixin wants 'key0' to 'key9' and StoreWriteTestMixin
'existing_key0' to 'existing_key9'.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..string_value import StringValue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from unittest import TestCase as _Case
else:
    _Case = object

__all__ = ["StoreReadTestMixin", "StoreWriteTestMixin", "create_file_like_data", "temp_dir"]

TEST1 = b"test2\n"
TEST1_METADATA: dict[str, Any] = {
    "a_str": "test3",
    "an_int": 1,
    "a_float": 2.0,
    "a_bool": True,
    "a_list": ["one", "two", "three"],
    "a_dict": {"one": 1, "two": 2, "three": 3},
}


def create_file_like_data(data: bytes) -> io.BytesIO:
    """Return a binary stream of these bytes."""
    return io.BytesIO(data)


@contextmanager
def temp_dir() -> Iterator[str]:
    """Give the path of a directory that is removed at the end of the block."""
    with tempfile.TemporaryDirectory() as path:
        yield path


class _StoreTest(_Case):
    #: How fine time stamps are: 'arbitrary', or 'second' for whole seconds.
    resolution = "arbitrary"
    store: Any

    def setUp(self) -> None:
        super().setUp()
        self.store = None

    def utils_large(self) -> None:
        """Put 10,000,000 times b'test4' under 'test3', if the class wants that to be tried."""

    def connected(self) -> Any:
        """Return the store, connected until the end of the test."""
        if not self.store.is_connected():
            self.store.connect()
            self.addCleanup(self.store.disconnect)
        return self.store

    def check(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        store = self.connected()
        value = store.get(key)
        with value.data as stream:
            self.assertEqual(stream.read(), data)
        self.assertEqual(value.metadata, metadata)
        self.assertEqual(store.to_bytes(key), data)
        self.assertEqual(store.get_metadata(key), metadata)

    def check_stamp(self, stamp: float, before: float, after: float) -> None:
        slack = 1.0 if self.resolution == "second" else 0.01
        self.assertLessEqual(before - slack, stamp)
        self.assertLessEqual(stamp, after + slack)


class StoreReadTestMixin(_StoreTest):
    """Reading a store that was filled by setUp."""

    def test_connect(self) -> None:
        self.store.connect()
        self.assertTrue(self.store.is_connected())
        self.store.disconnect()

    def test_info(self) -> None:
        info = self.connected().info()
        self.assertIsInstance(info, dict)
        self.assertLessEqual({"type", "readonly", "authorizing"}, set(info))

    def test_get(self) -> None:
        self.check("test1", TEST1, TEST1_METADATA)
        value = self.connected().get("test1")
        self.assertEqual(value.size, len(TEST1))
        self.assertLessEqual(value.created, value.modified)

    def test_get_copies(self) -> None:
        store = self.connected()
        value = store.get("test1")
        value.metadata["a_list"].append("four")
        store.get_metadata("test1")["a_dict"]["four"] = 4
        self.check("test1", TEST1, TEST1_METADATA)
        with value.data as one, value.data as other:
            self.assertEqual((one.read(), other.read()), (TEST1, TEST1))

    def test_get_data(self) -> None:
        with self.connected().get_data("test1") as stream:
            self.assertEqual(stream.read(2), TEST1[:2])
            self.assertEqual(stream.read(), TEST1[2:])

    def test_get_range(self) -> None:
        store = self.connected()
        for start, end in [
            (None, None),
            (0, 3),
            (2, None),
            (None, 2),
            (2, 2),
            (3, 100),
            (-3, -1),
            (100, None),
        ]:
            with store.get("test1").range(start, end) as stream:
                self.assertEqual(stream.read(), TEST1[start:end])
            with store.get_data_range("test1", start, end) as stream:
                self.assertEqual(stream.read(), TEST1[start:end])

    def test_iterdata(self) -> None:
        value = self.connected().get("test1")
        self.assertEqual(list(value.iterdata(buffer_size=4)), [TEST1[:4], TEST1[4:]])

    def test_get_metadata_select(self) -> None:
        store = self.connected()
        wanted = {"a_str": "test3", "an_int": 1}
        self.assertEqual(store.get_metadata("test1", ["a_str", "an_int", "missing"]), wanted)
        self.assertEqual(store.get_metadata("test1", []), {})

    def test_missing_key(self) -> None:
        store = self.connected()
        for method in (store.get, store.get_data, store.get_metadata, store.to_bytes):
            with self.assertRaises(KeyError):
                method("test2")
        self.assertIs(store.exists("test2"), False)

    def test_exists(self) -> None:
        self.assertIs(self.connected().exists("test1"), True)

    def test_multiget(self) -> None:
        store = self.connected()
        keys = [f"key{i}" for i in range(10)]
        data = [f"value{i}".encode() for i in range(10)]
        for value, expected in zip(store.multiget(iter(keys)), data, strict=True):
            with value.data as stream:
                self.assertEqual(stream.read(), expected)
        for stream, expected in zip(store.multiget_data(iter(keys)), data, strict=True):
            with stream:
                self.assertEqual(stream.read(), expected)
        for i, metadata in enumerate(store.multiget_metadata(iter(keys))):
            expected_metadata: dict[str, Any] = {"query_test1": "value", "query_test2": i}
            if i % 2 == 0:
                expected_metadata["optional"] = True
            self.assertEqual(metadata, expected_metadata)
        selected = list(store.multiget_metadata(keys, select=["query_test2", "optional"]))
        self.assertEqual(selected[:2], [{"query_test2": 0, "optional": True}, {"query_test2": 1}])
        with self.assertRaises(KeyError):
            list(store.multiget(["key0", "missing"]))

    def test_query(self) -> None:
        store = self.connected()
        self.assertEqual(dict(store.query(a_str="test3", an_int=1)), {"test1": TEST1_METADATA})
        found = dict(store.query(query_test1="value"))
        self.assertEqual(set(found), {f"key{i}" for i in range(10)})
        self.assertEqual(found["key3"], {"query_test1": "value", "query_test2": 3})
        self.assertEqual(
            dict(store.query(["query_test2"], optional=True)),
            {f"key{i}": {"query_test2": i} for i in range(0, 10, 2)},
        )
        self.assertEqual(list(store.query(query_test1="value", query_test2=10)), [])
        self.assertEqual({key for key, _ in store.query()}, {"test1", *found})

    def test_query_keys(self) -> None:
        store = self.connected()
        self.assertEqual(set(store.query_keys(query_test1="value")), {f"key{i}" for i in range(10)})
        self.assertEqual(list(store.query_keys(query_test1="value", query_test2=4)), ["key4"])
        self.assertEqual(list(store.query_keys(missing=1)), [])
        self.assertEqual(len(list(store.query_keys())), 11)

    def test_glob(self) -> None:
        store = self.connected()
        self.assertEqual(set(store.glob("key*")), {f"key{i}" for i in range(10)})
        self.assertEqual(set(store.glob("*1")), {"test1", "key1"})
        self.assertEqual(set(store.glob("key[0-2]")), {"key0", "key1", "key2"})
        self.assertEqual(set(store.glob("key?")), {f"key{i}" for i in range(10)})
        self.assertEqual(list(store.glob("missing*")), [])

    def test_to_file(self) -> None:
        store = self.connected()
        with temp_dir() as directory:
            path = os.path.join(directory, "file")
            store.to_file("test1", path)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), TEST1)
            store.to_file("test1", path, buffer_size=2)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), TEST1)

    def test_to_bytes(self) -> None:
        self.assertEqual(self.connected().to_bytes("test1"), TEST1)
        self.assertEqual(self.connected().to_bytes("test1", buffer_size=1), TEST1)

    def test_large_value(self) -> None:
        self.utils_large()
        store = self.connected()
        if not store.exists("test3"):
            self.skipTest("utils_large() stores no large value")
        with temp_dir() as directory:
            path = os.path.join(directory, "file")
            store.to_file("test3", path)
            self.assertEqual(os.path.getsize(path), 50_000_000)
            with open(path, "rb") as file:
                file.seek(-10, os.SEEK_END)
                self.assertEqual(file.read(), b"test4test4")


class StoreWriteTestMixin(_StoreTest):
    """Writing to a store that was filled by setUp."""

    def test_set(self) -> None:
        store = self.connected()
        before = time.time()
        store.set("test3", (create_file_like_data(b"test4"), {"a": [1, None]}))
        self.check("test3", b"test4", {"a": [1, None]})
        self.check_stamp(store.get("test3").created, before, time.time())
        self.check_stamp(store.get("test3").modified, before, time.time())
        store.set("test4", StringValue(b"test5", {"b": 2}))
        self.check("test4", b"test5", {"b": 2})
        self.check("test1", TEST1, TEST1_METADATA)

    def test_set_replaces(self) -> None:
        store = self.connected()
        old = store.get("test1")
        store.set("test1", (create_file_like_data(b"new"), {"new": True}))
        self.check("test1", b"new", {"new": True})
        self.assertEqual(store.get("test1").created, old.created)
        self.assertGreaterEqual(store.get("test1").modified, old.modified)

    def test_set_buffer_size(self) -> None:
        self.connected().set("test3", (create_file_like_data(b"test4" * 3), {}), 4)
        self.check("test3", b"test4" * 3, {})

    def test_set_copies(self) -> None:
        store = self.connected()
        metadata: dict[str, Any] = {"a": {"b": 1}}
        store.set("test3", (create_file_like_data(b"test4"), metadata))
        metadata["a"]["b"] = 2
        self.check("test3", b"test4", {"a": {"b": 1}})

    def test_set_value_of_the_store(self) -> None:
        store = self.connected()
        store.set("test3", store.get("test1"))
        store.set("test1", store.get("test1"))
        self.check("test3", TEST1, TEST1_METADATA)
        self.check("test1", TEST1, TEST1_METADATA)

    def test_set_data(self) -> None:
        store = self.connected()
        store.set_data("test1", create_file_like_data(b"test4"))
        self.check("test1", b"test4", TEST1_METADATA)
        store.set_data("test3", create_file_like_data(b"test4"))
        self.check("test3", b"test4", {})

    def test_set_metadata(self) -> None:
        store = self.connected()
        store.set_metadata("test1", {"new": 1})
        self.check("test1", TEST1, {"new": 1})
        store.set_metadata("test3", {"new": 1})
        self.check("test3", b"", {"new": 1})

    def test_update_metadata(self) -> None:
        store = self.connected()
        store.update_metadata("test1", {"an_int": 2, "new": None})
        self.check("test1", TEST1, {**TEST1_METADATA, "an_int": 2, "new": None})
        with self.assertRaises(KeyError):
            store.update_metadata("test3", {})

    def test_delete(self) -> None:
        store = self.connected()
        store.delete("test1")
        self.assertFalse(store.exists("test1"))
        self.assertNotIn("test1", set(store.query_keys()))
        with self.assertRaises(KeyError):
            store.get("test1")
        with self.assertRaises(KeyError):
            store.delete("test1")

    def existing(self) -> dict[str, tuple[bytes, dict[str, Any]]]:
        return {
            f"existing_key{i}": (b"existing_value%d" % i, {"meta": True, "meta1": -i})
            for i in range(10)
        }

    def test_multiset(self) -> None:
        store = self.connected()
        keys = ["existing_key1", "new_key", "existing_key2"]
        store.multiset(
            iter(keys), ((create_file_like_data(key.encode()), {"of": key}) for key in keys)
        )
        for key in keys:
            self.check(key, key.encode(), {"of": key})
        for key, (data, metadata) in self.existing().items():
            if key not in keys:
                self.check(key, data, metadata)

    def test_multiset_data(self) -> None:
        store = self.connected()
        keys = [*self.existing(), "new_key"]
        store.multiset_data(keys, [create_file_like_data(key.encode()) for key in keys])
        for key, (_, metadata) in self.existing().items():
            self.check(key, key.encode(), metadata)
        self.check("new_key", b"new_key", {})

    def test_multiset_metadata(self) -> None:
        store = self.connected()
        keys = [*self.existing(), "new_key"]
        store.multiset_metadata(keys, ({"of": key} for key in keys))
        for key, (data, _) in self.existing().items():
            self.check(key, data, {"of": key})
        self.check("new_key", b"", {"of": "new_key"})

    def test_multiupdate_metadata(self) -> None:
        store = self.connected()
        keys = list(self.existing())
        store.multiupdate_metadata(keys, ({"meta1": i, "of": key} for i, key in enumerate(keys)))
        for i, (key, (data, _)) in enumerate(self.existing().items()):
            self.check(key, data, {"meta": True, "meta1": i, "of": key})

    def test_from_file(self) -> None:
        store = self.connected()
        with temp_dir() as directory:
            path = os.path.join(directory, "file")
            with open(path, "wb") as file:
                file.write(b"from a file")
            store.from_file("test1", path)
            store.from_file("test3", path, buffer_size=2)
        self.check("test1", b"from a file", TEST1_METADATA)
        self.check("test3", b"from a file", {})

    def test_from_bytes(self) -> None:
        store = self.connected()
        store.from_bytes("test1", b"bytes")
        store.from_bytes("test3", b"bytes", buffer_size=2)
        self.check("test1", b"bytes", TEST1_METADATA)
        self.check("test3", b"bytes", {})

    def test_query_after_changes(self) -> None:
        store = self.connected()
        self.assertEqual(set(store.query_keys(meta=True)), set(self.existing()))
        store.set_metadata("existing_key0", {"meta": False})
        store.update_metadata("existing_key1", {"meta1": "text"})
        store.delete("existing_key2")
        self.assertEqual(
            set(store.query_keys(meta=True)),
            set(self.existing()) - {"existing_key0", "existing_key2"},
        )
        self.assertEqual(list(store.query_keys(meta1="text")), ["existing_key1"])

    def test_transaction(self) -> None:
        store = self.connected()
        with store.transaction("note"):
            store.from_bytes("test1", b"in a transaction")
            self.check("test1", b"in a transaction", TEST1_METADATA)
        self.check("test1", b"in a transaction", TEST1_METADATA)
        if store.info().get("transactional"):
            with self.assertRaises(ZeroDivisionError), store.transaction("note"):
                store.delete("test1")
                raise ZeroDivisionError
            self.check("test1", b"in a transaction", TEST1_METADATA)

    def test_large_value(self) -> None:
        self.utils_large()
        store = self.connected()
        if store.exists("test3"):
            self.assertEqual(store.get("test3").size, 50_000_000)
            store.set("test3", (create_file_like_data(b"small"), {}))
            self.check("test3", b"small", {})
