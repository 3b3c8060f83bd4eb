"""Events of SqliteStore for what others change: exactly one a change, whoever makes it."""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from unittest import mock

import pytest

import encore.storage._sqlite_remote as module
from encore.events.event_manager import EventManager
from encore.storage._sqlite_change_tables import ChangeTables
from encore.storage.errors import StoreError
from encore.storage.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreTransactionEvent,
    StoreUpdateEvent,
)
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
BIG = bytes(range(256)) * 1024
NEVER = 10**6  # seconds; polled by hand


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield f"{folder}/x.db"


@pytest.fixture
def open_store(path):
    """A function that opens the database once more; the store has its events in `told`."""
    stores = []

    def open_store(poll=NEVER, **options):
        store = SqliteStore(
            path, durability="process", event_manager=EventManager(), poll=poll, **options
        )
        store.connect()
        listen(store)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.disconnect()


def listen(store):
    store.told = []
    store.event_manager.connect(
        StoreModificationEvent, lambda event: store.told.append(shape(event))
    )


def shape(event):
    return event.action, event.key, event.metadata, getattr(event, "remote", False)


def polled(store):
    store._poll()
    told, store.told[:] = list(store.told), []
    return told


def open_dead(open_store, path):
    """Open a store that is taken for dead as soon as there is a change that it has not seen."""
    store = open_store()
    name, store._remote._patience = store._remote._name, -1.0
    sql(path, ('UPDATE "store#pollers" SET patience = -1.0 WHERE name = ?', (name,)))
    return store


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def sql(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(*statement if isinstance(statement, tuple) else (statement,))


def names(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def log_size(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute('SELECT count(*) FROM "store#changes"').fetchone()[0]


def run_all(store):
    """Every way to change a store, with what is to be told of it."""
    put(store, "a", b"1", n=1)
    put(store, "a", b"2", n=2)
    store.set_data("a", io.BytesIO(b"3"))
    store.set_metadata("a", {"m": 1})
    store.update_metadata("a", {"k": [1]})
    store.from_bytes("b", b"4")
    store.set("big", (io.BytesIO(BIG), {"big": True}))
    store.set("big", (io.BytesIO(BIG), {"big": False}))
    store.set_metadata("big", {})
    store.delete("a")
    put(store, "a", b"5")
    store.multiset(["x", "b"], [(io.BytesIO(b"6"), {}), (io.BytesIO(b"7"), {"b": 1})])
    with store.transaction():
        store.delete("x")
        put(store, "x", b"8", n=3)
        put(store, "x", b"9", n=4)
        store.delete("big")
        try:
            with store.transaction():
                put(store, "never")
                raise KeyError
        except KeyError:
            pass
    store.delete("b", if_match=store.get("b").etag)


def test_others_are_told_the_same_as_the_one_that_changes(open_store):
    writer, one, other = open_store(None), open_store(), open_store(index=None)
    run_all(writer)
    local = list(writer.told)
    assert len(local) == 18
    assert not any(remote for *_, remote in local)
    expected = [(*event, True) for *event, _ in local]
    assert polled(one) == expected
    assert polled(other) == expected
    assert polled(one) == []


def test_a_store_that_polls_tells_its_own_changes_once(open_store):
    one, other = open_store(), open_store()
    run_all(one)
    assert len(one.told) == 18
    assert [event[:3] for event in polled(other)] == [event[:3] for event in polled(one)]
    assert polled(one) == []
    thread = threading.Thread(target=lambda: put(one, "t"))
    thread.start()
    thread.join()
    assert polled(one) == [("set", "t", {}, False)]
    assert polled(other) == [("set", "t", {}, True)]


def test_the_events_are_those_of_the_store(open_store):
    writer, store = open_store(None), open_store()
    events = []
    store.event_manager.connect(StoreModificationEvent, events.append)
    put(writer, "a", n=[1])
    put(writer, "a")
    writer.delete("a")
    store._poll()
    assert [type(event) for event in events] == [StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent]
    assert all(event.source is store for event in events)
    assert events[0].metadata == {"n": [1]}


def test_nothing_is_told_of_what_was_before_connect_or_after_disconnect(open_store):
    writer, keeper, store = open_store(None), open_store(), open_store()
    put(writer, "a")
    store.disconnect()
    put(writer, "b")
    store.connect()
    put(writer, "c")
    assert polled(store) == [("set", "c", {}, True)]
    assert len(polled(keeper)) == 3


def fail_after(change):
    change()
    raise KeyError


def test_what_is_rolled_back_is_not_told(open_store):
    writer, store = open_store(None), open_store()
    for _ in range(2):
        with pytest.raises(KeyError), writer.transaction():
            fail_after(lambda: put(writer, "a"))
        # Its numbers in the log are given again.
        put(writer, "b")
    assert [event[:2] for event in polled(store)] == [("set", "b"), ("update", "b")]


def test_a_transaction_is_told_when_it_is_committed_in_order(open_store):
    writer, store = open_store(None), open_store()
    with writer.transaction():
        for n in range(5):
            put(writer, f"k{n}", n=n)
        assert polled(store) == []
    assert polled(store) == [("set", f"k{n}", {"n": n}, True) for n in range(5)]


INSERT = "INSERT INTO store VALUES ('a', '{\"n\": 1}', 1.0, ?, x'00')"


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["REPLACE INTO store VALUES ('a', '{\"n\": 1}', 9.0, 2.0, x'00')"], ["update a"]),
        (["REPLACE INTO store VALUES ('b', '{\"n\": 1}', 9.0, 2.0, x'00')"], ["set b"]),
        (["DELETE FROM store", (INSERT, (2.0,))], ["update a"]),
        (
            ["DELETE FROM store", "INSERT INTO store VALUES ('a', '{\"n\": 1}', 5.0, 5.0, x'')"],
            ["delete a", "set a"],
        ),
        (
            [
                f"{INSERT.replace('?', '2.0')} ON CONFLICT (key) DO UPDATE SET metadata = '{{\"n\": 1}}'"
            ],
            ["update a"],
        ),
        ([f"{INSERT.replace('?', '2.0')} ON CONFLICT DO NOTHING"], []),
        (
            ["INSERT OR IGNORE INTO store VALUES ('a', '{}', 1.0, 1.0, x'')", "DELETE FROM store"],
            ["delete a"],
        ),
        (["UPDATE store SET key = 'b', metadata = '{\"n\": 1}'"], ["set b", "delete a"]),
        (["UPDATE store SET key = 'a', metadata = '{\"n\": 1}'"], ["update a"]),
        (
            [
                "INSERT INTO store VALUES ('b', '{\"n\": 1}', 3.0, 3.0, x'')",
                "UPDATE OR REPLACE store SET key = 'a' WHERE key = 'b'",
            ],
            ["set b", "update a", "delete b"],
        ),
        (
            ["INSERT INTO store VALUES (NULL, '{}', 1.0, 1.0, x''), (x'61', '{}', 1.0, 1.0, x'')"],
            [],
        ),
        (["UPDATE store SET data = x'01', metadata = '{\"n\": 1}'"], ["update a"]),
        (
            [
                "REPLACE INTO store SELECT key, '{\"n\": 1}', 7.0, 7.0, x'' FROM store",
                "DELETE FROM store",
            ],
            ["update a", "delete a"],
        ),
    ],
)
def test_other_programs(open_store, path, statements, expected, recursive):
    store = open_store()
    sql(path, INSERT.replace("?", "1.0").replace("1}", "0}"))
    polled(store)
    sql(path, f"PRAGMA recursive_triggers={int(recursive)}", *statements)
    told = polled(store)
    assert [f"{action} {key}" for action, key, *_ in told] == expected
    assert all(metadata == {"n": 1} for action, _, metadata, _ in told if action != "delete")


