"""Interrupts and signal handlers in the middle of what an SqliteStore does."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sqlite3
import threading
import time
from unittest import mock

import pytest
from sqlite_files import in_thread, put

import encore.storage._changes as changes
import encore.storage._sqlite_base as base
import encore.storage._sqlite_connections as connections
import encore.storage._sqlite_short_way as short_way
import encore.storage.base_store as base_store
import encore.storage.sqlite_store as module
from encore.events.event_manager import EventManager
from encore.storage._sqlite_blobs import CHUNK
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


class Stream:
    """A stream of which nothing is known."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def sql(path, text, values=()):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(text, values).fetchall()


@pytest.mark.parametrize("where", ["_begin", "_commit"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        lambda store: put(store, "h"),
        lambda store: store.set("h", (io.BytesIO(), {}), if_none_match="*"),
        lambda store: store.multiset(["h"], [(io.BytesIO(), {})]),
        lambda store: store.set("h", (Stream(BIG), {})),
    ],
)
def test_a_signal_handler_between_a_unit_and_its_transaction(path, where, after, act):
    events = EventManager()
    store = SqliteStore(path, event_manager=events, durability="process")
    store.connect()
    put(store, "a")
    told, real, left = [], getattr(SqliteStore, where), [1]
    events.connect(StoreModificationEvent, lambda event: told.append(event.key))

    def between(self):
        if after:
            real(self)
        if left:
            left.clear()
            act(self)
        if not after:
            real(self)

    with mock.patch.object(SqliteStore, where, between):
        store.set_metadata("a", {"n": 1})
    assert not left
    assert sorted(told) == ["a", "h"]
    assert store.get_metadata("a") == {"n": 1}
    assert store.exists("h")
    assert not store._handle().connection.in_transaction
    assert in_thread(lambda: put(store, "b")) is None
    store.disconnect()


class Interrupted:
    """A lock whose acquire() is interrupted before or after its work."""

    def __init__(self, real, after):
        self.real = real
        self.after = after

    def acquire(self, **kwargs):
        if self.after:
            self.real.acquire(**kwargs)
        raise KeyboardInterrupt

    def release(self):
        self.real.release()


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_while_locking_leaves_the_store_usable(store, after):
    fake = Interrupted(store._mutex, after)
    with mock.patch.object(store, "_mutex", fake):
        for call in (lambda: put(store, "a"), lambda: store.transaction("t").__enter__()):
            with pytest.raises(KeyboardInterrupt):
                call()
    assert in_thread(lambda: put(store, "a")) is None


@pytest.mark.parametrize("error", [StoreError, KeyboardInterrupt])
def test_who_gives_up_waiting_leaves_the_transaction_of_another_thread(
    path, store, monkeypatch, error
):
    put(store, "a", b"old")
    inside, go, result = threading.Event(), threading.Event(), []

    def work():
        with pytest.raises(ZeroDivisionError), store.transaction("t"):  # noqa: PT012
            put(store, "a", b"new")
            inside.set()
            assert go.wait(60)
            raise ZeroDivisionError
        result.append(store.to_bytes("a"))
        put(store, "b")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    if error is StoreError:
        monkeypatch.setattr(base, "BUSY", 0)
        with pytest.raises(error, match="another thread"):
            put(store, "c")
    else:
        fake = Interrupted(store._mutex, False)
        with mock.patch.object(store, "_mutex", fake), pytest.raises(error):
            put(store, "c")
    go.set()
    thread.join(60)
    assert result == [b"old"]
    assert sql(path, "SELECT key, data FROM store ORDER BY key") == [("a", b"old"), ("b", b"")]


OURS = os.path.dirname(base.__file__)


@pytest.mark.parametrize("how", ["set", "metadata", "transaction"])
def test_an_interrupt_at_any_call_leaves_the_store_usable(store, how, interrupted):
    def ours(frame):
        return frame.f_code.co_filename.startswith(OURS)

    def in_transaction():
        with store.transaction("t"):
            put(store, "a")

    call = {
        "set": lambda: put(store, "a"),
        "metadata": lambda: store.set_metadata("a", {"n": 1}),
        "transaction": in_transaction,
    }[how]
    put(store, "a")
    connection = store._handle().connection
    count = 1
    while interrupted(call, ours, count, event="call"):
        count += 1
        assert not connection.in_transaction
        store._state.unit = None
        with pytest.raises(RuntimeError):
            store._mutex.release()
    assert count > 5


# Transactions that an interrupt has kept from being left


def plain(store):
    with store.transaction("t"):
        put(store, "a", b"1")


