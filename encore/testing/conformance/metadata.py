"""Metadata: checks 29 and 34 to 37."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ...storage.events import StoreModificationEvent
from ._case import Closed, StoreCase
from ._samples import BAD_METADATA, METADATA, nested, same

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Metadata"]


class Metadata(StoreCase):
    """Metadata is a JSON object, copied in and out."""

    def setters(self) -> list[Callable[[str, Any], object]]:
        """Every method that takes metadata."""
        store = self.store
        return [
            lambda key, metadata: store.set(key, (io.BytesIO(b"data"), metadata)),
            store.set_metadata,
            lambda key, metadata: store.multiset([key], [(io.BytesIO(b"data"), metadata)]),
            lambda key, metadata: store.multiset_metadata([key], [metadata]),
            store.update_metadata,
            lambda key, metadata: store.multiupdate_metadata([key], [metadata]),
        ]

    def check_same(self, found: Any, expected: Any) -> None:
        self.assertTrue(
            same(found, expected), f"{found!r:.500} is not {expected!r:.500}, types included"
        )

    def test_every_json_value_comes_back_as_it_was(self) -> None:
        """Metadata: a JSON object: str keys, values str, int, float, bool, None, list, dict of the
        same."""
        samples = {f"key{number}": metadata for number, metadata in enumerate(METADATA)}
        self.store.multiset(
            list(samples), [(io.BytesIO(b"x"), metadata) for metadata in samples.values()]
        )
        found = dict(self.store.query())
        for key, metadata in samples.items():
            self.check_same(self.store.get_metadata(key), metadata)
            self.check_same(self.store.get(key).metadata, metadata)
            self.check_same(found[key], metadata)
        for setter in self.setters()[1:]:
            self.put("key")
            merged = {name: value for metadata in METADATA for name, value in metadata.items()}
            setter("key", merged)
            self.check_same(self.store.get_metadata("key"), merged)

    def test_large_metadata(self) -> None:
        """Metadata: 1 MB, 3000 names, at least 100 levels work."""
        for metadata in (
            {"large": "x" * 1_000_000, "unicode": "\u00e9" * 50_000},
            {f"name {number}": number for number in range(3000)},
            {"deep": nested(99)},
        ):
            self.put("key", b"data", **metadata)
            self.check_same(self.store.get_metadata("key"), metadata)
            self.check_same(dict(self.store.query())["key"], metadata)
        self.store.update_metadata("key", {"more": 1})
        self.check_same(self.store.get_metadata("key"), {"deep": nested(99), "more": 1})

    def test_tuples_become_lists(self) -> None:
        """Metadata: tuple becomes list."""
        for setter in self.setters():
            self.put("key")
            setter("key", {"a": (1, (2, [(3,)])), "b": {"c": ()}})
            self.check_same(self.store.get_metadata("key"), {"a": [1, [2, [[3]]]], "b": {"c": []}})

    def test_subclasses_become_plain_types(self) -> None:
        """Metadata: a JSON object; what comes back is plain."""

        class Text(str):
            __slots__ = ()

        class Number(int):
            pass

        class Table(dict):  # type: ignore[type-arg]
            pass

        self.store.set_metadata("key", Table({Text("a"): Text("b"), "n": Number(5), "t": Table()}))
        self.check_same(self.store.get_metadata("key"), {"a": "b", "n": 5, "t": {}})
        self.assertEqual(list(self.store.query_keys(a="b")), ["key"])

    def test_bad_metadata_is_refused_before_anything_is_touched(self) -> None:
        """Metadata: anything else is a TypeError or ValueError, the same class on every store,
        nothing touched."""
        self.put("old", b"old data", old=True)
        with self.unchanged():
            for bad, error in BAD_METADATA:
                for key in ("old", "new"):
                    for setter in self.setters():
                        self.refused(error, setter, key, bad)
                    self.refused(error, self.store.set, key, (Closed(), bad))

    def test_metadata_is_copied_in(self) -> None:
        """Metadata: always deep-copied in."""
        for setter in self.setters():
            self.put("key")
            metadata: dict[str, Any] = {"list": [1, [2]], "dict": {"a": {"b": 1}}}
            setter("key", metadata)
            metadata["list"][1].append("more")
            metadata["dict"]["a"]["b"] = "other"
            metadata["new"] = 1
            expected = {"list": [1, [2]], "dict": {"a": {"b": 1}}}
            self.assertEqual(
                self.store.get_metadata("key"), expected, "what is stored is a deep copy"
            )
            self.assertEqual(list(self.store.query_keys(dict={"a": {"b": 1}})), ["key"])

    def test_metadata_is_copied_out(self) -> None:
        """Metadata: always deep-copied out, event.metadata included."""
        expected = {"list": [1, [2]], "dict": {"a": {"b": 1}}}
        got: list[dict[str, Any]] = []

        def spoil(event: Any) -> None:
            got.append(event.metadata)
            event.metadata["list"][1].append("spoilt")
            event.metadata["dict"]["a"].clear()

        with self.listening(StoreModificationEvent, spoil):
            self.put("key", b"data", list=[1, [2]], dict={"a": {"b": 1}})
        self.assertEqual(len(got), 1)
        self.assertEqual(
            self.store.get_metadata("key"), expected, "an event's metadata belong to the event"
        )
        value = self.store.get("key")
        reads: list[Callable[[], dict[str, Any]]] = [
            lambda: self.store.get_metadata("key"),
            lambda: self.store.get_metadata("key", ["list", "dict"]),
            lambda: self.store.get("key").metadata,
            lambda: value.metadata,
            lambda: dict(self.store.query())["key"],
            lambda: dict(self.store.query(["list", "dict"]))["key"],
            lambda: next(self.store.multiget_metadata(["key"])),
            lambda: next(self.store.multiget(["key"])).metadata,
        ]
        for read in reads:
            metadata = read()
            metadata["list"][1].append("spoilt")
            metadata["dict"]["a"].clear()
            metadata["new"] = 1
            for again in reads:
                self.assertEqual(again(), expected, "what is read is a deep copy")

    def test_set_data_keeps_the_metadata(self) -> None:
        """Metadata: set_data, from_bytes, from_file keep the metadata; those of a new key are
        empty."""
        writers: list[Callable[[str], object]] = [
            lambda key: self.store.set_data(key, io.BytesIO(b"new")),
            lambda key: self.store.from_bytes(key, b"new"),
            lambda key: self.store.from_file(key, io.BytesIO(b"new")),
            lambda key: self.store.multiset_data([key], [io.BytesIO(b"new")]),
        ]
        for write in writers:
            self.put("old", b"old", a=[1], b=None)
            write("old")
            self.check_pair("old", b"new", {"a": [1], "b": None})
            write("new")
            self.check_pair("new", b"new", {})
            self.store.delete("new")

    def test_set_metadata_keeps_the_data(self) -> None:
        """Metadata: set_metadata replaces; on a new key it makes an empty value."""
        for write in (
            self.store.set_metadata,
            lambda key, metadata: self.store.multiset_metadata([key], [metadata]),
        ):
            self.put("old", b"old", a=1, b=2)
            write("old", {"b": 3})
            self.check_pair("old", b"old", {"b": 3})
            write("old", {})
            self.check_pair("old", b"old", {})
            write("new", {"c": 4})
            self.check_pair("new", b"", {"c": 4})
            self.store.delete("new")

    def test_update_metadata_merges(self) -> None:
        """Metadata: update_metadata merges, as dict.update does; KeyError for a missing key."""
        for write in (
            self.store.update_metadata,
            lambda key, metadata: self.store.multiupdate_metadata([key], [metadata]),
        ):
            self.put("old", b"old", a={"x": 1}, b=2)
            write("old", {"a": {"y": 2}, "c": None})
            self.check_pair("old", b"old", {"a": {"y": 2}, "b": 2, "c": None})
            write("old", {})
            self.check_pair("old", b"old", {"a": {"y": 2}, "b": 2, "c": None})
            with self.unchanged():
                self.missing("new", write, "new", {"a": 1})

    def test_select(self) -> None:
        """select: missing names are left out, it may be empty, it may be one-shot."""
        self.put("key", b"", a=1, b=None, self=3, select=4)
        self.put("other", b"", c=5)
        store = self.store
        for names, expected in [
            (["a", "b"], {"a": 1, "b": None}),
            (["a", "no"], {"a": 1}),
            ([], {}),
            (("self", "select"), {"self": 3, "select": 4}),
            ({"a"}, {"a": 1}),
            (["a", "a"], {"a": 1}),
            (["no"], {}),
        ]:
            for select in (names, iter(names), (name for name in names)):
                self.assertEqual(store.get_metadata("key", select), expected)
            self.assertEqual(
                dict(store.query(iter(names)))["key"], expected, "query() with a one-shot select"
            )
            self.assertEqual(dict(store.query(select=names, a=1)), {"key": expected})
        self.assertEqual(
            dict(store.query(iter(["a", "c"]))),
            {"key": {"a": 1}, "other": {"c": 5}},
            "of every key",
        )
        self.assertEqual(
            dict(store.query([])), {"key": {}, "other": {}}, "an empty select selects nothing"
        )
