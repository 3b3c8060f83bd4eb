"""Streams that a store takes in: checks 12 to 16 and 21 to 23."""

from __future__ import annotations

import io
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...storage.dict_memory_store import DictMemoryStore
from ...storage.errors import StoreError
from ...storage.string_value import StringValue
from ._case import Answers, Failure, Interrupt, StoreCase, Trickle

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Streams"]


class Streams(StoreCase):
    """A stream is anything with read(n); whatever it does, the store keeps the old value or has the
    new one."""

    def stream_writers(self) -> list[Callable[..., object]]:
        """Every method that takes a stream, as function of key, stream and buffer_size."""
        store = self.store
        return [
            lambda key, stream, *size: store.set(key, (stream, {"new": 1}), *size),
            store.set_data,
            store.from_file,
            lambda key, stream, *size: store.multiset([key], [(stream, {"new": 1})], *size),
            lambda key, stream, *size: store.multiset_data([key], [stream], *size),
        ]

    def test_reads_of_any_size_are_put_together(self) -> None:
        """Writing: a stream is anything with read(n): no close, no `with` needed, short reads
        fine."""
        data = bytes(range(256)) * 2
        sizes = [
            (1, 64),
            (63, 64),
            (64, 64),
            (65, 64),
            (7, 1),
            (511, 512),
            (None, 512),
            (None, 511),
            (1, 2**20),
        ]
        for number, (chunk, buffer_size) in enumerate(sizes):
            write = self.stream_writers()[number % 5]
            stream = Trickle(data, chunk)
            write("key", stream, buffer_size)
            self.assertEqual(
                self.store.to_bytes("key"), data, f"chunks of {chunk}, buffers of {buffer_size}"
            )
            self.assertTrue(
                all(isinstance(size, int) and 0 < size <= buffer_size for size in stream.asked),
                f"buffer_size is the most that is asked of the stream at once: {stream.asked}",
            )

    def test_a_failing_stream_keeps_the_old_pair(self) -> None:
        """Writing: what a stream raises passes through unchanged; the old data and metadata
        stay."""
        self.put("old", b"old data", old=True)
        before = self.leftovers(self.store)
        data = b"0123456789" * 3
        for write in self.stream_writers():
            for after in (0, 15, 30):
                for error in (
                    Failure("stop"),
                    OSError(5, "broken"),
                    KeyError("x"),
                    Interrupt(),
                    KeyboardInterrupt(),
                ):
                    with self.unchanged():
                        for key in ("old", "new"):
                            stream = Trickle(data, fail_after=after, error=error)
                            raised = self.refused(type(error), write, key, stream, 10)
                            self.assertIs(
                                raised, error, "what the stream raises passes through unchanged"
                            )
                        self.assertFalse(self.store.exists("new"))
        left = self.leftovers(self.store)
        if before is not None and left is not None:
            self.assertLessEqual(left, before + 3, "nothing is left behind by a failure")

    def test_a_stream_of_no_bytes_keeps_the_old_pair(self) -> None:
        """Writing: a stream that yields str or None is a TypeError; the old data and metadata
        stay."""
        self.put("old", b"old data", old=True)
        for write in self.stream_writers():
            for answers in (
                ("text",),
                (None,),
                (b"data", "text"),
                (b"data", None),
                ("",),
                (1,),
                ([b"data"],),
            ):
                for key in ("old", "new"):
                    with self.unchanged():
                        self.refused(TypeError, write, key, Answers(*answers))

    def test_a_stream_that_gives_too_much_loses_nothing(self) -> None:
        """Atomicity: all that the stream gave is stored, or it is refused and the old pair
        stays."""
        self.put("old", b"old data", old=True)
        before = self.pair("old")
        try:
            self.store.set("old", (Answers(b"0123456789", b"01234"), {}), 4)
        except (ValueError, TypeError, StoreError):
            self.assertEqual(self.pair("old"), before)
        else:
            self.check_pair("old", b"012345678901234", {})

    def test_streams_are_read_from_their_position_and_left_open(self) -> None:
        """Writing: a stream is read from its current position and left open."""
        for write in self.stream_writers():
            stream = io.BytesIO(b"skipped data")
            stream.seek(8)
            write("key", stream)
            self.assertEqual(self.store.to_bytes("key"), b"data")
            self.assertFalse(stream.closed, "the stream is left open")
            self.assertEqual(stream.tell(), 12)

    def test_what_is_no_value_is_refused(self) -> None:
        """Writing: set() takes a Value or a (stream, dict) tuple; anything else is a TypeError that
        says so."""
        self.put("old", b"old data", old=True)
        bad: list[Any] = [
            b"data",
            "text",
            None,
            5,
            io.BytesIO(b"x"),
            {},
            [io.BytesIO(b"x"), {}],
            (io.BytesIO(b"x"),),
            (io.BytesIO(b"x"), {}, 1),
            (b"data", {}),
            ("text", {}),
            (None, {}),
            object(),
            (),
            ({}, io.BytesIO(b"x")),
        ]
        for value in bad:
            for key in ("old", "new"):
                with self.unchanged():
                    self.refused(TypeError, self.store.set, key, value)
        with self.unchanged():
            bad = [b"data", "text", None, 5, [b"data"]]
            for data in bad:
                self.refused(TypeError, self.store.set_data, "old", data)
            for data in bad[1:]:
                self.refused(TypeError, self.store.from_bytes, "old", data)
            with io.StringIO("text") as text:
                self.refused(TypeError, self.store.from_file, "old", text)
        self.assertIn(
            "Value",
            str(self.refused(TypeError, self.store.set, "old", b"data")),
            "says what to pass",
        )

    def test_bytes_of_any_kind(self) -> None:
        """from_bytes takes bytes, bytearray and memoryview, and keeps a copy."""
        buffer = bytearray(b"data")
        for data in (b"data", buffer, memoryview(buffer)):
            self.store.from_bytes("key", data)
            self.assertEqual(self.store.to_bytes("key"), b"data")
        buffer[:] = b"lost"
        self.assertEqual(self.store.to_bytes("key"), b"data", "what is stored is a copy")

    def test_buffer_size_is_positive(self) -> None:
        """buffer_size <= 0 is ValueError."""
        self.put("old", b"old data", old=True)
        with self.unchanged():
            for size in (0, -1, -(2**40)):
                for write in self.stream_writers():
                    self.refused(ValueError, write, "old", io.BytesIO(b"x"), size)
                self.refused(ValueError, self.store.from_bytes, "old", b"x", size)

    def test_from_file(self) -> None:
        """from_file takes str, PathLike and open binary files; a missing file changes nothing."""
        self.put("key", b"old", a=1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "source")
            path.write_bytes(b"from a file")
            for source in (path, str(path)):
                self.store.from_bytes("key", b"old")
                self.store.from_file("key", source)
                self.check_pair("key", b"from a file", {"a": 1})
            with open(path, "rb") as file:
                file.seek(5)
                self.store.from_file("key", file)
                self.assertFalse(file.closed, "an open file is left open")
            self.check_pair("key", b"a file", {"a": 1})
            with self.unchanged():
                for bad in (Path(folder, "no"), Path(folder)):
                    error = self.refused(StoreError, self.store.from_file, "key", bad)
                    self.assertIsInstance(error, OSError)

    def test_an_open_reader_keeps_what_it_opened(self) -> None:
        """Value: an open reader keeps what it opened, whatever happens to the key."""
        for size in (10, 300_000):
            old = bytes(range(250)) * (size // 250 or 1)
            changes: list[Callable[[], object]] = [
                lambda: self.put("key", b"new"),
                lambda: self.store.from_bytes("key", b"longer" * 100_000),
                lambda: self.store.delete("key"),
                lambda: (self.store.delete("key"), self.store.from_bytes("key", b"again")),
                lambda: self.store.move("key", "moved"),
            ]
            for change in changes:
                self.put("key", old, a=1)
                value = self.store.get("key")
                streams = [
                    value.data,
                    value.range(0, len(old)),
                    self.store.get_data("key"),
                    self.store.get_data_range("key", 0),
                ]
                pieces = value.iterdata(100)
                heads = [stream.read(5) for stream in streams]
                first = next(pieces)
                change()
                for head, stream in zip(heads, streams, strict=True):
                    with stream:
                        self.assertTrue(
                            head + stream.read() == old, "an open reader keeps what it opened"
                        )
                self.assertTrue(first + b"".join(pieces) == old, "iterdata() keeps what it opened")
                if self.store.exists("moved"):
                    self.store.delete("moved")

    def test_a_value_stays_one_pair(self) -> None:
        """Atomicity: a reader sees the old (data, metadata) pair or the new one, never a mix."""
        changes: list[Callable[[], object]] = [
            lambda: self.put("key", b"new", new=1),
            lambda: self.store.set_metadata("key", {"new": 1}),
            lambda: self.store.set_data("key", io.BytesIO(b"new")),
            lambda: self.store.delete("key"),
        ]
        for number, change in enumerate(changes):
            self.put("key", b"old", old=number)
            value = self.store.get("key")
            etag, modified = value.etag, value.modified
            change()
            with value.data as stream:
                self.assertEqual((stream.read(), value.metadata), (b"old", {"old": number}))
            self.assertEqual((value.size, value.etag, value.modified), (3, etag, modified))

    def test_a_value_can_be_stored(self) -> None:
        """Writing: set(k, store.get(k)) changes nothing; a part-read source is copied whole."""
        self.put("key", b"0123456789" * 30_000, a=[1])
        before = self.pair("key")
        value = self.store.get("key")
        with value.data as stream:
            stream.read(5)
            self.store.set("copy", value)
            self.store.set("key", value)
            self.store.set("key", self.store.get("key"))
            self.assertTrue(stream.read() == before[0][5:], "the reader of the source goes on")
        self.assertTrue(self.pair("key") == before == self.pair("copy"))
        self.store.set("text", StringValue(b"data", {"b": 2}))
        self.check_pair("text", b"data", {"b": 2})

    def test_values_go_between_two_kinds_of_store(self) -> None:
        """Writing: between any two stores a.set(k, b.get(k)) copies."""
        other = DictMemoryStore(event_manager=self.manager)
        self.put("here", b"0123456789" * 20_000, a={"b": [1]})
        other.set("here", self.store.get("here"))
        self.assertTrue(self.pair("here", other) == self.pair("here"))
        other.set("there", (io.BytesIO(b"there"), {"c": 1}))
        self.store.set("there", other.get("there"))
        self.check_pair("there", b"there", {"c": 1})

    def test_copy_and_move(self) -> None:
        """Copying: copy(source, target), move(source, target) inside a store."""
        self.put("a", b"data", a=1)
        self.put("b", b"longer than data", b=1)
        self.store.copy("a", "b")
        self.store.copy("a", "c")
        self.store.copy("a", "a")
        for key in "abc":
            self.check_pair(key, b"data", {"a": 1})
        self.put("b", b"other", b=1)
        self.store.move("a", "b")
        self.store.move("b", "d")
        self.store.move("d", "d")
        self.assertEqual(sorted(self.store.query_keys()), ["c", "d"])
        self.check_pair("d", b"data", {"a": 1})
        with self.unchanged():
            self.missing("no", self.store.copy, "no", "d")
            self.missing("no", self.store.move, "no", "d")
            self.missing("no", self.store.move, "no", "no")

    def test_large_values_stream_through(self) -> None:
        """Writing: data larger than memory streams through; reading 10 bytes reads about 10
        bytes."""
        self.need("streaming")
        size, buffer_size = 12_000_000, 100_000
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        def peak_of(call: Callable[[], object]) -> int:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            call()
            return tracemalloc.get_traced_memory()[1] - before

        class Zeros:
            left = size

            def read(self, count: int, /) -> bytes:
                count = min(count, self.left)
                self.left -= count
                return bytes(count)

        def read_all() -> None:
            self.assertEqual(sum(map(len, self.store.get("large").iterdata(buffer_size))), size)

        def read_little() -> None:
            with self.store.get_data_range("large", size // 2, size // 2 + 10) as stream:
                self.assertEqual(stream.read(), bytes(10))

        with tempfile.TemporaryDirectory() as folder:
            limit = size // 2
            for what, call in {
                "set": lambda: self.store.set("large", (Zeros(), {}), buffer_size),
                "iterdata": read_all,
                "to_file": lambda: self.store.to_file("large", Path(folder, "file"), buffer_size),
                "from_file": lambda: self.store.from_file(
                    "large", Path(folder, "file"), buffer_size
                ),
                "copy": lambda: self.store.copy("large", "copy"),
            }.items():
                self.assertLess(peak_of(call), limit, f"bytes of memory for {what} of {size} bytes")
        self.assertEqual(self.store.get("copy").size, size)
        self.assertLess(peak_of(read_little), 1_000_000, "bytes of memory to read 10 bytes")
