"""Transactions: check 49."""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...storage.errors import StoreError
from ...storage.events import (
    StoreModificationEvent,
    StoreTransactionEndEvent,
    StoreTransactionEvent,
    StoreTransactionStartEvent,
)
from .._child import Child
from ._case import Failure, Interrupt, StoreCase, Trickle, told

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Transactions"]


class Transactions(StoreCase):
    """A transaction is one change, or it is a dummy and info() says so."""

    def prepare_pair(self) -> None:
        """Skip where there are no transactions; else write two keys that change() changes."""
        self.need("transactional")
        self.fill({"old": (b"old data", {"old": 1}), "other": (b"other data", {"a": [1]})})

    def change(self) -> None:
        """Make a change of every kind."""
        self.put("old", b"new data", new=1)
        self.put("new", b"data", n=1)
        self.store.update_metadata("new", {"m": 2})
        self.store.delete("other")
        self.put("short", b"lived")
        self.store.delete("short")

    def check_changed(self, store: Any = None) -> None:
        """Check that change() can be seen, by all means."""
        store = self.store if store is None else store
        self.assertEqual(sorted(store.query_keys()), ["new", "old"])
        self.assertEqual(sorted(store.glob("*")), ["new", "old"])
        self.assertEqual(list(store.keys()), ["new", "old"])
        self.assertEqual(sorted(store.mapping()), ["new", "old"])
        self.assertEqual(dict(store.query()), {"new": {"n": 1, "m": 2}, "old": {"new": 1}})
        self.assertEqual(list(store.query_keys(m=2)), ["new"])
        self.assertEqual(list(store.query_keys(old=1)), [])
        self.check_pair("old", b"new data", {"new": 1}, store)
        self.check_pair("new", b"data", {"n": 1, "m": 2}, store)
        self.assertEqual(store.to_bytes("new"), b"data")
        self.assertEqual(store.get_metadata("old"), {"new": 1})
        with store.get_data_range("old", 4) as stream:
            self.assertEqual(stream.read(), b"data")
        for key in ("other", "short"):
            self.assertFalse(store.exists(key))
            self.missing(key, store.get, key)
            self.missing(key, store.get_metadata, key)
            self.missing(key, store.get_data, key)

    def test_a_dummy_does_nothing(self) -> None:
        """Transactions: elsewhere transaction() gives the dummy context and info()['transactional']
        is False."""
        if self.info["transactional"]:
            self.skipTest("info()['transactional'] is True")
        self.put("old", b"old data")
        with suppress(Failure), self.store.transaction("dummy"):
            self.put("old", b"new")
            raise Failure
        self.assertEqual(self.store.to_bytes("old"), b"new")

    def test_what_was_written_can_be_read_inside(self) -> None:
        """Transactions: read-your-writes."""
        self.prepare_pair()
        with self.store.transaction("note"):
            self.change()
            self.check_changed()
        self.check_changed()

    def test_nobody_else_sees_anything_before_the_commit(self) -> None:
        """Transactions: other threads of the same object see nothing before the commit and
        everything after."""
        self.prepare_pair()
        before = self.state()
        with self.store.transaction("note"):
            self.assertEqual(self.in_thread(self.state), before)
            self.change()
            self.assertEqual(self.in_thread(self.state), before)
            self.assertEqual(self.in_thread(lambda: list(self.store.query_keys(new=1))), [])
            self.assertEqual(self.in_thread(lambda: list(self.store.keys())), ["old", "other"])
            self.assertTrue(self.in_thread(lambda: self.store.exists("other")))
            self.assertFalse(self.in_thread(lambda: self.store.exists("new")))
            self.check_changed()
        self.in_thread(self.check_changed)

    def test_another_handle_sees_nothing_before_the_commit(self) -> None:
        """Transactions: other handles see nothing before the commit and everything after."""
        self.prepare_pair()
        handle = self.another()
        before = self.state()
        with self.store.transaction("note"):
            self.change()
            self.assertEqual(self.state(handle), before)
            self.assertEqual(self.in_thread(self.state, handle), before)
        self.check_changed(handle)

    def test_rollback_restores_everything(self) -> None:
        """Transactions: rollback restores data, metadata, index, stamps; BaseException rolls back
        too."""
        self.prepare_pair()
        for error in (Failure(), Interrupt(), KeyboardInterrupt(), SystemExit(), GeneratorExit()):
            with self.unchanged():
                try:
                    with self.store.transaction("note"):
                        self.change()
                        raise error
                except BaseException as raised:
                    self.assertIs(raised, error, "the exception leaves the block")
                else:
                    self.fail("the exception leaves the block")
            self.assertEqual(list(self.store.query_keys(old=1)), ["old"])
            self.assertEqual(list(self.store.query_keys(new=1)), [])
        self.in_thread(lambda: self.put("free", b"the store can be written by others again"))

    def test_an_inner_failure_undoes_the_inner_part_alone(self) -> None:
        """Transactions: nested; an inner failure that is caught undoes the inner part alone."""
        self.prepare_pair()
        with self.recorded(StoreModificationEvent) as events, self.store.transaction("outer"):
            self.put("old", b"outer", outer=1)
            inside = self.state()
            with suppress(Failure), self.store.transaction("inner"):
                self.change()
                with self.store.transaction("innermost"):
                    self.put("deep", b"")
                raise Failure
            self.assertEqual(self.state(), inside, "the inner part is undone, stamps included")
            with self.store.transaction("inner that works"):
                self.put("kept", b"inner", inner=1)
                with suppress(Failure), self.store.transaction("innermost"):
                    self.store.delete("kept")
                    raise Failure
            self.store.delete("other")
        self.assertEqual(sorted(self.store.query_keys()), ["kept", "old"])
        self.check_pair("old", b"outer", {"outer": 1})
        self.check_pair("kept", b"inner", {"inner": 1})
        self.assertEqual(
            told(events),
            [
                ("StoreUpdateEvent", "old"),
                ("StoreSetEvent", "kept"),
                ("StoreDeleteEvent", "other"),
            ],
        )

    def test_an_outer_failure_undoes_the_inner_part_too(self) -> None:
        """Transactions: nested; what fails outside undoes what succeeded inside."""
        self.prepare_pair()
        with self.unchanged(), suppress(Failure), self.store.transaction("outer"):
            with self.store.transaction("inner"):
                self.change()
            self.check_changed()
            raise Failure

    def test_a_failed_call_inside_undoes_itself_alone(self) -> None:
        """Transactions: a call that fails inside a transaction changes nothing, and the rest is
        kept."""
        self.prepare_pair()
        with self.recorded(StoreModificationEvent) as events, self.store.transaction("note"):
            self.put("old", b"first", a=1)
            broken = Trickle(b"data", fail_after=2, error=Failure())
            self.refused(Failure, self.store.set, "old", (broken, {"b": 2}))
            self.refused(KeyError, self.store.delete, "no")
            self.refused(TypeError, self.store.set_metadata, "old", {"a": b"x"})
            self.check_pair("old", b"first", {"a": 1})
            self.refused(KeyError, self.store.multiupdate_metadata, ["old", "no"], [{"c": 1}, {}])
            self.check_pair("old", b"first", {"a": 1})
        self.check_pair("old", b"first", {"a": 1})
        self.assertEqual(told(events), [("StoreUpdateEvent", "old")])

    def test_the_events_of_a_transaction(self) -> None:
        """Transactions: start event, end event ('done'), then Set, Update and Delete events, once,
        in order."""
        self.prepare_pair()
        seen: list[Any] = []
        with self.recorded(StoreTransactionEvent, StoreModificationEvent) as events:
            with self.store.transaction("note"):
                seen += events
                self.change()
                self.assertEqual(told(events), [], "no change is told before the commit")
            self.assertEqual([type(event) for event in seen], [StoreTransactionStartEvent])
        self.assertEqual(
            [type(event).__name__ for event in events[:2]],
            ["StoreTransactionStartEvent", "StoreTransactionEndEvent"],
        )
        self.assertEqual(events[1].state, "done")
        self.assertEqual(
            told(events),
            [
                ("StoreUpdateEvent", "old"),
                ("StoreSetEvent", "new"),
                ("StoreUpdateEvent", "new"),
                ("StoreDeleteEvent", "other"),
                ("StoreSetEvent", "short"),
                ("StoreDeleteEvent", "short"),
            ],
        )
        self.assertTrue(all(event.source is self.store for event in events))
        self.assertEqual(
            [event.metadata for event in events[2:5]], [{"new": 1}, {"n": 1}, {"n": 1, "m": 2}]
        )

    def test_the_events_of_a_failed_transaction(self) -> None:
        """Transactions: StoreTransactionEndEvent ('failed') at the end of one that fails, and no
        others."""
        self.prepare_pair()
        with self.recorded(StoreTransactionEvent, StoreModificationEvent) as events:
            with suppress(Failure), self.store.transaction("note"):
                self.change()
                raise Failure
            with self.store.transaction("empty"):
                pass
        self.assertEqual(
            [(type(event).__name__, getattr(event, "state", None)) for event in events],
            [
                ("StoreTransactionStartEvent", None),
                ("StoreTransactionEndEvent", "failed"),
                ("StoreTransactionStartEvent", None),
                ("StoreTransactionEndEvent", "done"),
            ],
        )

    def test_the_commit_is_visible_to_listeners(self) -> None:
        """Events: after the change is visible; listeners may write, and no lock is held while they
        run."""
        self.prepare_pair()
        seen = []

        def look(event: Any) -> None:
            seen.append(self.in_thread(lambda: sorted(self.store.query_keys())))
            self.in_thread(lambda: self.put("from a thread"))

        with self.listening(StoreTransactionEndEvent, look), self.store.transaction("note"):
            self.change()
        self.assertEqual(seen, [["new", "old"]])
        self.assertTrue(self.store.exists("from a thread"))

    def test_other_writers_wait(self) -> None:
        """Transactions: a transaction keeps other writers out from its start; they wait."""
        self.prepare_pair()
        begun, done = threading.Event(), threading.Event()

        def write() -> None:
            begun.set()
            self.store.from_bytes("old", b"by the other")
            done.set()

        writer = threading.Thread(target=write, daemon=True)
        with self.store.transaction("note"):
            # Nothing is written yet: keeping out begins with the transaction.
            writer.start()
            self.await_event(begun)
            # A store that lets the writer in would do so in this time; one that does not loses it.
            self.assertFalse(done.wait(0.1), "the other writer was let in")
            self.assertEqual(self.store.to_bytes("old"), b"old data", "get-then-set loses nothing")
            self.store.from_bytes("old", b"by the transaction")
            self.assertFalse(done.is_set())
        self.await_event(done)
        writer.join(self.patience)
        self.assertEqual(self.store.to_bytes("old"), b"by the other")

    def count(self, store: Any, times: int) -> None:
        for _ in range(times):
            with store.transaction("count"):
                with store.get_data("counter") as stream:
                    number = int(stream.read())
                store.set("counter", (io.BytesIO(b"%d" % (number + 1)), {"n": number + 1}))

    def test_get_then_set_loses_nothing(self) -> None:
        """Transactions: get-then-set inside one loses nothing and never fails with a conflict; two
        handles too."""
        self.prepare_pair()
        self.put("counter", b"0")
        handles = [self.store]
        handle = self.make_handle(self.store)
        if handle is not None:
            handles.append(self.opened(handle))
        self.in_threads(
            *(
                lambda store=store: self.count(store, 5)
                for store in handles
                for _ in range(8 // len(handles))
            )
        )
        self.check_pair("counter", b"40", {"n": 40})

    def test_get_then_set_loses_nothing_among_processes(self) -> None:
        """Transactions: other writers wait, in other processes too."""
        self.prepare_pair()
        store = self.shared()
        self.put("counter", b"0")
        children = [
            Child(store, "increment", "counter", 5, "transaction", patience=self.patience)
            for _ in range(4)
        ]
        for child in children:
            self.addCleanup(child.kill)
            self.assertEqual(child.hear(), "ready")
        for child in children:
            child.tell()
        self.count(self.store, 5)
        self.assertEqual([child.hear() for child in children], ["done"] * 4)
        self.assertEqual([child.end() for child in children], [0] * 4)
        self.assertEqual(self.store.to_bytes("counter"), b"25")

    def test_readers_do_not_wait(self) -> None:
        """Transactions: others see everything after the commit, all of it at once."""
        self.prepare_pair()
        self.fill({key: (b"0", {"n": 0}) for key in ("left", "right")})
        stop = threading.Event()

        def write() -> None:
            try:
                for number in range(1, 16):
                    with self.store.transaction("both"):
                        for key in ("left", "right"):
                            self.put(key, b"%d" % number, n=number)
            finally:
                stop.set()

        def read() -> int:
            turns = 0
            while not stop.is_set():
                first = self.store.get_metadata("left")["n"]
                second = self.store.get_metadata("right")["n"]
                self.assertGreaterEqual(second, first, "left was new and right was still old")
                turns += 1
            return turns

        self.in_threads(write, read, read)
        self.check_pair("right", b"15", {"n": 15})

    def test_a_failed_commit_leaves_nothing_half_done(self) -> None:
        """Transactions: a failed commit leaves nothing half done and the store usable."""
        self.prepare_pair()
        with self.unchanged():
            failing = self.failing_commit(self.store)
            if failing is None:
                self.skipTest("failing_commit() gives no way to make a commit fail")

            def attempt() -> None:
                with self.store.transaction("note"):
                    self.change()

            with failing:
                self.refused((StoreError, OSError), attempt)
                self.refused((StoreError, OSError), self.put, "old", b"new")
        self.change()
        self.check_changed()

    def test_iterators_inside(self) -> None:
        """Transactions: read-your-writes; loops inside a transaction may change the store."""
        self.prepare_pair()
        with self.store.transaction("note"):
            for key in self.store.query_keys():
                self.store.update_metadata(key, {"seen": True})
                self.put(f"{key} copy")
            for key, _ in self.store.query(seen=True):
                self.store.delete(key)
        self.assertEqual(sorted(self.store.query_keys()), ["old copy", "other copy"])

    def test_conditions_inside(self) -> None:
        """Transactions: read-your-writes; etags of what was written inside hold inside and
        after."""
        self.prepare_pair()
        self.need("conditional")
        calls: list[Callable[[], object]] = [
            lambda: self.put("old", b"changed"),
            lambda: self.store.set_metadata("old", {"a": 1}),
        ]
        for call in calls:
            with self.store.transaction("note"):
                call()
                etag = self.store.get("old").etag
                self.store.update_metadata("old", {"b": 2}, if_match=etag)
                etag = self.store.get("old").etag
            self.assertEqual(self.store.get("old").etag, etag)
            self.store.update_metadata("old", {"c": 3}, if_match=etag)