def test_metadata_of_every_kind(open_store, path):
    store = open_store()
    sql(path, *(("INSERT INTO store VALUES (?, ?, 1.0, 1.0, x'')", row) for row in [
        ("pickled", pickle.dumps({"a": (1, "ä")}, 2)),
        ("damaged", "nonsense"),
        ("number", 7),
        ("null", None),
        ("long", '{"a": "' + "x" * 10**6 + '"}'),
        ("ä😀", '{"ä": "😀"}'),
    ]))  # fmt: skip
    sql(
        path,
        "INSERT INTO store VALUES (CAST(x'61ff' AS TEXT), CAST(x'7bff' AS TEXT), 1.0, 1.0, x'')",
    )
    assert [(key, metadata) for _, key, metadata, _ in polled(store)] == [
        ("pickled", {"a": [1, "ä"]}),
        ("damaged", {}),
        ("number", {}),
        ("null", {}),
        ("long", {"a": "x" * 10**6}),
        ("ä😀", {"ä": "😀"}),
    ]


def test_more_changes_than_are_read_at_once(open_store, path):
    store = open_store()
    with mock.patch.object(module, "_PAGE", 7):
        sql(
            path,
            *(
                f"REPLACE INTO store VALUES ('k{n % 5}', '{{\"n\": {n}}}', 1.0, 1.0, x'')"
                for n in range(50)
            ),
        )
        told = polled(store)
    assert [metadata["n"] for _, _, metadata, _ in told] == list(range(50))
    assert [action for action, *_ in told] == ["set"] * 5 + ["update"] * 45
    with mock.patch.object(module, "_BYTES", 10):
        sql(
            path,
            "DELETE FROM store",
            *(
                f"REPLACE INTO store VALUES ('k{n % 5}', '{{\"n\": {n}}}', 2.0, 1.0, x'')"
                for n in range(20)
            ),
        )
        assert len(polled(store)) == 5 + 20


