"""System calls that fail, each in turn, under a store that is taken through a history of changes.

Unlike what replaces functions of Python, strace makes those fail too that SQLite makes.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import tempfile

import pytest

from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore
from encore.testing.power_cut import why_not

if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

# Python does none of these at its start.
CALLS = (
    "?pwrite64,?fsync,?fdatasync,?ftruncate,?unlink,?unlinkat,?rename,?renameat,?renameat2,"
    "?mkdir,?mkdirat,?utimensat,?link,?linkat"
)

CHILD = """
import pickle, sys
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.testing._history import contents, steps_of
exec(sys.argv[1])
store = pickle.load(sys.stdin.buffer)
failed = 0

def again(function, *args):
    # What fails once, and changes nothing, may be what looks at the store too.
    global failed
    try:
        return function(*args)
    except StoreError as error:
        failed += 1
        return function(*args)

def connected():
    if not store.is_connected():
        store.connect()
    return store

def expected(step, before):
    model = DictMemoryStore()
    model.connect()
    model.disconnect = model.connect
    states = [before]
    for key, (data, metadata) in before.items():
        model.from_bytes(key, data)
        model.set_metadata(key, metadata)
    try:
        step(model)
    except KeyError:
        # An earlier step has failed.
        pass
    return contents(model)

before = {}
for step in steps_of(store):
    raised = None
    new = expected(step, before)
    try:
        step(store)
    except StoreError as error:
        failed += 1
        raised = error
    except KeyError as error:
        pass
    found = again(contents, again(connected))
    if raised is None:
        assert found == new, (step.__name__, found, new)
    elif step.__name__ == "overtaken":
        # Two changes, of which the first one may be there alone.
        found.pop("b", None), new.pop("b", None), before.pop("b", None)
        assert found in (before, new), (step.__name__, raised)
        found = contents(store)
    else:
        assert found in (before, new), (step.__name__, raised, found)
    before = found
again(store.disconnect)
again(store.connect)
assert again(contents, store) == before
again(store.from_bytes, "after", b"data")
# Not before: what could not be carried out to its end is left to the next writer, and this may have been that.
if again(store.check):
    store.from_bytes("after", b"data")
assert again(store.check) == []
assert again(contents, store) == {**before, "after": (b"data", {})}
again(store.disconnect)
print(failed)
"""


def sqlite(folder):
    return SqliteStore(f"{folder}/x.db")


def filesystem(folder):
    init_shared_store(folder)
    return FileSystemStore(folder)


def locking(folder):
    init_shared_store(folder)
    return LockingFileSystemStore(folder, remote_event_poll_interval=0)


def run(make, call, number, error, setup=""):
    """Let one call fail; return what the child says, and what it writes to its standard error."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        inject = f"inject={call}:error={error}:when={number}"
        done = subprocess.run(
            ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]
            + [sys.executable, "-c", CHILD, setup],
            input=pickle.dumps(make(folder)),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.stdout.decode(), done.stderr.decode()


def count(make):
    """Return the calls that a child makes: each name, as often as it is called, with a number."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        os.mkdir(f"{folder}/store")
        done = subprocess.run(
            [
                "strace",
                "-f",
                "-c",
                "-U",
                "calls,name",
                "-o",
                f"{folder}/counted",
                "-e",
                f"trace={CALLS}",
            ]
            + [sys.executable, "-c", CHILD, ""],
            input=pickle.dumps(make(f"{folder}/store")),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=120,
            check=True,
        )
        assert done.stdout == b"0\n"
        with open(f"{folder}/counted") as file:
            rows = [line.split() for line in file.read().split("\n")[2:-3]]
        return [(name, n + 1) for calls, name in rows for n in range(int(calls))]


STORES = [
    sqlite,
    filesystem,
    locking,
]
ERRORS = ["EIO", "ENOSPC"]


def let_fail(make, calls):
    for place, (call, number) in enumerate(calls):
        error = ERRORS[place % 2]
        told, errors = run(make, call, number, error)
        assert told.strip().isdecimal(), f"{call} number {number} fails with {error}: {errors}"


@pytest.mark.parametrize("make", STORES)
def test_a_call_that_fails_leaves_the_old_or_the_new(make):
    calls = count(make)
    assert len(calls) > 100
    assert {"fsync", "fdatasync"} & {name for name, _ in calls}
    seed = os.urandom(4).hex()
    print(f"seed {seed!r}")
    let_fail(make, random.Random(seed).sample(calls, 2))


@pytest.mark.slow
@pytest.mark.parametrize("make", STORES)
def test_any_call_that_fails_leaves_the_old_or_the_new(make):
    calls = count(make)
    let_fail(make, calls[:: max(1, len(calls) // 300)])


# A store that does not notice

SWALLOWED = """
import os
def swallowing(function):
    def call(*args, **options):
        try:
            return function(*args, **options)
        except OSError as error:
            if error.errno not in (5, 28):
                raise
    return call
for name in ("rename", "replace", "unlink", "utime", "link"):
    setattr(os, name, swallowing(getattr(os, name)))
"""


def test_an_error_that_is_swallowed_is_found():
    for number in range(1, 40):
        told, errors = run(filesystem, "rename", number, "EIO", SWALLOWED)
        if not told.strip().isdecimal():
            assert "AssertionError: ('set_" in errors
            return
    pytest.fail("it was not found")
