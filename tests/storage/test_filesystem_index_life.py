"""The index of the FileSystemStore: where it cannot be had, its end, and other processes."""

from __future__ import annotations

import gc
import os
import pickle
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import pytest
from indexed_store import (
    HAS_WATCH,
    agree,
    count_reads,
    index_file,
    needs_watch,
    opened,
    plant,
    put,
    used,
)

import encore.storage._directory_watch as watch_module
import encore.storage._pair_index as module
import encore.storage._sqlite_connections as connections
from encore.storage._directory_watch import DirectoryWatch
from encore.storage._pair_index_file import IndexLock
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


# Where it cannot be had


def test_where_it_cannot_be_made_all_metadata_are_read(root):
    with opened(root) as store:
        put(store, "k", a=1)
        os.mkdir(index_file(root))
        assert list(store.query_keys(a=1)) == ["k"]
        assert store._pair_index._connection is None
        os.rmdir(index_file(root))
        # Not tried each time.
        assert list(store.query_keys(a=1)) == ["k"]
        assert not os.path.exists(index_file(root))
        store._pair_index._not_before = 0
        assert used(store, a=1) == ["k"]


def test_an_index_that_cannot_be_removed_is_left_alone(root):
    with opened(root) as store:
        put(store, "k", a=1)
        with mock.patch.object(module.PairIndex, "_change", side_effect=sqlite3.DatabaseError):
            assert list(store.query_keys(a=1)) == ["k"]
        with mock.patch.object(module.PairIndex, "_update", side_effect=AssertionError):
            assert list(store.query_keys(a=1)) == ["k"]


@needs_watch
@pytest.mark.parametrize(
    ("target", "name", "result"),
    [
        (watch_module, "_functions", (lambda flags: -1, lambda *args: 0)),
        (watch_module, "_functions", (lambda flags: os.open("/", 0), lambda *args: -1)),
        (DirectoryWatch, "_is_there", False),
    ],
)
def test_where_nothing_can_be_watched_all_is_looked_at(root, target, name, result):
    before = open_files()
    with mock.patch.object(target, name, return_value=result), opened(root) as store:
        for value in range(3):
            plant(root, "k", {"a": value}, replace=False)
            assert used(store, a=value) == ["k"]
        assert store._pair_index._watch is None
    assert open_files() == before


