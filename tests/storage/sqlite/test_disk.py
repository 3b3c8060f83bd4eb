"""What an SqliteStore does where the disk is full, and where there is none; durability."""

from __future__ import annotations

import errno
import gc
import io
import os
import subprocess
import sys
import tempfile
from unittest import mock

import pytest
from sqlite_files import chunks_of, fill_up, in_thread, pair, put

import encore.storage._sqlite_setup as setup
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


class Stream:
    """A stream of which nothing is known."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def test_a_full_disk_keeps_the_old_value(path, store):
    put(store, "a", b"old", n=1)
    put(store, "big", BIG)
    connection = fill_up(store, 10)
    for call in (lambda: put(store, "a", BIG * 4, n=2), lambda: put(store, "b", bytes(60_000))):
        with pytest.raises(StoreOSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
        assert isinstance(caught.value, OSError)
        assert "full" in str(caught.value)
        assert pair(store, "a") == (b"old", {"n": 1})
        assert pair(store, "big") == (BIG, {})
        assert not store.exists("b")
    connection.execute("PRAGMA max_page_count=1000000")
    put(store, "a", BIG * 4, n=2)
    assert pair(store, "a") == (BIG * 4, {"n": 2})
    assert chunks_of(path) == 20


def test_a_full_disk_inside_a_transaction(path, store):
    put(store, "a", b"old", n=1)
    fill_up(store, 10)

    def transaction():
        with store.transaction("t"):
            put(store, "b", b"small")
            with pytest.raises(StoreOSError) as caught:
                put(store, "a", BIG * 4, n=2)
            assert caught.value.errno == errno.ENOSPC
            # SQLite has rolled back everything by itself.
            assert pair(store, "a") == (b"old", {"n": 1})
            for call in (lambda: put(store, "c"), lambda: store.delete("a")):
                with pytest.raises(StoreError, match="rolled back"):
                    call()

    with pytest.raises(StoreError, match="rolled back"):
        transaction()
    assert store.get_metadata("a") == {"n": 1}
    assert list(store.keys()) == ["a"]
    assert in_thread(lambda: put(store, "z", b"")) is None


def test_a_full_disk_while_staging(store):
    put(store, "a", b"old")

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "full")

        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.ENOSPC, "full")

    with (
        mock.patch.object(store, "_temporary_file", Full),
        pytest.raises(StoreOSError) as caught,
    ):
        store.set_data("a", Stream(BIG))
    assert caught.value.errno == errno.ENOSPC
    assert pair(store, "a") == (b"old", {})

    class Failing(io.BytesIO):
        def seek(self, *args):
            raise OSError(errno.EIO, "I/O error")

    with (
        mock.patch.object(store, "_temporary_file", Failing),
        pytest.raises(StoreOSError) as caught,
    ):
        store.set_data("a", Stream(BIG))
    assert caught.value.errno == errno.EIO
    assert pair(store, "a") == (b"old", {})


LIMITED = """
import resource, sys
from encore.storage.sqlite_store import SqliteStore
from encore.storage.errors import StoreOSError
with SqliteStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for size in (1_000_000, 60_000, 60_000, 60_000, 60_000, 60_000, 60_000):
        try:
            store.from_bytes("a" if size > 100_000 else "b%d" % size, bytes(size))
        except StoreOSError as error:
            print(size > 100_000, isinstance(error, OSError) and error.errno > 0, store.to_bytes("a"))
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""


def test_a_limit_on_file_sizes_keeps_the_old_value(path):
    with SqliteStore(path) as store:
        put(store, "a", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True True b'old'\n"
    with SqliteStore(path) as store:
        assert pair(store, "a") == (b"old", {})


def test_memory_is_emptied_by_disconnect_and_isolated():
    one, other = SqliteStore(), SqliteStore()
    with one, other:
        put(one, "a", BIG)
        assert in_thread(lambda: pair(one, "a")) == (BIG, {})
        assert list(other.keys()) == []
        value = one.get("a")
        folder = os.path.dirname(one._path)
        assert os.path.isdir(folder)
        assert one.info()["durable"] == "none"
    assert not os.path.exists(folder)
    assert value.data.read() == BIG
    with one:
        assert list(one.keys()) == []
    assert repr(one) == "SqliteStore(':memory:', 'store')"


def memory_folders():
    places = {
        tempfile.gettempdir(),
        "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir(),
    }
    return {
        name for place in places for name in os.listdir(place) if name.startswith("encore-memory-")
    }


def test_memory_leaves_nothing_on_disk(folder, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    store = SqliteStore()
    store.connect()
    put(store, "a", BIG)
    assert len(os.listdir(folder)) == 1
    del store
    gc.collect()
    assert os.listdir(folder) == []
    code = """
import sys, tempfile
from encore.storage.sqlite_store import SqliteStore
store = SqliteStore()
store.connect()
store.from_bytes("a", b"")
print(store._path)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not os.path.exists(os.path.dirname(done.stdout.strip()))


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no file system in memory")
def test_memory_of_a_process_that_was_killed_is_given_back():
    code = """
import os
from encore.storage.sqlite_store import SqliteStore
store = SqliteStore()
store.connect()
print(store._path, flush=True)
if input():
    os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        path = process.stdout.readline().strip()
        with SqliteStore():
            assert os.path.exists(path)
        process.communicate("die\n", timeout=60)
    assert os.path.exists(path)
    with SqliteStore() as store:
        put(store, "a")
        with SqliteStore():
            assert not os.path.exists(os.path.dirname(path))
            assert os.path.exists(store._path)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no file system in memory")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_memory_that_is_swept_while_it_is_made_is_made_again(monkeypatch, moment):
    real, folders = setup._lock_folder, []

    def lock_folder(folder):
        folders.append(folder)
        if len(folders) > 1:
            return real(folder)
        if moment == "before":
            os.rmdir(folder)
            return real(folder)
        lock = real(folder)
        os.rmdir(folder)
        return lock

    monkeypatch.setattr(setup, "_sweep", lambda memory: None)
    monkeypatch.setattr(setup, "_lock_folder", lock_folder)
    with SqliteStore() as store:
        assert len(folders) == 2
        assert os.path.dirname(store._path) == folders[1]
        put(store, "a")


def test_memory_that_cannot_be_had_is_an_error(monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(StoreOSError):
        SqliteStore().connect()


def test_relative_paths_survive_a_change_of_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    store = SqliteStore("x.db")
    monkeypatch.chdir("/")
    with store:
        put(store, "a")
    assert os.path.exists(f"{folder}/x.db")


def test_durability_is_what_sqlite_was_told(path):
    for durability, level in (("power", 3), ("process", 1)):
        with SqliteStore(path, durability=durability) as store:
            connection = store._handle().connection
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert store.info()["durable"] == durability
    with SqliteStore() as store:
        assert store._handle().connection.execute("PRAGMA synchronous").fetchone() == (0,)
    info = SqliteStore(path, index="static", poll=2.5).info()
    assert (info["table"], info["index"], info["poll"]) == ("store", "static", 2.5)