@pytest.mark.parametrize("page", range(3, 10))
def test_what_belongs_together_is_told_together(open_store, path, page):
    store = open_store()
    sql(path, "INSERT INTO store VALUES ('k', '{}', 0.0, 1.0, x'')")
    polled(store)
    replace = [f"REPLACE INTO store VALUES ('k', '{{}}', {n}.0, 1.0, x'')" for n in range(5)]
    sql(path, "PRAGMA recursive_triggers=1", *replace)
    sql(path, *replace, "DELETE FROM store", replace[-1])
    with mock.patch.object(module, "_PAGE", page):
        assert [action for action, *_ in polled(store)] == ["update"] * 11


def test_a_table_with_another_name(open_store, path):
    odd = "it's [a] `table`; --"
    writer, store = open_store(None, table=odd), open_store(table=odd)
    plain = open_store()
    run_all(writer)
    assert len(polled(store)) == 18
    assert polled(plain) == []
    store.disconnect()
    plain.disconnect()
    assert not [name for name in names(path) if "#changes" in name or "#pollers" in name]


# What is in the file


def test_nothing_is_logged_unless_somebody_polls(open_store, path):
    writer = open_store(None)
    before = names(path)
    one, other = open_store(), open_store()
    assert names(path) > before
    one.disconnect()
    assert names(path) > before
    put(writer, "a")
    assert polled(other) == [("set", "a", {}, True)]
    other.disconnect()
    assert names(path) == before | {"store#chunks"} & names(path)
    put(writer, "b")
    assert writer._poll() is None


def test_poll_0_never_polls(open_store, path):
    store = open_store(0)
    assert store._remote is None
    assert "store#changes" not in names(path)


@pytest.mark.parametrize("poll", ["1", True, [1]])
def test_poll_is_a_number(poll):
    with pytest.raises(TypeError, match="poll"):
        SqliteStore(poll=poll)


@pytest.mark.parametrize("poll", [-1, float("nan")])
def test_poll_is_not_negative(poll):
    with pytest.raises(ValueError, match="poll"):
        SqliteStore(poll=poll)


def test_the_log_is_trimmed_to_what_the_slowest_has_not_seen(open_store, path):
    writer, fast, slow = open_store(None), open_store(), open_store()
    with mock.patch.object(module, "_MANY", 1):
        for n in range(10):
            put(writer, f"k{n}")
            polled(fast)
        assert log_size(path) == 10
        assert len(polled(slow)) == 10
        # The newest one stays, so that numbers go on.
        assert log_size(path) == 1
        put(writer, "new")
        assert (
            [key for _, key, *_ in polled(slow)] == [key for _, key, *_ in polled(fast)] == ["new"]
        )


