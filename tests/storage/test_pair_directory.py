"""Atomicity of pairs of files: whatever fails, whoever looks, and whenever."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import tempfile
from contextlib import contextmanager
from unittest import mock

import pytest

from encore.storage._pair_directory import PairDirectory, Stamps, _stamps, _trailer
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

WRITES = frozenset({"rename", "unlink", "mkdir", "utime", "fsync", "write"})
READS = frozenset({"open", "close", "read", "stat", "fstat", "listdir", "scandir", "access"})


class Crash(BaseException):
    """The process ends here."""


class WatchedOS:
    """The os module, with a hook that is called before and after each system call."""

    path = os.path

    def __init__(self, before=None, after=None, calls=WRITES | READS):
        self.before = before
        self.after = after
        self.calls = calls
        self.busy = False

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in self.calls:
            return function

        def call(*args, **kwargs):
            if self.busy:
                return function(*args, **kwargs)
            if self.before is not None:
                answer = self._run(self.before, name, args)
                if answer is not None:
                    return answer[0]
            result = function(*args, **kwargs)
            if self.after is not None:
                self._run(self.after, name, args)
            return result

        return call

    def _run(self, hook, name, args):
        self.busy = True
        try:
            return hook(name, args)
        finally:
            self.busy = False


@contextmanager
def watched(**kwargs):
    with mock.patch("encore.storage._pair_directory.os", WatchedOS(**kwargs)):
        yield


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


def opened(root, durability="process"):
    store = FileSystemStore(root, durability=durability)
    store.connect()
    return store


def put(store, key, data, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def plant(root, key, data, metadata):
    for name, content in (("data", data), ("metadata", json.dumps(metadata).encode())):
        with open(f"{root}/.FSplanted", "wb") as file:
            file.write(content)
        os.replace(file.name, f"{root}/{key}.{name}")


def state(store):
    """Everything in a store, seen in every way there is."""
    found = {}
    for key in store.query_keys():
        value = store.get(key)
        found[key] = value.data.read(), value.metadata
    assert dict(store.query()) == {key: metadata for key, (_, metadata) in found.items()}
    assert list(store.keys()) == sorted(found)
    assert [key for key in ("new", "old", "planted", "other") if store.exists(key)] == [
        key for key in ("new", "old", "planted", "other") if key in found
    ]
    return found


def fill(root):
    plant(root, "planted", b"from elsewhere", {"n": 0})
    store = opened(root)
    put(store, "old", b"old data", n=1)
    put(store, "other", b"other data", n=1)
    store.disconnect()


def set_new(store):
    put(store, "new", b"new data", n=2)


def set_old(store):
    put(store, "old", b"new data, longer", n=2)


def set_planted(store):
    put(store, "planted", b"new data", n=2)


def set_metadata(store):
    store.set_metadata("old", {"n": 2, "more": [1, 2]})


def set_metadata_of_planted(store):
    store.set_metadata("planted", {"n": 2})


def set_metadata_of_new(store):
    store.set_metadata("new", {"n": 2})


def delete(store):
    store.delete("old")


def delete_planted(store):
    store.delete("planted")


def transaction(store):
    with store.transaction("many"):
        put(store, "new", b"new data", n=2)
        put(store, "old", b"given up soon", n=2)
        put(store, "old", b"new data", n=3)
        store.set_metadata("planted", {"n": 4})
        store.delete("other")


def long_key(store):
    put(store, "long/" * 100, b"new data", n=2)


OPERATIONS = [
    set_new,
    set_old,
    set_planted,
    set_metadata,
    set_metadata_of_planted,
    set_metadata_of_new,
    delete,
    delete_planted,
    transaction,
    long_key,
]


def expected(operation):
    """The states before and after an operation."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        fill(folder)
        store = opened(folder)
        old = state(store)
        operation(store)
        new = state(store)
        store.disconnect()
        assert old != new
        return old, new


