"""Conditional writes: check 48."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ...storage.errors import PreconditionError, StoreError
from .._child import Child
from ._case import StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Conditional"]


class Conditional(StoreCase):
    """if_match and if_none_match: exactly one winner, or NotImplementedError."""

    def calls(self, key: str) -> dict[str, Callable[..., object]]:
        """Every method that takes a condition."""
        store = self.store
        return {
            "set": lambda **condition: store.set(
                key, (io.BytesIO(b"new"), {"new": 1}), **condition
            ),
            "set_data": lambda **condition: store.set_data(key, io.BytesIO(b"new"), **condition),
            "set_metadata": lambda **condition: store.set_metadata(key, {"new": 1}, **condition),
            "update_metadata": lambda **condition: store.update_metadata(
                key, {"new": 1}, **condition
            ),
            "delete": lambda **condition: store.delete(key, **condition),
        }

    def etag(self, key: str) -> str:
        etag: str = self.store.get(key).etag
        return etag

    def test_a_store_that_cannot_says_so(self) -> None:
        """A store that cannot do it atomically says info()['conditional'] False and raises
        NotImplementedError."""
        if self.info["conditional"]:
            self.skipTest("info()['conditional'] is True")
        self.put("key", b"data")
        with self.unchanged():
            for call in self.calls("key").values():
                self.refused(NotImplementedError, call, if_match="etag")
                self.refused(NotImplementedError, call, if_none_match="*")

    def test_create_only(self) -> None:
        """if_none_match='*' creates only; PreconditionError and nothing changed if the key is
        there."""
        self.need("conditional")
        for name in ("set", "set_data", "set_metadata"):
            self.calls(name)[name](if_none_match="*")
            self.assertTrue(self.store.exists(name))
        self.put("key", b"old", old=1)
        with self.unchanged():
            for call in self.calls("key").values():
                error = self.refused(PreconditionError, call, if_none_match="*")
                self.assertIsInstance(error, StoreError)
        with self.unchanged():
            for name in ("update_metadata", "delete"):
                self.refused(
                    (KeyError, PreconditionError), self.calls("no")[name], if_none_match="*"
                )

    def test_only_the_current_etag_holds(self) -> None:
        """if_match=etag: nothing changed if it does not hold; a fresh one works."""
        self.need("conditional")
        for name in self.calls(""):
            self.put("key", b"old", old=1)
            stale = self.etag("key")
            self.store.update_metadata("key", {"old": 2})
            call = self.calls("key")[name]
            with self.unchanged():
                self.refused(PreconditionError, call, if_match=stale)
                self.refused(PreconditionError, call, if_match="")
                self.refused(PreconditionError, call, if_match="no such etag")
                self.refused(PreconditionError, call, if_match="*")
                self.refused(
                    (PreconditionError, KeyError), self.calls("missing")[name], if_match=stale
                )
            call(if_match=self.etag("key"))
            if name == "delete":
                self.assertFalse(self.store.exists("key"))
            else:
                self.assertNotEqual(self.pair("key"), (b"old", {"old": 2}))
                self.refused(PreconditionError, call, if_match=stale)

    def test_bad_conditions(self) -> None:
        """Conditional writes: an etag is a str, if_none_match is '*' and nothing else, and not
        both."""
        self.need("conditional")
        self.put("key", b"old")
        with self.unchanged():
            for call in self.calls("key").values():
                self.refused(TypeError, call, if_match=5)
                self.refused((TypeError, ValueError), call, if_none_match=True)
                self.refused(ValueError, call, if_none_match="etag")
                self.refused(ValueError, call, if_match=self.etag("key"), if_none_match="*")

    def test_a_stream_may_change_the_key_meanwhile(self) -> None:
        """Conditional writes: the condition holds at the moment of the change, not when the call
        began."""
        self.need("conditional")
        self.put("key", b"old")

        class Meddler:
            def __init__(self, change: Callable[[], object]) -> None:
                self.change: Callable[[], object] | None = change

            def read(self, size: int, /) -> bytes:
                if self.change is None:
                    return b""
                self.change()
                self.change = None
                return b"late"

        with self.subTest("if_match"):
            meddler: Any = Meddler(lambda: self.store.from_bytes("key", b"first"))
            self.refused(
                PreconditionError, self.store.set, "key", (meddler, {}), if_match=self.etag("key")
            )
            self.assertEqual(self.store.to_bytes("key"), b"first")
        with self.subTest("if_none_match"):
            meddler = Meddler(lambda: self.store.from_bytes("new", b"first"))
            self.refused(PreconditionError, self.store.set_data, "new", meddler, if_none_match="*")
            self.assertEqual(self.store.to_bytes("new"), b"first")

    def test_one_thread_wins(self) -> None:
        """Conditional writes: exactly one winner among threads."""
        self.need("conditional")

        def attempt(name: bytes, key: str, condition: dict[str, str]) -> bool:
            try:
                self.store.set(key, (io.BytesIO(name), {"by": name.decode()}), **condition)
            except PreconditionError:
                return False
            return True

        for turn in range(4):
            key = f"key{turn}"
            for condition in ({"if_none_match": "*"}, {}):
                condition = condition or {"if_match": self.etag(key)}
                names = [b"%d" % number for number in range(8)]
                wins = self.in_threads(
                    *(
                        lambda name=name, key=key, condition=condition: attempt(
                            name, key, condition
                        )
                        for name in names
                    )
                )
                self.assertEqual(wins.count(True), 1, f"winners with {condition}")
                winner = names[wins.index(True)]
                self.check_pair(key, winner, {"by": winner.decode()})

    def test_a_counter_by_compare_and_set(self) -> None:
        """Conditional writes: a counter kept by compare-and-set loses nothing among threads."""
        self.need("conditional")
        self.put("counter", b"0")

        def count() -> None:
            done = 0
            while done < 5:
                value = self.store.get("counter")
                with value.data as stream:
                    data = b"%d" % (int(stream.read()) + 1)
                try:
                    self.store.set_data("counter", io.BytesIO(data), if_match=value.etag)
                except PreconditionError:
                    continue
                done += 1

        self.in_threads(*[count] * 6)
        self.assertEqual(self.store.to_bytes("counter"), b"30")

    def test_one_process_wins(self) -> None:
        """Conditional writes: exactly one winner among processes; a counter loses nothing."""
        self.need("conditional")
        store = self.shared()
        self.put("counter", b"0")
        children = [
            Child(store, "create", "key", str(number), patience=self.patience)
            for number in range(3)
        ]
        children += [
            Child(store, "increment", "counter", 5, "etag", patience=self.patience)
            for _ in range(3)
        ]
        for child in children:
            self.addCleanup(child.kill)
            self.assertEqual(child.hear(), "ready")
        for child in children:
            child.tell()
        answers = [child.hear() for child in children]
        self.assertEqual([child.end() for child in children], [0] * 6)
        self.assertEqual(sorted(answers), ["done"] * 3 + ["lost"] * 2 + ["won"])
        winner = str(answers.index("won"))
        self.check_pair("key", winner.encode(), {"winner": winner})
        self.assertEqual(self.store.to_bytes("counter"), b"15")