def test_what_was_seen_is_written_down_now_and_then_only(open_store, path):
    writer, store = open_store(None), open_store()
    with closing(sqlite3.connect(path)) as watcher:
        version = "PRAGMA data_version"
        put(writer, "a")
        (before,) = watcher.execute(version).fetchone()
        polled(store)
        polled(store)
        assert watcher.execute(version).fetchone() == (before,)
        store._remote._write_at = 0.0
        polled(store)
        assert watcher.execute(version).fetchone() != (before,)


def test_who_writes_for_long_keeps_no_poll_waiting(open_store, path):
    writer, store = open_store(None), open_store()
    put(writer, "a")
    with mock.patch.object(module, "_MANY", 1), writer.transaction():
        assert polled(store) == [("set", "a", {}, True)]
        assert log_size(path) == 1
    put(writer, "b")
    with mock.patch.object(module, "_MANY", 1):
        assert polled(store) == [("set", "b", {}, True)]


def test_who_has_died_is_forgotten(open_store, path):
    dead = open_dead(open_store, path)
    writer, store = open_store(None), open_store()
    put(writer, "a")
    put(writer, "b")
    with mock.patch.object(module, "_MANY", 1):
        polled(store)
    assert log_size(path) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute('SELECT count(*) FROM "store#pollers"').fetchone() == (1,)
    store.disconnect()
    assert "store#changes" not in names(path)
    assert dead._remote is not None


def test_who_was_taken_for_dead_says_so_and_goes_on(open_store, path, caplog):
    late = open_dead(open_store, path)
    writer, store = open_store(None), open_store()
    put(writer, "a")
    with mock.patch.object(module, "_MANY", 1):
        polled(store)
    with caplog.at_level(logging.WARNING):
        assert polled(late) == []
    assert "may have been missed" in caplog.text
    caplog.clear()
    put(writer, "b")
    assert ("set", "b", {}, True) in polled(late)


def test_who_may_have_been_taken_for_dead_says_so(open_store, path, caplog):
    late = open_dead(open_store, path)
    for n in range(3):
        sql(path, f"INSERT INTO store VALUES ('k{n}', '{{}}', 1.0, 1.0, x'')")
    with caplog.at_level(logging.WARNING):
        assert len(polled(late)) < 3
    assert caplog.text.count("may have been missed") == 1


def test_a_log_that_nobody_reads_does_not_grow(open_store, path):
    open_dead(open_store, path)
    for n in range(10):
        sql(path, f"INSERT INTO store VALUES ('k{n}', '{{}}', 1.0, 1.0, x'')")
    assert log_size(path) <= 2


def test_compact_cleans_up_after_the_dead(open_store, path):
    dead = open_dead(open_store, path)
    writer = open_store(None)
    put(writer, "a")
    writer.compact()
    assert "store#changes" not in names(path)
    dead.disconnect()


def test_compact_leaves_the_living(open_store, path):
    writer, store = open_store(None), open_store()
    put(writer, "a")
    writer.compact()
    put(writer, "b")
    assert len(polled(store)) == 2


def test_a_log_that_was_dropped_is_made_again(open_store, path, caplog):
    writer, store = open_store(None), open_store()
    put(writer, "a")
    polled(store)
    writer._remote = None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        ChangeTables("store").drop(connection)
    put(writer, "b")
    put(store, "own")
    with caplog.at_level(logging.WARNING):
        assert polled(store) == [("set", "own", {}, False)]
    assert "may have been missed" in caplog.text
    put(writer, "c")
    put(store, "mine")
    assert polled(store) == [("set", "mine", {}, False), ("set", "c", {}, True)]


def test_a_table_that_was_made_anew_is_followed(open_store, path, caplog):
    store = open_store()
    columns = "key text primary key, metadata dict, created float, modified float, data blob"
    sql(path, "DROP TABLE store", f"CREATE TABLE store ({columns})")
    with caplog.at_level(logging.WARNING):
        polled(store)
    sql(path, INSERT.replace("?", "1.0"))
    assert [event[:2] for event in polled(store)] == [("set", "a")]


