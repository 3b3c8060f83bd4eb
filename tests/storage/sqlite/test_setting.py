"""Setting and deleting in an SqliteStore: the short way, many at once, streams of strangers."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import sys
import threading
from contextlib import contextmanager
from unittest import mock

import pytest
from sqlite_files import chunks_of, fill_up, in_thread, pair, put, sql

import encore.storage._sqlite_short_way as short_way
import encore.storage.sqlite_store as module
from encore.events.event_manager import EventManager
from encore.storage._sqlite_blobs import CHUNK
from encore.storage._sqlite_large import is_tame
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.events import StoreModificationEvent
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 20 * CHUNK + 1]


class Stream:
    """A stream of which nothing is known."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the limit can be set since Python 3.11")
def test_values_beyond_the_limit_of_sqlite(path):
    real = module.new_connection

    def limited(store, *how):
        connection = real(store, *how)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        return connection

    with (
        mock.patch.object(module, "new_connection", limited),
        SqliteStore(path, durability="process") as store,
    ):
        with pytest.raises(sqlite3.DataError):
            store._handle().connection.execute("SELECT zeroblob(100001)").fetchone()
        put(store, "a", BIG, n=1)
        store.from_bytes("b", BIG)
        store.copy("a", "c")
        for key in "abc":
            assert store.to_bytes(key) == BIG
            assert store.get_data_range(key, 5, 200_000).read() == BIG[5:200_000]
        # Metadata have no chunks.
        with pytest.raises(StoreError, match="too big"):
            store.set_metadata("a", {"n": "x" * 100_000})
        assert store.get_metadata("a") == {"n": 1}


class Recorder(io.BytesIO):
    """A stream of somebody's own kind, that uses the store while it is read."""

    store = None

    def read(self, size=-1):
        self.store.set_metadata("meanwhile", {})
        assert in_thread(lambda: self.store.set_metadata("elsewhere", {})) is None
        return super().read(size)


