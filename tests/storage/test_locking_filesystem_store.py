from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest

from encore.events.event_manager import EventManager
from encore.storage import _change_log, _shared_directory, file_lock, filesystem_store
from encore.storage._change_log import LOG, Line, LogReader
from encore.storage._owner import this_process
from encore.storage._poller import Poller
from encore.storage.errors import StoreError
from encore.storage.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from encore.storage.filesystem_store import (
    FileSystemStore,
    FileSystemStoreError,
    init_shared_store,
)
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.opener import open_store

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
DEADLINE = 30.0
LONG_AGO = datetime(2000, 1, 1)
ELSEWHERE = "0123456789ab-0-1234-5678"
ODD_KEYS = ["new\nline", 'quo"te', "blank s", "\0", "a/b", "été", "\x85\u2028", "[1]", " ", "\r"]


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


@pytest.fixture
def make(path):
    """A function that makes connected handles, which look at the log only when they are told to."""
    handles = []

    def new(**arguments):
        defaults = {
            "durability": "process",
            "remote_event_poll_interval": 0,
            "event_manager": EventManager(),
        }
        handle = LockingFileSystemStore(path, **{**defaults, **arguments})
        handle.connect()
        handles.append(handle)
        return handle

    yield new
    for handle in handles:
        handle.disconnect()


def recorded(store):
    """Return a list that gets all changes a store tells."""
    found = []

    def listener(event):
        assert event.source is store
        found.append(
            (type(event).__name__, event.key, event.metadata, getattr(event, "remote", False))
        )

    store.event_manager.connect(StoreModificationEvent, listener)
    return found


def remote(found):
    return [(*each[:3], True) for each in found]


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def log_of(path, suffix=""):
    with open(os.path.join(path, LOG + suffix), "rb") as file:
        return file.read()


def fail(store, notes):
    try:
        with store.transaction(notes):
            put(store, "never")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def change_everything(store):
    put(store, "a", b"1", n=1)
    put(store, "a", b"2", n=2)
    store.set_metadata("a", {"n": 3})
    store.update_metadata("a", {"m": [4]})
    store.from_bytes("b", b"5")
    with store.transaction("many"):
        put(store, "c", n=6)
        put(store, "c", n=7)
        store.delete("b")
        fail(store, "inner")
    store.delete("a")
    fail(store, "nothing")
    return ["a", "a", "a", "a", "b", "c", "c", "b", "a"]


# The constructor


def test_arguments(path):
    store = LockingFileSystemStore(path)
    assert (store.force_lock_timeout, store.remote_event_poll_interval) == (10.0, 5.0)
    assert store.max_time_delta == timedelta(minutes=1)
    assert store.info()["durable"] == "power"
    store = LockingFileSystemStore(path, 3, ".FSStore", 2.5, timedelta(hours=1))
    assert (store.force_lock_timeout, store.remote_event_poll_interval) == (3, 2.5)
    assert store.max_time_delta == timedelta(hours=1)
    assert repr(store) == f"LockingFileSystemStore({path!r})"
    for name in ("force_lock_timeout", "remote_event_poll_interval"):
        for bad in ("1", None, True, 1j):
            with pytest.raises(TypeError, match=name):
                LockingFileSystemStore(path, **{name: bad})
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match=name):
                LockingFileSystemStore(path, **{name: bad})
    with pytest.raises(TypeError, match="event_manager="):
        LockingFileSystemStore(path, EventManager())
    with pytest.raises(FileSystemStoreError):
        LockingFileSystemStore(f"{path}/missing")


def test_open_store(path):
    name = f"lockfs:{path}/new"
    with pytest.raises(StoreError):
        open_store(name)
    with open_store(name, create=True) as store:
        assert isinstance(store, LockingFileSystemStore)
        store.from_bytes("a", b"1")
    with open_store(name) as store:
        assert store.to_bytes("a") == b"1"


def test_a_copy_is_another_handle(make):
    store = make(max_time_delta=timedelta(hours=2), force_lock_timeout=7)
    put(store, "a")
    copy = pickle.loads(pickle.dumps(store))
    assert not copy.is_connected()
    assert (copy.max_time_delta, copy.force_lock_timeout) == (timedelta(hours=2), 7)
    copy.event_manager = EventManager()
    with copy:
        found = recorded(copy)
        put(copy, "b")
        put(store, "c")
        copy._poll()
        assert found == [("StoreSetEvent", "b", {}, False), ("StoreSetEvent", "c", {}, True)]


# The log


def test_modified_keys_are_all_changes_in_order(make):
    store = make()
    assert store.get_modified_keys(LONG_AGO) == []
    keys = change_everything(store)
    assert store.get_modified_keys(LONG_AGO) == keys
    assert make().get_modified_keys(LONG_AGO) == keys


def test_any_key_can_be_logged(make):
    store = make()
    keys = [*ODD_KEYS, *(chr(code) for code in range(300))]
    for key in keys:
        store.from_bytes(key, b"")
    assert store.get_modified_keys(LONG_AGO) == keys
    for key in ODD_KEYS:
        store.delete(key)
    assert store.get_modified_keys(LONG_AGO) == keys + ODD_KEYS