def test_a_table_of_somebody_else_is_not_touched(open_store, path):
    open_store(None)
    sql(path, 'CREATE TABLE "store#pollers" (mine)')
    with pytest.raises(StoreError, match="something else"):
        open_store()
    assert "store#changes" not in names(path)


def test_upgrade_and_repair_of_the_index_tell_nothing(open_store, path):
    writer, store = open_store(None), open_store()
    sql(path, ("INSERT INTO store VALUES ('a', ?, 1.0, 1.0, x'')", (pickle.dumps({"a": 1}, 2),)))
    assert len(polled(store)) == 1
    assert writer.upgrade() == 1
    assert polled(store) == []
    put(writer, "b")
    assert [key for _, key, *_ in polled(store)] == ["b"]
    sql(path, "UPDATE store SET metadata = 'x' WHERE key = 'a'")
    polled(store)
    writer.repair()
    assert polled(store) == [("update", "a", {}, True)]
    assert store.told == []


# Without a WAL


@contextmanager
def journal():
    with mock.patch("encore.storage.sqlite_store.set_up", side_effect=_set_up_journal):
        yield


def _set_up_journal(store, connection):
    from encore.storage._sqlite_setup import set_up

    set_up(store, connection)
    return connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "wal"


def test_without_a_wal(path):
    with journal():
        stores = [
            SqliteStore(path, durability="process", event_manager=EventManager(), poll=poll)
            for poll in (NEVER, None)
        ]
        stores[0].connect()
    stores[0].disconnect()
    sql(path, "PRAGMA journal_mode=DELETE")
    with mock.patch("encore.storage.sqlite_store.set_up", return_value=False):
        for store in stores:
            store.connect()
            listen(store)
    run_all(stores[1])
    assert len(polled(stores[0])) == 18
    for store in stores:
        store.disconnect()
    assert "store#changes" not in names(path)


def test_a_database_that_can_only_be_read_cannot_be_polled(open_store, path):
    open_store(None).disconnect()
    sql(path, "PRAGMA journal_mode=DELETE")
    os.chmod(path, 0o444)
    os.chmod(os.path.dirname(path), 0o555)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("root may write everything")
        with pytest.raises(StoreError):
            open_store()
    finally:
        os.chmod(os.path.dirname(path), 0o755)


# The thread


class Heard:
    """Waits for events, with a deadline."""

    def __init__(self, store):
        self.events = []
        self._more = threading.Condition()
        store.event_manager.connect(StoreModificationEvent, self._hear)

    def _hear(self, event):
        with self._more:
            self.events.append(shape(event))
            self._more.notify_all()

    def wait(self, count):
        with self._more:
            assert self._more.wait_for(lambda: len(self.events) >= count, 60)
        return self.events


def pollers():
    return [thread for thread in threading.enumerate() if thread.name == "encore-_poll"]


def test_the_thread_polls_and_ends(open_store):
    before = pollers()
    writer, store = open_store(None), open_store(0.001)
    heard = Heard(store)
    (thread,) = set(pollers()) - set(before)
    assert thread.daemon
    put(writer, "a", n=1)
    assert heard.wait(1) == [("set", "a", {"n": 1}, True)]
    run_all(writer)
    assert len(heard.wait(19)) == 19
    store.disconnect()
    thread.join(60)
    assert not thread.is_alive()


def test_disconnect_wakes_the_thread(open_store):
    store = open_store(NEVER)
    begin = time.monotonic()
    store.disconnect()
    assert time.monotonic() - begin < 10
    assert not store._remote


def test_disconnect_does_not_wait_for_a_writer_that_takes_long(open_store, path):
    writer, store = open_store(None), open_store()
    with writer.transaction(), mock.patch.object(module, "_LEAVING", 1):
        store.disconnect()
    # Somebody else cleans up.
    assert "store#changes" in names(path)
    sql(path, 'UPDATE "store#pollers" SET patience = -1.0')
    put(writer, "a")
    writer.compact()
    assert "store#changes" not in names(path)