def check_recovery(root, old, new, durability="process"):
    """What a new handle finds must stay, and nothing may be left over once it has written."""
    second = opened(root, durability)
    found = state(second)
    assert found in (old, new)
    second.from_bytes("other2", b"")
    after = state(second)
    assert after.pop("other2") == (b"", {})
    assert after == found
    second.delete("other2")
    second.disconnect()
    assert sorted(os.listdir(f"{root}/.FStmp")) == ["lock"]
    names = [name for name in os.listdir(root) if not name.startswith(".FS")]
    keys = [name for name in names if name.endswith(".key")]
    assert len(names) - len(keys) == 2 * len(found)
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["OSError", "interrupt before", "interrupt after"])
def test_failure_of_any_call_leaves_the_old_pairs_or_the_new_ones(operation, kind):
    old, new = expected(operation)
    results = []
    for n in range(1000):
        with tempfile.TemporaryDirectory(dir=FAST) as root:
            init_shared_store(root)
            fill(root)
            store = opened(root, "power")
            calls = 0

            def hook(name, args, n=n):
                nonlocal calls
                calls += 1
                if calls == n + 1:
                    if kind != "OSError":
                        raise KeyboardInterrupt
                    if name == "close":
                        os.close(*args)
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            raised = None
            with watched(**{"after" if kind == "interrupt after" else "before": hook}):
                try:
                    operation(store)
                except (StoreOSError, KeyboardInterrupt) as error:
                    raised = type(error)
            if calls <= n:
                assert raised is None
                store.disconnect()
                break
            found = state(store)
            assert found in (old, new), (n, raised)
            if raised is None:
                assert found == new
            results.append(found == new)
            other = opened(root)
            assert state(other) == found
            other.disconnect()
            # The store is usable, and so is the key.
            operation_again = operation in (delete, delete_planted, transaction) and found == new
            if not operation_again:
                operation(store)
                assert state(store) == new
            store.disconnect()
            del raised
            check_recovery(root, old, new)
    # The failures came on both sides of the commit.
    assert False in results
    assert len(results) >= 8


@pytest.mark.parametrize("operation", OPERATIONS)
def test_crash_at_any_call_leaves_the_old_pairs_or_the_new_ones(operation):
    old, new = expected(operation)
    results = []
    for n in range(1000):
        with tempfile.TemporaryDirectory(dir=FAST) as root:
            init_shared_store(root)
            fill(root)
            store = opened(root, "power")
            calls = 0
            crashed = None

            def hook(name, args, n=n):
                nonlocal calls
                calls += 1
                if crashed is False:  # noqa: B023 - called before the loop goes on
                    return None
                if calls == n + 1:
                    raise Crash
                if calls > n and name in WRITES:
                    return (0,)
                if calls > n and name == "open" and args[1] & os.O_CREAT:
                    raise OSError(errno.EIO, "there is no process any more")
                return None

            with watched(before=hook, calls=WRITES | {"open"}):
                try:
                    operation(store)
                    crashed = False
                except Crash:
                    crashed = True
                del store
                gc.collect()
            if not crashed:
                break
            found = check_recovery(root, old, new)
            results.append(found == new)
    # Once the commit is made no crash undoes it.
    assert results == sorted(results)
    assert False in results
    assert len(results) >= 3


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("durability", ["process", "power"])
def test_readers_see_old_or_new_at_any_moment(root, operation, durability):
    fill(root)
    store, reader = opened(root, durability), opened(root)
    seen = []

    def look(name, args):
        found = state(reader)
        if not seen or found != seen[-1]:
            seen.append(found)

    before = state(reader)
    with watched(before=look, after=look, calls=WRITES):
        operation(store)
    after = state(reader)
    assert seen == [before, after]
    store.disconnect()
    reader.disconnect()