def test_a_full_disk_is_no_error(root):
    with opened(root) as store, mock.patch.object(module, "_PAUSE", 0):
        for number in range(100):
            put(store, f"k{number}", a=number)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            assert list(store.query_keys(a=1)) == ["k1"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert used(store, a=1) == ["k1"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_no_error(root):
    with opened(root, index=False) as store:
        put(store, "k", a=1)
    os.chmod(root, 0o500)
    os.chmod(f"{root}/.FStmp", 0o500)
    try:
        with opened(root) as store:
            assert list(store.query_keys(a=1)) == ["k"]
    finally:
        os.chmod(root, 0o700)
        os.chmod(f"{root}/.FStmp", 0o700)


def test_who_changes_it_is_waited_for_but_not_for_long(root):
    with opened(root) as store, opened(root) as other, mock.patch.object(module, "WAIT", 0.0):
        put(store, "k", a=1)
        assert used(store, a=1) == used(other, a=1) == ["k"]
        put(store, "later", a=1)
        with IndexLock(other._pair_index):
            assert sorted(store.query_keys(a=1)) == ["k", "later"]
        put(store, "latest", a=1)
        with module._Transaction(other._pair_index._connection):
            assert sorted(store.query_keys(a=1)) == ["k", "later", "latest"]
        # Nothing is forgotten, and it need not begin anew.
        assert count_reads(store, lambda: used(store, a=1)) == (2 if HAS_WATCH else 3)
        assert used(store, a=1) == ["k", "later", "latest"]


def test_without_sqlite_functions_for_json_all_metadata_are_read(root):
    with (
        mock.patch("encore.storage._metadata_index.has_json", return_value=False),
        opened(root) as store,
    ):
        put(store, "k", a=1)
        assert list(store.query_keys(a=1)) == ["k"]
        # Not tried again.
        with mock.patch.object(module.PairIndex, "_update", side_effect=AssertionError):
            assert list(store.query_keys(a=1)) == ["k"]


def test_a_finalizer_in_the_middle_of_a_query_can_query(root):
    with opened(root) as store:
        put(store, "k", a=1)
        found = []
        compare = module.PairIndex._compare

        def interrupted(self, connection):
            found.append(list(store.query_keys(a=1)))
            return compare(self, connection)

        with mock.patch.object(module.PairIndex, "_compare", interrupted):
            assert list(store.query_keys(a=1)) == ["k"]
        assert found == [["k"]]


@needs_watch
def test_an_interrupt_loses_no_change(root):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        for number, (target, name) in enumerate(
            (
                (module.PairIndex, "_look_at"),
                (module.PairIndex, "_is_ours"),
                (IndexLock, "note"),
                (module, "_names"),
                (DirectoryWatch, "_is_there"),
            )
        ):
            put(store, f"new{number}", a=1, number=number)
            with (
                mock.patch.object(target, name, side_effect=KeyboardInterrupt),
                pytest.raises(KeyboardInterrupt),
            ):
                store.query_keys(number=number)
            assert used(store, number=number) == [f"new{number}"]


# Life


def open_files():
    return sorted(os.listdir("/proc/self/fd")) if HAS_WATCH else None


def test_disconnect_closes_it_and_so_does_garbage_collection(root):
    gc.collect()
    before = open_files()
    store = FileSystemStore(root, durability="process", index=True)
    for _ in range(2):
        with store:
            put(store, "k", a=1)
            assert used(store, a=1) == ["k"]
        assert open_files() == before
    store.connect()
    assert used(store, a=1) == ["k"]
    del store
    gc.collect()
    assert open_files() == before


def test_disconnect_waits_for_no_query(root):
    with opened(root) as store:
        put(store, "k", a=1)
        index = store._pair_index
        begun, go_on = threading.Event(), threading.Event()
        compare = module.PairIndex._compare

        def slow(self, connection):
            begun.set()
            assert go_on.wait(60)
            return compare(self, connection)

        with mock.patch.object(module.PairIndex, "_compare", slow):
            thread = threading.Thread(target=index.find, args=({"a": 1},))
            thread.start()
            assert begun.wait(60)
            store.disconnect()
            go_on.set()
            thread.join(60)
        assert index._connection is None
        assert index.find({"a": 1}) is None


def test_a_pickled_store_has_an_index_of_its_own(root):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy._pair_index is not store._pair_index
            put(store, "k2", a=1)
            assert used(copy, a=1) == ["k", "k2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_busy", [False, True])
def test_the_child_of_a_fork_has_an_index_of_its_own(root, is_busy):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        connection = store._pair_index._connection
        store._pair_index._is_busy = is_busy
        child = os.fork()
        if not child:
            status = 1
            try:
                put(store, "child", a=1)
                found = sorted(store.query_keys(a=1))
                own = store._pair_index._connection
                assert found == ["child", "k"]
                # In the middle of a change SQLite cannot be used any more.
                assert own is None if is_busy else own not in (None, connection)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        store._pair_index._is_busy = False
        put(store, "parent", a=1)
        assert used(store, a=1) == ["child", "k", "parent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*unclosed database:ResourceWarning")
def test_the_end_of_a_child_leaves_a_change_of_the_index_alone(root):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        index = store._pair_index
        index._connection.execute("BEGIN IMMEDIATE")
        index._connection.execute(f"DELETE FROM {module.TABLE}")
        index._is_busy = True
        child = os.fork()
        if not child:
            # What the interpreter does at its end.
            module._abandoned.clear()
            connections._inherited.clear()
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        # Without it a crash of the parent would leave a damaged file.
        assert os.path.exists(f"{index_file(root)}-journal")
        index._connection.rollback()
        index._is_busy = False
        assert used(store, a=1) == ["k"]


def test_many_threads_ask_one_store(root):
    with opened(root) as store:
        for number in range(50):
            put(store, f"k{number}", a=number % 10)
        wrong = []

        def ask(number):
            for _ in range(10):
                put(store, f"t{number}", t=number)
                if list(store.query_keys(t=number)) != [f"t{number}"]:
                    wrong.append(number)
                if len(list(store.query_keys(a=number))) != 5:
                    wrong.append(number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []


def test_there_is_none_over_a_network(root):
    with pytest.raises(TypeError, match="index"):
        LockingFileSystemStore(root, index=True)


def test_changes_by_a_locking_store_are_found(root):
    with opened(root) as store, LockingFileSystemStore(root, durability="process") as other:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        put(other, "other", a=1)
        assert used(store, a=1) == ["k", "other"]


# Other processes

CHANGER = """
import io, pickle, random, sys
store = pickle.load(sys.stdin.buffer)
store.connect()
chance = random.Random(int(sys.argv[1]))
number = 0
while True:
    number += 1
    key = "k%d" % chance.randrange(20)
    store.set(key, (io.BytesIO(b"x"), {"a": chance.randrange(5), "key": key}))
    if chance.random() < 0.3:
        try:
            store.delete(key)
        except KeyError:
            # The other one was faster.
            pass
    if chance.random() < 0.5:
        for key, metadata in store.query(a=chance.randrange(5)):
            assert metadata.get("key", key) == key
    sys.stdout.write("%d\\n" % number)
    sys.stdout.flush()
"""


def start(store, seed):
    process = subprocess.Popen(
        [sys.executable, "-c", CHANGER, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
    )
    process.stdin.write(pickle.dumps(store))
    process.stdin.flush()
    return process


def finish(process):
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_processes_that_are_killed_leave_nothing_wrong(root, rounds):
    chance = random.Random(7)
    with opened(root) as store:
        for turn in range(rounds):
            processes = [start(store, 2 * turn + number) for number in range(2)]
            try:
                for process in processes:
                    for _ in range(chance.randrange(5, 40)):
                        assert process.stdout.readline()
                # What is there all the time is found while others write.
                put(store, "mine", a=turn, mine=True)
                assert list(store.query_keys(mine=True)) == ["mine"]
            finally:
                for process in processes:
                    finish(process)
            for value in range(5):
                with opened(root) as fresh:
                    agree(root, [store, fresh], {"a": value})
        store.repair()
        assert store.check() == []


def test_what_is_there_all_the_time_is_always_found(root):
    """While another thread makes the index, changes others, and moves what is looked for."""
    with opened(root) as store, opened(root) as other:
        put(store, "there", a=1, turn=-1)
        stop = threading.Event()

        def change():
            turn = 0
            while not stop.is_set():
                turn += 1
                put(other, "there", a=1, turn=turn)
                if turn % 5 == 0:
                    with other.transaction(""):
                        put(other, "there", a=1, turn=turn)
                        put(other, "too", a=2)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            end = time.monotonic() + 60
            for turn in range(100):
                if turn % 30 == 20:
                    os.unlink(index_file(root))
                assert list(store.query_keys(a=1)) == ["there"]
                assert time.monotonic() < end
        finally:
            stop.set()
            thread.join(60)
