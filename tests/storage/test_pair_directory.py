"""Atomicity of pairs of files: whatever fails, whoever looks, and whenever."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import stat
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest

from encore.storage import _metadata_files
from encore.storage._metadata_files import dump, parse, stamps_of, trailer
from encore.storage._pair_directory import PairDirectory
from encore.storage._sessions import Session
from encore.storage._writer_lock import WriterLock
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

MODULES = ("_pair_directory", "_pair_reader", "_pair_writer", "_posix", "_sessions", "_writer_lock")
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
    with substituted(WatchedOS(**kwargs)):
        yield


@contextmanager
def substituted(fake):
    """Let all that the store does with files go through `fake`."""
    with ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(mock.patch(f"encore.storage.{module}.os", fake))
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


KINDS = ["OSError", "interrupt before", "interrupt after"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        # In the ordinary run each call fails in one way.
        *((kind, slice(first, None, len(KINDS))) for first, kind in enumerate(KINDS)),
        *(pytest.param(kind, slice(None), marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_failure_of_any_call_leaves_the_old_pairs_or_the_new_ones(operation, kind, chosen):
    old, new = expected(operation)
    results = []
    for n in range(1000)[chosen]:
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
    assert len(results) >= (3 if chosen.step else 8)


# Between two of these nothing changes that others find, but what is in temporary files.
NAMES = frozenset({"rename", "unlink", "fsync"})
CRASHES = [(set_old, NAMES), (delete, NAMES), (transaction, frozenset({"rename"}))]


@pytest.mark.parametrize(
    ("operation", "calls"),
    [
        *CRASHES,
        *(
            pytest.param(operation, WRITES | {"open"}, marks=pytest.mark.slow)
            for operation in OPERATIONS
        ),
    ],
)
def test_crash_at_any_call_leaves_the_old_pairs_or_the_new_ones(operation, calls):
    old, new = expected(operation)
    results = []
    for n in range(1000):
        with tempfile.TemporaryDirectory(dir=FAST) as root:
            init_shared_store(root)
            fill(root)
            store = opened(root, "power")
            done = 0
            crashed = None

            def hook(name, args, n=n):
                nonlocal done
                done += name in calls
                if crashed is False:  # noqa: B023 - called before the loop goes on
                    return None
                if done == n + 1 and name in calls:
                    raise Crash
                if done > n and name in WRITES:
                    return (0,)
                if done > n and name == "open" and args[1] & os.O_CREAT:
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


@pytest.mark.parametrize("case", ["replace", "metadata", "renew", "many", "foreign", "mixed"])
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
        elif case == "foreign" or (case == "mixed" and serial % 2):
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


@pytest.mark.parametrize("then", [set_old, set_metadata, delete, transaction, None])
@pytest.mark.parametrize("before", ["first", "second", "metadata"])
def test_a_writer_that_has_swept_finishes_what_another_one_leaves(root, before, then):
    """It is not only found at the beginning: writers die while others are at work."""
    fill(root)
    live, dead = opened(root), opened(root)
    live.from_bytes("other2", b"")
    live.delete("other2")
    put(dead, "old", b"of the dead", n=0)
    renames = 0

    def crash(name, args):
        nonlocal renames
        renames += 1
        if before != "second" or renames == 2:
            raise Crash

    def die():
        if before == "metadata":
            dead.set_metadata("old", {"n": 5})
        else:
            put(dead, "old", b"last words", n=5)

    with watched(before=crash, calls={"rename"}), pytest.raises(Crash):
        die()
    done = before == "second"
    dead._directory.forget()
    found = state(live)
    assert found["old"] == ((b"last words", {"n": 5}) if done else (b"of the dead", {"n": 0}))
    created = live.get("old").created
    if then is not None:
        then(live)
        new = expected(then)[1]
        data, metadata = new.get("old", (None, None))
        if then is set_metadata:
            data = found["old"][0]
        if data is None:
            assert not live.exists("old")
        else:
            value = live.get("old")
            assert (value.data.read(), value.metadata, value.created) == (data, metadata, created)
        if done:
            assert "p-old" not in os.listdir(f"{root}/.FStmp")
    after = state(live)
    live.disconnect()
    check_recovery(root, after, after)


@pytest.mark.parametrize("then", [set_new, set_old, set_metadata, delete, long_key])
def test_a_writer_that_has_swept_carries_out_the_journal_another_one_leaves(root, then):
    fill(root)
    live, dead = opened(root), opened(root)
    live.from_bytes("other2", b"")
    live.delete("other2")

    def crash(name, args):
        if str(args[1]).endswith("old.data"):
            raise Crash

    with watched(before=crash, calls={"rename"}), pytest.raises(Crash):
        transaction(dead)
    dead._directory.forget()
    committed = state(live)
    assert committed == expected(transaction)[1]
    assert os.path.exists(f"{root}/.FSjournal")
    then(live)
    assert not os.path.exists(f"{root}/.FSjournal")
    after = state(live)
    assert after["planted"] == committed["planted"]
    assert "other" not in after
    assert (after == committed) is (then is set_new)
    live.disconnect()
    check_recovery(root, after, after)


class Recorder(FileSystemStore):
    """Notes what is about to be committed, and what was."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []
        self.raises = None

    def _before_commit(self, changes):
        self._note("before", changes)

    def _after_commit(self, changes):
        self._note("after", changes)

    def _note(self, when, changes):
        assert self._pairs is self._locked
        other = PairDirectory(self.path, False)
        try:
            # Nobody else gets the lock meanwhile.
            with pytest.raises(StoreError, match="locked"):
                other.lock(0.0)
        finally:
            other.close()
        self.calls.append((when, changes, sorted(self._load_keys())))
        if self.raises == when:
            raise OSError(errno.EIO, "no")