def test_since(make):
    store = make(max_time_delta=timedelta(seconds=10))
    begin = datetime(2026, 3, 1, 12)
    for number in range(5):
        store._clock = lambda number=number: (
            begin.replace(tzinfo=timezone.utc).timestamp() + 10 * number
        )
        store.from_bytes(f"k{number}", b"")
    keys = [f"k{number}" for number in range(5)]

    def since(seconds):
        return store.get_modified_keys(begin + timedelta(seconds=seconds))

    assert since(0) == since(10) == keys
    assert since(10.000001) == keys[1:]
    assert since(20) == keys[1:]
    assert since(50) == keys[4:]
    assert since(50.000001) == []
    assert store.get_modified_keys("2026-03-01 12:00:20.000000") == keys[1:]
    east = timezone(timedelta(hours=5))
    aware = (begin + timedelta(seconds=20)).replace(tzinfo=timezone.utc).astimezone(east)
    assert store.get_modified_keys(aware) == keys[1:]
    store.max_time_delta = timedelta(0)
    assert since(20) == keys[2:]
    assert store.get_modified_keys(datetime.min) == keys
    store.max_time_delta = timedelta(days=1)
    assert store.get_modified_keys(datetime.min) == keys
    for bad in (None, 0, 1.5, b"x"):
        with pytest.raises(TypeError, match="since is"):
            store.get_modified_keys(bad)
    with pytest.raises(ValueError, match="does not match"):
        store.get_modified_keys("yesterday")


def test_clocks_that_differ_do_not_hide_what_comes_later(make):
    store = make(max_time_delta=timedelta(0))
    for number, seconds in enumerate([100, 200, 150, 300]):
        store._clock = lambda seconds=seconds: seconds
        store.from_bytes(str(number), b"")
    assert store.get_modified_keys("1970-01-01 00:03:00.000000") == ["1", "2", "3"]


def test_modified_keys_need_a_connected_store(make):
    store = make()
    store.disconnect()
    with pytest.raises(TypeError):
        store.get_modified_keys(None)
    with pytest.raises(StoreError, match="not connected"):
        store.get_modified_keys(LONG_AGO)


def test_lines_of_old_are_read(make, path):
    with open(f"{path}/{LOG}", "w") as file:
        file.write("1 w 2026-11-21 16:47:17.960075 k1\n2 w 2026-11-21 16:47:17.966169 sp ace\n")
    store = make()
    found = recorded(store)
    assert store.get_modified_keys("2026-11-21 16:48:00.000000") == ["k1", "sp ace"]
    put(store, "new")
    with open(f"{path}/{LOG}", "a") as file:
        file.write("4 w 2026-11-21 16:47:18.000000 new\n5 d 2026-11-21 16:47:18.000001 k1\n")
        file.write("6 w 2026-11-21 16:47:18.000000 gone\n")
    assert store.get_modified_keys(LONG_AGO) == ["k1", "sp ace", "new", "new", "k1", "gone"]
    del found[:]
    put(store, "new", n=1)
    store._poll()
    assert found == [
        ("StoreUpdateEvent", "new", {"n": 1}, False),
        ("StoreUpdateEvent", "new", {"n": 1}, True),
        ("StoreDeleteEvent", "k1", {}, True),
        ("StoreUpdateEvent", "gone", {}, True),
    ]
    numbers = [int(line.split()[0]) for line in log_of(path).splitlines()]
    assert numbers == [1, 2, 3, 3, 4, 5, 6, 7, 7]


OLD = """
import io, sys
from encore.events.event_manager import EventManager
from encore.events.package_globals import set_event_manager
set_event_manager(EventManager())
from encore.storage.locking_filesystem_store import LockingFileSystemStore
store = LockingFileSystemStore({path!r}, remote_event_poll_interval=1e6)
store.connect()
assert not hasattr(store, "mapping")
print(store.to_bytes("ours"), store.get_metadata("ours"))
store.set("old", (io.BytesIO(b"2"), {{"n": 2}}))
store.set_metadata("ours", {{"n": 3}})
store.delete("gone")
sys.stdout.flush()
import os
os._exit(0)
"""


def test_old_works_in_the_same_directory(make, path, start_08):
    store = make()
    found = recorded(store)
    put(store, "ours", b"1", n=1)
    put(store, "gone")
    del found[:]
    old = start_08(OLD.format(path=path), stdout=subprocess.PIPE)
    answer, _ = old.communicate(timeout=60)
    assert old.returncode == 0
    assert answer.split(b"\n")[0] == b"b'1' {'n': 1}"
    store._poll()
    assert found == [
        ("StoreUpdateEvent", "old", {"n": 2}, True),
        ("StoreUpdateEvent", "ours", {"n": 3}, True),
        ("StoreDeleteEvent", "gone", {}, True),
    ]
    assert store.to_bytes("old") == b"2"
    assert store.get_metadata("ours") == {"n": 3}
    put(store, "old", b"3")
    keys = ["ours", "gone", "old", "ours", "gone", "old"]
    assert store.get_modified_keys(LONG_AGO) == keys


COMPLETE = b'2 set 2026-11-21 16:47:17.960075 {"key":"x","metadata":{},"by":"b","modified":null}'


