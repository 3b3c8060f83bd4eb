"""Power cuts and kills at any moment, simulated from recorded system calls.

Each way to break a store that these tests must find is tried too.
"""

from __future__ import annotations

import io
import os
import sqlite3
import sys
import unittest

import pytest

from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore
from encore.testing.power_cut import PowerCuts, record, why_not

if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
}

# As on a network file system.
WITHOUT_WAL = """
import sqlite3
def connect(*args, factory=sqlite3.Connection, real=sqlite3.connect, **options):
    class Connection(factory):
        def execute(self, sql, *args):
            if "journal_mode=wal" in sql.lower().replace(" ", ""):
                raise sqlite3.OperationalError("locking protocol")
            return super().execute(sql, *args)
    return real(*args, factory=Connection, **options)
sqlite3.connect = connect
"""

CLOCK_THAT_GOES_BACK = """
import itertools, time
start, turns = time.time_ns(), itertools.count(1)
time.time_ns = lambda: start - 10**9 * next(turns)
time.time = lambda: start / 1e9 - next(turns)
"""


RECORDINGS = {}


class RecordedOnce(PowerCuts):
    """A kit that shares its recording with the other tests of the same store."""

    def record(self, folder):
        key = self.kit, self.durability, self.setup
        if key not in RECORDINGS:
            RECORDINGS[key] = super().record(folder)
        return RECORDINGS[key]


class Sqlite(RecordedOnce):
    kit = "sqlite"
    durability = "power"

    def make_store_in(self, folder):
        return SqliteStore(os.path.join(folder, "x.db"), durability=self.durability)


class SqliteWithoutWal(Sqlite):
    kit = "sqlite without wal"
    setup = WITHOUT_WAL

    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, sqlite3, "connect", sqlite3.connect)
        exec(WITHOUT_WAL, {})

    def record(self, folder):
        recording = super().record(folder)
        text = str(recording.steps)
        assert "-journal" in text
        assert "-wal" not in text
        return recording


class FileSystem(RecordedOnce):
    kit = "files"
    durability = "power"

    def make_store_in(self, folder):
        init_shared_store(folder)
        return FileSystemStore(folder, durability=self.durability)

    def leftovers(self, folder):
        # One may stay: a file by which a lock was being taken.
        return sum(
            not name.startswith("lock-") for _, _, names in os.walk(folder) for name in names
        )


class Locking(FileSystem):
    kit = "locking"

    def make_store_in(self, folder):
        init_shared_store(folder)
        return LockingFileSystemStore(
            folder, remote_event_poll_interval=0, durability=self.durability
        )


class FileSystemClockGoesBack(FileSystem):
    setup = CLOCK_THAT_GOES_BACK


CHECKS = [
    "test_power_cuts_lose_nothing_that_was_acknowledged",
    "test_kills_lose_nothing_that_was_acknowledged",
]
STORES = [Sqlite, SqliteWithoutWal, FileSystem, FileSystemClockGoesBack, Locking]
CASES = [
    pytest.param(kit, check, id=f"{kit.__name__}-{check.split('_')[1]}")
    for kit in STORES
    for check in CHECKS
]


def outcome(kit, check, **attributes):
    """Run a check, and return what it has to say."""
    case = type(kit.__name__, (kit, unittest.TestCase), attributes)(check)
    result = unittest.TestResult()
    case.run(result)
    assert result.testsRun == 1
    assert not result.skipped
    return "".join(text for _, text in result.failures + result.errors)


@pytest.mark.parametrize(("kit", "check"), CASES)
def test_what_was_acknowledged_survives(kit, check):
    assert outcome(kit, check, sample=8) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("kit", "check"), CASES)
def test_what_was_acknowledged_survives_any_cut(kit, check):
    assert outcome(kit, check, sample=None) == ""