def test_a_subclass_is_told_under_the_lock_what_changes(root):
    plant(root, "planted", b"", {})
    store = Recorder(root, durability="process")
    store.connect()

    def told():
        (before, changes, old), (after, same, new) = store.calls
        store.calls.clear()
        assert (before, after) == ("before", "after")
        assert changes == same
        return changes, old, new

    put(store, "Upper/new", b"1")
    assert told() == ([("Upper/new", "set")], ["planted"], ["Upper/new", "planted"])
    put(store, "Upper/new", b"2")
    assert told()[0] == [("Upper/new", "update")]
    store.set_metadata("planted", {"n": 1})
    assert told()[0] == [("planted", "update")]
    store.set_metadata("new", {"n": 1})
    assert told()[0] == [("new", "set")]
    store.delete("planted")
    assert told() == (
        [("planted", "delete")],
        ["Upper/new", "new", "planted"],
        ["Upper/new", "new"],
    )
    with store.transaction("t"):
        store.delete("new")
        put(store, "new", b"again")
        put(store, "brief", b"")
        store.delete("brief")
        put(store, "other", b"")
        store.set_metadata("other", {})
        store.delete("Upper/new")
        assert store.calls == []
    # What they come to, as seen from outside.
    assert told() == (
        [("new", "update"), ("other", "set"), ("Upper/new", "delete")],
        ["Upper/new", "new"],
        ["new", "other"],
    )
    with store.transaction("nothing"):
        put(store, "brief", b"")
        store.delete("brief")
    with pytest.raises(KeyError):
        store.delete("brief")
    assert store.calls == []
    store.disconnect()
    assert os.listdir(f"{root}/.FStmp") == ["lock"]


@pytest.mark.parametrize("change", [set_new, set_old, set_metadata, delete, transaction, long_key])
def test_what_a_subclass_raises_before_a_commit_prevents_it(root, change):
    fill(root)
    store = Recorder(root, durability="process")
    store.connect()
    old = state(store)
    store.raises = "before"
    with pytest.raises(StoreOSError, match="no"):
        change(store)
    assert state(store) == old
    store.raises = "after"
    with pytest.raises(StoreOSError, match="no"):
        change(store)
    found = state(store)
    assert found == expected(change)[1]
    store.disconnect()
    check_recovery(root, found, found)