@pytest.mark.parametrize(
    "torn",
    [
        b"1",
        b'3 set 2026-11-21 16:47:17.960075 {"key": "x"',
        b"\xff\xfe",
        b"1 w\n",
        b"\n\n",
        # Cut just before the newline.
        COMPLETE,
        b"2 d 2026-11-21 16:47:17.960075 x",
    ],
)
def test_a_torn_line_is_no_line(make, path, torn):
    store = make()
    put(store, "a")
    other = make()
    found = recorded(other)
    with open(f"{path}/{LOG}", "ab") as file:
        file.write(torn)
    other._poll()
    assert store.get_modified_keys(LONG_AGO) == ["a"]
    put(store, "b")
    assert store.get_modified_keys(LONG_AGO) == ["a", "b"]
    other._poll()
    assert found == [("StoreSetEvent", "b", {}, True)]


@pytest.mark.parametrize(
    "wrong",
    [
        COMPLETE.replace(b"{}", b"1"),
        COMPLETE.replace(b'"x"', b"[1]"),
        COMPLETE.replace(b"null", b'"1"'),
        b'2 set 2026-11-21 16:47:17.960075 {"key":"x"}',
        b'2 commit 2026-11-21 16:47:17.960075 {"first":"x"}',
        b'2 rotate 2026-11-21 16:47:17.960075 {"kept":1}',
        b'2 rotate 2026-11-21 16:47:17.960075 {"kept":["1"]}',
        b"2 set 2026-11-21 16:47:17.960075 " + b"[" * 100_000,
        b"9" * 5000 + COMPLETE,
    ],
    ids=range(9),
)
def test_a_wrong_line_is_skipped(make, path, wrong):
    store, other = make(), make()
    found = recorded(other)
    put(store, "a")
    with open(f"{path}/{LOG}", "ab") as file:
        file.write(wrong + b"\n")
    put(make(), "b")
    assert store.get_modified_keys(LONG_AGO) == ["a", "b"]
    other._poll()
    assert [each[1] for each in found] == ["a", "b"]


@pytest.mark.parametrize("suffix", ["", ".1"])
def test_a_log_that_is_no_file_is_not_waited_for(path, suffix):
    if suffix:
        with open(f"{path}/{LOG}", "wb") as file:
            file.write(b'1 rotate 2026-11-21 16:47:17.960075 {"kept":[1]}\n')
    os.mkfifo(f"{path}/{LOG}{suffix}")
    store = LockingFileSystemStore(path, remote_event_poll_interval=0, event_manager=EventManager())
    if suffix:
        store.connect()
        with pytest.raises(StoreError, match="regular"):
            store.get_modified_keys(LONG_AGO)
        store.disconnect()
    else:
        with pytest.raises(StoreError, match="regular"):
            store.connect()
        assert not store.is_connected()


def test_a_log_that_was_removed_is_begun_anew(make, path):
    store, other = make(), make()
    found = recorded(other)
    put(store, "a")
    other._poll()
    os.rename(f"{path}/{LOG}", f"{path}/{LOG}.away")
    other._poll()
    assert store.get_modified_keys(LONG_AGO) == []
    put(store, "b")
    other._poll()
    assert [each[1] for each in found] == ["a", "b"]
    os.truncate(f"{path}/{LOG}", 0)
    other._poll()
    put(store, "c")
    other._poll()
    assert [each[1] for each in found] == ["a", "b", "c"]
    assert make().get_modified_keys(LONG_AGO) == ["c"]


def test_writing_costs_the_same_however_long_the_log_is(make, path, monkeypatch):
    store, other = make(), make()
    read = Counter()
    real = os.pread

    def pread(fd, size, offset):
        data = real(fd, size, offset)
        read["bytes"] += len(data)
        return data

    def cost():
        read.clear()
        # Two handles: neither knows what the other one has written.
        for each in (store, other):
            put(each, "a")
        return read["bytes"]

    monkeypatch.setattr(_change_log.os, "pread", pread)
    cost()
    first = cost()
    line = Line(10**9, "w", "2026-11-21 16:47:17.960075", {}).dump().replace(b"{}", b"k")
    with open(f"{path}/{LOG}", "ab") as file:
        file.write(line * 50_000)
    assert cost() <= first + 1024
    assert cost() <= first + 1024


def test_the_log_is_rotated(make, path, monkeypatch):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 2000)
    store, other, idle = make(), make(), make()
    found, late = recorded(other), recorded(idle)
    keys = []
    for number in range(100):
        writer = (store, other)[number % 3 == 0]
        put(writer, f"k{number}", n=number)
        keys.append(f"k{number}")
        if number % 7 == 0:
            other._poll()
    other._poll()
    idle._poll()
    files = [name for name in os.listdir(path) if name.startswith(LOG)]
    assert len(files) > 5
    assert max(os.path.getsize(f"{path}/{name}") for name in files) < 3000
    assert store.get_modified_keys(LONG_AGO) == keys
    assert late == [("StoreSetEvent", f"k{number}", {"n": number}, True) for number in range(100)]
    assert sorted((each[1], each[3]) for each in found) == sorted(
        (f"k{number}", number % 3 != 0) for number in range(100)
    )
    # Some only look once in a while; nobody is waited for longer than that.
    for name in files:
        os.utime(f"{path}/{name}", (1, 1))
    for number in range(20):
        put(store, f"l{number}")
    left = [name for name in os.listdir(path) if name.startswith(LOG)]
    assert len(left) <= 5
    modified = store.get_modified_keys(LONG_AGO)
    assert modified == [*keys, *(f"l{number}" for number in range(20))][-len(modified) :]
    assert len(modified) > 20