@pytest.mark.slow
@pytest.mark.parametrize("kit", [Sqlite, SqliteWithoutWal, FileSystem, Locking])
def test_kills_lose_nothing_with_durability_process(kit):
    assert outcome(kit, CHECKS[1], sample=None, durability="process") == ""


class AfterLines(PowerCuts):
    """Only the moments after a change was acknowledged; nothing arrives that was not synced."""

    def _check(self, cuts, store, how):
        cuts = list(self.recording.cuts(after_lines=True))
        self.assertGreater(len(cuts), 20)
        super()._check(cuts, store, how)

    def record(self, folder):
        self.recording = super().record(folder)
        return self.recording


@pytest.mark.parametrize(
    "kit", [*STORES[::2], *(pytest.param(kit, marks=pytest.mark.slow) for kit in STORES[1::2])]
)
def test_what_was_acknowledged_is_synced(kit):
    class Kit(AfterLines, kit):
        pass

    assert outcome(Kit, CHECKS[0]) == ""


# What durability='process' promises when the power fails


class EarlierState(PowerCuts):
    """What was acknowledged may be lost, but what is left was all there at one time."""

    lost = 0

    def test(self):
        folder = self._new_folder()
        store = self.make_store_in(folder)
        assert store.info()["durable"] == "process"
        self._check(self.record(folder).cuts(self.sample, self._seed()), store, "power cut")
        self.assertGreater(self.lost, 0)

    def check_cut(self, cut, states):
        ended = sum(line.startswith("end ") for line in cut.lines)
        folder = self._new_folder()
        cut.build(folder)
        found = self._opened(folder)
        places = [place for place, step in enumerate(states[: ended + 1]) if found in step]
        self.assertTrue(places, f"{found} was never there")
        self.lost += max(places) < ended
        found["after"] = b"after the cut", {"n": 1}
        self.assertEqual(self._opened(folder, write=True), found)


def test_sqlite_with_durability_process_goes_back_to_an_earlier_state():
    class Kit(EarlierState, Sqlite):
        durability = "process"

    assert outcome(Kit, "test", sample=10) == ""


class Usable(EarlierState):
    """Anything may be lost and torn; what is left can be looked at, and written again."""

    def check_cut(self, cut, states):
        folder = self._new_folder()
        cut.build(folder)
        with self.make_store_in(folder) as store:
            for key in list(store.query_keys()):
                try:
                    store.to_bytes(key)
                    store.get_metadata(key)
                except (KeyError, StoreError):
                    # One half of it, perhaps.
                    pass
            self.lost += not store.exists("a")
            for key in ("a", "Odd/ key", "large"):
                store.set(key, (io.BytesIO(b"new"), {"n": 1}))
        with self.make_store_in(folder) as store:
            for key in ("a", "Odd/ key", "large"):
                value = store.get(key)
                self.assertEqual((value.data.read(), value.metadata), (b"new", {"n": 1}))


def test_files_with_durability_process_can_be_written_again():
    class Kit(Usable, FileSystem):
        durability = "process"

    assert outcome(Kit, "test", sample=10) == ""


# The making of a store

MAKE = """
import os, sys
from encore.storage.api import FileSystemStore, SqliteStore, init_shared_store
folder = sys.argv[2]
if sys.argv[1] == "sqlite":
    store = SqliteStore(folder + "/x.db")
else:
    init_shared_store(folder + "/a/b")
    store = FileSystemStore(folder + "/a/b")
with store:
    store.from_bytes("key", b"data")
    os.write(1, b"done\\n")
"""


@pytest.mark.parametrize("kind", ["sqlite", "filesystem"])
def test_a_new_store_survives_with_its_first_key(kind, tmp_path):
    folder = tmp_path / "recorded"
    folder.mkdir()
    recording = record([sys.executable, "-c", MAKE, kind, str(folder)], folder, env=ENVIRONMENT)
    cuts = [*recording.cuts(after_lines=True), *recording.cuts(6, os.urandom(4).hex())]
    for number, cut in enumerate(cuts):
        found = tmp_path / str(number)
        found.mkdir()
        cut.build(found)
        if kind == "sqlite":
            store = SqliteStore(found / "x.db", durability="process")
        else:
            init_shared_store(found / "a/b")
            store = FileSystemStore(found / "a/b", durability="process")
        with store:
            keys = list(store.keys())
            assert keys == ["key"] or (not cut.lines and keys == []), cut
            store.from_bytes("key", b"data")
            assert store.to_bytes("key") == b"data"


