"""The log of changes: what is in it, whatever was done to it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from logged_changes import change_everything, log_of, put

from encore.events.event_manager import EventManager
from encore.storage import _change_log
from encore.storage._change_lines import LOG, Line
from encore.storage._change_reader import LogReader
from encore.storage.errors import StoreError
from encore.storage.locking_filesystem_store import LockingFileSystemStore

LONG_AGO = datetime(2000, 1, 1)
ODD_KEYS = ["new\nline", 'quo"te', "blank s", "\0", "a/b", "été", "\x85\u2028", "[1]", " ", "\r"]


@pytest.fixture
def path(shared_folder):
    return shared_folder


def test_modified_keys_are_all_changes_in_order(new_handle):
    store = new_handle()
    assert store.get_modified_keys(LONG_AGO) == []
    keys = change_everything(store)
    assert store.get_modified_keys(LONG_AGO) == keys
    assert new_handle().get_modified_keys(LONG_AGO) == keys


def test_any_key_can_be_logged(new_handle):
    store = new_handle()
    keys = [*ODD_KEYS, *(chr(code) for code in range(300))]
    for key in keys:
        store.from_bytes(key, b"")
    assert store.get_modified_keys(LONG_AGO) == keys
    for key in ODD_KEYS:
        store.delete(key)
    assert store.get_modified_keys(LONG_AGO) == keys + ODD_KEYS


@pytest.mark.parametrize("whole", [False, True])
def test_what_could_not_be_written_takes_no_room(new_handle, path, monkeypatch, whole):
    store = new_handle()
    store.from_bytes("a", b"")
    log = os.path.join(path, LOG)
    before = os.path.getsize(log)
    write_all = _change_log.write_all

    def write_a_part(fd, data):
        first = data.index(b"\n") + 1
        write_all(fd, data[: first + 5 if whole else first - 5])
        raise OSError(errno.ENOSPC, "no room")

    def write_two():
        with store.transaction():
            store.from_bytes("b", b"")
            store.from_bytes("c", b"")

    with monkeypatch.context() as patch:
        patch.setattr(_change_log, "write_all", write_a_part)
        with pytest.raises(StoreError):
            write_two()
    with open(log, "rb") as file:
        lines = file.read()[before:].splitlines()
    # Somebody may have read what was whole, so that it stays, and is said not to have been made.
    assert [line.split()[1] for line in lines] == ([b"set", b"abort"] if whole else [])
    store.from_bytes("d", b"")
    assert store.get_modified_keys(LONG_AGO) == ["a", "d"]
    assert LogReader(str(path)).open == []


def test_since(new_handle):
    store = new_handle(max_time_delta=timedelta(seconds=10))
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


def test_clocks_that_differ_do_not_hide_what_comes_later(new_handle):
    store = new_handle(max_time_delta=timedelta(0))
    for number, seconds in enumerate([100, 200, 150, 300]):
        store._clock = lambda seconds=seconds: seconds
        store.from_bytes(str(number), b"")
    assert store.get_modified_keys("1970-01-01 00:03:00.000000") == ["1", "2", "3"]


def test_modified_keys_need_a_connected_store(new_handle):
    store = new_handle()
    store.disconnect()
    with pytest.raises(TypeError):
        store.get_modified_keys(None)
    with pytest.raises(StoreError, match="not connected"):
        store.get_modified_keys(LONG_AGO)


def test_lines_of_old_are_read(new_handle, path, recorded):
    with open(f"{path}/{LOG}", "w") as file:
        file.write("1 w 2026-11-21 16:47:17.960075 k1\n2 w 2026-11-21 16:47:17.966169 sp ace\n")
    store = new_handle()
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


def test_old_works_in_the_same_directory(new_handle, path, start_08, recorded):
    store = new_handle()
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
def test_a_torn_line_is_no_line(new_handle, path, torn, recorded):
    store = new_handle()
    put(store, "a")
    other = new_handle()
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
        b"9" * 4300 + COMPLETE[1:],
        COMPLETE.replace(b'"x"', rb'"\ud800"').replace(b"null", b"5"),
        COMPLETE.replace(b'"x"', b'"%s"' % (b"x" * 1025)).replace(b"null", b"5"),
        COMPLETE.replace(b'"x"', b'""').replace(b"null", b"5"),
    ],
    ids=range(13),
)
def test_a_wrong_line_is_skipped(new_handle, path, wrong, recorded):
    store, other = new_handle(), new_handle()
    found = recorded(other)
    put(store, "a")
    with open(f"{path}/{LOG}", "ab") as file:
        file.write(wrong + b"\n")
    put(new_handle(), "b")
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


def test_a_log_that_was_removed_is_begun_anew(new_handle, path, recorded):
    store, other = new_handle(), new_handle()
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
    assert new_handle().get_modified_keys(LONG_AGO) == ["c"]


def test_writing_costs_the_same_however_long_the_log_is(new_handle, path, monkeypatch):
    store, other = new_handle(), new_handle()
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


def test_the_log_is_rotated(new_handle, path, monkeypatch, recorded):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 2000)
    store, other, idle = new_handle(), new_handle(), new_handle()
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


def test_files_that_were_restored_from_a_backup_are_not_told_again(
    new_handle, path, monkeypatch, recorded
):
    store, other = new_handle(), new_handle()
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


def test_a_recent_question_does_not_read_old_files(new_handle, path, monkeypatch):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 2000)
    store = new_handle(max_time_delta=timedelta(seconds=5))
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
def test_rotation_in_the_middle_of_a_question(new_handle, path, monkeypatch, when, kept):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 500)
    store, other = new_handle(), new_handle()
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


def test_rotation_that_was_interrupted(new_handle, path, monkeypatch, recorded):
    store, other = new_handle(), new_handle()
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


def test_a_log_that_cannot_be_written_changes_nothing(new_handle, path, monkeypatch, recorded):
    store = new_handle()
    put(store, "a", b"1", n=1)
    other = new_handle()
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


def test_a_commit_that_fails_is_taken_back_in_the_log(new_handle, path, monkeypatch):
    store = new_handle()
    put(store, "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(StoreError):
            put(store, "a", b"2")
    assert log_of(path).splitlines()[-1].startswith(b"2 abort ")
    assert store.get_modified_keys(LONG_AGO) == ["a"]


def test_what_cannot_be_confirmed_in_the_log_is_confirmed_by_the_next_writer(
    new_handle, path, monkeypatch, recorded
):
    store, other = new_handle(), new_handle()
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
def test_a_transaction_that_undoes_itself_and_is_killed_is_told_whole_or_not(
    new_handle, path, whole, recorded
):
    store, other = new_handle(), new_handle()
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


def test_who_reads_finds_out_what_became_of_a_dead_writers_changes(
    new_handle, path, monkeypatch, recorded
):
    store, other = new_handle(), new_handle()
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


def test_power_means_that_the_log_is_synced_before_the_commit(new_handle, monkeypatch):
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
    store = new_handle(durability="power")
    put(store, "a")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    put(store, "a")
    assert calls.index(LOG) < calls.index("rename a.data")
    calls.clear()
    store = new_handle()
    put(store, "a")
    assert LOG not in calls