def test_a_listener_may_disconnect(open_store):
    writer, store = open_store(None), open_store()
    told = []

    def listener(event):
        told.append(event.key)
        store.disconnect()

    store.event_manager.connect(StoreModificationEvent, listener)
    with writer.transaction():
        put(writer, "a")
        put(writer, "b")
    store._poll()
    assert told == ["a"]


def test_a_listener_may_change_the_store(open_store):
    writer, store = open_store(None), open_store()

    def listener(event):
        if getattr(event, "remote", False):
            put(store, event.key + "!", **event.metadata)

    store.event_manager.connect(StoreModificationEvent, listener)
    put(writer, "a", n=1)
    put(writer, "b", n=2)
    polled(store)
    assert sorted(store.keys()) == ["a", "a!", "b", "b!"]
    assert polled(store) == []


def test_a_store_that_is_forgotten_ends_its_thread_and_cleans_up(path):
    store = SqliteStore(path, event_manager=EventManager(), poll=NEVER)
    store.connect()
    thread = store._remote._poller._thread
    assert "store#changes" in names(path)
    del store
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
    assert "store#changes" not in names(path)


def test_a_child_does_not_clean_up_after_its_parent(open_store, path):
    store = open_store()
    name = store._remote._name
    module._leave_quietly(path, "store", name, os.getpid() + 1)
    assert "store#changes" in names(path)
    module._leave_quietly(path, "store", name, os.getpid())
    assert "store#changes" not in names(path)


def test_who_polls_in_a_transaction_sees_nothing(open_store):
    writer, store = open_store(None), open_store()
    put(writer, "a")
    with store.transaction():
        assert polled(store) == []
    assert len(polled(store)) == 1


def test_an_error_is_told_and_survived(open_store, caplog):
    writer, store = open_store(None), open_store(0.001)
    heard = Heard(store)
    failed = threading.Event()
    real = module.RemoteChanges._read

    def failing(self, store):
        if not failed.is_set():
            failed.set()
            raise StoreError("disk I/O error")
        return real(self, store)

    with mock.patch.object(module.RemoteChanges, "_read", failing):
        put(writer, "a")
        assert heard.wait(1) == [("set", "a", {}, True)]
    assert failed.is_set()
    assert "disk I/O error" in caplog.text


def test_an_idle_poll_looks_at_the_version_only(open_store):
    writer, store = open_store(None), open_store()
    put(writer, "a")
    polled(store)
    statements = []
    connection = store._handle().connection
    connection.set_trace_callback(statements.append)
    store._poll()
    connection.set_trace_callback(None)
    assert statements == ["PRAGMA data_version"]


def test_a_poll_during_a_poll_does_nothing(open_store):
    writer, store = open_store(None), open_store()
    calls = []

    def listener(event):
        calls.append(event.key)
        store._poll()

    store.event_manager.connect(StoreModificationEvent, listener)
    put(writer, "a")
    put(writer, "b")
    store._poll()
    assert calls == ["a", "b"]


def test_pickling(path):
    store = SqliteStore(path, poll=NEVER)
    store.connect()
    put(store, "a")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.poll == NEVER
    assert copy._remote is None
    store.disconnect()
    with copy:
        assert copy._remote is not None


def test_transactions_of_others_tell_no_transaction_events(open_store):
    writer, store = open_store(None), open_store()
    events = []
    store.event_manager.connect(StoreTransactionEvent, events.append)
    with writer.transaction():
        put(writer, "a")
    polled(store)
    assert events == []


# Other processes

WRITER = """
import io, sys
from encore.storage.sqlite_store import SqliteStore
with SqliteStore(sys.argv[1], durability='process') as store:
    for n in range(int(sys.argv[3])):
        store.set(f'{sys.argv[2]}{n}', (io.BytesIO(b''), {'n': n}))
        if n % 3 == 0:
            with store.transaction():
                store.set(f'{sys.argv[2]}{n}', (io.BytesIO(b''), {'n': -n}))
                store.delete(f'{sys.argv[2]}{n}')
"""


def start(script, *arguments, **options):
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    options.setdefault("env", {**os.environ, "PYTHONPATH": path})
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], **options)


