"""Concurrency: check 51."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from .._child import Child
from ._case import StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Concurrency"]


class Concurrency(StoreCase):
    """One store, many threads and processes."""

    def test_many_threads_on_keys_of_their_own(self) -> None:
        """Threads: one store object may be used by any number of threads."""

        def work(number: int) -> None:
            key = f"key{number}"
            for turn in range(4):
                self.store.set(key, (io.BytesIO(b"%d" % turn), {"turn": turn, "by": number}))
                self.check_pair(key, b"%d" % turn, {"turn": turn, "by": number})
                self.assertEqual(list(self.store.query_keys(by=number)), [key])
            if number % 2:
                self.store.delete(key)
                self.assertFalse(self.store.exists(key))

        self.in_threads(*(lambda number=number: work(number) for number in range(16)))
        self.assertEqual(
            sorted(self.store.query_keys()), sorted(f"key{n}" for n in range(0, 16, 2))
        )

    def test_many_threads_on_one_key(self) -> None:
        """Atomicity: a reader sees the old (data, metadata) pair or the new one, never a mix, never
        half."""
        writers = [threading.Event() for _ in range(6)]
        readers = 10
        turned = threading.Condition()
        turns = 0

        class Source(io.BytesIO):
            """The first read waits for a reader that began after the store had begun to write."""

            def read(self, size: int | None = -1, /) -> bytes:
                if not self.tell():
                    with turned:
                        enough = turns + readers + 1
                        turned.wait_for(lambda: turns >= enough, timeout=0.2)
                return super().read(size)

        def write(number: int) -> None:
            try:
                for turn in range(5):
                    serial = number * 10 + turn
                    source = io.BytesIO if turn else Source
                    self.store.set("key", (source((b"%d " % serial) * 3000), {"n": serial}))
            finally:
                writers[number].set()

        def read() -> None:
            nonlocal turns
            while not all(event.is_set() for event in writers):
                data, metadata = self.pair("key")
                with turned:
                    turns += 1
                    turned.notify_all()
                self.assertEqual(
                    {int(word) for word in data[:5000].split()[:1]}, {metadata["n"]}, "a torn pair"
                )
                self.assertEqual(len(set(data.split())), 1, "data of two writers in one value")
                self.assertEqual(list(self.store.keys()), ["key"])

        self.put("key", b"0 " * 3000, n=0)
        self.in_threads(
            *(lambda number=number: write(number) for number in range(6)), *[read] * readers
        )

    def test_update_metadata_of_many_threads_loses_nothing(self) -> None:
        """Metadata: update_metadata merges; two threads that merge at once lose nothing."""
        if not self.info["transactional"] and not self.info["conditional"]:
            self.skipTest("info() has neither 'transactional' nor 'conditional'")
        self.put("key", b"data")

        def merge(number: int) -> None:
            for turn in range(3):
                self.store.update_metadata("key", {f"{number} {turn}": True})

        self.in_threads(*(lambda number=number: merge(number) for number in range(8)))
        self.assertEqual(len(self.store.get_metadata("key")), 24)
        self.assertEqual(self.store.to_bytes("key"), b"data")

    def test_set_data_and_set_metadata_at_once_lose_nothing(self) -> None:
        """Metadata: set_data keeps the metadata and set_metadata the data, whoever else writes."""
        if not self.info["transactional"] and not self.info["conditional"]:
            self.skipTest("info() has neither 'transactional' nor 'conditional'")
        self.put("key", b"0", n=0)

        def set_data() -> None:
            for number in range(1, 9):
                self.store.from_bytes("key", b"%d" % number)

        def set_metadata() -> None:
            for number in range(1, 9):
                self.store.set_metadata("key", {"n": number})

        self.in_threads(set_data, set_metadata)
        self.check_pair("key", b"8", {"n": 8})

    def test_events_of_many_threads(self) -> None:
        """Events: exactly one event for each change, whatever the thread; one StoreSetEvent for a
        new key."""
        with self.recorded() as events:
            self.in_threads(
                *(lambda number=number: self.put("key", b"%d" % number) for number in range(8))
            )
        names = [type(event).__name__ for event in events]
        self.assertEqual((names.count("StoreSetEvent"), names.count("StoreUpdateEvent")), (1, 7))

    def test_two_handles_see_each_other(self) -> None:
        """Processes: what one handle did, the other finds."""
        other = self.another()
        self.put("key", b"data", a=1)
        self.check_pair("key", b"data", {"a": 1}, other)
        other.set_metadata("key", {"b": 2})
        other.set_data("new", io.BytesIO(b"from the other"))
        self.check_pair("key", b"data", {"b": 2})
        self.check_pair("new", b"from the other", {})
        self.assertEqual(list(self.store.query_keys(b=2)), ["key"])
        self.store.delete("key")
        self.assertFalse(other.exists("key"))
        self.assertEqual(list(other.query_keys()), ["new"])
        self.assertEqual(self.state(), self.state(other))

    def test_two_handles_at_once(self) -> None:
        """Processes: two handles creating the same store at once; nothing that they write is
        lost."""
        handles = [self.make_handle(self.store) for _ in range(2)]
        if None in handles:
            self.skipTest("make_handle() gives no second handle on this store")

        def work(number: int, handle: Any) -> None:
            handle.event_manager = self.manager
            if not handle.is_connected():
                handle.connect()
            for turn in range(3):
                handle.set(f"{number} {turn}", (io.BytesIO(b"data"), {"by": number}))

        for handle in handles:
            self.addCleanup(handle.disconnect)
        self.in_threads(
            *(
                lambda number=number, handle=handle: work(number, handle)
                for number, handle in enumerate(handles)
            )
        )
        self.assertEqual(len(list(self.store.query_keys())), 6)

    def test_many_processes(self) -> None:
        """Processes: stores may be shared by any number of processes."""
        store = self.shared()
        children = [
            Child(store, "fill", f"{number} ", 4, patience=self.patience) for number in range(6)
        ]
        for child in children:
            self.addCleanup(child.kill)
            self.assertEqual(child.hear(), "ready")
        for child in children:
            child.tell()
        self.assertEqual([child.hear() for child in children], ["done"] * 6)
        self.assertEqual([child.end() for child in children], [0] * 6)
        self.assertEqual(
            sorted(self.store.query_keys()),
            sorted(["shared", *(f"{number} {turn}" for number in range(6) for turn in range(4))]),
        )
        data, metadata = self.pair("shared")
        self.assertEqual(data, metadata["from"].encode() * 1000)

    def test_the_store_works_in_a_forked_child(self) -> None:
        """Life cycle: stores can be used after fork in the child, whatever other threads were
        doing."""
        if not hasattr(os, "fork"):
            self.skipTest("this platform has no fork")
        self.put("key", b"data", a=1)
        inside, over = threading.Event(), threading.Event()
        holders: list[Callable[[], Any]] = []
        if self.info["transactional"]:

            def hold() -> None:
                with self.store.transaction("note"):
                    inside.set()
                    over.wait(self.patience)

            thread = threading.Thread(target=hold, daemon=True)
            thread.start()
            self.await_event(inside)
            holders.append(lambda: thread.join(self.patience))
        try:
            answers, child = self.fork()
            self.assertEqual(
                self.answer(answers), b"r", "the child can read while a thread of the parent writes"
            )
            over.set()
            self.assertEqual(self.answer(answers), b"w", "the child can write")
            os.waitpid(child, 0)
        finally:
            over.set()
            for join in holders:
                join()
            os.close(answers)
        self.check_pair("key", b"data", {"a": 1})
        self.put("parent", b"goes on")
        if self.process_store(self.store) is not None:
            self.assertEqual(
                self.store.to_bytes("child"), b"written", "the parent finds what the child wrote"
            )

    def fork(self) -> tuple[int, int]:
        """Return a pipe from the child, and its id; the child reads, writes and ends."""
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            # That a process with threads forks is what is tried here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            os.close(theirs)
            self.addCleanup(_end, child)
            return ours, child
        try:
            if self.pair("key") == (b"data", {"a": 1}) and list(self.store.query_keys()) == ["key"]:
                os.write(theirs, b"r")
            self.put("child", b"written")
            if self.store.to_bytes("child") == b"written":
                os.write(theirs, b"w")
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Nothing of the test run may happen twice.
            os._exit(0)

    def answer(self, pipe: int) -> bytes:
        ready, _, _ = select.select([pipe], [], [], self.patience)
        return os.read(pipe, 1) if ready else b"nothing in time"


def _end(child: int) -> None:
    try:
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    except ChildProcessError:
        pass
