"""Handles of one directory: what they are made of, who writes, and what is left."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from logged_changes import change_everything, log_of, put

from encore.events.event_manager import EventManager
from encore.storage import _change_log, _shared_directory, file_lock, filesystem_store
from encore.storage._owner import this_process
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import (
    FileSystemStore,
    FileSystemStoreError,
)
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.opener import open_store

LONG_AGO = datetime(2000, 1, 1)
ELSEWHERE = "0123456789ab-0-1234-5678"


@pytest.fixture
def path(shared_folder):
    return shared_folder


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


def test_a_copy_is_another_handle(new_handle, recorded):
    store = new_handle(max_time_delta=timedelta(hours=2), force_lock_timeout=7)
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


# Locks


def plant_lock(path, owner):
    base = f"{path}/.FStmp/lock-shared.lock"
    with open(f"{base}.{owner}-n1", "w") as file:
        file.write("\n".join(["elsewhere", "1", "root", f"{owner}-n1", "LOCK"]))
    os.link(f"{base}.{owner}-n1", base)
    return f"{base}.{owner}-n1"


def test_a_writer_elsewhere_that_died_is_found_after_the_timeout(new_handle, path, fake_time):
    store = new_handle(force_lock_timeout=7.0)
    put(store, "a")
    plant_lock(path, ELSEWHERE)
    begun = fake_time.now
    put(store, "b")
    assert fake_time.now - begun == pytest.approx(7.0, abs=0.1)
    assert store.exists("b")


def test_a_writer_elsewhere_that_lives_is_waited_for(new_handle, path, fake_time, monkeypatch):
    monkeypatch.setattr(filesystem_store, "LOCK_TIMEOUT", 8.0)
    store = new_handle(force_lock_timeout=3.0)
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


def test_the_lock_is_free_when_nothing_is_written(new_handle, path):
    store = new_handle()
    put(store, "a")
    assert [name for name in os.listdir(f"{path}/.FStmp") if "shared" in name] == []
    with store.transaction("t"):
        assert "lock-shared.lock" in os.listdir(f"{path}/.FStmp")
        assert file_lock.FileLock(f"{path}/.FStmp/lock-shared").locked()
    assert [name for name in os.listdir(f"{path}/.FStmp") if "shared" in name] == []


def test_streams_are_read_outside_the_lock(new_handle, path):
    store = new_handle()

    class Stream(io.BytesIO):
        def read(self, size=-1):
            assert not file_lock.FileLock(f"{path}/.FStmp/lock-shared").locked()
            put(new_handle(), "other")
            return super().read(size)

    store.set("a", (Stream(b"1"), {}))
    assert store.to_bytes("a") == b"1"


def test_a_lock_that_was_lost_is_noticed_before_anything_changes(new_handle, path):
    store = new_handle()
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


def test_a_file_system_store_and_this_one_keep_each_other_out(new_handle, path, monkeypatch):
    store = new_handle()
    with FileSystemStore(path, durability="process") as plain:
        monkeypatch.setattr(filesystem_store, "LOCK_TIMEOUT", 0.01)
        for one, two in ((store, plain), (plain, store)):
            with one.transaction("t"):
                put(one, "a")
                with pytest.raises(StoreError, match="locked by another"):
                    put(two, "b")
            put(two, "b")


def test_a_file_system_without_flock(new_handle, path, monkeypatch):
    import fcntl

    def flock(fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    store, other = new_handle(), new_handle()
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
def test_temporary_files_of_dead_writers_are_swept(new_handle, path, monkeypatch, flock):
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    os.makedirs(f"{path}/.FStmp")
    me = this_process()
    plant_session(path, f"{me.place}-{me.machine}-{process.pid}-{me.start}-abc")
    alive = plant_session(path, f"{me}-abc")
    elsewhere = plant_session(path, f"{ELSEWHERE}-abc")
    with new_handle() as store:
        put(store, "a")
        own = [name for name in sessions(path) if str(os.getpid()) in name and "abc" not in name]
    assert sessions(path) == sorted([*alive, *elsewhere])
    assert len(own) == 1
    # By the clock of the file server.
    os.utime(f"{path}/.FStmp/{elsewhere[1]}", (1, 1))
    with new_handle() as store:
        put(store, "a")
    assert sessions(path) == sorted(alive)


def test_check_finds_nothing_in_a_store_that_is_at_work(new_handle, monkeypatch):
    monkeypatch.setattr(_change_log, "MAX_SIZE", 500)
    store, other = new_handle(), new_handle()
    change_everything(store)
    with other.transaction("t"):
        put(other, "b", b"staged")
        assert store.check() == []
    with store.transaction("t"):
        put(store, "c", b"staged")
    assert [store.repair(), store.check(), other.check()] == [[], [], []]
    change_everything(other)


def test_a_session_gives_signs_of_life(new_handle, path, monkeypatch):
    added = {}
    add = lambda path, interval=1.0: added.update({path: interval})  # noqa: E731
    monkeypatch.setattr(_shared_directory.heartbeat, "add", add)
    store = new_handle()
    put(store, "a")
    ((alive, interval),) = (
        (name, interval) for name, interval in added.items() if name.endswith(".alive")
    )
    assert os.path.exists(alive)
    assert interval * 10 < _shared_directory._SILENCE


def test_the_log_has_one_line_a_change_that_others_can_read(new_handle, path):
    store = new_handle()
    put(store, "a b", n=1)
    first, second = log_of(path).decode().splitlines()
    number, action, day, hour, rest = first.split(" ", 4)
    assert (number, action) == ("1", "set")
    datetime.strptime(f"{day} {hour}", "%Y-%m-%d %H:%M:%S.%f")
    assert '"key":"a b"' in rest
    assert second.startswith("1 commit ")


def test_what_dead_ones_left_who_asked_for_the_lock_is_swept(path, new_handle, dead_owner):
    with new_handle() as store:
        put(store, "a")
    left = f"{path}/.FStmp/lock-shared.lock.{dead_owner()}-n1"
    with open(left, "w"):
        pass
    put(new_handle(), "b")
    assert not os.path.exists(left)


def test_a_lock_that_could_not_be_removed_is_removed_by_its_handle_later(
    path, new_handle, monkeypatch, caplog
):
    store = new_handle()
    put(store, "a")
    real = os.unlink

    def unlink(name):
        if "lock-shared" in name:
            raise PermissionError(errno.EPERM, "not now")
        real(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        put(store, "b")
    assert "lock-shared.lock') stays" in caplog.text
    assert os.path.exists(f"{path}/.FStmp/lock-shared.lock")
    put(store, "c")
    assert [name for name in os.listdir(f"{path}/.FStmp") if "shared" in name] == []
    assert list(store.keys()) == ["a", "b", "c"]


def test_a_transaction_that_is_left_behind_lets_others_write_again(new_handle, monkeypatch):
    """An interrupt may come between the block and the end of the transaction."""
    monkeypatch.setattr(filesystem_store, "LOCK_TIMEOUT", 5.0)
    store, other = new_handle(), new_handle()
    context = store.transaction("left behind")
    context.__enter__()
    put(store, "a")
    del context
    gc.collect()
    store.disconnect()
    put(other, "b")
    assert list(other.keys()) == ["b"]
