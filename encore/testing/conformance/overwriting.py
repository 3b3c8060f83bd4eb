"""Overwriting: checks 27, 28, 31 and 32."""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ...storage.errors import StoreError
from ._case import StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Overwriting"]


class Overwriting(StoreCase):
    """A new value replaces the old one whole, and the stamps follow."""

    def test_no_tail_of_a_longer_value(self) -> None:
        """Atomicity: no tail of a longer old value, no metadata of the old one."""
        for old, new in [(300_000, 10), (300_000, 0), (300_000, 299_999), (10, 300_000), (1, 1)]:
            self.put("key", b"o" * old, old=1, both=1)
            self.put("key", b"n" * new, new=2, both=2)
            data, metadata = self.pair("key")
            self.assertTrue(
                data == b"n" * new, f"{new} bytes over {old}: {data[:20]!r}... of {len(data)}"
            )
            self.assertEqual(metadata, {"new": 2, "both": 2})
            self.assertEqual(self.store.get("key").size, new)
            self.store.from_bytes("key", b"d" * old)
            self.store.from_bytes("key", b"e" * new)
            self.assertTrue(self.store.to_bytes("key") == b"e" * new)
            with self.store.get_data_range("key", new) as rest:
                self.assertEqual(rest.read(), b"")

    def test_stamps(self) -> None:
        """Value: created survives overwriting, modified never goes back and moves on every change,
        metadata too."""
        self.put("key", b"data", a=1)
        value = self.store.get("key")
        for name in ("created", "modified"):
            stamp = getattr(value, name)
            self.assertIsInstance(stamp, float, f"{name} of a value is a time in seconds")
        self.assertAlmostEqual(value.created, value.modified, delta=5)
        created, modified = value.created, value.modified
        changes: dict[str, Callable[[], object]] = {
            "set": lambda: self.put("key", b"data", a=2),
            "set again": lambda: self.put("key", b"data", a=3),
            "set_data": lambda: self.store.set_data("key", io.BytesIO(b"atad")),
            "from_bytes": lambda: self.store.from_bytes("key", b"text"),
            "set_metadata": lambda: self.store.set_metadata("key", {"a": 4}),
            "update_metadata": lambda: self.store.update_metadata("key", {"a": 5}),
            "multiset": lambda: self.store.multiset(["key"], [(io.BytesIO(b"data"), {})]),
        }
        for what, change in changes.items():
            change()
            value = self.store.get("key")
            self.assertEqual(value.created, created, f"created survives {what}")
            self.assertIsInstance(value.modified, float, f"there is a time modified after {what}")
            self.assertGreater(value.modified, modified, f"modified moves on {what}")
            modified = value.modified
        self.store.to_bytes("key")
        list(self.store.query())
        self.assertEqual(self.store.get("key").modified, modified, "reading moves nothing")

    def test_etags(self) -> None:
        """Conditional writes: value.etag is a string that changes with every change of data or
        metadata."""
        self.put("key", b"data", a=1)
        seen = [self.store.get("key").etag]
        self.assertIsInstance(seen[0], str)
        for change in (
            lambda: self.store.from_bytes("key", b"atad"),
            lambda: self.store.set_metadata("key", {"a": 2}),
            lambda: self.store.update_metadata("key", {"a": 1.5}),
            lambda: self.store.update_metadata("key", {"a": [1, {"b": None}]}),
            lambda: self.store.update_metadata("key", {"b": True}),
            lambda: self.put("key", b"data", a=True),
            lambda: self.put("key", b"data", a="1"),
        ):
            before = self.store.get("key").etag
            self.assertEqual(before, seen[-1], "an etag stays while nothing changes")
            change()
            seen.append(self.store.get("key").etag)
        self.assertEqual(len(set(seen)), len(seen), f"every change has an etag of its own: {seen}")
        value = self.store.get("key")
        held = value.etag
        self.put("key", b"more")
        self.assertEqual(value.etag, held, "the etag of a value is that of what it shows")

    def test_quick_changes_have_different_etags(self) -> None:
        """Conditional writes: value.etag changes with every change, however quick."""
        for number in range(20):
            before = self.store.get("key").etag if number else None
            self.store.from_bytes("key", b"%02d" % number)
            self.assertNotEqual(self.store.get("key").etag, before)

    def test_one_damaged_record_hides_no_other(self) -> None:
        """One damaged or foreign record never hides the others, and can be overwritten or
        deleted."""
        for repair in (lambda: self.put("bad", b"new", a=1), lambda: self.store.delete("bad")):
            self.fill({key: (b"data", {"a": 1}) for key in ("a", "bad", "z")})
            if not self.damage(self.store, "bad"):
                self.skipTest("damage() does nothing on this store")
            for find in (
                self.store.query_keys,
                lambda: self.store.query_keys(a=1),
                lambda: self.store.glob("*"),
                self.store.keys,
                lambda: (key for key, _ in self.store.query()),
            ):
                self.assertLessEqual({"a", "z"}, set(find()), "a damaged record hides no other")
            self.check_pair("a", b"data", {"a": 1})
            for read in (
                self.store.get,
                self.store.get_metadata,
                self.store.to_bytes,
                self.store.exists,
            ):
                with suppress(KeyError, StoreError):
                    read("bad")
            with suppress(KeyError):
                repair()
            self.assertLessEqual({"a", "z"}, set(self.store.query_keys(a=1)))

    def test_a_full_disk_keeps_the_old_pair(self) -> None:
        """Errors: what the operating system refuses is a StoreError that is an OSError too, and
        keeps the old value."""
        if self.info["durable"] == "none":
            self.skipTest("info()['durable'] is 'none'")
        self.put("key", b"old", a=1)
        large = b"x" * 3_000_000
        with self.unchanged():
            for key in ("key", "new"):
                with _files_limited_to(1_000_000) as limited:
                    if not limited:
                        self.skipTest("this platform cannot limit the size of files")
                    error = self.refused(
                        StoreError, self.store.set, key, (io.BytesIO(large), {"b": 2})
                    )
                self.assertIsInstance(error, OSError)
                self.assertIsNotNone(error.errno)  # type: ignore[attr-defined]
        self.put("key", large, b=2)
        self.assertEqual(self.store.get("key").size, len(large))


@contextmanager
def _files_limited_to(size: int) -> Iterator[bool]:
    """Let no file of this process grow beyond `size`, which fails as a full disk does."""
    if sys.platform == "win32":
        yield False
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so that the write fails with EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
