"""Forks of a process that has an SqliteStore open."""

from __future__ import annotations

import gc
import os
import select
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing

import pytest
from sqlite_files import in_thread, pair, put, sql

import encore
import encore.storage._sqlite_base as base
import encore.storage._sqlite_connections as connections
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


def child(function):
    """Run in a child process; return what it says."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if not process:
        try:
            os.write(theirs, repr(function()).encode())
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(process, 0)
    return said


def test_a_child_process_uses_the_store_and_leaves_the_parent_alone(path, store):
    put(store, "a", BIG)
    in_thread(lambda: store.exists("a"))
    value = store.get("a")

    def use():
        put(store, "child", b"1")
        with store.transaction("t"):
            put(store, "child", b"2")
        assert pair(store, "a") == (BIG, {})
        return sorted(store.keys())

    assert child(use) == "['a', 'child']"
    assert value.data.read() == BIG
    assert pair(store, "child") == (b"2", {})
    put(store, "b")
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("held", [False, True])
def test_what_a_child_commits_survives_the_end_of_its_parents_connections(path, store, held):
    put(store, "a", BIG)
    value = store.get("a") if held else None
    to_child, from_child = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        try:
            put(store, "child1")
            os.write(from_child[1], b"x")
            os.read(to_child[0], 1)
            put(store, "child2")
        finally:
            os._exit(0)
    assert os.read(from_child[0], 1) == b"x"
    del value
    store.disconnect()
    os.write(to_child[1], b"x")
    os.waitpid(process, 0)
    for descriptor in (*to_child, *from_child):
        os.close(descriptor)
    store.connect()
    assert list(store.keys()) == ["a", "child1", "child2"]


def test_a_snapshot_is_not_read_in_a_child_process(path):
    with SqliteStore(path, durability="process") as store:
        put(store, "a", BIG)
        value = store.get("a")
        assert "cannot be read in a child process" in child(value.range().read)
        assert value.data.read() == BIG


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_fork_inside_a_transaction(path, store, size):
    put(store, "a", b"old")
    with store.transaction("t"):
        put(store, "a", bytes(size))
        said = child(lambda: store.to_bytes("a"))
        if size < 100 and store._wal:
            assert said == "b'old'"
        else:
            # What is in the WAL already cannot be undone in the child alone.
            assert "forked inside a transaction" in said
        put(store, "b", b"1")
    assert store.get("a").size == size
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert child(lambda: store.get("a").size) == str(size)


@pytest.mark.parametrize("own", [True, False])
def test_a_transaction_goes_on_when_the_child_has_left_it(store, monkeypatch, own):
    # What the child clears in the index of the WAL would be what the parent has just put there.
    monkeypatch.setattr(connections, "_STILL", 0)
    inside, go = threading.Event(), threading.Event()
    on, answer = os.pipe(), os.pipe()
    leave, stand_still = store._forked, store._stand_still

    def late():
        # The parent writes as soon as it can go on.
        if select.select([on[0]], [], [], 0.05)[0]:
            os.write(answer[1], b"the parent went on")
        leave()

    def standing(*arguments):
        stand_still(*arguments)
        go.set()

    def fork():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            os._exit(0)
        processes.append(process)

    def change():
        with store.transaction("t"):
            put(store, "a")
            inside.set()
            if own:
                fork()
            assert go.wait(60)
            put(store, "b")
            os.write(on[1], b"x")

    monkeypatch.setattr(store, "_forked", late)
    monkeypatch.setattr(store, "_stand_still", standing)
    processes = []
    thread = threading.Thread(target=change)
    thread.start()
    if not own:
        assert inside.wait(60)
        fork()
    thread.join(60)
    os.waitpid(processes[0], 0)
    os.close(answer[1])
    assert os.read(answer[0], 100) == b""
    for descriptor in (*on, answer[0]):
        os.close(descriptor)
    assert list(store.keys()) == ["a", "b"]


def test_the_end_of_a_child_leaves_the_transaction_of_the_parent_alone(path):
    program = """if True:
        import os, sys
        from encore.storage.sqlite_store import SqliteStore

        with SqliteStore(sys.argv[1], durability="process") as store:
            with store.transaction("t"):
                store.from_bytes("a", bytes(3_000_000))
                if not os.fork():
                    # Not os._exit(): the interpreter finalises what it has.
                    raise SystemExit
                os.wait()
                store.from_bytes("b", bytes(100_000))
    """
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(encore.__file__))}
    subprocess.run([sys.executable, "-c", program, path], check=True, env=environment, stderr=-3)
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    with SqliteStore(path) as store:
        assert [(key, store.get(key).size) for key in sorted(store.keys())] == [
            ("a", 3000000),
            ("b", 100000),
        ]


def ended(store):
    store.disconnect()
    gc.collect()


def used(store):
    assert list(store.keys()) == ["a"]
    assert store.to_bytes("a") == b"old"


def rolled_back(store):
    store._rollback()
    used(store)


@pytest.mark.parametrize("act", [gc.collect, ended, used, rolled_back])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_transaction_survives_whatever_a_child_does(path, store, act, size):
    put(store, "a", b"old")
    fits = size < 100 and store._wal
    with store.transaction("t"):
        put(store, "a", bytes(size))
        said = child(lambda: act() if act is gc.collect else act(store))
        assert ("forked inside a transaction" in said) == (act in (used, rolled_back) and not fits)
        # The locks are still those of the parent.
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        put(store, "b")
    assert store.get("a").size == size
    assert list(store.keys()) == ["a", "b"]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_child_writes_as_soon_as_an_empty_transaction_of_its_parent_is_over(store):
    ours, theirs = os.pipe()
    context = store.transaction("t")
    context.__enter__()
    process = os.fork()
    if not process:
        try:
            assert list(store.keys()) == []
            os.write(theirs, b"r")
            put(store, "child")
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read(1) == b"r"
    context.__exit__(None, None, None)
    os.waitpid(process, 0)
    assert list(store.keys()) == ["child"]


def test_a_small_transaction_is_in_memory_until_its_commit(path):
    with SqliteStore(path, durability="process") as store:
        store.multiset_metadata([f"k{n:03}" for n in range(100)], [{"n": n} for n in range(100)])
    with SqliteStore(path, durability="process") as store:
        put(store, "a")
        before = os.path.getsize(f"{path}-wal")
        with store.transaction("t"):
            # More than the page cache of SQLite holds, in one statement of which we know little.
            store._handle().connection.execute(
                "UPDATE store SET data = randomblob(60000)", ()
            ).fetchall()
            assert not store._handle().spills
            assert os.path.getsize(f"{path}-wal") == before
            for n in range(100):
                put(store, f"k{n:03}", bytes(60000))
            assert store._handle().spills
            assert os.path.getsize(f"{path}-wal") > before + 1_000_000
        with store.transaction("t"):
            put(store, "a")
            assert not store._handle().spills


class Closing:
    """A connection that takes its time to be closed."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.closed = 0

    def close(self):
        self.begun.set()
        assert self.go.wait(60)
        self.closed += 1