def test_several_processes_and_pollers(open_store, path):
    stores = [open_store(), open_store(0.002)]
    heard = Heard(stores[1])
    processes = [start(WRITER, path, name, 30) for name in "xyz"]
    for process in processes:
        assert process.wait(60) == 0
    told = polled(stores[0])
    assert len(told) == 3 * (30 + 20)
    for name in "xyz":
        mine = [(action, int(key[1:])) for action, key, *_ in told if key[0] == name]
        expected = []
        for n in range(30):
            expected += [("set", n)] + [("update", n), ("delete", n)] * (n % 3 == 0)
        assert mine == expected
    assert heard.wait(len(told)) == told
    assert set(stores[1].keys()) == {f"{name}{n}" for name in "xyz" for n in range(30) if n % 3}


POLLER = """
import sys, time
from encore.storage.sqlite_store import SqliteStore
store = SqliteStore(sys.argv[1], poll=0.01)
store.connect()
print('polling', flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_poller_that_is_killed_stops_nobody(open_store, path):
    process = start(POLLER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"polling\n"
        process.kill()
    assert "store#changes" in names(path)
    writer, store = open_store(None), open_store()
    put(writer, "a")
    assert polled(store) == [("set", "a", {}, True)]
    sql(path, 'UPDATE "store#changes" SET time = time - 700')
    put(writer, "b")
    with mock.patch.object(module, "_MANY", 1):
        assert polled(store) == [("set", "b", {}, True)]
    assert log_size(path) == 1
    store.disconnect()
    assert "store#changes" not in names(path)


def test_a_process_that_ends_without_disconnecting_cleans_up(path):
    process = start(POLLER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"polling\n"
        process.stdin.close()
        assert process.wait(60) == 0
    assert "store#changes" not in names(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_are_told_of_each_other(open_store, path):
    store = open_store()
    put(store, "before")
    polled(store)
    put(store, "unseen")
    put(open_store(None), "other")
    readable, writable = os.pipe()
    back, forth = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.read(back, 1)
            # Changes between the fork and the first use are not lost.
            store.told.clear()
            store.exists("x")
            first = polled(store)
            put(store, "child")
            own = polled(store)
            thread = store._remote._poller._thread.is_alive()
            os.write(writable, repr((first, own, thread)).encode())
            store.disconnect()
        finally:
            os._exit(0)
    put(store, "parent")
    os.write(forth, b"x")
    os.waitpid(child, 0)
    first, own, thread = eval(os.read(readable, 10000))
    for fd in (readable, writable, back, forth):
        os.close(fd)
    assert first == [("set", "other", {}, True), ("set", "parent", {}, True)]
    assert own == [("set", "child", {}, False)]
    assert thread
    assert [event[1:] for event in polled(store)] == [
        ("unseen", {}, False),
        ("parent", {}, False),
        ("other", {}, True),
        ("child", {}, True),
    ]
    assert "store#changes" in names(path)


OLD = """
import io, sys
from encore.storage.sqlite_store import SqliteStore
store = SqliteStore(sys.argv[1])
assert not hasattr(store, 'mapping')
store.connect()
store.set('a', (io.BytesIO(b'1'), {'n': 1}))
store.set('a', (io.BytesIO(b'2'), {'n': 2}))
store.set_data('a', io.BytesIO(b'3'))
store.set_metadata('a', {'n': 3})
store.update_metadata('a', {'m': 4})
store.delete('a')
store.set('a', (io.BytesIO(b'5'), {'n': 5}))
store.disconnect()
"""


def test_changes_by_old(open_store, path, start_08):
    store = open_store()
    assert start_08(OLD, path).wait(60) == 0
    assert polled(store) == [
        ("set", "a", {"n": 1}, True),
        ("update", "a", {"n": 2}, True),
        ("update", "a", {"n": 2}, True),
        ("update", "a", {"n": 3}, True),
        ("update", "a", {"n": 3, "m": 4}, True),
        ("delete", "a", {"n": 3, "m": 4}, True),
        ("set", "a", {"n": 5}, True),
    ]