def named(store):
    # Referred to by a variable, too.
    with store.transaction("t") as t:
        put(store, "a", b"1")
        assert t is not None


def nested(store):
    with store.transaction("t"):
        put(store, "a", b"1")
        with store.transaction("u"):
            put(store, "a", b"2")
        with contextlib.suppress(ZeroDivisionError), store.transaction("v"):
            put(store, "a", b"3")
            raise ZeroDivisionError


@pytest.mark.parametrize("event", ["call", "line"])
@pytest.mark.parametrize("block", [plain, named, nested])
def test_a_transaction_is_over_as_soon_as_it_is_interrupted(path, block, event, interrupted):
    files = {changes.__file__, base_store.__file__}
    if event == "call":
        files |= {base.__file__, connections.__file__}
    with SqliteStore(path, durability="process") as store:
        seen = []

        def call():
            try:
                block(store)
            except KeyboardInterrupt:
                # Still being handled: its traceback refers to all there was.
                seen.append((store._state.unit, store._handle().connection.in_transaction))
                seen.append((store._mutex._is_owned(), store._writer))
                raise

        number = 1
        while interrupted(call, files, number, event=event):
            number += 1
            assert seen in ([], [(None, False), (False, None)]), number
            seen.clear()
        assert number > 20
        assert store.to_bytes("a") in (b"1", b"2")


def test_an_interrupt_of_an_inner_transaction_undoes_that_alone(path, interrupted):
    with SqliteStore(path, durability="process") as store:

        def inner():
            with store.transaction("u"):
                put(store, "inner", b"2")

        def call():
            with store.transaction("t"):
                put(store, "outer", b"1")
                with contextlib.suppress(KeyboardInterrupt):
                    inner()
                done.append(store.exists("inner"))
                put(store, "late", b"3")

        def leaves(frame):
            return frame.f_code in (
                changes.TransactionContext._leave.__code__,
                base_store.BaseStore._leave.__code__,
                base.SqliteBase._rollback_to.__code__,
                base.SqliteBase._release.__code__,
            )

        number, done, seen = 1, [], set()
        while interrupted(call, leaves, number):
            number += 1
            found = list(store.keys())
            # Or it came where the outer one was left.
            assert found == [] or found == ["inner"] * done[0] + ["late", "outer"]
            seen.add((*found, *done))
            done.clear()
            for key in found:
                store.delete(key)
        assert seen >= {("late", "outer", False), ("inner", "late", "outer", True)}


def test_a_generator_that_was_not_ended_ends_with_the_transaction_around(path):
    with SqliteStore(path, durability="process") as store:

        def generate():
            with store.transaction("inner"):
                put(store, "a", b"1")
                yield

        with store.transaction("outer"):
            generator = generate()
            next(generator)
            put(store, "b", b"2")
        assert store._state.unit is None
        with pytest.raises(StoreError, match="no transaction to leave"):
            next(generator)
        assert in_thread(lambda: put(store, "c")) is None
        assert list(store.keys()) == ["a", "b", "c"]


def test_a_context_that_is_dropped_is_rolled_back(path):
    with SqliteStore(path, durability="process") as store:
        context = store.transaction("t")
        context.__enter__()
        put(store, "a")
        assert store.exists("a")
        del context
        assert not store.exists("a")
        with contextlib.ExitStack() as stack:
            stack.enter_context(store.transaction("t"))
            put(store, "b")
        assert in_thread(lambda: list(store.keys())) == ["b"]


def test_a_transaction_is_left_by_the_thread_that_entered_it(path):
    with SqliteStore(path, durability="process") as store:
        context = store.transaction("t")
        context.__enter__()
        put(store, "a")

        def leave():
            with pytest.raises(StoreError, match="no transaction to leave"):
                context.__exit__(None, None, None)
            return True

        assert in_thread(leave)
        context.__exit__(None, None, None)
        assert store.exists("a")


# Signal handlers in the middle of a change

HUGE = bytes(2 * CHUNK + 1)
CHANGES = {
    "if_match": lambda store, etag: store.set("a", (io.BytesIO(b"1"), {"m": 1}), if_match=etag),
    "large": lambda store, etag: put(store, "a", HUGE, m=1),
    "metadata": lambda store, etag: store.update_metadata("a", {"m": 1}),
    "data": lambda store, etag: store.set_data("a", Stream(b"1")),
    "delete": lambda store, etag: store.delete("a", if_match=etag),
}
HANDLERS = {
    "set": lambda store: put(store, "a", b"22", h=1),
    "large": lambda store: put(store, "a", HUGE * 2, h=1),
    "metadata": lambda store: store.update_metadata("a", {"h": 1}),
    "delete": lambda store: store.delete("a"),
    "other": lambda store: put(store, "h"),
    "transaction": lambda store: in_transaction(store, lambda: put(store, "a", b"22", h=1)),
}