def dying(store):
    """Return a connection that another thread, whose end it was, is closing, and that thread."""
    connection = Closing()
    handles = [connections.Handle(connection, '"x"', None, store._opened)]
    thread = threading.Thread(target=handles.clear)
    thread.start()
    assert connection.begun.wait(60)
    return connection, thread


def test_a_fork_waits_for_the_end_of_a_connection(store, monkeypatch):
    connection, thread = dying(store)
    waits = threading.Event()

    def sleep(seconds):
        waits.set()
        connection.go.set()

    monkeypatch.setattr(connections, "sleep", sleep)
    put(store, "a")
    assert child(lambda: list(store.keys())) == "['a']"
    assert waits.is_set()
    thread.join(60)
    assert connection.closed == 1
    assert list(store._opened.values()) == [handle.connection for handle in store._live]


def test_a_connection_that_never_ends_is_told_in_the_child(store, monkeypatch):
    monkeypatch.setattr(connections, "_STILL", 0)
    connection, thread = dying(store)
    put(store, "a")
    assert "forked while another thread was closing it" in child(lambda: list(store.keys()))
    connection.go.set()
    thread.join(60)
    assert child(lambda: list(store.keys())) == "['a']"


def test_no_connection_begins_to_be_closed_during_a_fork(store):
    connection = Closing()
    connection.go.set()
    handles = [connections.Handle(connection, '"x"', None, store._opened)]
    thread = threading.Thread(target=handles.clear)
    connections._before_fork()
    try:
        thread.start()
        thread.join(0.02)
        assert not connection.closed
    finally:
        connections._after_fork()
    thread.join(60)
    assert connection.closed == 1


