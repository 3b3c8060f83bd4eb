"""Writers that are killed, and many processes at once."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile

import pytest

from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
KILLS = 10
MANY_KILLS = 200


def sqlite(folder, durability):
    return SqliteStore(f"{folder}/x.db", durability=durability)


def filesystem(folder, durability):
    init_shared_store(folder)
    return FileSystemStore(folder, durability=durability)


def locking(folder, durability):
    init_shared_store(folder)
    return LockingFileSystemStore(folder, remote_event_poll_interval=0, durability=durability)


STORES = [sqlite, filesystem, locking]


@pytest.fixture(params=STORES, ids=lambda store: store.__name__)
def make(request):
    """A function that makes stores, all of the same data."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield lambda: request.param(folder, "process")


@pytest.fixture(params=STORES, ids=lambda store: store.__name__)
def make_durable(request, tmp_path):
    return lambda: request.param(str(tmp_path), "power")


def start(code, store, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
    ), pickle.dumps(store)


def begin(process, pickled):
    process.stdin.write(pickled)
    process.stdin.flush()


WRITER = """
import io, pickle, sys
store = pickle.load(sys.stdin.buffer)
store.connect()
serial = int(sys.argv[1])
def put(key, serial):
    size = (10, 3000, 200_000)[serial % 3]
    store.set(key, (io.BytesIO((b"%d " % serial) * (size // 8)), {"serial": serial, "size": size}))
while True:
    serial += 1
    put("one", serial)
    with store.transaction("two"):
        put("left", serial)
        put("right/", serial)
        store.set_metadata("count", {"serial": serial})
    if serial % 2:
        put("flicker", serial)
    else:
        store.delete("flicker")
    sys.stdout.write("%d\\n" % serial)
    sys.stdout.flush()
"""


def check(store, acknowledged):
    """Nothing is torn, and nothing that was acknowledged is lost."""
    serials = {}
    for key in ("one", "left", "right/"):
        value = store.get(key)
        serial, size = value.metadata["serial"], value.metadata["size"]
        assert value.data.read() == (b"%d " % serial) * (size // 8)
        serials[key] = serial
    assert serials["left"] == serials["right/"] == store.get_metadata("count")["serial"]
    assert acknowledged <= serials["left"] <= serials["one"] <= acknowledged + 1
    assert store.exists("flicker") in (bool(serials["left"] % 2), not serials["left"] % 2)
    keys = set(store.query_keys())
    assert keys - {"flicker"} == {"one", "left", "right/", "count"}
    return serials["one"]


def files_of(store):
    if isinstance(store, FileSystemStore):
        return sum(len(files) for _, _, files in os.walk(store.path))
    connection = sqlite3.connect(store.location)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'store#chunks'"
        ).fetchone():
            return 0
        orphans = connection.execute(
            'SELECT count(*) FROM "store#chunks" WHERE id >> 24 NOT IN '
            "(SELECT data FROM store WHERE typeof(data) = 'integer')"
        ).fetchone()
        assert orphans == (0,)
    finally:
        connection.close()
    return 0


def kill_writers(make, kills):
    serial, files = 0, None
    for kill in range(kills):
        process, pickled = start(WRITER, make(), serial)
        begin(process, pickled)
        # Killed in the midst of whatever follows the acknowledgement.
        for _ in range(2 + kill % 5):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        # What was read ahead is in the stream, and would be lost to communicate().
        rest = process.stdout.read()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        lines = rest.split(b"\n")[:-1]
        acknowledged = int(lines[-1]) if lines else serial + 2 + kill % 5
        with make() as store:
            serial = check(store, acknowledged)
            store.set("one", store.get("one"))
            store.from_bytes("flicker", b"")
            store.from_bytes("next", b"")
            store.delete("next")
        with make() as store:
            assert check(store, acknowledged) == serial
            if files is None:
                files = files_of(store)
            assert files_of(store) == files


def test_kill_tears_nothing_loses_nothing_and_leaves_nothing(make):
    kill_writers(make, KILLS)


@pytest.mark.slow
def test_many_kills_tear_nothing_lose_nothing_and_leave_nothing(make):
    kill_writers(make, MANY_KILLS)


@pytest.mark.slow
def test_many_kills_of_durable_writers_tear_nothing_lose_nothing_and_leave_nothing(make_durable):
    kill_writers(make_durable, MANY_KILLS)


HOLDER = """
import io, pickle, sys
store = pickle.load(sys.stdin.buffer)
store.connect()
with store.transaction("t"):
    store.set("a", (io.BytesIO(bytes(5_000_000)), {"n": 2}))
    store.delete("b")
    print("inside", flush=True)
    sys.stdin.buffer.read()
"""


def test_the_lock_of_a_killed_writer_ends_with_it(make):
    with make() as store:
        store.set("a", (io.BytesIO(b"1"), {"n": 1}))
        store.from_bytes("b", b"")
        process, pickled = start(HOLDER, store)
        begin(process, pickled)
        assert process.stdout.readline() == b"inside\n"
        assert store.to_bytes("a") == b"1"
        process.kill()
        process.communicate()
        assert store.get_metadata("a") == {"n": 1}
        store.delete("b")
        assert list(store.keys()) == ["a"]
    with make() as store:
        store.set_metadata("a", {"n": 3})
        store.from_bytes("big", bytes(70_000))
        files_of(store)


COUNTER = """
import pickle, sys
from encore.storage.errors import PreconditionError
store = pickle.load(sys.stdin.buffer)
store.connect()
print("ready", flush=True)
sys.stdin.buffer.readline()
for turn in range(int(sys.argv[1])):
    if turn % 2:
        with store.transaction("count"):
            store.set_metadata("n", {"n": store.get_metadata("n")["n"] + 1})
    else:
        while True:
            value = store.get("n")
            try:
                store.set_metadata("n", {"n": value.metadata["n"] + 1}, if_match=value.etag)
                break
            except PreconditionError:
                pass
"""


def test_processes_count_without_losing_anything(make):
    turns, count = 10, 8
    children = []
    # They make the database, all at once.
    for _ in range(count):
        process, pickled = start(COUNTER, make(), turns)
        begin(process, pickled)
        children.append(process)
    for process in children:
        assert process.stdout.readline() == b"ready\n"
    with make() as store:
        store.set_metadata("n", {"n": 0})
        for process in children:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in children:
            process.communicate()
            assert process.returncode == 0
        assert store.get_metadata("n") == {"n": turns * count}
