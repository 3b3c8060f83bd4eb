"""The connections of an SqliteStore: handles, threads, life cycle."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import sqlite3
import threading
import warnings
from contextlib import closing
from unittest import mock

import pytest
from sqlite_files import in_thread, pair, put, sql

import encore.storage._sqlite_base as base
import encore.storage._sqlite_connections as connections
import encore.storage._sqlite_setup as setup
from encore.events.event_manager import EventManager
from encore.storage._sqlite_writing import Writing
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


def test_two_handles_see_what_the_other_commits(path, store):
    with SqliteStore(path, durability="process") as other:
        with store.transaction("t"):
            put(store, "a", b"1")
            assert not other.exists("a")
        assert pair(other, "a") == (b"1", {})
        other.delete("a")
        assert not store.exists("a")


def test_threads_count_without_losing_anything(path, store):
    from encore.storage.errors import PreconditionError

    store.set_metadata("n", {"n": 0})
    second = SqliteStore(path, durability="process")
    second.connect()

    def count(mine, turns):
        for _ in range(turns):
            while True:
                value = mine.get("n")
                try:
                    mine.set_metadata("n", {"n": value.metadata["n"] + 1}, if_match=value.etag)
                    break
                except PreconditionError:
                    pass
            with mine.transaction("t"):
                mine.set_metadata("n", {"n": mine.get_metadata("n")["n"] + 1})

    threads = [
        threading.Thread(target=count, args=((store, second)[n % 8 == 0], 5)) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    second.disconnect()
    assert store.get_metadata("n") == {"n": 160}


def test_a_writer_waits_for_the_transaction_of_another_handle(path, store):
    with SqliteStore(path, durability="process") as other:
        inside, over, written = threading.Event(), threading.Event(), []

        def hold():
            with other.transaction("t"):
                put(other, "a", b"1")
                inside.set()
                assert over.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(60)
        writer = threading.Thread(target=lambda: written.append(put(store, "a", b"2")))
        writer.start()
        assert written == []
        over.set()
        writer.join(60)
        holder.join(60)
    assert written == [None]
    assert pair(store, "a") == (b"2", {})


def test_waiting_ends(path, store, monkeypatch):
    for each in (base, connections, setup):
        monkeypatch.setattr(each, "BUSY", 0.01)
    store.disconnect()
    store.connect()
    with SqliteStore(path, durability="process") as other, other.transaction("t"):
        for call in (lambda: put(store, "a"), lambda: store.transaction("t").__enter__()):
            with pytest.raises(StoreError, match="database is locked"):
                call()
    with store.transaction("t"):
        errors = []

        def write():
            try:
                put(store, "a")
            except StoreError as error:
                errors.append(str(error))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(60)
        assert "locked by another thread" in errors[0]
        put(store, "b")
    assert list(store.keys()) == ["b"]
    put(store, "a")


def test_what_is_done_during_a_unit_of_work_is_told_if_it_is_committed(path):
    """As a finalizer does it, for one."""
    heard = []
    with SqliteStore(path, durability="process", event_manager=EventManager()) as store:
        store.event_manager.connect(StoreModificationEvent, lambda e: heard.append(e.key))

        def fail():
            with Writing(store):
                put(store, "a")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert (heard, list(store.keys())) == ([], [])
        with Writing(store):
            put(store, "b")
            assert heard == []
        assert (heard, list(store.keys())) == (["b"], ["b"])


def test_what_a_listener_raises_while_the_index_is_filled_is_its_own(path):
    class Raising(EventManager):
        def emit(self, event, block=True):
            raise StoreError("theirs")

    with SqliteStore(path, index=None, durability="process") as store:
        put(store, "a", n=1)
    with SqliteStore(path, durability="process", event_manager=Raising()) as store:
        real = store._index.fill

        def fill_and_set(*arguments):
            store.set_metadata("b", {"n": 1})
            return real(*arguments)

        store.event_manager.connect(StoreModificationEvent, print)
        with (
            mock.patch.object(store._index, "fill", fill_and_set),
            pytest.raises(StoreError, match="theirs"),
        ):
            list(store.query_keys(n=1))
        assert sorted(store.query_keys(n=1)) == ["a", "b"]
        assert store._may_fill


def test_threads_that_end_close_their_connections(path, store):
    store.from_bytes("a", b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # SQLite closes a file later if the process has locks on another one of the same database.
        for _ in range(3):
            assert in_thread(lambda: store.exists("a"))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            assert in_thread(lambda: store.exists("a"))
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_disconnect_while_other_threads_are_at_work(path, store):
    with store.transaction("t"):
        for n in range(300):
            put(store, f"k{n}", b"x" * 100, n=n)
    stop, strange = threading.Event(), []

    def work():
        while not stop.is_set():
            try:
                list(store.query(n=3))
                store.get("k1")
                put(store, "z", b"1")
            except StoreError as error:
                if "not connected" not in str(error) and "rolled back" not in str(error):
                    strange.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        store.disconnect()
        store.connect()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert strange == []


def test_disconnect_ends_the_transaction_of_another_thread(path, store):
    inside, over, errors = threading.Event(), threading.Event(), []

    def hold():
        try:
            with store.transaction("t"):
                put(store, "a", BIG)
                inside.set()
                assert over.wait(60)
                store.exists("a")
        except StoreError as error:
            errors.append(str(error))

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    store.disconnect()
    with SqliteStore(path) as other:
        put(other, "b", b"")
        assert list(other.keys()) == ["b"]
    over.set()
    thread.join(60)
    assert "not connected" in errors[0]
    store.connect()
    put(store, "c")
    assert list(store.keys()) == ["b", "c"]


def test_a_store_disconnected_leaves_no_journal(folder, store):
    put(store, "a", BIG)
    store.disconnect()
    assert os.listdir(folder) == ["x.db"]


def test_a_pickled_store_arrives_disconnected(store):
    put(store, "a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert not copy.is_connected()
    with pytest.raises(StoreError, match="not connected"):
        copy.get("a")
    with copy:
        assert pair(copy, "a") == (b"1", {})


def test_foreign_readers_do_not_hold_up_connect(path):
    sql(path, f"CREATE TABLE store ({setup._COLUMNS})")
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as reader,
        mock.patch.object(setup, "BUSY_SETUP", 1),
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM store").fetchall()
        with SqliteStore(path) as store:
            assert not store._wal
            assert list(store.keys()) == []
        reader.execute("COMMIT")
        with SqliteStore(path) as store:
            assert store._wal


def test_resources_are_not_leaked():
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store = SqliteStore()
        store.connect()
        put(store, "a", BIG)
        value = store.get("a")
        del store, value
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_disconnect_closes_the_file_although_an_error_is_kept(path):
    store = SqliteStore(path)
    store.connect()
    with pytest.raises(KeyError) as kept:
        store.get("missing")
    store.disconnect()
    descriptors = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    open_files = [os.readlink(each) for each in descriptors if os.path.lexists(each)]
    assert not [name for name in open_files if name.startswith(path)]
    assert kept.value.args == ("missing",)
