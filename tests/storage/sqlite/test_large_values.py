"""Large values of an SqliteStore: parts, snapshots, chunks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from sqlite_files import chunks_of, in_thread, pair, put, sql

import encore.storage._sqlite_kept as kept
from encore.storage._sqlite_blobs import CHUNK, is_number, new_number
from encore.storage._sqlite_kept import Snapshot
from encore.storage.errors import StoreError
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 20 * CHUNK + 1]


@pytest.mark.parametrize("size", SIZES)
def test_values_of_any_size_and_their_parts(path, store, size):
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    put(store, "a", data, n=1)
    value = store.get("a")
    assert value.size == size
    assert value.data.read() == data
    bounds = [
        None,
        0,
        1,
        5,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK,
        size - 1,
        size,
        size + 1,
        -1,
        -CHUNK,
    ]
    for start in bounds:
        for end in bounds:
            assert store.get_data_range("a", start, end).read() == data[start:end]
            assert value.range(start, end).read() == data[start:end]
    with store.transaction("t"):
        assert store.get_data_range("a", 3, -3).read() == data[3:-3]
        assert store.get("a").range(3, -3).read() == data[3:-3]
    put(store, "a", b"short")
    assert pair(store, "a") == (b"short", {})
    assert store.get_data_range("a", 1, 3).read() == b"ho"
    if size > CHUNK:
        assert chunks_of(path) == 0
    # What is held stays what it was.
    assert value.data.read() == data
    with pytest.raises(KeyError):
        store.get_data_range("none", 0, 1)


def test_large_parts_of_large_values(store):
    data = os.urandom(3 << 20)
    put(store, "a", data)
    assert store.get_data_range("a", 5, -5).read() == data[5:-5]


def test_an_open_reader_keeps_what_it_opened(store):
    put(store, "a", BIG)
    value = store.get("a")
    stream = value.data
    assert stream.read(10) == BIG[:10]
    put(store, "a", BIG[::-1])
    assert stream.read(10) == BIG[10:20]
    put(store, "a", b"")
    store.delete("a")
    with store.transaction("t"):
        put(store, "b", BIG)
    store.disconnect()
    assert stream.read() == BIG[20:]
    assert value.data.read() == BIG


@pytest.mark.parametrize("how", ["closed", "read", "range"])
def test_a_stream_that_is_closed_keeps_nothing(path, store, how):
    put(store, "a", BIG)
    stream = store.get("a").range(1, -1) if how == "range" else store.get("a").data
    assert len(Snapshot.live) == store._wal
    with stream:
        if how == "read":
            assert stream.read() == BIG
    assert not Snapshot.live
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)
    stream.close()
    put(store, "a", BIG[::-1])
    store.compact()
    store.disconnect()
    assert os.listdir(os.path.dirname(path)) == ["x.db"]


def test_what_is_held_at_the_end_of_a_connection_keeps_no_wal(path, store, monkeypatch):
    put(store, "a", BIG)
    put(store, "b", BIG[::-1])
    value, other = store.get("a"), store.get("b")
    stream = other.data
    assert stream.read(5) == BIG[::-1][:5]
    put(store, "a", b"")
    store.disconnect()
    assert os.listdir(os.path.dirname(path)) == ["x.db"]
    assert not Snapshot.live
    os.remove(path)
    assert value.data.read() == value.data.read() == BIG
    assert value.range(3, 7).read() == BIG[3:7]
    assert stream.read() == BIG[::-1][5:]


@pytest.mark.parametrize("why", ["size", "disk"])
def test_what_cannot_be_copied_at_the_end_of_a_connection_is_still_kept(path, why, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with SqliteStore(path, durability="process") as store:
        put(store, "a", BIG)
        value = store.get("a")
        if why == "size":
            monkeypatch.setattr(kept, "_MAX_LEFT", len(BIG) - 1)
        else:
            monkeypatch.setattr("os.pwrite", full)
    assert Snapshot.live
    assert value.data.read() == BIG
    del value
    assert os.listdir(os.path.dirname(path)) == ["x.db"]


def test_values_inside_a_transaction(path, store):
    put(store, "a", BIG, n=1)
    with store.transaction("t"):
        committed = store.get("a")
        put(store, "a", BIG[::-1], n=2)
        mine = store.get("a")
        assert mine.data.read() == BIG[::-1]
        assert mine.metadata == {"n": 2}
        assert in_thread(lambda: pair(store, "a")) == (BIG, {"n": 1})
        put(store, "a", b"small")
        assert mine.range(1, 5).read() == BIG[::-1][1:5]
        assert committed.data.read() == BIG
        put(store, "b", BIG)
        store.set("c", store.get("b"))
        store.delete("b")
    assert pair(store, "a") == (b"small", {})
    assert pair(store, "c") == (BIG, {})
    assert chunks_of(path) == 4


def test_many_large_values_at_once(path, store):
    size = CHUNK + 10
    with store.transaction("t"):
        for n in range(150):
            put(store, f"k{n:03}", b"%d" % (n % 10) * size)
    descriptors = len(os.listdir("/proc/self/fd"))
    values = [store.get(f"k{n:03}") for n in range(150)]
    assert len(os.listdir("/proc/self/fd")) - descriptors < 5
    with store.transaction("t"):
        for n in range(150):
            store.delete(f"k{n:03}")
    for n, value in enumerate(values):
        assert value.range(-5, None).read() == b"%d" % (n % 10) * 5
        assert (value.size, value.metadata) == (size, {})
        assert value.data.read() == b"%d" % (n % 10) * size
    del values, value
    gc.collect()
    assert chunks_of(path) == 0
    assert len(Snapshot.live) == 0
    # SQLite closes a file later if the process has locks on another one of the same database.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


@pytest.mark.parametrize("fresh", [0, 60])
def test_many_large_values_that_are_changed_meanwhile(store, monkeypatch, fresh):
    monkeypatch.setattr(kept, "_FRESH", fresh)
    monkeypatch.setattr(kept, "_MAX_SNAPSHOTS", 4)
    descriptors = len(os.listdir("/proc/self/fd"))
    old, values = [], []
    for n in range(40):
        put(store, "same", b"s%02d" % n * CHUNK)
        put(store, f"k{n}", b"k%02d" % n * CHUNK)
        old.append(store.get("same"))
        values.append(store.get(f"k{n}"))
    assert len(Snapshot.live) <= 6
    assert len(os.listdir("/proc/self/fd")) - descriptors < 20
    for n in range(40):
        assert old[n].data.read() == b"s%02d" % n * CHUNK
        assert values[n].range(3, 6).read() == b"k%02d" % n
    stream = old[0].data
    del old, values
    assert stream.read(3) == b"s00"


def test_values_that_stay_move_from_old_snapshots(path, monkeypatch):
    monkeypatch.setattr(kept, "_FRESH", 0)
    monkeypatch.setattr(kept, "_MAX_SNAPSHOTS", 4)
    with SqliteStore(path, durability="process") as store:
        values = []
        for n in range(30):
            put(store, f"k{n}", b"k%02d" % n * CHUNK)
            values.append(store.get(f"k{n}"))
        assert len(Snapshot.live) <= 4
        # Nothing was copied.
        assert store._keeper._spool is None
        assert [value.range(0, 3).read() for value in values] == [b"k%02d" % n for n in range(30)]


def test_a_snapshot_is_not_joined_for_ever(path, monkeypatch):
    # The WAL could not shrink as long as some value is there at any time.
    with SqliteStore(path, durability="process") as store:
        put(store, "a", BIG)
        held = [store.get("a"), store.get("a")]
        assert len(Snapshot.live) == 1
        monkeypatch.setattr(kept, "_FRESH", -1)
        held.append(store.get("a"))
        assert len(Snapshot.live) == 2
        del held[:2]
        assert len(Snapshot.live) == 1


def test_chunks_are_never_left_alone(path, store):
    put(store, "a", BIG)
    put(store, "b", BIG)
    assert chunks_of(path) == 8
    put(store, "a", BIG)
    store.set_metadata("a", {"n": 1})
    store.delete("b")
    assert chunks_of(path) == 4

    def fail():
        with store.transaction("t"):
            put(store, "a", BIG * 2)
            put(store, "c", BIG)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert chunks_of(path) == 4

    def inner():
        with store.transaction("t"):
            put(store, "d", BIG)
            try:
                with store.transaction("u"):
                    put(store, "d", BIG * 2)
                    put(store, "e", BIG)
                    raise ValueError
            except ValueError:
                pass
            assert pair(store, "d") == (BIG, {})

    inner()
    assert chunks_of(path) == 8

    class Failing:
        left = 3

        def read(self, size):
            self.left -= 1
            if not self.left:
                raise ZeroDivisionError
            return bytes(CHUNK)

    with pytest.raises(ZeroDivisionError):
        store.set_data("a", Failing())
    assert chunks_of(path) == 8
    for key in list(store.keys()):
        store.delete(key)
    assert chunks_of(path) == 0


def test_lost_chunks_are_damage_that_can_be_overwritten(path, store):
    for damage in ('DELETE FROM "store#chunks"', 'DROP TABLE "store#chunks"'):
        for repair in (
            lambda: store.delete("a"),
            lambda: put(store, "a", b"small"),
            lambda: put(store, "a", BIG),
        ):
            put(store, "a", BIG, n=1)
            sql(path, damage)
            with pytest.raises(StoreError, match="damaged"):
                store.get("a")
            assert store.get_metadata("a") == {"n": 1}
            assert list(store.query()) == [("a", {"n": 1})]
            repair()
    assert pair(store, "a") == (BIG, {})


def test_numbers_of_blobs_are_no_other_integers():
    assert all(is_number(new_number()) for _ in range(1000))
    for data in (None, b"", "1", 0, 1, -1, 2**62, 2**37 - 1, 2**38, 1.5):
        assert not is_number(data)


MEMORY = """
import resource, sys
from encore.storage.sqlite_store import SqliteStore
class Zeros:
    left = 32
    def read(self, size):
        self.left -= 1
        return bytes(1 << 20) if self.left >= 0 else b""
with SqliteStore(sys.argv[1], durability="process") as store:
    store.from_bytes("warm", bytes(3_000_000))
    sum(map(len, store.get("warm").iterdata()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.set("big", (Zeros(), {}))
    assert sum(map(len, store.get("big").iterdata())) == 32 << 20
    with store.transaction("t"):
        store.set_data("big", Zeros())
        assert sum(map(len, store.get("big").iterdata())) == 0
        Zeros.left = 32
        store.set_data("big", Zeros())
        assert sum(map(len, store.get("big").iterdata())) == 32 << 20
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_values_stream_in_bounded_memory(path):
    text = MEMORY.replace(
        "    with store.transaction", "    Zeros.left = 0\n    with store.transaction"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 << 10  # KiB