def test_streams_of_strangers_are_read_before_the_transaction_begins(store):
    stream = Recorder(BIG)
    stream.store = store
    store.set_data("a", stream)
    assert store.to_bytes("a") == BIG


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("buffer_size", [1000, CHUNK, CHUNK + 1, 1 << 20])
def test_files_and_bytes_in_memory_need_no_copy(folder, store, size, buffer_size):
    data = (b"0123456789abcde" * (size // 15 + 2))[: size + 3]
    with open(f"{folder}/file", "wb") as file:
        file.write(data)
    with (
        open(f"{folder}/file", "rb") as file,
        open(f"{folder}/file", "rb", buffering=0) as raw,
    ):
        for stream in (io.BytesIO(data), file, raw):
            stream.seek(3)
            with mock.patch.object(store, "_temporary_file", side_effect=AssertionError):
                store.set_data("a", stream, buffer_size)
            assert (stream.tell(), stream.closed) == (len(data), False)
            assert store.to_bytes("a") == data[3:]
    with mock.patch.object(store, "_temporary_file", side_effect=AssertionError):
        store.from_file("b", f"{folder}/file", buffer_size)
    assert store.to_bytes("b") == data


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_tame(folder):
    os.mkfifo(f"{folder}/pipe")
    open(f"{folder}/file", "w").close()

    class Own(io.BytesIO):
        pass

    with (
        open(os.open(f"{folder}/pipe", os.O_RDWR), "rb", buffering=0) as pipe,
        open(f"{folder}/file", "rb") as file,
        open(f"{folder}/file", "rb", buffering=0) as raw,
        io.BufferedReader(Own()) as wrapped,
        io.BufferedReader(pipe) as buffered,
    ):
        assert [is_tame(each) for each in (io.BytesIO(), file, raw)] == [True] * 3
        for each in (pipe, buffered, wrapped, Own(), Stream(b"")):
            assert not is_tame(each)
    assert not is_tame(file)


def test_what_a_file_raises_passes_through_and_changes_nothing(folder, store):
    put(store, "a", b"old", n=1)
    with open(f"{folder}/file", "wb") as file:
        file.write(BIG)
    for stream in (open(f"{folder}/file", "rb"), io.BytesIO(BIG)):  # noqa: SIM115
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            store.set_data("a", stream)
    with open(f"{folder}/file", "rb") as file:
        real, left = file, [3]

        class Failing:
            def read(self, size):
                left[0] -= 1
                if not left[0]:
                    raise OSError(errno.EIO, "theirs")
                return real.read(size)

        with (
            mock.patch.object(short_way, "is_tame", return_value=True),
            pytest.raises(OSError, match="theirs") as caught,
        ):
            store.set("a", (Failing(), {}))
    assert not isinstance(caught.value, StoreError)
    assert pair(store, "a") == (b"old", {"n": 1})


def test_a_pipe_is_no_file(store):
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as stream, os.fdopen(theirs, "wb") as pipe:
        thread = threading.Thread(target=lambda: (pipe.write(BIG), pipe.close()))
        thread.start()
        store.set_data("a", stream)
        thread.join(60)
    assert store.to_bytes("a") == BIG


def test_the_short_way_is_the_long_way(path, store, monkeypatch):
    """The same for every kind of row that there may be."""
    rows = {
        "small": ("{}", 1.5, 2.5, b"x"),
        "late": ("{}", 1.5, 4e9, b"x"),
        "whole": ("{}", 1, 2, b"x"),
        "text": ("{}", 1.5, 2.5, "x"),
        "none": (None, None, None, None),
        "strange": ("{", "x", "y", 12),
        "infinite": ("{}", 9e999, 9e999, b""),
        "beyond": ("{}", 1.5, 1e30, b""),
    }
    monkeypatch.setattr(store, "_clock", lambda: 1e9)

    def outcome(short):
        store.event_manager = EventManager()
        put(store, "large", BIG)
        sql(path, "DELETE FROM store WHERE key <> 'large'")
        for key, row in rows.items():
            sql(path, "INSERT INTO store VALUES (?, ?, ?, ?, ?)", (key, *row))
        told = []
        store.event_manager = manager = EventManager()
        manager.connect(
            StoreModificationEvent, lambda e: told.append((e.action, e.key, e.metadata))
        )
        with contextmanager(lambda: iter([None]))() if short else without_short_way(store):
            for _ in range(2):
                for key in (*rows, "large", "new", "new2"):
                    put(store, key, b"y", n=1)
            with store.transaction("t"):
                for key in (*rows, "large", "new", "new3"):
                    put(store, key, b"z" + key.encode(), n=2)
                for key in ("small", "new"):
                    store.delete(key)
            for key in ("late", "large", "text"):
                store.delete(key)
        assert chunks_of(path) == 0
        columns = "key, metadata, created, modified, data"
        return told, sql(path, f"SELECT {columns} FROM store ORDER BY key")

    one, other = outcome(True), outcome(False)
    assert one[0] == other[0]
    assert one[1] == other[1]


@contextmanager
def without_short_way(store):
    with (
        mock.patch.object(short_way, "put", return_value=None),
        mock.patch.object(store, "_execute", return_value=0),
    ):
        yield


def test_deleting_the_short_way(path, store):
    store.event_manager = EventManager()
    put(store, "a", b"1", n=1)
    put(store, "large", BIG)
    sql(path, "INSERT INTO store VALUES ('text', '{', 1, 2, 'x')")
    for key in ("a", "large", "text"):
        store.delete(key)
        with pytest.raises(KeyError) as caught:
            store.delete(key)
        assert caught.value.args == (key,)
    assert list(store.keys()) == []
    assert chunks_of(path) == 0
    for key, error in (("", ValueError), (3, TypeError)):
        with pytest.raises(error):
            store.delete(key)
    store.disconnect()
    with pytest.raises(StoreError, match="not connected"):
        store.delete("a")


def test_the_short_way_counts_who_waits(path, store, monkeypatch):
    """Inside, the store is as inside a transaction for a fork in another thread."""
    seen = []
    real = store._handle().connection

    class Spy:
        def execute(self, *args):
            seen.append((store._writer, store._handle().users))
            return real.execute(*args)

        in_transaction = False

    store._handle().connection = Spy()
    put(store, "a", b"1")
    store._handle().connection = real
    assert seen == [((threading.get_ident(), store._handle()), 1)]
    assert (store._writer, store._handle().users) == (None, 0)


def test_many_new_and_old_keys_at_once(path, store):
    put(store, "k7", b"old", n=0)
    put(store, "large", BIG)
    keys = [f"k{n}" for n in range(20)]
    stream = io.BytesIO(b"shared")
    heard = []
    store.event_manager = EventManager()
    store.event_manager.connect(StoreModificationEvent, lambda e: heard.append((e.action, e.key)))
    values = [(io.BytesIO(b"%d" % n), {"n": n}) for n in range(20)]
    store.multiset(keys, values)
    assert heard == [("update" if key == "k7" else "set", key) for key in keys]
    assert [pair(store, key) for key in keys] == [(b"%d" % n, {"n": n}) for n in range(20)]
    heard.clear()
    store.multiset(
        ("x1", "x2", "x1", "large", "x3", "x4", "x5", "excess"),
        (
            (io.BytesIO(b"1"), {}),
            (stream, {}),
            (stream, {"twice": True}),
            (io.BytesIO(b"s"), {}),
            (io.BytesIO(BIG), {}),
            store.get("k1"),
            (Stream(b"5"), {}),
        ),
        buffer_size=4,
    )
    assert [store.to_bytes(f"x{n}") for n in range(1, 6)] == [b"", b"shared", BIG, b"1", b"5"]
    assert heard == [
        ("set", "x1"),
        ("set", "x2"),
        ("update", "x1"),
        ("update", "large"),
        ("set", "x3"),
        ("set", "x4"),
        ("set", "x5"),
    ]
    assert chunks_of(path) == 4
    assert sorted(store.query_keys(n=1)) == ["k1", "x4"]


def test_nothing_of_many_is_left_after_an_error(store):
    put(store, "old", b"1")
    for wrong, error in (("", ValueError), (3, TypeError)):
        with pytest.raises(error):
            store.multiset(["a", wrong], [(io.BytesIO(), {}), (io.BytesIO(), {})])
    for value, error in ((b"", TypeError), ((io.BytesIO(), {"x": b""}), TypeError)):
        with pytest.raises(error):
            store.multiset(["a", "b"], [(io.BytesIO(), {}), value])
    with pytest.raises(ValueError, match="buffer_size"):
        store.multiset([], [], 0)
    fill_up(store, 3)
    with pytest.raises(StoreOSError):
        store.multiset(
            [f"k{n}" for n in range(50)], [(io.BytesIO(bytes(9000)), {}) for _ in range(50)]
        )
    assert list(store.keys()) == ["old"]


def test_many_at_once_run_the_set_of_a_subclass(path):
    class Louder(SqliteStore):
        def set(self, key, value, *args, **kwargs):
            super().set(key.upper(), value, *args, **kwargs)

    with Louder(path, durability="process") as store:
        store.multiset(["a"], [(io.BytesIO(b""), {})])
        assert list(store.keys()) == ["A"]


def test_what_a_subclass_has_changed_is_run(path):
    class Counting(SqliteStore):
        counted = ()

        def _save(self, key, staged, head):
            self.counted += (key,)
            super()._save(key, staged, head)

        def _remove(self, key):
            self.counted += ("-" + key,)
            super()._remove(key)

    with Counting(path, durability="process") as store:
        put(store, "a", b"1")
        store.multiset(["b", "c"], [(io.BytesIO(b""), {}), (io.BytesIO(BIG), {})])
        store.delete("a")
        assert store.counted == ("a", "b", "c", "-a")


def test_a_generator_sees_what_was_set_before(store):
    def values():
        yield (io.BytesIO(b"1"), {"n": 1})
        yield (io.BytesIO(store.to_bytes("a") + b"2"), {"n": 2})

    store.multiset(["a", "b"], values())
    assert store.to_bytes("b") == b"12"