def test_a_child_closes_what_its_parent_was_about_to_close(store):
    connection = Closing()
    connection.go.set()
    store._opened[id(connection)] = connection
    assert child(lambda: (list(store.keys()), connection.closed)) == "([], 1)"
    assert connection.closed == 0
    store._opened.clear()


def forking(store, monkeypatch):
    """Return an event that is set when a fork is about to wait for other threads."""
    begun, real = threading.Event(), store._stand_still

    def stand_still(*arguments):
        begun.set()
        real(*arguments)

    monkeypatch.setattr(store, "_stand_still", stand_still)
    return begun


def test_a_fork_waits_for_the_transaction_of_another_thread(path, store, monkeypatch):
    begun, inside = forking(store, monkeypatch), threading.Event()

    def work():
        with store.transaction("t"):
            put(store, "a", b"1")
            inside.set()
            assert begun.wait(60)
            put(store, "a", b"2")
        assert over.wait(60)

    over = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)

    def use():
        put(store, "b")
        return store.to_bytes("a")

    assert child(use) == "b'2'"
    over.set()
    thread.join(60)
    assert list(store.keys()) == ["a", "b"]
    assert in_thread(lambda: put(store, "c")) is None


@pytest.mark.parametrize("what", ["inside a transaction", "while another thread was reading"])
def test_a_fork_that_has_waited_long_enough(path, store, monkeypatch, what):
    monkeypatch.setattr(connections, "_STILL", 0)
    inside, go = threading.Event(), threading.Event()

    def work():
        with store.transaction("t") if "inside" in what else base.Use(store):
            if "inside" in what:
                put(store, "b", BIG * 8)
            inside.set()
            assert go.wait(60)
        put(store, "a")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    assert f"forked {what}" in child(lambda: store.exists("a"))
    go.set()
    thread.join(60)
    assert store.exists("a")


def test_nobody_begins_anything_during_a_fork(store):
    put(store, "a")
    ready, go = threading.Event(), threading.Event()

    def work():
        store.exists("a")
        ready.set()
        assert go.wait(60)
        done = [store.exists("a")]
        put(store, "b")
        seen.append(done)

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(60)
    connections._before_fork()
    try:
        go.set()
        thread.join(0.02)
        assert not seen
        assert not [handle for handle in store._live if handle.users]
    finally:
        connections._after_fork()
    thread.join(60)
    assert seen == [[True]]


def test_a_store_that_connects_during_a_fork_does_no_harm(store, monkeypatch):
    class Busy:
        turns = 0

        def __iter__(self):
            Busy.turns += 1
            if Busy.turns < 3:
                raise RuntimeError("Set changed size during iteration")
            return iter([store])

        def __len__(self):
            return 1

    put(store, "a")
    monkeypatch.setattr(connections, "_connected", Busy())
    assert store._handles.mine is not None
    connections._before_fork()
    connections._after_fork()
    assert store._handles.mine is None
    assert store.exists("a")