@pytest.mark.parametrize("case", ["replace", "metadata", "renew", "many", "foreign"])
def test_reader_overtaken_by_a_writer_at_any_moment_sees_no_mix(root, case):
    store, reader = opened(root), opened(root)
    serial = 0

    def write():
        nonlocal serial
        serial += 1
        if case == "metadata" and serial > 1:
            store.set_metadata("old", {"n": serial})
        elif case == "renew" and serial > 1:
            store.delete("old")
            put(store, "old", b"%d" % serial, n=serial)
        elif case == "many":
            with store.transaction("both"):
                put(store, "old", b"%d" % serial, n=serial)
                put(store, "other", b"%d" % serial, n=serial)
        elif case == "foreign":
            plant(root, "old", b"%d" % serial, {"n": serial})
        else:
            put(store, "old", b"%d" % serial, n=serial)

    def get():
        value = reader.get("old")
        return value.data.read(), value.metadata

    def query():
        return dict(reader.query())["old"]

    write()
    for read in (get, query):
        for n in range(1000):
            calls = 0
            writes_at = {n, n + 2}

            def hook(name, args, writes_at=writes_at):
                nonlocal calls
                calls += 1
                if calls - 1 in writes_at:
                    write()

            earliest = serial
            with watched(before=hook, calls=READS):
                found = read()
            if read is get:
                data, metadata = found
                if case != "metadata":
                    assert data == b"%d" % metadata["n"], n
            else:
                metadata = found
            assert metadata["n"] >= earliest
            if calls <= n:
                break
        assert n >= 3
    store.disconnect()
    reader.disconnect()


def test_dead_writers_are_swept_and_live_ones_are_not(root):
    live, dead = opened(root), opened(root)
    folder = f"{root}/.FStmp"
    source = live._directory.stage([b"not yet"])
    rest = dead._directory.stage([b"never"])
    # What the end of a process does.
    dead._directory.forget()
    third = opened(root)
    third.from_bytes("a", b"")
    assert os.path.exists(source.path)
    assert not os.path.exists(rest.path)
    source.remove()
    live.disconnect()
    third.disconnect()
    assert os.listdir(folder) == ["lock"]
    dead.disconnect()


def test_a_dropped_store_leaves_no_open_files(root):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        store = opened(root)
        store.from_bytes("a", b"")
        del store
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(f"{root}/.FStmp") == ["lock"]


def test_a_damaged_journal_blocks_nobody(root):
    # An empty one may come of a power failure without durability='power'.
    for text in ("", "[[1]]", "{", "[3]"):
        with open(f"{root}/.FSjournal", "w") as file:
            file.write(text)
        store = opened(root)
        assert state(store) == {}
        store.from_bytes("a", b"b")
        assert store.to_bytes("a") == b"b"
        assert not os.path.exists(f"{root}/.FSjournal")
        store.delete("a")
        store.disconnect()


def test_a_journal_that_somebody_meddled_with_does_not_hang_readers(root):
    with open(f"{root}/.FSjournal", "w") as file:
        json.dump([["a", "gone-1", "gone-2", False], ["b", None, None, True]], file)
    plant(root, "b", b"", {})
    plant(root, "c", b"", {})
    store = opened(root)
    assert not store.exists("a")
    assert not store.exists("b")
    assert dict(store.query()) == {"c": {}}
    store.disconnect()


def test_a_directory_in_the_way_is_found_before_the_commit(root):
    store = opened(root)
    os.mkdir(f"{root}/a.metadata")

    def both():
        with store.transaction("t"):
            store.from_bytes("a", b"")
            store.from_bytes("b", b"")

    with pytest.raises(StoreOSError) as caught:
        both()
    assert caught.value.errno == errno.EISDIR
    assert state(store) == {}
    store.from_bytes("b", b"fine")
    # Step 4 of a single pair cannot be done, but it can be seen.
    with pytest.raises(StoreOSError):
        store.set_metadata("b/../a", {}) or both()
    assert state(store)["b"] == (b"fine", {})
    store.disconnect()