class OtherLock(WriterLock):
    """A lock of another kind: a file that is there or not."""

    def __init__(self, path):
        super().__init__(path)
        self.held = False

    def acquire(self, deadline):
        try:
            os.close(os.open(self.path + "2", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise StoreError("locked by another kind") from None
        self.held = True

    def release(self):
        if self.held:
            os.unlink(self.path + "2")
            self.held = False

    def close(self):
        self.release()

    def forget(self):
        self.held = False


class OtherSession(Session):
    """A session that lives until it says otherwise."""

    def _announce(self, path):
        with open(path, "x") as file:
            file.write("alive")
        return True

    def _withdraw(self, path):
        os.unlink(path)

    def _drop(self):
        pass

    def _is_over(self, path):
        # Nobody doubts that he lives himself.
        assert not path.endswith(f"/{self.name}.alive")
        with open(path) as file:
            over = file.read() == "dead"
        if over:
            os.unlink(path)
        return over


class OtherStore(FileSystemStore):
    def _make_directory(self):
        folder = f"{self.path}/.FStmp"
        return PairDirectory(self.path, False, OtherLock(f"{folder}/lock"), OtherSession(folder))


def test_a_subclass_has_its_own_lock_and_its_own_sessions(root):
    one, other = OtherStore(root), OtherStore(root)
    one.connect()
    other.connect()
    put(one, "a", b"1")
    with one.transaction("held"), pytest.raises(StoreError, match="another kind"):
        put(other, "a", b"2")
    staged = one._directory.stage([b"not yet"])
    put(other, "a", b"3")
    # The one lives, says its session, though it holds no flock.
    assert os.path.exists(staged.path)
    with open(f"{root}/.FStmp/{one._directory.session.name}.alive", "w") as file:
        file.write("dead")
    third = OtherStore(root)
    third.connect()
    put(third, "a", b"4")
    assert not os.path.exists(staged.path)
    assert state(third) == {"a": (b"4", {})}
    one._directory.forget()
    for store in (one, other, third):
        store.disconnect()
    assert os.listdir(f"{root}/.FStmp") == []


def test_a_finalizer_that_writes_while_a_session_starts_does_no_harm(root):
    store = opened(root)
    real = store._directory.session._announce

    def announce(path):
        store._directory.session._announce = real
        put(store, "nested", b"1")
        return real(path)

    store._directory.session._announce = announce
    done = threading.Event()

    def write():
        put(store, "a", b"2")
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(60)
    assert state(store) == {"a": (b"2", {}), "nested": (b"1", {})}
    store.disconnect()


COUNTS = {
    "set_new": 14,
    "set_old": 17,
    "set_metadata": 12,
    "delete": 11,
    "get": 8,
    "get_metadata": 5,
    "exists": 3,
}


@pytest.mark.parametrize("what", COUNTS)
def test_system_calls_are_as_few_as_the_module_says(root, what):
    fill(root)
    store = opened(root)
    with store.transaction("warm"):
        put(store, "warm", b"")
        store.delete("warm")
    put(store, "warm", b"")
    calls = []

    def count(name, args=()):
        calls.append(name)

    operation = globals().get(what) or (lambda store: getattr(store, what)("old"))
    with (
        watched(before=count, calls=WRITES | READS),
        mock.patch("fcntl.flock", side_effect=lambda fd, how: count("flock")),
    ):
        operation(store)
    assert len(calls) == COUNTS[what], calls
    store.disconnect()


@pytest.mark.parametrize("read", ["get", "get_metadata"])
def test_metadata_that_are_being_written_by_another_program_are_read_again(root, read):
    plant(root, "planted", b"1", {"n": 1})
    text = b'{"n": 2}'
    path = f"{root}/planted.metadata"
    with open(path, "wb") as file:
        file.write(text[:4])
    store = opened(root)

    def go_on(name, args):
        with open(path, "wb") as file:
            file.write(text)

    with watched(after=go_on, calls={"read"}):
        found = getattr(store, read)("planted")
    assert (found.metadata if read == "get" else found) == {"n": 2}
    store.disconnect()


@pytest.mark.parametrize(("what", "count"), [("get", 15), ("get_metadata", 12)])
def test_system_calls_for_planted_pairs(root, what, count):
    plant(root, "planted", b"1", {"n": 1})
    store = opened(root)
    calls = []
    with watched(before=lambda name, args: calls.append(name), calls=WRITES | READS):
        getattr(store, what)("planted")
    assert len(calls) == count, calls
    store.disconnect()


def test_a_query_opens_one_file_a_key(root):
    store = opened(root)
    for n in range(20):
        put(store, f"k{n}", b"", n=n)
    calls = []
    with watched(before=lambda name, args: calls.append(name), calls=WRITES | READS):
        assert list(store.query(n=3)) == [("k3", {"n": 3})]
    assert calls.count("open") == calls.count("read") == calls.count("close") == 20
    assert len(calls) - 60 <= 6
    store.disconnect()


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
    with substituted(fake):
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


def test_a_clock_that_goes_back_stamps_no_data_earlier(root):
    store = opened(root, "power")
    calls = []
    with (
        mock.patch("time.time_ns", side_effect=range(10**18 + 9000, 0, -1000)),
        watched(before=lambda name, args: calls.append(name), calls=WRITES),
    ):
        put(store, "a", b"1", n=1)
        first = os.stat(f"{root}/a.data").st_mtime_ns
        calls.clear()
        put(store, "a", b"2", n=2)
    assert os.stat(f"{root}/a.data").st_mtime_ns > first
    # The second stamp is on the disk before the data have their name.
    last = len(calls) - calls[::-1].index("utime")
    assert calls.count("utime") == 2
    assert "fsync" in calls[last : calls.index("rename")]
    assert calls[last] == "fsync"
    assert state(store) == {"a": (b"2", {"n": 2})}
    store.disconnect()


def test_data_in_the_future_are_replaced_by_later_ones(root):
    plant(root, "planted", b"1", {"n": 1})
    os.utime(f"{root}/planted.data", (4e9, 4e9))
    store = opened(root)
    put(store, "planted", b"2", n=2)
    assert os.stat(f"{root}/planted.data").st_mtime_ns > 4 * 10**9 * 10**9
    assert state(store) == {"planted": (b"2", {"n": 2})}
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
    assert [name for name, _ in between] == ["fsync"]
    assert os.path.samestat(os.fstat(between[0][1][0]), os.stat(root))
    before = [name for name, _ in done[: renames[0]]]
    # The data, the pending file, and the directory they are in.
    assert before.count("fsync") == 3
    store.disconnect()


@pytest.mark.parametrize("change", ["set", "set_metadata", "delete"])
def test_the_directory_that_is_synced_is_the_one_that_was_changed(root, change):
    # All of it is moved away, and a copy put there, as who restores a backup does.
    store = opened(root, "power")
    for _ in range(2):
        put(store, "a", b"1")
    os.rename(root, f"{root}-old")
    shutil.copytree(f"{root}-old", root)
    synced = []
    with watched(before=lambda name, args: synced.append(os.fstat(args[0])), calls={"fsync"}):
        if change == "set":
            put(store, "a", b"2")
        elif change == "delete":
            store.delete("a")
        else:
            store.set_metadata("a", {"n": 1})
    shutil.rmtree(f"{root}-old")
    directories = [status.st_ino for status in synced if stat.S_ISDIR(status.st_mode)]
    assert os.stat(root).st_ino in directories
    assert {os.stat(folder).st_ino for folder in (root, f"{root}/.FStmp")} >= {*directories}
    store.disconnect()


@pytest.mark.parametrize("how", ["removed", "remade", "links", "contents"])
def test_what_is_synced_is_what_is_found_under_its_name(root, how):
    # The lock file may be the same one all the while, or another one with the same inode.
    store = opened(root, "power")
    put(store, "a", b"1")
    lock = store._pairs.writer_lock
    before = lock.identity
    aside = f"{root}-aside"
    if how == "removed":
        shutil.rmtree(f"{root}/.FStmp")
    elif how == "remade":
        shutil.rmtree(root)
        os.mkdir(root)
        init_shared_store(root)
    else:
        move = os.rename if how == "contents" else os.link
        for folder in ("", "/.FStmp"):
            os.mkdir(aside + folder)
            for entry in list(os.scandir(root + folder)):
                if entry.is_file():
                    move(entry.path, f"{aside}{folder}/{entry.name}")
        shutil.rmtree(root)
        os.rename(aside, root)
    synced = []
    with watched(before=lambda name, args: synced.append(os.fstat(args[0])), calls={"fsync"}):
        put(store, "b", b"2")
    assert (lock.identity == before) == (how in ("links", "contents"))
    directories = {
        (status.st_dev, status.st_ino) for status in synced if stat.S_ISDIR(status.st_mode)
    }
    found = [os.stat(path) for path in (root, f"{root}/.FStmp")]
    assert directories == {(status.st_dev, status.st_ino) for status in found}
    assert all(status.st_nlink for status in synced if stat.S_ISDIR(status.st_mode))
    store.disconnect()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_disconnect_closes_what_was_kept_open(root):
    before = os.listdir("/proc/self/fd")
    store = opened(root, "power")
    put(store, "a", b"1")
    store.delete("a")
    assert len(os.listdir("/proc/self/fd")) == len(before) + 4
    store.disconnect()
    assert os.listdir("/proc/self/fd") == before


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
    stamps = 1, 2**63 - 1, 1_700_000_000_123_456_789
    text = trailer(stamps)
    assert text.isspace()
    assert json.loads(b"{}" + text) == {}
    assert stamps_of(b"{}" + text) == stamps
    damaged = (b"", b"{}", b"{}\n", b"{}" + text[:-1], b"{}" + text + b"\n", b"x" * 300)
    for each in (*damaged, b"{}" + text[:50] + b"\n" + text[51:], b"{}\n" + b"_" * 192):
        assert stamps_of(each) is None


def test_metadata_files_are_the_same_without_the_encoder_in_c():
    metadata = {"a": [1, 2.5, None, {"\xe4": '\n"\U0001f600'}], "": 10**30, "t": True}
    stamps = 1, 2, 3
    with_c = dump(metadata, stamps)
    try:
        with mock.patch("json.encoder.c_make_encoder", None):
            _metadata_files._load()
        assert dump(metadata, stamps) == with_c
        assert parse(with_c) == json.loads(with_c) == metadata
    finally:
        _metadata_files._load()
    assert dump(metadata, stamps) == with_c


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