def test_files_that_were_restored_from_a_backup_are_not_told_again(make, path, monkeypatch):
    store, other = make(), make()
    found = recorded(other)
    put(store, "a")
    other._poll()
    monkeypatch.setattr(_change_log, "MAX_SIZE", 1)
    put(store, "b")
    (rotated,) = (name for name in os.listdir(path) if name.startswith(f"{LOG}."))
    with open(f"{path}/copy", "wb") as file:
        file.write(log_of(path, rotated[len(LOG) :]))
    os.rename(f"{path}/copy", f"{path}/{rotated}")
    other._poll()
    assert [each[1] for each in found] == ["a", "b"]


def test_a_recent_question_does_not_read_old_files(make, path, monkeypatch):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 2000)
    store = make(max_time_delta=timedelta(seconds=5))
    for number in range(100):
        store._clock = lambda number=number: number
        put(store, f"k{number}")
    opened = []
    real = os.open
    monkeypatch.setattr(
        _change_log.os, "open", lambda name, *args: (opened.append(name), real(name, *args))[1]
    )
    assert store.get_modified_keys("1970-01-01 00:01:40.000000") == [
        f"k{n}" for n in range(95, 100)
    ]
    assert len(opened) <= 4


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("kept", [_change_log.KEPT, -1e9])
def test_rotation_in_the_middle_of_a_question(make, path, monkeypatch, when, kept):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 500)
    store, other = make(), make()
    keys = [f"k{number:02}" for number in range(30)]
    for key in keys[:15]:
        put(store, key)
    monkeypatch.setattr(_change_log, "KEPT", kept)
    count = 0
    real = os.open

    def open_later(name, *args):
        nonlocal count
        if str(name).startswith(f"{path}/{LOG}"):
            count += 1
            if count == when + 1:
                for key in keys[15:]:
                    put(other, key)
        return real(name, *args)

    monkeypatch.setattr(_change_log.os, "open", open_later)
    modified = store.get_modified_keys(LONG_AGO)
    assert count > when
    if kept > 0:
        # Those that were there, and maybe newer ones.
        assert modified[:15] == keys[:15]
    assert modified
    end = keys.index(modified[-1]) + 1
    assert modified == keys[end - len(modified) : end]


