"""Events: check 50."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

from ...events.event_manager import EventManager
from ...storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from ._case import Failure, StoreCase, Trickle, told

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Events"]


class Events(StoreCase):
    """Each change is told once, after it can be seen; nothing else is."""

    def changes(
        self,
    ) -> list[tuple[str, Callable[[], object], list[tuple[type, str, dict[str, Any]]]]]:
        """Every method that changes something; what it is, and the events it has."""
        store = self.store
        new, old = StoreSetEvent, StoreUpdateEvent
        return [
            ("set, new", lambda: self.put("a", b"1", n=1), [(new, "a", {"n": 1})]),
            ("set, old", lambda: self.put("a", b"2", n=2), [(old, "a", {"n": 2})]),
            (
                "set_data, old",
                lambda: store.set_data("a", io.BytesIO(b"3")),
                [(old, "a", {"n": 2})],
            ),
            ("set_data, new", lambda: store.set_data("b", io.BytesIO(b"3")), [(new, "b", {})]),
            (
                "set_metadata, old",
                lambda: store.set_metadata("a", {"m": [1]}),
                [(old, "a", {"m": [1]})],
            ),
            (
                "set_metadata, new",
                lambda: store.set_metadata("c", {"m": (1,)}),
                [(new, "c", {"m": [1]})],
            ),
            (
                "update_metadata",
                lambda: store.update_metadata("a", {"k": 1}),
                [(old, "a", {"m": [1], "k": 1})],
            ),
            (
                "from_bytes, old",
                lambda: store.from_bytes("a", b"4"),
                [(old, "a", {"m": [1], "k": 1})],
            ),
            ("from_bytes, new", lambda: store.from_bytes("d", b"4"), [(new, "d", {})]),
            ("from_file, old", lambda: store.from_file("d", io.BytesIO(b"5")), [(old, "d", {})]),
            ("copy, new", lambda: store.copy("a", "e"), [(new, "e", {"m": [1], "k": 1})]),
            ("copy, old", lambda: store.copy("d", "e"), [(old, "e", {})]),
            ("delete", lambda: store.delete("a"), [(StoreDeleteEvent, "a", {"m": [1], "k": 1})]),
            ("set, new again", lambda: self.put("a", b"6"), [(new, "a", {})]),
            (
                "move",
                lambda: store.move("c", "f"),
                [(new, "f", {"m": [1]}), (StoreDeleteEvent, "c", {"m": [1]})],
            ),
            (
                "multiset",
                lambda: store.multiset(
                    ["a", "g"], [(io.BytesIO(), {"x": 1}), (io.BytesIO(), {"x": 2})]
                ),
                [(old, "a", {"x": 1}), (new, "g", {"x": 2})],
            ),
            ("multiset_metadata", lambda: store.multiset_metadata(["a"], [{}]), [(old, "a", {})]),
            (
                "multiset_data",
                lambda: store.multiset_data(["g"], [io.BytesIO(b"x")]),
                [(old, "g", {"x": 2})],
            ),
            (
                "multiupdate_metadata",
                lambda: store.multiupdate_metadata(["g"], [{"y": 3}]),
                [(old, "g", {"x": 2, "y": 3})],
            ),
            (
                "mapping",
                lambda: store.mapping().update({"g": b"z"}),
                [(old, "g", {"x": 2, "y": 3})],
            ),
        ]

    def test_each_change_has_exactly_one_event(self) -> None:
        """Events: exactly one StoreSetEvent, StoreUpdateEvent or StoreDeleteEvent for each change,
        with all facts."""
        actions = {StoreSetEvent: "set", StoreUpdateEvent: "update", StoreDeleteEvent: "delete"}
        for what, change, expected in self.changes():
            with self.recorded(StoreModificationEvent) as events:
                change()
            found = [(type(event), event.key, event.metadata) for event in events]
            self.assertEqual(found, expected, what)
            for event in events:
                self.assertIs(event.source, self.store, "source: the store that was called")
                self.assertEqual(event.action, actions[type(event)])

    def test_reading_has_no_event(self) -> None:
        """Events: one for each change; reading is none."""
        self.put("key", b"data", a=1)
        with self.recorded(StoreModificationEvent) as events:
            self.state()
            self.store.to_bytes("key")
            self.store.exists("no")
            list(self.store.glob("*"))
        self.assertEqual(events, [])

    def test_a_change_is_visible_when_it_is_told(self) -> None:
        """Events: after the change is visible, to everybody."""
        seen: list[Any] = []

        def look(event: StoreModificationEvent) -> None:
            for read in (self.look_at, lambda key: self.in_thread(self.look_at, key)):
                seen.append(
                    (
                        read(event.key),
                        None if isinstance(event, StoreDeleteEvent) else event.metadata,
                    )
                )

        with self.listening(StoreModificationEvent, look):
            for _, change, expected in self.changes():
                if len(expected) == 1:
                    change()
        self.assertGreater(len(seen), 20)
        for found, told_metadata in seen:
            self.assertEqual(found, told_metadata, "what a listener finds, and what it was told")

    def look_at(self, key: str) -> Any:
        found = dict(self.store.query())
        if not self.store.exists(key):
            self.assertNotIn(key, found)
            return None
        metadata = self.store.get_metadata(key)
        self.assertEqual(found[key], metadata)
        return metadata

    def test_no_lock_is_held_while_listeners_run(self) -> None:
        """Events: stores hold no lock while listeners run."""
        done: list[bytes] = []

        def meddle(event: Any) -> None:
            if event.key != "key":
                return
            number = len(done)
            self.in_thread(lambda: self.put(f"other{number}", b"from a thread"))
            self.in_thread(lambda: self.store.update_metadata(f"other{number}", {"a": 1}))
            done.append(self.in_thread(lambda: self.store.to_bytes(f"other{number}")))

        with (
            self.listening(StoreModificationEvent, meddle),
            self.listening(StoreProgressEvent, meddle),
        ):
            self.put("key", b"data")
            self.put("key", b"more")
            self.store.set_metadata("key", {})
            self.store.to_bytes("key")
            self.store.delete("key")
        self.assertGreaterEqual(len(done), 11)
        self.assertEqual(set(done), {b"from a thread"})

    def test_listeners_may_call_the_store(self) -> None:
        """Events: a listener that calls the store harms nothing; each change still has one
        event."""

        def follow(event: StoreModificationEvent) -> None:
            if event.key in ("a", "b", "c"):
                self.put(chr(ord(event.key) + 1), event.key.encode())

        def read(event: Any) -> None:
            self.store.exists("a")
            list(self.store.query())
            if event.key == "a" and not self.store.exists("progress"):
                self.store.set_metadata("progress", {})

        with (
            self.recorded(StoreModificationEvent) as events,
            self.listening(StoreModificationEvent, follow),
            self.listening(StoreProgressEvent, read),
        ):
            self.put("a", b"begin")
        self.assertEqual(
            sorted(told(events)),
            [("StoreSetEvent", key) for key in ("a", "b", "c", "d", "progress")],
        )
        self.assertEqual(self.store.to_bytes("d"), b"c")

    def test_a_listener_that_raises_harms_nothing(self) -> None:
        """Events: a listener that raises or disconnects itself harms nothing."""
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        calls = []

        def fail(event: Any) -> None:
            calls.append(event)
            raise Failure("a listener failed")

        def leave(event: Any) -> None:
            calls.append(event)
            self.manager.disconnect(StoreEvent, leave)

        self.manager.connect(StoreEvent, fail)
        self.manager.connect(StoreEvent, leave)
        self.manager.connect(StoreProgressEvent, fail)
        with self.recorded(StoreModificationEvent) as events:
            self.put("key", b"data", a=1)
            self.check_pair("key", b"data", {"a": 1})
            self.store.delete("key")
            with self.store.transaction("note"):
                self.put("other", b"data")
        self.assertGreater(len(calls), 3)
        self.assertEqual(
            told(events),
            [
                ("StoreSetEvent", "key"),
                ("StoreDeleteEvent", "key"),
                ("StoreSetEvent", "other"),
            ],
        )

    def writes_with_progress(self) -> dict[str, Callable[[Any], object]]:
        store = self.store
        return {
            "set": lambda stream: store.set("key", (stream, {"a": 1}), 10),
            "set_data": lambda stream: store.set_data("key", stream, 10),
            "from_file": lambda stream: store.from_file("key", stream, 10),
            "multiset": lambda stream: store.multiset(["key"], [(stream, {"a": 1})], 10),
            "multiset_data": lambda stream: store.multiset_data(["key"], [stream], 10),
        }

    def test_writing_tells_its_progress(self) -> None:
        """Events: progress: start, one step per buffer read with step = the bytes so far, end."""
        for what, write in self.writes_with_progress().items():
            for size, steps in [(25, [10, 20, 25]), (20, [10, 20]), (0, [])]:
                self.put("key", b"old", a=1)
                with self.recorded(StoreProgressEvent, StoreModificationEvent) as events:
                    write(io.BytesIO(b"x" * size))
                kinds = [type(event) for event in events]
                self.assertEqual(
                    kinds,
                    [
                        StoreProgressStartEvent,
                        *[StoreProgressStepEvent] * len(steps),
                        StoreProgressEndEvent,
                        StoreUpdateEvent,
                    ],
                    what,
                )
                self.assertEqual(
                    [event.step for event in events[1:-2]], steps, f"{what}: the bytes so far"
                )
                self.assertEqual(events[-2].exit_state, "normal")
                progress = events[:-1]
                self.assertTrue(all(event.source is self.store for event in events), what)
                self.assertEqual({event.key for event in progress}, {"key"})
                self.assertEqual([event.metadata for event in progress], [{"a": 1}] * len(progress))
                self.assertEqual(len({event.operation_id for event in progress}), 1)

    def test_copies_tell_their_progress(self) -> None:
        """Events: progress for copies: the last step is the size."""
        self.put("key", b"x" * 25)
        with self.recorded(StoreProgressEvent) as events:
            self.store.set("copy", self.store.get("key"), 10)
        self.assertEqual([event.step for event in events[1:-1]], [10, 20, 25])
        self.assertEqual(events[0].steps, 25)
        with self.recorded(StoreProgressEvent) as events:
            self.store.copy("key", "copy")
        self.assertEqual(
            [type(event) for event in events],
            [StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent],
        )
        self.assertEqual((events[1].step, events[1].source), (25, self.store))

    def test_failure_ends_the_progress(self) -> None:
        """Events: progress: end also on failure with its exit_state."""
        self.put("key", b"old")
        for what, write in self.writes_with_progress().items():
            with self.recorded(StoreProgressEvent, StoreModificationEvent) as events:
                self.refused(Failure, write, Trickle(b"x" * 30, fail_after=20, error=Failure()))
            self.assertEqual(
                [type(event) for event in events],
                [
                    StoreProgressStartEvent,
                    StoreProgressStepEvent,
                    StoreProgressStepEvent,
                    StoreProgressEndEvent,
                ],
                what,
            )
            self.assertNotEqual(events[-1].exit_state, "normal", what)

    def test_events_go_to_the_manager_of_the_moment(self) -> None:
        """Events: every event of a store goes through its event_manager, which may be assigned
        later."""
        other = EventManager()
        events: list[Any] = []

        def listen(event: StoreEvent) -> None:
            events.append(event)

        other.connect(StoreEvent, listen)
        self.store.event_manager = other
        with self.recorded() as old:
            self.put("key", b"data")
            with self.store.transaction("note"):
                self.store.delete("key")
        self.assertEqual(old, [], "the old manager hears nothing")
        self.assertEqual(told(events), [("StoreSetEvent", "key"), ("StoreDeleteEvent", "key")])
        self.assertEqual(
            len([event for event in events if isinstance(event, StoreProgressStepEvent)]), 1
        )

    def test_disabled_events_are_not_told(self) -> None:
        """Events: a class that is disabled is not told; the store works all the same."""
        with self.recorded() as events:
            self.manager.disable(StoreModificationEvent)
            self.put("key", b"data", a=1)
            self.manager.enable(StoreModificationEvent)
            self.store.delete("key")
        self.assertEqual(told(events), [("StoreDeleteEvent", "key")])