def in_transaction(store, action):
    with store.transaction("handler"):
        action()


@pytest.mark.parametrize("size", [3, CHUNK + 7])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_signal_handler_comes_before_a_change_or_after_it(
    path, change, handler, size, interrupted
):
    told, events = [], EventManager()
    events.connect(StoreModificationEvent, lambda event: told.append((type(event), event.key)))
    files = {module.__file__, base_store.__file__, base.__file__, short_way.__file__}

    with SqliteStore(path, event_manager=events, durability="process") as store:

        def begin():
            for key in list(store.keys()):
                store.delete(key)
            put(store, "a", bytes(size))
            told.clear()
            etag = store.get("a").etag
            done = {}

            def run(name, *arguments):
                try:
                    (CHANGES[name] if arguments else HANDLERS[name])(store, *arguments)
                    done[bool(arguments)] = None
                except (KeyError, StoreError) as error:
                    done[bool(arguments)] = type(error)

            return (lambda: run(change, etag)), (lambda *frame: run(handler)), done

        def outcome(done):
            values = [(key, store.get(key)) for key in list(store.keys())]
            found = {key: (value.data.read(), value.metadata) for key, value in values}
            return done, found, sorted(told, key=repr)

        orders = []
        for turn in (0, 1):
            *both, done = begin()
            both[turn]()
            both[1 - turn]()
            orders.append(outcome(done))
        number = 1
        while True:
            call, action, done = begin()
            # Not at each line: that would take long.
            if not interrupted(call, files, number, action):
                break
            assert outcome(done) in orders
            assert store._state.unit is None
            assert not store._mutex._is_owned()
            number += 11
        assert number > 10
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_handler_that_comes_each_time_does_not_keep_a_change_from_its_end(path, monkeypatch):
    with SqliteStore(path, durability="process") as store:
        put(store, "a")
        real, turns = SqliteStore._save, []

        def save(self, key, *arguments):
            if key == "a":
                turns.append(1)
                store.set_metadata("h", {"turns": len(turns)})
            real(self, key, *arguments)

        monkeypatch.setattr(SqliteStore, "_save", save)
        store.set_metadata("a", {"n": 1})
        assert 2 < len(turns) < 20
        assert store.get_metadata("a") == {"n": 1}
        assert store.get_metadata("h") == {"turns": len(turns)}


class InterruptedConnection:
    """A connection that is interrupted while it is closed."""

    def __init__(self, real):
        self.real = real

    def close(self):
        self.real.close()
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_in_a_finalizer_is_not_lost(path):
    real = sqlite3.connect(path, check_same_thread=False)
    opened = {}
    handle = connections.Handle(InterruptedConnection(real), '"c"', object(), opened)

    def drop():
        nonlocal handle
        handle = None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pass

    with pytest.raises(KeyboardInterrupt):
        drop()
    assert not opened
    assert not connections._closing
    with pytest.raises(sqlite3.ProgrammingError):
        real.execute("SELECT 1")


def test_an_interrupt_comes_again_when_the_finalizer_has_ended(path, monkeypatch):
    looked, struck, inside = threading.Event(), threading.Event(), []
    start = connections.start_new_thread

    def start_and_wait(function, arguments):
        start(function, arguments)
        if looked.wait(60):
            inside.append(struck.is_set())

    monkeypatch.setattr(connections, "start_new_thread", start_and_wait)
    monkeypatch.setattr(connections, "sleep", lambda seconds: looked.set())
    monkeypatch.setattr(connections, "interrupt_main", struck.set)
    handle = connections.Handle(
        InterruptedConnection(sqlite3.connect(path, check_same_thread=False)), '"c"', object(), {}
    )
    del handle
    assert struck.wait(60)
    assert inside == [False]


def test_an_interrupt_before_a_connection_is_closed_closes_it(path, monkeypatch):
    class Doorway:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *error):
            raise AssertionError

    again = []
    monkeypatch.setattr(connections, "_doorway", Doorway())
    monkeypatch.setattr(connections, "_interrupt_again", lambda: again.append(1) or True)
    real = sqlite3.connect(path)
    handle = connections.Handle(real, '"c"', object(), {})
    del handle
    assert again
    with pytest.raises(sqlite3.ProgrammingError):
        real.execute("SELECT 1")


def test_an_interrupt_of_another_thread_is_no_concern_of_the_main_one():
    assert in_thread(connections._interrupt_again) is False