def test_rotation_that_was_interrupted(make, path, monkeypatch):
    store, other = make(), make()
    found = recorded(other)
    put(store, "a")
    monkeypatch.setattr(_change_log, "MAX_SIZE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(_change_log.os, "rename", refuse)
        with pytest.raises(StoreError):
            put(store, "b")
    assert not store.exists("b")
    # One file has two names.
    assert store.get_modified_keys(LONG_AGO) == ["a"]
    other._poll()
    for key in "cde":
        put(store, key)
    other._poll()
    assert store.get_modified_keys(LONG_AGO) == [*"acde"]
    assert [each[1] for each in found] == [*"acde"]


def refuse(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_changes_nothing(make, path, monkeypatch):
    store = make()
    put(store, "a", b"1", n=1)
    other = make()
    found = recorded(other)
    with monkeypatch.context() as patch:
        patch.setattr(_change_log, "write_all", refuse)
        with pytest.raises(StoreError) as caught:
            put(store, "a", b"2", n=2)
    assert caught.value.errno == errno.ENOSPC
    assert store.to_bytes("a") == b"1"
    put(store, "b")
    other._poll()
    assert [each[1] for each in found] == ["b"]


def test_a_commit_that_fails_is_taken_back_in_the_log(make, path, monkeypatch):
    store = make()
    put(store, "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(StoreError):
            put(store, "a", b"2")
    assert log_of(path).splitlines()[-1].startswith(b"2 abort ")
    assert store.get_modified_keys(LONG_AGO) == ["a"]


def test_what_cannot_be_confirmed_in_the_log_is_confirmed_by_the_next_writer(
    make, path, monkeypatch
):
    store, other = make(), make()
    found = recorded(other)
    with monkeypatch.context() as patch:
        patch.setattr(_change_log.ChangeLog, "_verdict", refuse)
        put(store, "a", b"1", n=1)
    assert store.to_bytes("a") == b"1"
    assert LogReader(path).open == []
    put(store, "b")
    assert store.get_modified_keys(LONG_AGO) == ["a", "b"]
    other._poll()
    assert [each[1:] for each in found] == [("a", {"n": 1}, True), ("b", {}, True)]


@pytest.mark.parametrize("whole", [True, False])
def test_a_transaction_that_undoes_itself_and_is_killed_is_told_whole_or_not(make, path, whole):
    store, other = make(), make()
    found = recorded(other)
    put(store, "z")
    when = "2026-11-21 16:47:17.960075"
    rest = '{"key":"x","metadata":{},"by":"b","modified":null}'
    with open(f"{path}/{LOG}", "a") as file:
        file.write(f"2 set {when} {rest}\n3 delete {when} {rest}"[: None if whole else -9])
        if whole:
            file.write("\n")
    put(store, "y")
    other._poll()
    assert [each[1] for each in found] == (["z", "x", "x", "y"] if whole else ["z", "y"])
    assert store.get_modified_keys(LONG_AGO) == [each[1] for each in found]


def test_who_reads_finds_out_what_became_of_a_dead_writers_changes(make, path, monkeypatch):
    store, other = make(), make()
    found = recorded(other)
    with monkeypatch.context() as patch:
        patch.setattr(_change_log.ChangeLog, "_verdict", refuse)
        put(store, "a", n=1)
    other._poll()
    assert found == []
    # Not at the first look: somebody may be in the middle of it.
    other._poll()
    assert found == [("StoreSetEvent", "a", {"n": 1}, True)]
    with monkeypatch.context() as patch:
        patch.setattr(_change_log.ChangeLog, "_verdict", refuse)
        put(store, "b")
    assert other.get_modified_keys(LONG_AGO) == ["a", "b"]


def test_power_means_that_the_log_is_synced_before_the_commit(make, monkeypatch):
    calls = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(fd):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real_sync(fd)

    def rename(source, target):
        calls.append(f"rename {os.path.basename(target)}")
        real_rename(source, target)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("the system does not tell the names of open files")
    store = make(durability="power")
    put(store, "a")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    put(store, "a")
    assert calls.index(LOG) < calls.index("rename a.data")
    calls.clear()
    store = make()
    put(store, "a")
    assert LOG not in calls


# Changes of others


def test_remote_events_are_those_of_the_other_handle(make):
    store, other = make(), make()
    here, there = recorded(store), recorded(other)
    change_everything(store)
    other._poll()
    assert there == remote(here)
    store._poll()
    other._poll()
    assert len(here) == len(there) == 9
    assert {kind for kind, *_ in here} == {
        kind.__name__ for kind in (StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent)
    }


def test_remote_events_begin_with_connect_and_end_with_disconnect(make):
    store, other = make(), make()
    found = recorded(other)
    put(store, "a")
    other.disconnect()
    other._poll()
    put(store, "b")
    other.connect()
    put(store, "c")
    other._poll()
    assert found == [("StoreSetEvent", "c", {}, True)]


def test_a_change_that_is_committed_after_connect_is_told(make, monkeypatch):
    store = make()
    found = []

    def connect_now(self, changes):
        found.append(make())
        found.append(recorded(found[0]))
        after(self, changes)

    after = LockingFileSystemStore._after_commit
    monkeypatch.setattr(LockingFileSystemStore, "_after_commit", connect_now)
    put(store, "a", n=1)
    monkeypatch.undo()
    found[0]._poll()
    assert found[1] == [("StoreSetEvent", "a", {"n": 1}, True)]


def test_what_a_transaction_undoes_itself_is_told_too(make):
    store, other = make(), make()
    local, found = recorded(store), recorded(other)
    with store.transaction("nothing is left"):
        put(store, "a", n=1)
        store.delete("a")
    fail(store, "nothing has happened")
    other._poll()
    assert [each[:2] for each in local] == [("StoreSetEvent", "a"), ("StoreDeleteEvent", "a")]
    assert found == remote(local)
    assert store.get_modified_keys(LONG_AGO) == ["a", "a"]


def test_local_events_are_not_remote(make):
    store = make()
    events = []
    store.event_manager.connect(StoreModificationEvent, events.append)
    put(store, "a")
    store._poll()
    (event,) = events
    assert getattr(event, "remote", False) is False


def test_metadata_of_events_belong_to_them(make):
    store, one, two = make(), make(), make()
    events = []
    for each in (one, two):
        each.event_manager.connect(StoreModificationEvent, events.append)
    put(store, "a", l=[1])
    one._poll()
    two._poll()
    events[0].metadata["l"].append(2)
    assert events[1].metadata == {"l": [1]}
    assert store.get_metadata("a") == {"l": [1]}


def test_a_listener_may_call_the_store(make):
    store, other = make(), make()
    seen = []

    def listener(event):
        seen.append(event.key)
        if event.remote:
            put(other, f"{event.key}/seen")
            other._poll()

    other.event_manager.connect(StoreModificationEvent, listener, {"remote": True})
    put(store, "a")
    put(store, "b")
    other._poll()
    assert seen == ["a", "b"]
    assert other.exists("b/seen")


OTHER_PROCESS = """
import pickle, sys
store = pickle.load(sys.stdin.buffer)
with store:
    for number in range(20):
        store.set_metadata(f"{sys.argv[1]}{number % 5}", {"n": number})
"""


def test_changes_of_other_processes(make):
    store = make()
    found = recorded(store)
    names = ["p", "q", "r"]
    processes = []
    for name in names:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, name],
            stdin=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
            },
        )
        process.stdin.write(pickle.dumps(store))
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store._poll()
    for name in names:
        assert [each for each in found if each[1].startswith(name)] == [
            ("StoreSetEvent" if n < 5 else "StoreUpdateEvent", f"{name}{n % 5}", {"n": n}, True)
            for n in range(20)
        ]
    assert len(found) == 60
    assert Counter(store.get_modified_keys(LONG_AGO)) == Counter(each[1] for each in found)


