"""Locks, interrupts, forks and errors of the FileSystemStore."""

from __future__ import annotations

import errno
import io
import os
import pickle
import tempfile
import threading
from contextlib import suppress
from unittest import mock

import pytest
from pair_files import pair, plant, put

import encore.storage.filesystem_store as module
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.filesystem_store import (
    FileSystemStore,
    init_shared_store,
)

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


@pytest.fixture
def store(root):
    store = FileSystemStore(root, durability="process")
    store.connect()
    yield store
    store.disconnect()


def test_disconnect_does_not_wait_for_a_transaction_of_another_thread(root, store):
    inside, over = threading.Event(), threading.Event()
    errors = []

    def hold():
        try:
            with store.transaction("t"):
                put(store, "a", bytes(100_000))
                inside.set()
                assert over.wait(60)
        except StoreError as error:
            errors.append(str(error))

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    store.disconnect()
    store.connect()
    other = FileSystemStore(root, durability="process")
    other.connect()
    # It keeps its lock until it ends.
    with pytest.raises(StoreError, match="locked"):
        other._directory.lock(0.0)
    over.set()
    thread.join(60)
    assert "disconnected in the middle" in errors[0]
    put(other, "b")
    put(store, "c")
    assert list(store.keys()) == ["b", "c"]
    other.disconnect()
    store.disconnect()
    assert os.listdir(f"{root}/.FStmp") == ["lock"]


class Interrupted:
    """A lock or a method that is interrupted before or after its work."""

    def __init__(self, real, after):
        self.real = real
        self.after = after
        self.interrupts = True

    def acquire(self, *args, **kwargs):
        return self(*args, **kwargs)

    def __call__(self, *args, **kwargs):
        acquire = getattr(self.real, "acquire", self.real)
        if not self.interrupts:
            return acquire(*args, **kwargs)
        self.interrupts = False
        if self.after:
            acquire(*args, **kwargs)
        raise KeyboardInterrupt

    def release(self):
        self.real.release()

    def _is_owned(self):
        return self.real._is_owned()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", ["mutex", "lock", "unlock"])
def test_an_interrupt_while_locking_leaves_the_store_usable(root, store, what, after):
    put(store, "a")
    target = (store, "_mutex") if what == "mutex" else (store._pairs, what)
    fake = Interrupted(getattr(*target), after)
    with mock.patch.object(*target, fake), pytest.raises(KeyboardInterrupt):
        store.set_metadata("a", {"n": 1})
    done = []
    thread = threading.Thread(target=lambda: done.append(store.delete("a")))
    thread.start()
    thread.join(60)
    assert done == [None]
    with FileSystemStore(root, durability="process") as other:
        other._directory.lock(0.0)
        other._directory.unlock()


def test_an_interrupt_at_any_line_that_unlocks_leaves_no_lock(root, store, interrupted):
    names = {
        "_perform",
        "_open_unit",
        "_begin",
        "_commit",
        "_finish",
        "_unlock",
        "unlock",
        "release",
    }
    where = []

    def unlocks(frame):
        code = frame.f_code
        if code.co_name not in names or "storage" not in code.co_filename:
            return False
        where.append((code.co_name, frame.f_lineno))
        return True

    number = 1
    with FileSystemStore(root, durability="process") as other:
        put(other, "a")
        while interrupted(lambda: store.set_metadata("a", {"n": 1}), unlocks, number):
            number += 1
            other._directory.lock(0.0)
            other._directory.unlock()
            free = []
            thread = threading.Thread(target=lambda: free.append(store._mutex.acquire(False)))  # noqa: B023
            thread.start()
            thread.join(60)
            # A thread that has ended has left the lock, but as its own.
            assert free == [True], where[-1]
            store._mutex = threading.RLock()
            assert store._state.unit is None, where[-1]
    assert number > 20


class GivenUp(Exception):
    """What ends a transaction that is to be rolled back."""


