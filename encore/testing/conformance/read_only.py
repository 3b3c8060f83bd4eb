"""Stores that can only be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...storage.errors import StoreError
from ._samples import BAD_KEYS
from .keys import reading_calls, writing_calls
from .life_cycle import Opening
from .listing import Listing
from .ranges import Ranges
from .readers import Readers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._case import Contents

__all__ = ["ReadOnlyStoreConformance"]


class ReadOnlyStoreConformance(Listing, Opening, Ranges, Readers):
    """The checks for a store that can only be read.

    Mix it into a ``unittest.TestCase`` and define ``make_filled_store``; it runs under unittest and
    pytest::

        class TestMyStore(ReadOnlyStoreConformance, unittest.TestCase):
            def make_filled_store(self, contents, event_manager):
                files = {key: data for key, (data, metadata) in contents.items()}
                return MyStore(files, event_manager=event_manager)

            def expected_metadata(self, key, data, metadata):
                return {'length': len(data)}

    Hooks
    -----
    make_filled_store(contents, event_manager)
        A new store, connected or not, that holds ``{key: (data, metadata)}``.
    expected_metadata(key, data, metadata)
        What the store shows as metadata of that; None if these are not known here.

    A check that a store cannot take part in is skipped with the reason.
    """

    def make_filled_store(self, contents: Contents, event_manager: Any) -> Any:
        """Return a new store, connected or not, that holds `contents`, with its events to
        `event_manager`."""
        raise NotImplementedError(
            f"{type(self).__name__} must define make_filled_store(contents, event_manager)"
        )

    def prepare(self) -> None:
        self.fill({})

    def fill(self, contents: Contents) -> Any:
        self.store = self.opened(self.make_filled_store(contents, self.manager))
        return self.store

    def test_it_says_that_it_is_read_only(self) -> None:
        """info()['readonly'] is True."""
        self.assertIs(self.info["readonly"], True)
        self.assertIs(self.info["transactional"], False)

    def test_an_empty_store(self) -> None:
        """Query: without keys there is nothing to find."""
        for found in (
            self.store.query(),
            self.store.query_keys(),
            self.store.glob("*"),
            self.store.keys(),
        ):
            self.assertEqual(list(found), [])
        self.assertEqual(self.state(), {})

    def test_a_missing_key_is_a_key_error(self) -> None:
        """Missing key: KeyError with the key as given, from every method that reads."""
        store = self.fill({"there": (b"data", {})})
        for key in (
            "no",
            "there/no",
            "../there",
            "/there",
            "THERE",
            "there ",
            "\0",
            "no\n",
            "..",
            ".",
            "/",
            "k" * self.info.get("max_key_bytes", 1024),
        ):
            self.assertIs(store.exists(key), False, f"exists({key!r})")
            for call in reading_calls(store, key):
                self.missing(key, call)

    def test_bad_keys_are_refused(self) -> None:
        """Anything else is a TypeError (not a str) or a ValueError, exists included."""
        for key, error in BAD_KEYS:
            self.refused(error, self.store.exists, key)
            for call in reading_calls(self.store, key):
                self.refused(error, call)

    def test_it_refuses_every_mutator(self) -> None:
        """Read-only stores refuse every mutator and change nothing."""
        store = self.fill({"there": (b"data", {}), "key": (b"old", {})})
        with self.unchanged():
            for key in ("key", "new"):
                for call in writing_calls(store, key):
                    self.refused((StoreError, AttributeError, NotImplementedError), call)

    def test_metadata_are_copied_out(self) -> None:
        """Metadata: always deep-copied out."""
        store = self.fill({"key": (b"data", {"a": [1, {"b": 2}]})})
        value = store.get("key")
        expected = value.metadata
        reads: list[Callable[[], dict[str, Any]]] = [
            lambda: value.metadata,
            lambda: store.get("key").metadata,
            lambda: store.get_metadata("key"),
            lambda: dict(store.query())["key"],
            lambda: next(store.multiget_metadata(["key"])),
        ]
        for read in reads:
            metadata = read()
            for item in metadata.values():
                if isinstance(item, list | dict):
                    item.clear()
            metadata["new"] = 1
            self.assertEqual(read(), expected)

    def test_select(self) -> None:
        """select: missing names are left out, it may be empty, it may be one-shot."""
        store = self.fill({"key": (b"data", {"a": 1, "b": None})})
        metadata = store.get_metadata("key")
        for names in ([], ["no"], [*metadata], [*list(metadata)[:1], "no"]):
            expected = {name: metadata[name] for name in names if name in metadata}
            self.assertEqual(store.get_metadata("key", iter(names)), expected)
            self.assertEqual(dict(store.query(iter(names))), {"key": expected})

    def test_many_threads_read(self) -> None:
        """Threads: one store object may be used by any number of threads."""
        contents: dict[str, tuple[bytes, dict[str, Any]]] = {
            f"key{number}": (b"%d" % number * 1000, {}) for number in range(8)
        }
        store = self.fill(contents)

        def read(key: str) -> None:
            for _ in range(5):
                self.assertEqual(store.to_bytes(key), contents[key][0])
                self.assertEqual(len(list(store.query_keys())), 8)

        self.in_threads(*(lambda key=key: read(key) for key in [*contents] * 2))