def test_threads_write_and_each_change_is_told_once(make):
    stores, watcher = [make(), make()], make()
    found = recorded(watcher)
    over = threading.Event()

    def watch():
        while not over.is_set():
            watcher._poll()

    def work(number):
        for turn in range(10):
            put(stores[number % 2], f"k{number}", n=turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    watching = threading.Thread(target=watch)
    for thread in [watching, *threads]:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    over.set()
    watching.join(DEADLINE)
    watcher._poll()
    for number in range(6):
        mine = [each[2]["n"] for each in found if each[1] == f"k{number}"]
        assert mine == list(range(10))


# The thread


def polling_threads():
    return [thread for thread in threading.enumerate() if thread.name == "encore-_poll"]


def test_a_thread_looks_at_the_log(make):
    store, other = make(), make(remote_event_poll_interval=0.001)
    (thread,) = polling_threads()
    assert thread.daemon
    seen = threading.Event()
    other.event_manager.connect(
        StoreModificationEvent, lambda event: seen.set(), {"key": "late", "remote": True}
    )

    def fail(event):
        raise ZeroDivisionError

    other.event_manager.connect(StoreModificationEvent, fail)
    put(store, "early")
    put(store, "late")
    assert seen.wait(DEADLINE)
    other.disconnect()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_disconnect_ends_the_thread_at_once(make):
    store = make(remote_event_poll_interval=1e9)
    (thread,) = polling_threads()
    begun = time.monotonic()
    store.disconnect()
    assert not thread.is_alive()
    assert time.monotonic() - begun < DEADLINE
    store.connect()
    assert len(polling_threads()) == 1
    store.disconnect()
    assert polling_threads() == []


def test_no_thread_without_an_interval(make):
    make()
    assert polling_threads() == []


def test_a_store_that_is_dropped_ends_its_thread(path):
    store = LockingFileSystemStore(path, remote_event_poll_interval=1e9)
    store.connect()
    put(store, "a")
    (thread,) = polling_threads()
    del store
    gc.collect()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert [name for name in os.listdir(f"{path}/.FStmp") if name != "lock"] == []


def test_disconnect_does_not_wait_for_a_listener(make):
    store, other = make(), make(remote_event_poll_interval=0.001)
    inside, go_on = threading.Event(), threading.Event()

    def listener(event):
        inside.set()
        go_on.wait(DEADLINE)

    other.event_manager.connect(StoreModificationEvent, listener)
    (thread,) = polling_threads()
    put(store, "a")
    put(store, "b")
    assert inside.wait(DEADLINE)
    other.disconnect()
    assert thread.is_alive()
    found = recorded(other)
    go_on.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert found in ([], [("StoreSetEvent", "a", {}, True)])


def test_an_error_does_not_end_the_thread(make, monkeypatch, caplog):
    seen, failed = threading.Event(), threading.Event()
    store, other = make(), make()

    class Broken(EventManager):
        def emit(self, event, block=True):
            if not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            seen.set()

        def has_listeners(self, cls):
            return True

    other.event_manager = Broken()
    other.remote_event_poll_interval = 0.001
    other.disconnect()
    other.connect()
    put(store, "a")
    assert failed.wait(DEADLINE)
    put(store, "b")
    assert seen.wait(DEADLINE)
    other.disconnect()
    assert "could not tell 'a'" in caplog.text


def test_an_error_of_the_method_does_not_end_a_poller(caplog):
    class Owner:
        failed, called = False, threading.Event()

        def look(self):
            if not self.failed:
                self.failed = True
                raise ZeroDivisionError
            self.called.set()

    owner = Owner()
    poller = Poller(owner, "look", 0.001)
    assert owner.called.wait(DEADLINE)
    poller.end()
    assert "look() of" in caplog.text


def test_a_listener_that_exits_keeps_nothing_from_the_others(make, caplog):
    store, other = make(), make(remote_event_poll_interval=0.001)
    told, last = [], threading.Event()

    def listener(event):
        told.append(event.key)
        if event.key == "last":
            last.set()
        raise SystemExit

    other.event_manager.connect(StoreModificationEvent, listener)
    with store.transaction("one batch"):
        put(store, "a")
        put(store, "b")
    put(store, "last")
    assert last.wait(DEADLINE)
    other.disconnect()
    assert told == ["a", "b", "last"]
    assert "could not tell 'a'" in caplog.text


def in_a_fork(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(function()).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_another_handle(make):
    store, other = make(remote_event_poll_interval=1e9), make()
    found = recorded(store)
    put(store, "a")
    other._poll()
    del found[:]

    def work():
        put(other, "b")
        put(store, "c")
        other._poll()
        store._poll()
        return len(polling_threads()), [each[1:] for each in found]

    answer = in_a_fork(work)
    assert answer == "(1, [('c', {}, False), ('b', {}, True)])"
    store._poll()
    assert [each[1:] for each in found] == [("b", {}, True), ("c", {}, True)]


# Every step


CALLS = ("open", "write", "close", "link", "rename", "unlink", "mkdir", "utime", "fsync", "access")


class Steps:
    """Does something before the n-th system call of this thread, not of that of the heartbeat."""

    def __init__(self, monkeypatch, action, number):
        self.thread = threading.get_ident()
        self.action, self.number = action, number
        self.count = 0
        for call in CALLS:
            monkeypatch.setattr(os, call, self.wrapped(getattr(os, call)))

    def wrapped(self, call):
        def run(*args, **kwargs):
            if threading.get_ident() == self.thread:
                self.count += 1
                if self.count == self.number:
                    self.action()
            return call(*args, **kwargs)

        return run


def replace(store):
    put(store, "a", b"2", n=2)


def create(store):
    put(store, "new", b"1", n=1)


def change_metadata(store):
    store.set_metadata("a", {"n": 2})


def delete(store):
    store.delete("a")


def many(store):
    with store.transaction("many"):
        put(store, "a", n=2)
        put(store, "passing")
        put(store, "new", n=1)
        store.delete("b")
        store.delete("passing")


def delete_many(store):
    with store.transaction("many"):
        put(store, "passing")
        store.delete("passing")
        store.delete("a")
        store.delete("b")


def state_of(store):
    return {key: (store.to_bytes(key), store.get_metadata(key)) for key in store.query_keys()}


CHANGES = {
    replace: ["a"],
    create: ["new"],
    change_metadata: ["a"],
    delete: ["a"],
    many: ["a", "passing", "new", "b", "passing"],
    delete_many: ["passing", "passing", "a", "b"],
}


def check_every_step(make, run, change):
    """Whatever happens at a step, the log says what has happened to the store."""
    watcher = make()
    found = recorded(watcher)
    made = Counter()
    for number in range(1, 500):
        with make() as store:
            for key in list(store.query_keys()):
                store.delete(key)
            put(store, "a", b"1", n=1)
            put(store, "b", b"1", n=1)
            before = state_of(store)
        count = len(watcher.get_modified_keys(LONG_AGO))
        watcher._poll()
        del found[:]
        happened = run(number)
        after = state_of(watcher)
        expected = CHANGES[change] if after != before else []
        made[bool(expected)] += 1
        # Either who looks finds out, or who writes.
        if number % 2:
            put(watcher, "z")
            expected = [*expected, "z"]
        else:
            watcher._poll()
        assert watcher.get_modified_keys(LONG_AGO)[count:] == expected
        watcher._poll()
        assert [each[1] for each in found if each[3]] == [key for key in expected if key != "z"]
        if not happened:
            break
    assert not happened
    assert made[True] > 2
    assert made[False] > 10


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=[] if change in (replace, delete_many) else [pytest.mark.slow])
        for change in CHANGES
    ],
)
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_change(make, change):
    def run(number):
        pid = os.fork()
        if pid == 0:
            try:
                with make() as store:
                    Steps(pytest.MonkeyPatch(), lambda: os._exit(9), number)
                    change(store)
            finally:
                os._exit(0)
        return os.waitpid(pid, 0)[1] != 0

    check_every_step(make, run, change)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=[] if change in (replace, delete_many) else [pytest.mark.slow])
        for change in CHANGES
    ],
)
def test_an_interrupt_at_any_step_neither_loses_nor_doubles_a_change(make, change):
    def interrupt():
        raise Interrupted

    def run(number):
        with make() as store:
            with pytest.MonkeyPatch.context() as patch:
                steps = Steps(patch, interrupt, number)
                try:
                    change(store)
                except Interrupted:
                    pass
            # It can be used.
            put(store, "y")
            store.delete("y")
            return steps.count >= number

    check_every_step(lambda: without(make(), "y"), run, change)


