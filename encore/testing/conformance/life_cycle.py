"""Life cycle: check 52."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...events.package_globals import get_event_manager
from ...storage.abstract_store import (
    AbstractAuthorizingStore,
    AbstractReadOnlyStore,
    AbstractStore,
)
from ...storage.errors import StoreError
from .._child import Child
from ._case import StoreCase
from .keys import reading_calls, writing_calls

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LifeCycle", "Opening"]


class Opening(StoreCase):
    """connect, disconnect, info and repr, of stores that can be read."""

    def listing_calls(self) -> list[Callable[[], object]]:
        store = self.store
        return [
            lambda: list(store.query()),
            lambda: list(store.query_keys()),
            lambda: list(store.glob("*")),
            lambda: list(store.keys()),
            lambda: len(store.mapping()),
        ]

    def needs_connect(self) -> bool:
        """Whether the store, which is disconnected, has to be connected to be used."""
        try:
            self.store.exists("key")
        except StoreError:
            return True
        return False

    def test_info(self) -> None:
        """info() has at least: type, readonly, authorizing, transactional, conditional, streaming,
        durable."""
        info = self.info
        self.assertIsInstance(info["type"], str)
        for name in ("readonly", "authorizing", "transactional", "conditional", "streaming"):
            self.assertIsInstance(info[name], bool, name)
        self.assertIn(info["durable"], ("none", "process", "power"))
        self.assertIsInstance(self.store, AbstractReadOnlyStore)
        if not info["readonly"]:
            self.assertIsInstance(self.store, AbstractStore)
        self.assertEqual(info["authorizing"], isinstance(self.store, AbstractAuthorizingStore))
        info["type"] = "changed"
        self.assertNotEqual(self.store.info()["type"], "changed", "info() is the caller's own")

    def test_repr(self) -> None:
        """repr() says what it is, connected or not."""
        connected = repr(self.store)
        self.store.disconnect()
        for text in (connected, repr(self.store)):
            self.assertIn(type(self.store).__name__, text)
            self.assertLess(len(text), 1000)

    def test_connect_and_disconnect_twice(self) -> None:
        """Life cycle: connect() and disconnect() twice are fine; is_connected() tells; `with
        store:` does both."""
        store = self.fill({"key": (b"data", {})})
        store.connect()
        self.assertIs(store.is_connected(), True)
        self.assertTrue(store.exists("key"))
        store.disconnect()
        self.assertIs(store.is_connected(), False)
        store.disconnect()
        self.assertIs(store.is_connected(), False)
        with store as entered:
            self.assertIs(entered, store)
            self.assertIs(store.is_connected(), True)
        self.assertIs(store.is_connected(), False)
        store.connect()
        if self.info["durable"] != "none" or self.info["readonly"]:
            self.assertEqual(store.to_bytes("key"), b"data", "reconnecting finds everything again")

    def test_a_disconnected_store_refuses_to_read(self) -> None:
        """Life cycle: after disconnect() a store that holds a resource raises StoreError('... is
        not connected')."""
        self.fill({"key": (b"data", {})})
        self.store.disconnect()
        if not self.needs_connect():
            self.skipTest("this store can be used without connect()")
        calls = [
            *reading_calls(self.store, "key"),
            *reading_calls(self.store, "no"),
            *self.listing_calls(),
        ]
        for call in [*calls, lambda: self.store.exists("key")]:
            error = self.refused(StoreError, call)
            self.assertNotIsInstance(error, KeyError)
            self.assertIn("not connected", str(error))

    def test_bad_arguments_are_found_first(self) -> None:
        """Errors are found in this order: bad argument, not connected, missing key."""
        self.store.disconnect()
        for call in [*reading_calls(self.store, 5), lambda: self.store.exists(5)]:
            self.refused(TypeError, call)
        for call in [*reading_calls(self.store, ""), lambda: self.store.exists("")]:
            self.refused(ValueError, call)
        self.refused(TypeError, self.store.get_data_range, "no", "x")
        self.refused(TypeError, self.store.glob, 5)
        self.refused(TypeError, self.store.keys, 5)

    def test_disconnect_ends_threads(self) -> None:
        """Life cycle: disconnect() returns promptly and ends threads."""
        self.store.disconnect()
        before = set(threading.enumerate())
        self.store.connect()
        list(self.store.query())
        self.in_thread(self.store.disconnect)
        left = set(threading.enumerate()) - before
        for thread in left:
            thread.join(self.patience)
        self.assertEqual([thread for thread in left if thread.is_alive()], [])

    def test_threads_that_did_not_connect(self) -> None:
        """Threads: a store may be used from threads that did not connect it, and be connected by
        any."""
        self.fill({"key": (b"data", {})})
        self.assertEqual(self.in_thread(self.store.to_bytes, "key"), b"data")
        if self.info["durable"] == "none" and not self.info["readonly"]:
            return
        self.in_thread(self.store.disconnect)
        self.assertIs(self.store.is_connected(), False)
        self.in_thread(self.store.connect)
        self.assertEqual(self.store.to_bytes("key"), b"data")
        self.assertEqual(self.in_thread(self.store.to_bytes, "key"), b"data")


class LifeCycle(Opening):
    """The same for stores that can be written, and what becomes of them in other places."""

    def test_a_disconnected_store_refuses_to_write(self) -> None:
        """Life cycle: before connect() and after disconnect() a store that holds a resource raises
        StoreError."""
        self.put("key", b"data")
        self.store.disconnect()
        if not self.needs_connect():
            self.put("key", b"other")
            self.assertEqual(self.store.to_bytes("key"), b"other")
            return

        def transaction() -> None:
            with self.store.transaction("note"):
                pass

        calls = [
            *writing_calls(self.store, "key")[:-4],
            *writing_calls(self.store, "no")[:-4],
            transaction,
        ]
        for call in calls:
            error = self.refused(StoreError, call)
            self.assertIn("not connected", str(error))
        self.refused(TypeError, self.store.set, "key", (io.BytesIO(), None))
        self.refused(TypeError, self.store.set, "key", b"data")
        self.refused(ValueError, self.store.set_metadata, "key", {"a": float("nan")})

    def test_a_new_store_has_the_event_manager_it_was_given(self) -> None:
        """Every store constructor takes event_manager=; store.event_manager is a plain
        attribute."""
        store = self.make_store(self.manager)
        self.addCleanup(store.disconnect)
        self.assertIs(store.event_manager, self.manager)

    def test_reconnecting_finds_everything(self) -> None:
        """Life cycle: reconnecting finds everything again, stamps and etags included."""
        if self.info["durable"] == "none":
            self.skipTest("info()['durable'] is 'none'")
        self.put("a", b"data", a={"b": [1, None]})
        self.put("\u00e9/..", b"", b=1)
        self.store.update_metadata("a", {"c": 1.5})
        before = self.state()
        self.store.disconnect()
        with self.store:
            self.assertEqual(self.state(), before)

    def test_an_unfinished_iterator_does_not_block_disconnect(self) -> None:
        """Life cycle: disconnect() returns promptly, whatever was begun."""
        self.fill({f"key{number}": (b"data" * 30_000, {}) for number in range(5)})
        begun = [self.store.query(), self.store.query_keys(), self.store.glob("*")]
        for walk in begun:
            next(walk)
        stream = self.store.get_data("key0")
        stream.read(10)
        self.in_thread(self.store.disconnect)
        self.assertIs(self.store.is_connected(), False)
        for walk in begun:
            with suppress(StoreError):
                list(walk)
        with suppress(StoreError):
            stream.read()
        stream.close()
        self.store.connect()
        self.put("key0", b"works again")

    def test_pickling(self) -> None:
        """Life cycle: stores can be pickled; they arrive disconnected, with the default event
        manager."""
        self.put("key", b"data", a=1)
        shared = self.process_store(self.store) is not None
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            copy = pickle.loads(pickle.dumps(self.store, protocol))
            self.addCleanup(copy.disconnect)
            self.assertIs(type(copy), type(self.store))
            self.assertIs(copy.is_connected(), False, "it arrives disconnected")
            self.assertIs(copy.event_manager, get_event_manager(), "with the default event manager")
            copy.connect()
            if shared or copy.exists("key"):
                self.assertEqual(self.pair("key", copy), (b"data", {"a": 1}))
            copy.set("new", (io.BytesIO(b"x"), {}))
            self.assertEqual(self.store.exists("new"), shared)
            copy.delete("new")
            copy.disconnect()
        self.check_pair("key", b"data", {"a": 1})

    def test_a_forgotten_store_does_not_keep_the_process_alive(self) -> None:
        """Life cycle: a forgotten store never keeps the process alive, and keeps what it wrote."""
        child = Child(self.shared(), "forget", patience=self.patience)
        self.addCleanup(child.kill)
        self.assertEqual(child.hear(), "done")
        self.assertEqual(child.end(), 0, "exit status of a process that forgot to disconnect")
        self.check_pair("forgotten", b"data", {"kept": True})

    def test_relative_paths_survive_chdir(self) -> None:
        """Life cycle: relative paths survive os.chdir."""
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            os.chdir(one)
            try:
                store: Any = self.make_relative_store(self.manager)
                if store is None:
                    self.skipTest("make_relative_store() gives no store")
                os.chdir(other)
                with store:
                    store.from_bytes("key", b"data")
                os.chdir(here)
                with store:
                    self.assertEqual(store.to_bytes("key"), b"data")
                    os.chdir(other)
                    store.from_bytes("key", b"more")
                    self.assertEqual(store.to_bytes("key"), b"more")
                self.assertEqual(os.listdir(other), [])
                self.assertNotEqual(os.listdir(one), [])
            finally:
                os.chdir(here)
