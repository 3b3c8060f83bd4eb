"""Streams that a store gives out: checks 11 and 17 to 20."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...storage.errors import StoreError
from ...storage.events import (
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
)
from ...storage.value import Value
from ._case import StoreCase

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Readers"]

_TEXT = b"first,line\nsecond,\xc3\xa9\n\nlast,"


class Readers(StoreCase):
    """What is read is a fresh, independent, real io object each time."""

    def streams(self, data: bytes) -> list[BinaryIO]:
        """Return every kind of stream of these data."""
        store = self.fill({"key": (data, {})})
        value = store.get("key")
        streams = [
            value.data,
            store.get_data("key"),
            value.range(),
            store.get_data_range("key", 0, len(data)),
        ]
        streams.extend(store.multiget_data(["key"]))
        for stream in streams:
            self.addCleanup(stream.close)
        return streams

    def test_empty_value(self) -> None:
        """Value: an empty value is a value."""
        store = self.fill({"empty": (b"", {"a": 1})})
        value = store.get("empty")
        self.assertEqual(value.size, 0)
        with value.data as stream:
            self.assertEqual((stream.read(), stream.read(10)), (b"", b""))
        self.assertEqual(store.to_bytes("empty"), b"")
        self.assertEqual(b"".join(value.iterdata()), b"")
        self.assertTrue(store.exists("empty"))

    def test_streams_read_as_io_objects_do(self) -> None:
        """Value: read(), read(-1), readinto, readline, iteration, closed, `with`."""
        for stream in self.streams(_TEXT):
            self.assertIsInstance(stream, io.IOBase)
            self.assertTrue(stream.readable())
            self.assertIs(stream.closed, False)
            self.assertEqual(stream.read(0), b"")
            self.assertEqual(stream.read(3), _TEXT[:3])
            self.assertEqual(stream.readline(), b"st,line\n")
            into = bytearray(6)
            count = stream.readinto(into)  # type: ignore[attr-defined]
            self.assertEqual(bytes(into[:count]), b"second"[:count])
            self.assertGreater(count, 0)
            rest = _TEXT[11 + count :]
            self.assertEqual(stream.read(-1), rest, "read(-1) reads to the end")
            self.assertEqual(
                (stream.read(), stream.read(5), stream.read(-1)), (b"", b"", b""), "at the end"
            )
            self.assertEqual((stream.readline(), list(stream)), (b"", []), "at the end")
        for stream in self.streams(_TEXT):
            self.assertEqual(list(stream), _TEXT.splitlines(keepends=True))
        for stream in self.streams(_TEXT):
            self.assertEqual(stream.read(), _TEXT)
        for stream in self.streams(_TEXT):
            pieces = [stream.read(n) for n in (1, 2, 0, 5, 100)]
            self.assertEqual(b"".join(pieces), _TEXT)

    def test_a_closed_stream_refuses(self) -> None:
        """Value: read after close is ValueError."""
        for stream in self.streams(_TEXT):
            with stream as entered:
                self.assertEqual(entered.read(1), b"f")
            self.assertIs(stream.closed, True)
            self.refused(ValueError, stream.read)
            self.refused(ValueError, stream.read, 1)
            self.refused(ValueError, stream.readline)
            stream.close()

    def test_value_is_a_context_manager(self) -> None:
        """Value: `with value as stream` gives a stream and closes it."""
        value = self.fill({"key": (_TEXT, {})}).get("key")
        self.assertIsInstance(value, Value)
        with value as stream, value as second:
            self.assertEqual((stream.read(), second.read()), (_TEXT, _TEXT))
        self.assertTrue(stream.closed)
        self.assertTrue(second.closed)

    def test_the_standard_library_reads_the_streams(self) -> None:
        """Value: a real io object, for TextIOWrapper, csv, copyfileobj and zipfile."""
        for stream in self.streams(_TEXT):
            with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
                self.assertEqual(
                    list(csv.reader(text)),
                    [["first", "line"], ["second", "\u00e9"], [], ["last", ""]],
                )
        for stream in self.streams(_TEXT):
            copy = io.BytesIO()
            shutil.copyfileobj(stream, copy, 5)
            self.assertEqual(copy.getvalue(), _TEXT)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
            writer.writestr("member", b"in a zip" * 1000)
        for stream in self.streams(archive.getvalue()):
            if stream.seekable():
                with zipfile.ZipFile(stream) as reader:
                    self.assertEqual(reader.read("member"), b"in a zip" * 1000)

    def test_streams_are_independent(self) -> None:
        """Value: `data` is a fresh, independent stream at each access."""
        data = bytes(range(256)) * 10
        value = self.fill({"key": (data, {})}).get("key")
        first, second, part, pieces = (
            value.data,
            value.data,
            value.range(100, 200),
            value.iterdata(100),
        )
        with first, second, part:
            self.assertEqual(first.read(10), data[:10])
            self.assertEqual(next(pieces), data[:100])
            self.assertEqual(part.read(10), data[100:110])
            self.assertEqual(
                second.read(20), data[:20], "the second stream has a position of its own"
            )
            self.assertEqual(next(pieces), data[100:200])
            self.assertEqual(first.read(), data[10:])
            self.assertEqual(part.read(), data[110:200])
            first.close()
            self.assertEqual(second.read(), data[20:], "closing one stream closes no other")
        self.assertEqual(b"".join(pieces), data[200:])

    def test_iterdata_cuts_into_buffers(self) -> None:
        """Value: iterdata(buffer_size, progress) gives the data and tells the bytes so far."""
        data = bytes(range(256))
        value = self.fill({"key": (data, {})}).get("key")
        for size in (1, 100, 255, 256, 257):
            steps: list[int] = []
            buffers = list(value.iterdata(size, lambda step, steps=steps: steps.append(step)))
            self.assertEqual(b"".join(buffers), data)
            self.assertLessEqual(max(map(len, buffers)), size)
            self.assertEqual(steps[-1], len(data))
            self.assertEqual(steps, sorted(steps))
        self.refused(ValueError, value.iterdata, 0)
        self.refused(ValueError, value.iterdata, -1)

    def test_facts_about_a_value(self) -> None:
        """Value: size, created, modified are known without reading the data."""
        store = self.fill({"key": (b"12345", {})})
        value = store.get("key")
        self.assertEqual(value.size, 5)
        self.assertIsInstance(value.created, float)
        self.assertIsInstance(value.modified, float)
        self.assertLessEqual(value.created, value.modified)

    def test_to_bytes_and_to_file(self) -> None:
        """to_file takes str, PathLike and open binary files; an open file is left open."""
        data = bytes(range(256)) * 20
        store = self.fill({"key": (data, {})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "target")
            for size in (1000, 5120, 2**20):
                self.assertEqual(store.to_bytes("key", size), data)
                for target in (path, str(path)):
                    path.write_bytes(b"old" * 10000)
                    store.to_file("key", target, size)
                    self.assertEqual(path.read_bytes(), data)
            with open(path, "wb") as file:
                file.write(b"before ")
                store.to_file("key", file)
                self.assertFalse(file.closed, "an open file is left open")
                file.write(b" after")
            self.assertEqual(path.read_bytes(), b"before " + data + b" after")
            memory = io.BytesIO()
            store.to_file("key", memory, 100)
            self.assertEqual(memory.getvalue(), data)
            self.assertEqual(
                [entry.name for entry in Path(folder).iterdir()], ["target"], "nothing left behind"
            )
        for size in (0, -1):
            self.refused(ValueError, store.to_bytes, "key", size)
            self.refused(ValueError, store.to_file, "key", io.BytesIO(), size)

    def test_to_file_keeps_the_target_on_failure(self) -> None:
        """to_file is atomic and keeps the old target on failure."""
        store = self.fill({"key": (b"new" * 100, {})})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "target")
            path.write_bytes(b"old")
            seen = []

            def look(event: Any) -> None:
                seen.append(path.read_bytes())

            with self.listening(StoreProgressStepEvent, look):
                store.to_file("key", path, 30)
            self.assertEqual(len(seen), 10)
            self.assertEqual(set(seen), {b"old"}, "the target is replaced at once, at the end")
            path.write_bytes(b"old")
            self.missing("no", store.to_file, "no", path)
            self.assertEqual(path.read_bytes(), b"old")
            for bad in (Path(folder), Path(folder, "no", "such", "folder")):
                error = self.refused(StoreError, store.to_file, "key", bad)
                self.assertIsInstance(error, OSError)
                self.assertIsNotNone(error.errno)  # type: ignore[attr-defined]
            self.assertEqual(
                [entry.name for entry in Path(folder).iterdir()], ["target"], "nothing left behind"
            )

    def test_reading_tells_its_progress(self) -> None:
        """Events: progress (to_file, to_bytes): start, one step per buffer with the bytes so far,
        end."""
        store = self.fill({"key": (b"x" * 25, {"a": 1})})
        reads: list[Callable[[], object]] = [
            lambda: store.to_bytes("key", 10),
            lambda: store.to_file("key", io.BytesIO(), 10),
        ]
        for read in reads:
            with self.recorded(StoreProgressEvent) as events:
                read()
            self.assertEqual(
                [type(event) for event in events],
                [StoreProgressStartEvent, *[StoreProgressStepEvent] * 3, StoreProgressEndEvent],
            )
            self.assertEqual(
                [event.step for event in events[1:-1]], [10, 20, 25], "step: the bytes so far"
            )
            self.assertEqual({event.key for event in events}, {"key"})
            self.assertTrue(
                all(event.source is store for event in events), "source: the store that was called"
            )
            self.assertEqual(events[0].steps, 25)
            self.assertEqual(events[-1].exit_state, "normal")
            expected = self.expected_metadata("key", b"x" * 25, {"a": 1})
            if expected is not None:
                self.assertEqual(events[0].metadata, expected)

    def test_many_keys_are_read_by_one_call(self) -> None:
        """Bulk: keys may be a one-shot generator; a missing key raises KeyError naming it when it
        is reached."""
        contents = {f"key{n}": (b"%d" % n, {"n": n, "m": 1}) for n in range(5)}
        store = self.fill(contents)
        names = list(contents)

        def keys() -> Any:
            yield from names

        def read(stream: Any) -> bytes:
            with stream:
                data: bytes = stream.read()
                return data

        expected = [data for data, _ in contents.values()]
        self.assertEqual([read(value.data) for value in store.multiget(keys())], expected)
        self.assertEqual([read(stream) for stream in store.multiget_data(keys())], expected)
        all_metadata = [store.get_metadata(key) for key in names]
        self.assertEqual(list(store.multiget_metadata(keys())), all_metadata)
        select = (name for name in ("n", "no", "name"))
        wanted = [
            {n: v for n, v in each.items() if n in ("n", "no", "name")} for each in all_metadata
        ]
        self.assertEqual(
            list(store.multiget_metadata(keys(), select)), wanted, "select may be one-shot"
        )
        for method in (store.multiget, store.multiget_data, store.multiget_metadata):
            self.assertEqual(list(method([])), [])
            self.assertEqual(len(list(method(["key0", "key0"]))), 2, "a key may come twice")
            found = method(["key1", "no", "key2"])
            next(found)
            self.missing("no", next, found)