def without(store, key):
    """Return a handle that does not tell of a key."""
    real = store.get_modified_keys
    store.get_modified_keys = lambda since: [each for each in real(since) if each != key]
    tell = store._tell_line
    store._tell_line = lambda line: None if line.key == key else tell(line)
    return store


# Locks


class FakeTime:
    def __init__(self):
        self.now = 1000.0
        self.while_asleep = lambda: None

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.while_asleep()


@pytest.fixture
def fake_time(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(file_lock._Lock, "_clock", staticmethod(fake.clock))
    monkeypatch.setattr(file_lock._Lock, "_sleep", staticmethod(fake.sleep))
    return fake


def plant_lock(path, owner):
    base = f"{path}/.FStmp/lock-shared.lock"
    with open(f"{base}.{owner}-n1", "w") as file:
        file.write("\n".join(["elsewhere", "1", "root", f"{owner}-n1", "LOCK"]))
    os.link(f"{base}.{owner}-n1", base)
    return f"{base}.{owner}-n1"


def test_a_writer_elsewhere_that_died_is_found_after_the_timeout(make, path, fake_time):
    store = make(force_lock_timeout=7.0)
    put(store, "a")
    plant_lock(path, ELSEWHERE)
    begun = fake_time.now
    put(store, "b")
    assert fake_time.now - begun == pytest.approx(7.0, abs=0.1)
    assert store.exists("b")


def test_a_writer_elsewhere_that_lives_is_waited_for(make, path, fake_time):
    store = make(force_lock_timeout=7.0)
    put(store, "a")
    own = plant_lock(path, ELSEWHERE)
    stamps = iter(range(10**6))
    fake_time.while_asleep = lambda: os.utime(own, (stamp := next(stamps), stamp))
    with pytest.raises(StoreError, match="locked by another"):
        put(store, "b")
    assert not store.exists("b")
    os.unlink(own)
    os.unlink(f"{path}/.FStmp/lock-shared.lock")
    put(store, "b")


def test_the_lock_is_free_when_nothing_is_written(make, path):
    store = make()
    put(store, "a")
    assert [name for name in os.listdir(f"{path}/.FStmp") if "shared" in name] == []
    with store.transaction("t"):
        assert "lock-shared.lock" in os.listdir(f"{path}/.FStmp")
        assert file_lock.FileLock(f"{path}/.FStmp/lock-shared").locked()
    assert [name for name in os.listdir(f"{path}/.FStmp") if "shared" in name] == []


def test_streams_are_read_outside_the_lock(make, path):
    store = make()

    class Stream(io.BytesIO):
        def read(self, size=-1):
            assert not file_lock.FileLock(f"{path}/.FStmp/lock-shared").locked()
            put(make(), "other")
            return super().read(size)

    store.set("a", (Stream(b"1"), {}))
    assert store.to_bytes("a") == b"1"


def test_a_lock_that_was_lost_is_noticed_before_anything_changes(make, path):
    store = make()
    put(store, "a", b"1")
    transaction = store.transaction("t")
    transaction.__enter__()
    put(store, "a", b"2")
    assert file_lock.FileLock(f"{path}/.FStmp/lock-shared").force_break()
    with pytest.raises(StoreError, match="was broken"):
        transaction.__exit__(None, None, None)
    assert store.to_bytes("a") == b"1"
    put(store, "a", b"3")
    assert store.get_modified_keys(LONG_AGO) == ["a", "a"]


def test_a_file_system_store_and_this_one_keep_each_other_out(make, path, monkeypatch):
    store = make()
    with FileSystemStore(path, durability="process") as plain:
        monkeypatch.setattr(filesystem_store, "LOCK_TIMEOUT", 0.01)
        for one, two in ((store, plain), (plain, store)):
            with one.transaction("t"):
                put(one, "a")
                with pytest.raises(StoreError, match="locked by another"):
                    put(two, "b")
            put(two, "b")


def test_a_file_system_without_flock(make, path, monkeypatch):
    import fcntl

    def flock(fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    store, other = make(), make()
    put(store, "a", b"1")
    with store.transaction("t"):
        put(store, "a", b"2")
        assert file_lock.FileLock(f"{path}/.FStmp/lock-shared").locked()
    put(other, "a", b"3")
    assert store.to_bytes("a") == b"3"
    for each in (store, other):
        each.disconnect()
    assert [name for name in os.listdir(f"{path}/.FStmp") if name != "lock"] == []


# Temporary files


def plant_session(path, name):
    """Put a session there with a temporary file."""
    with open(f"{path}/.FStmp/{name}.alive", "w"):
        pass
    with open(f"{path}/.FStmp/{name}-0", "w"):
        pass
    return [f"{name}-0", f"{name}.alive"]


def sessions(path):
    return sorted(name for name in os.listdir(f"{path}/.FStmp") if name[0] in "0123456789abcdef")


@pytest.mark.parametrize("flock", [True, False])
def test_temporary_files_of_dead_writers_are_swept(make, path, monkeypatch, flock):
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    os.makedirs(f"{path}/.FStmp")
    me = this_process()
    plant_session(path, f"{me.place}-{me.machine}-{process.pid}-{me.start}-abc")
    alive = plant_session(path, f"{me}-abc")
    elsewhere = plant_session(path, f"{ELSEWHERE}-abc")
    with make() as store:
        put(store, "a")
        own = [name for name in sessions(path) if str(os.getpid()) in name and "abc" not in name]
    assert sessions(path) == sorted([*alive, *elsewhere])
    assert len(own) == 1
    # By the clock of the file server.
    os.utime(f"{path}/.FStmp/{elsewhere[1]}", (1, 1))
    with make() as store:
        put(store, "a")
    assert sessions(path) == sorted(alive)


def test_check_finds_nothing_in_a_store_that_is_at_work(make, monkeypatch):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 500)
    store, other = make(), make()
    change_everything(store)
    with other.transaction("t"):
        put(other, "b", b"staged")
        assert store.check() == []
    with store.transaction("t"):
        put(store, "c", b"staged")
    assert [store.repair(), store.check(), other.check()] == [[], [], []]
    change_everything(other)


def test_a_session_gives_signs_of_life(make, path, monkeypatch):
    added = {}
    add = lambda path, interval=1.0: added.update({path: interval})  # noqa: E731
    monkeypatch.setattr(_shared_directory.heartbeat, "add", add)
    store = make()
    put(store, "a")
    ((alive, interval),) = (
        (name, interval) for name, interval in added.items() if name.endswith(".alive")
    )
    assert os.path.exists(alive)
    assert interval * 10 < _shared_directory._SILENCE


def test_the_log_has_one_line_a_change_that_others_can_read(make, path):
    store = make()
    put(store, "a b", n=1)
    first, second = log_of(path).decode().splitlines()
    number, action, day, hour, rest = first.split(" ", 4)
    assert (number, action) == ("1", "set")
    datetime.strptime(f"{day} {hour}", "%Y-%m-%d %H:%M:%S.%f")
    assert '"key":"a b"' in rest
    assert second.startswith("1 commit ")