def is_ending(frame):
    """Whether a function is called to end a unit of work, or by those that are."""
    while frame is not None and "storage" in frame.f_code.co_filename:
        if frame.f_code.co_name in ("_leave", "_end", "__get__"):
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("event", ["call", pytest.param("line", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gives_up", [False, True])
def test_an_interrupt_in_the_end_of_a_transaction_leaves_no_lock(
    root, store, interrupted, gives_up, event
):
    def both(number):
        with store.transaction():
            put(store, "a", b"%d" % number, n=number)
            put(store, "b", b"%d" % number, n=number)
            if gives_up:
                raise GivenUp

    def attempt():
        with suppress(GivenUp):
            both(number)

    number, found = 0, [(b"0", {"n": 0})] * 2
    for key in ("a", "b"):
        put(store, key, b"0", n=0)
    with FileSystemStore(root, durability="process") as other:
        while True:
            number += 1
            was_interrupted = interrupted(attempt, is_ending, number, event=event)
            other._directory.lock(0.0)
            other._directory.unlock()
            before, found = found, [pair(store, key) for key in ("a", "b")]
            new = [(b"%d" % number, {"n": number})] * 2
            assert found in ((before,) if gives_up else (before, new))
            assert [pair(other, key) for key in ("a", "b")] == found
            done = []
            thread = threading.Thread(target=lambda: done.append(put(store, "c")))  # noqa: B023
            thread.start()
            thread.join(60)
            assert done == [None]
            if not was_interrupted:
                break
    assert gives_up or found == new
    assert number > 10


@pytest.mark.parametrize("event", ["call", pytest.param("line", marks=pytest.mark.slow)])
@pytest.mark.parametrize("many", [False, True])
def test_a_handler_that_writes_the_key_that_is_being_written_loses_nothing(
    root, store, interrupted, many, event
):
    def handler(frame):
        put(store, "k", b"handler", n=-1)
        put(store, "late", b"%d" % number, n=number)

    def write():
        if many:
            with store.transaction():
                put(store, "other", b"%d" % number, n=number)
                put(store, "k", b"%d" % number, n=number)
        else:
            put(store, "k", b"%d" % number, n=number)

    number = 0
    results = set()
    with FileSystemStore(root, durability="process") as other:
        while True:
            number += 1
            new = (b"%d" % number, {"n": number})
            came = interrupted(
                write,
                lambda frame: "storage" in frame.f_code.co_filename,
                number,
                handler,
                event=event,
            )
            found = pair(other, "k")
            assert found in (new, (b"handler", {"n": -1}))
            assert pair(store, "k") == found
            results.add(found[0] == b"handler")
            assert not many or pair(other, "other") == new
            if not came:
                break
            # What the handler was told to be done is there.
            assert pair(other, "late") == new
        put(other, "k")
    store.disconnect()
    assert os.listdir(f"{root}/.FStmp") == ["lock"]
    assert results == {False, True}


def test_nan_of_others_does_not_keep_new_data_out(root, store):
    plant(root, "k", metadata=b'{"n": NaN, "m": 1}')
    store.set_data("k", io.BytesIO(b"new"))
    store.update_metadata("k", {"m": 2})
    metadata = store.get_metadata("k")
    assert metadata.pop("n") != metadata.get("n", 0)
    assert metadata == {"m": 2}
    assert store.to_bytes("k") == b"new"


def test_what_is_nested_too_deeply_is_damaged(root, store):
    plant(root, "k", metadata=b'{"a":' * 900 + b"1" + b"}" * 900)
    put(store, "l")
    assert [key for key, _ in store.query()] == ["l"]
    with pytest.raises(StoreError, match="damaged"):
        store.get_metadata("k")


@pytest.mark.parametrize("point", ["_apply", "_finish", "_clean", "_unlock"])
def test_what_comes_in_the_middle_of_a_commit_is_not_lost(root, store, point):
    real = getattr(store, point)

    def interrupted(*arguments):
        monkeypatch.undo()
        put(store, "late", b"1")
        put(store, "late", b"2")
        real(*arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(store, point, interrupted)
        with store.transaction():
            put(store, "a", b"1")
            put(store, "b", b"1")
    with FileSystemStore(root, durability="process") as other:
        put(other, "c", b"1")
        expected = {"a": b"1", "b": b"1", "c": b"1", "late": b"2"}
        assert {key: other.to_bytes(key) for key in list(other.keys())} == expected


def test_a_thread_waits_for_the_transaction_of_another_no_longer_than_the_limit(store, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.01)
    errors = []

    def write():
        try:
            put(store, "a")
        except StoreError as error:
            errors.append(str(error))

    with store.transaction("t"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(60)
        assert "locked by another thread" in errors[0]
        put(store, "b")
    assert list(store.keys()) == ["b"]


def test_a_pickled_store_arrives_disconnected(root, store):
    put(store, "a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert not copy.is_connected()
    with pytest.raises(StoreError, match="not connected"):
        copy.get("a")
    with copy:
        assert pair(copy, "a") == (b"1", {})


def test_a_child_process_leaves_the_lock_of_its_parent_alone(root, store):
    put(store, "a", b"1")
    with store.transaction("t"):
        put(store, "a", b"2")
        child = os.fork()
        if child == 0:
            try:
                assert store.to_bytes("a") == b"1"
                store.disconnect()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        other = FileSystemStore(root)
        other.connect()
        with pytest.raises(StoreError, match="locked"):
            other._directory.lock(0.0)
        other.disconnect()
    assert store.to_bytes("a") == b"2"


def test_metadata_alone_do_not_touch_the_data(root, store):
    put(store, "a", bytes(100_000), n=1)
    before = os.stat(f"{root}/a.data")
    store.set_metadata("a", {"n": 2})
    after = os.stat(f"{root}/a.data")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_whole_records_for_what_builds_on_the_store(root, store):
    put(store, "a", b"1", n=1)
    plant(root, "Upper", b"22", {"n": 2})
    found = {key: (pair.metadata, pair.size) for key, pair in store._load_all()}
    assert found == {"a": ({"n": 1}, 1), "Upper": ({"n": 2}, 2)}


def test_info(store, root):
    info = store.info()
    assert info["path"] == root
    assert info["durable"] == "process"
    assert info["streaming"]
    assert info["index"] is False
    assert FileSystemStore(root, index=True).info()["index"] is True
    assert FileSystemStore(root).info()["durable"] == "power"


def test_an_index_is_no_text(root):
    with pytest.raises(TypeError, match="index is a bool, not 'false'"):
        FileSystemStore(root, index="false")


def test_a_transaction_reads_what_it_wrote(store):
    big = bytes(200_000)
    put(store, "a", b"old", n=1)
    with store.transaction("t"):
        put(store, "a", big, n=2)
        put(store, "b", b"new")
        value = store.get("a")
        assert (value.size, value.metadata) == (len(big), {"n": 2})
        store.set_metadata("a", {"n": 3})
        assert pair(store, "a") == (big, {"n": 3})
        store.delete("b")
        assert not store.exists("b")
        with pytest.raises(KeyError):
            store.get("b")
        put(store, "a", b"small")
    assert value.data.read() == big
    assert pair(store, "a") == (b"small", {})
    with store.transaction("t"):
        store.set_metadata("a", {"n": 4})
        assert pair(store, "a") == (b"small", {"n": 4})


def test_an_error_of_the_callers_stream_passes_unchanged(root, store):
    class Broken:
        def read(self, size):
            raise error

    put(store, "a", b"old")
    error = OSError(errno.EIO, "mine")
    with pytest.raises(OSError, match="mine") as caught:
        store.set_data("a", Broken())
    assert caught.value is error
    assert store.to_bytes("a") == b"old"
    assert len(os.listdir(f"{root}/.FStmp")) == 2


def test_one_that_cannot_be_read_hides_no_other(store):
    for key in ("a", "b", "c"):
        put(store, key, n=1)
    real = module.os.open
    for number in (errno.EACCES, errno.EPERM, errno.EIO):
        error = OSError(number, os.strerror(number))

        def refuse(path, *args, error=error):
            return throw(error) if str(path).endswith("b.metadata") else real(path, *args)

        with mock.patch("os.open", refuse):
            assert sorted(dict(store.query())) == ["a", "c"]
            with pytest.raises(StoreOSError):
                store.get_metadata("b")


def throw(error):
    raise error


def test_what_a_child_process_inherits_is_dropped_and_not_ended(root, store):
    put(store, "a", b"1")
    alive = f"{root}/.FStmp/{store._pairs.session.name}.alive"
    store._mutex.acquire()
    store._forked()
    assert os.path.exists(alive)
    assert in_thread(lambda: put(store, "a", b"2"))
    # This process has let go of it, so it is swept.
    assert not os.path.exists(alive)
    assert pair(store, "a") == (b"2", {})


def in_thread(function):
    done = []
    thread = threading.Thread(target=lambda: done.append(function()))
    thread.start()
    thread.join(60)
    return bool(done)