# Stores that are broken in one way each

NO_SYNC = """
import os
os.fsync = os.fdatasync = lambda fd: None
"""

NO_SYNC_OF_DIRECTORIES = """
import os, stat
def fsync(fd, real=os.fsync):
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        real(fd)
os.fsync = fsync
"""

NO_SYNC_OF_FILES = NO_SYNC_OF_DIRECTORIES.replace("if not", "if")

RENAMED_BEFORE_SYNC = """
import os, stat
waiting = []
def fsync(fd, real=os.fsync):
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        real(fd)
    else:
        waiting.append(os.dup(fd))
def rename(*args, real=os.rename, sync=os.fsync):
    real(*args)
    while waiting:
        sync(waiting.pop())
os.fsync, os.rename, os.replace = fsync, rename, rename
"""

COPIED_INSTEAD_OF_RENAMED = """
import os
def rename(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        new.write(old.read())
        status = os.fstat(old.fileno())
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.unlink(source)
os.rename = os.replace = rename
"""


def statement(marker, instead):
    """Code that makes SQLite be given another statement."""
    return f"""
import sqlite3
def connect(*args, factory=sqlite3.Connection, real=sqlite3.connect, **options):
    class Connection(factory):
        def execute(self, sql, *args):
            if {marker!r} in sql.lower().replace(" ", ""):
                sql = {instead!r}
            return super().execute(sql, *args)
    return real(*args, factory=Connection, **options)
sqlite3.connect = connect
"""


SYNC_OFF = statement("synchronous=", "PRAGMA synchronous=OFF")
SYNC_NORMAL = statement("synchronous=", "PRAGMA synchronous=NORMAL")
JOURNAL_IN_MEMORY = statement("journal_mode=wal", "PRAGMA journal_mode=MEMORY")


@pytest.mark.parametrize(
    ("kit", "setup"),
    [
        pytest.param(FileSystem, NO_SYNC, id="files-no-sync", marks=pytest.mark.slow),
        pytest.param(FileSystem, NO_SYNC_OF_DIRECTORIES, id="files-no-sync-of-directories"),
        pytest.param(FileSystem, NO_SYNC_OF_FILES, id="files-no-sync-of-files"),
        pytest.param(
            FileSystem,
            RENAMED_BEFORE_SYNC,
            id="files-renamed-before-sync",
            marks=pytest.mark.slow,
        ),
        pytest.param(Sqlite, SYNC_OFF, id="sqlite-off", marks=pytest.mark.slow),
        pytest.param(Sqlite, SYNC_NORMAL, id="sqlite-normal"),
        pytest.param(
            SqliteWithoutWal, WITHOUT_WAL + SYNC_OFF, id="journal-off", marks=pytest.mark.slow
        ),
    ],
)
def test_a_store_that_does_not_sync_is_found(kit, setup):
    found = outcome(kit, CHECKS[0], sample=None, setup=setup)
    assert "acknowledged was" in found or "damage that check() finds" in found


@pytest.mark.parametrize(
    ("kit", "setup"),
    [
        (FileSystem, COPIED_INSTEAD_OF_RENAMED),
        pytest.param(Sqlite, JOURNAL_IN_MEMORY, marks=pytest.mark.slow),
    ],
)
def test_a_store_that_is_not_atomic_is_found(kit, setup):
    told = outcome(kit, CHECKS[1], sample=None, setup=setup)
    assert "AssertionError: kill, seed" in told
