"""Many processes, each with many threads, on one store: nothing lost and nothing torn."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile

import pytest

from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
PROCESSES, THREADS = 8, 16
ACCOUNTS = 5
DEADLINE = 300

# Money is moved between accounts, of which the data and the metadata say the same; meanwhile all is
# read. Every thread counts what it did in one shared count, and keeps a key of its own.
WORKER = """
import io, pickle, random, sys, threading
exec(sys.argv[5])
store = pickle.load(sys.stdin.buffer)
number, threads, turns, ACCOUNTS = map(int, sys.argv[1:5])
store.connect()
failures = []

def put(key, amount):
    text = b"%d " % amount
    store.set(key, (io.BytesIO(text * (1 + amount * 997 % 20000)), {"amount": amount}))

def amount(key):
    value = store.get(key)
    with value.data as stream:
        data = stream.read()
    found = value.metadata["amount"]
    assert data == (b"%d " % found) * (1 + found * 997 % 20000), (key, found, data[:20], len(data))
    return found

def work(thread):
    chance = random.Random(number * 1000 + thread)
    for turn in range(turns):
        source, target = chance.sample(range(ACCOUNTS), 2)
        with store.transaction("move"):
            some = chance.randint(-10, 10)
            put(f"account {source}", amount(f"account {source}") - some)
            put(f"account {target}", amount(f"account {target}") + some)
            store.set_metadata("count", {"n": store.get_metadata("count")["n"] + 1})
        own = f"own/{number} {thread}"
        put(own, turn)
        assert amount(own) == turn
        amount(f"account {chance.randrange(ACCOUNTS)}")
        keys = set(store.query_keys())
        assert own in keys and len([key for key in keys if key.startswith("account")]) == ACCOUNTS

def run(thread):
    try:
        work(thread)
    except BaseException as error:
        failures.append(repr(error))

workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
print("ready", flush=True)
sys.stdin.buffer.readline()
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
store.disconnect()
print(failures[:1], flush=True)
"""


def sqlite(folder):
    return SqliteStore(f"{folder}/x.db", durability="process")


def filesystem(folder):
    init_shared_store(folder)
    return FileSystemStore(folder, durability="process")


def locking(folder):
    init_shared_store(folder)
    return LockingFileSystemStore(folder, remote_event_poll_interval=0, durability="process")


def amounts(store):
    found = {}
    for key in store.query_keys():
        value = store.get(key)
        with value.data as stream:
            found[key] = stream.read(), value.metadata
    return found


def run_workers(make, processes, threads, turns, setup=""):
    """Let processes work; raise AssertionError for anything that went wrong."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        with make(folder) as store:
            for number in range(ACCOUNTS):
                store.from_bytes(f"account {number}", b"0 ")
                store.set_metadata(f"account {number}", {"amount": 0})
            store.set_metadata("count", {"n": 0})
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    WORKER,
                    *map(str, (number, threads, turns, ACCOUNTS)),
                    setup,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            for number in range(processes)
        ]
        try:
            for child in children:
                child.stdin.write(pickle.dumps(make(folder)))
                child.stdin.flush()
            for child in children:
                assert child.stdout.readline() == b"ready\n"
            # Only now, so that they meet.
            for child in children:
                child.stdin.write(b"go\n")
                child.stdin.flush()
            for child in children:
                told, _ = child.communicate(timeout=DEADLINE)
                assert told == b"[]\n", told
                assert child.returncode == 0
        finally:
            for child in children:
                child.kill()
                child.communicate()
        with make(folder) as store:
            found = amounts(store)
            moved = [found.pop(f"account {number}") for number in range(ACCOUNTS)]
            for data, metadata in moved:
                amount = metadata["amount"]
                assert data == (b"%d " % amount) * (1 + amount * 997 % 20000)
            assert sum(metadata["amount"] for _, metadata in moved) == 0, "money was lost"
            assert found.pop("count") == (b"", {"n": processes * threads * turns}), (
                "turns were lost"
            )
            for number in range(processes):
                for thread in range(threads):
                    key = f"own/{number} {thread}"
                    assert found.pop(key)[1] == {"amount": turns - 1}
            assert not found
            assert store.check() == []


STORES = [sqlite, filesystem, locking]


@pytest.mark.parametrize("make", STORES)
def test_eight_processes_of_two_threads(make):
    run_workers(make, PROCESSES, 2, 1)


@pytest.mark.parametrize("make", STORES)
def test_sixteen_threads(make):
    run_workers(make, 1, THREADS, 2)


@pytest.mark.slow
@pytest.mark.parametrize("make", STORES)
def test_eight_processes_of_sixteen_threads(make):
    run_workers(make, PROCESSES, THREADS, 10)


# The same with stores that do not keep others out

NO_LOCK = """
import fcntl
fcntl.flock = fcntl.lockf = lambda *args: None
"""

NO_TRANSACTION = """
import sqlite3
def connect(*args, factory=sqlite3.Connection, real=sqlite3.connect, **options):
    class Connection(factory):
        def execute(self, sql, *args):
            if sql.lower().startswith("begin immediate"):
                sql = "BEGIN"
            return super().execute(sql, *args)
    return real(*args, factory=Connection, **options)
sqlite3.connect = connect
"""

NO_THREAD_LOCK = """
import _thread
class Lock:
    def acquire(self, blocking=True, timeout=-1):
        return True
    def release(self):
        pass
    __enter__ = acquire
    def __exit__(self, *args):
        pass
    def _is_owned(self):
        return True
_thread.RLock = Lock
"""


@pytest.mark.parametrize(
    ("make", "setup", "processes", "threads"),
    [
        (filesystem, NO_LOCK, PROCESSES, 1),
        (sqlite, NO_TRANSACTION, PROCESSES, 1),
        (filesystem, NO_THREAD_LOCK, 1, THREADS),
    ],
)
def test_a_store_that_keeps_nobody_out_is_found(make, setup, processes, threads):
    def try_often():
        # It can go well, but not for long.
        for _ in range(10):
            run_workers(make, processes, threads, 10, setup)

    with pytest.raises(AssertionError):
        try_often()