def test_stamps_differ_also_where_times_are_coarse(root):
    def coarse(target, *, ns):
        os.utime(target, ns=(ns[0] // 2_000_000_000 * 2_000_000_000,) * 2)

    fake = WatchedOS(calls=frozenset())
    fake.utime = coarse
    store = opened(root)
    with mock.patch("encore.storage._pair_directory.os", fake):
        stamps = set()
        for n in range(4):
            put(store, "a", b"%d" % n, n=n)
            stamps.add(os.stat(f"{root}/a.data").st_mtime_ns)
            with store.transaction("t"):
                put(store, "a", b"%d" % n, n=-n)
                put(store, "b", b"%d" % n, n=-n)
            stamps.add(os.stat(f"{root}/a.data").st_mtime_ns)
            assert state(store)["a"] == (b"%d" % n, {"n": -n})
    assert len(stamps) == 8
    store.disconnect()


def test_power_failure_never_finds_step_4_without_step_3(root):
    # The directory is synced between the two renames.
    store = opened(root, "power")
    put(store, "a", b"1")
    done = []
    with watched(before=lambda name, args: done.append((name, args)), calls=WRITES | {"open"}):
        put(store, "a", b"2")
    names = [
        (name, os.path.basename(str(args[1])) if name == "rename" else None) for name, args in done
    ]
    renames = [index for index, (name, _) in enumerate(names) if name == "rename"]
    assert [names[index][1] for index in renames] == ["a.data", "a.metadata"]
    between = done[renames[0] + 1 : renames[1]]
    assert [name for name, _ in between] == ["open", "fsync"]
    assert between[0][1][0] == root
    before = [name for name, _ in done[: renames[0]]]
    # The data, the pending file, and the directory they are in.
    assert before.count("fsync") == 3
    store.disconnect()


def test_process_durability_syncs_nothing(root):
    store = opened(root)
    with watched(before=lambda name, args: pytest.fail(name), calls={"fsync"}):
        transaction_of_two(store)
    store.disconnect()


def transaction_of_two(store):
    with store.transaction("t"):
        store.from_bytes("a", b"")
        store.from_bytes("b", b"")
    store.delete("a")
    store.set_metadata("b", {"a": 1})


def test_trailer_is_white_space_that_says_the_stamps():
    stamps = Stamps(1, 2**63 - 1, 1_700_000_000_123_456_789)
    trailer = _trailer(stamps)
    assert trailer.isspace()
    assert json.loads(b"{}" + trailer) == {}
    assert _stamps(b"{}" + trailer) == stamps
    for damaged in (b"", b"{}", b"{}\n", b"{}" + trailer[:-1], b"{}" + trailer + b"\n", b"x" * 300):
        assert _stamps(damaged) is None


def test_readers_give_up_on_what_never_holds_still(root):
    plant(root, "a", b"", {})
    pairs = PairDirectory(root, False)
    turn = 0

    def change(name, args):
        nonlocal turn
        if name == "read":
            turn += 1
            plant(root, "a", b"", {"turn": turn})

    with watched(after=change), pytest.raises(StoreError, match="changes faster"):
        pairs.look("a")


def test_the_lock_is_waited_for_no_longer_than_asked(root):
    one, other = opened(root), opened(root)
    with one.transaction("held"), pytest.raises(StoreError, match="locked by another process"):
        other._directory.lock(0.0)
    other.from_bytes("a", b"")
    one.disconnect()
    other.disconnect()


def test_a_session_that_is_being_born_is_not_swept_away(root):
    """Somebody who sweeps may find the lock file of a session before it is locked."""
    import fcntl

    pairs = PairDirectory(root, False)
    real, swept = fcntl.flock, []

    def flock(fd, how):
        if not swept:
            swept.append(os.listdir(f"{root}/.FStmp")[0])
            os.unlink(f"{root}/.FStmp/{swept[0]}")
        real(fd, how)

    with mock.patch("fcntl.flock", flock):
        session = pairs.start()
    assert swept != [f"{session}.alive"]
    assert os.listdir(f"{root}/.FStmp") == [f"{session}.alive"]
    pairs.close()
    assert os.listdir(f"{root}/.FStmp") == []
