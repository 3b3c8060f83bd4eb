"""check(), repair(), compact() and upgrade() of SqliteStore, on every damage we could think of."""

from __future__ import annotations

import io
import os
import pickle
import random
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from unittest import mock

import pytest

import encore.storage._sqlite_inspection as inspection
import encore.storage._sqlite_maintenance as module
import encore.storage._sqlite_salvage as salvage
from encore.events.event_manager import EventManager
from encore.storage._sqlite_blobs import CHUNK, SHIFT
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.maintenance import Finding
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
BIG = bytes(range(256)) * 1024  # four chunks


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield f"{folder}/x.db"


@pytest.fixture
def store(path):
    store = SqliteStore(path, durability="process", event_manager=EventManager())
    store.connect()
    yield store
    store.disconnect()


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def pair(store, key):
    value = store.get(key)
    return value.data.read(), value.metadata


def sql(path, text, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(text, values).fetchall()


def told(store):
    events = []
    store.event_manager.connect(
        StoreModificationEvent,
        lambda event: events.append((event.action, event.key, event.metadata)),
    )
    return events


def insert(path, key, metadata="{}", data=b""):
    sql(path, "INSERT INTO store VALUES (?, ?, 1.0, 1.0, ?)", key, metadata, data)


def number_of(path, key):
    return sql(path, "SELECT data FROM store WHERE key = ?", key)[0][0]


def filled(store, count=50):
    with store.transaction():
        for n in range(count):
            put(store, f"key{n:04}", b"%d" % n, n=n, text="x" * 40)
        put(store, "big", BIG, big=True)


# Rows


def test_nothing_is_found_where_all_is_well(store, path):
    filled(store)
    insert(path, "0.8", pickle.dumps({"a": 1}, 2))
    insert(path, "odd", b'{"a": 1}', "text")
    before = sql(path, "SELECT * FROM store"), sql(path, 'SELECT * FROM "store#chunks"')
    assert store.check() == []
    assert store.repair() == []
    assert (sql(path, "SELECT * FROM store"), sql(path, 'SELECT * FROM "store#chunks"')) == before


@pytest.mark.parametrize(
    "metadata", ['{"a": 1', "[1]", "nonsense", b"\x80\x02}q\x00(X", b"\xff", "\x80\x02."]
)
def test_damaged_metadata_are_lost_and_the_data_are_kept(store, path, metadata):
    put(store, "good", b"good", a=1)
    insert(path, "bad", metadata, b"data")
    (finding,) = store.check()
    assert finding.key == "bad"
    assert finding.outcome == ""
    assert "metadata are damaged" in finding.problem
    assert repr(metadata)[1:5] in finding.problem
    events = told(store)
    etag = store.get("good").etag
    assert store.repair() == [Finding("bad", finding.problem, "lost")]
    assert pair(store, "bad") == (b"data", {})
    assert events == [("update", "bad", {})]
    assert store.get("bad").modified > 1.0
    assert store.get("good").etag == etag
    assert store.check() == []


@pytest.mark.parametrize(
    ("data", "problem", "outcome", "after"),
    [
        (None, "the data are NULL", "mended", b""),
        (12, "the data are a number: int: 12", "lost", b"12"),
        (1.5, "the data are a number: float: 1.5", "lost", b"1.5"),
    ],
)
def test_data_that_are_none(store, path, data, problem, outcome, after):
    put(store, "good", b"good")
    insert(path, "bad", '{"a": 1}', data)
    assert store.check() == [Finding("bad", problem)]
    assert store.to_bytes("bad") == after
    events = told(store)
    assert store.repair() == [Finding("bad", problem, outcome)]
    assert pair(store, "bad") == (after, {"a": 1})
    assert type(number_of(path, "bad")) is bytes
    assert events == [("update", "bad", {"a": 1})]
    assert store.check() == []


@pytest.mark.parametrize(
    ("created", "modified", "problems"),
    [
        ("2001-01-01", 1.0, ["'created' is no number, but text: lost"]),
        (5.0, "yesterday", ["'modified' is no number, but text: lost"]),
        (5.0, None, ["'modified' is no number, but null: mended"]),
        (
            b"x",
            b"y",
            [f"{name!r} is no number, but blob: lost" for name in ("created", "modified")],
        ),
    ],
)
def test_stamps_that_are_none(store, path, created, modified, problems):
    row = ("bad", '{"a": 1}', created, modified, b"data")
    sql(path, "INSERT INTO store VALUES (?, ?, ?, ?, ?)", *row)
    assert [f"{each.problem}: lost" for each in store.check()] == [
        each.replace("mended", "lost") for each in problems
    ]
    assert [f"{each.problem}: {each.outcome}" for each in store.repair()] == problems
    assert pair(store, "bad") == (b"data", {"a": 1})
    assert store.get("bad").created == (created if type(created) is float else 0.0)
    assert store.get("bad").modified > 1e9
    assert store.check() == []


def test_metadata_that_were_never_there_are_not_lost(store, path):
    insert(path, "bare", None, b"data")
    assert [finding.outcome for finding in store.repair()] == ["mended"]
    assert pair(store, "bare") == (b"data", {})


@pytest.mark.parametrize(
    "metadata", [{"when": EventManager}, {"a": {1, 2}}, {"a": float("nan")}, {1: 2}, {"a": b"\xff"}]
)
def test_what_only_old_can_read_is_left(store, path, metadata):
    stored = pickle.dumps(metadata, 2)
    insert(path, "foreign", stored, b"data")
    (finding,) = store.check()
    assert finding.key == "foreign"
    assert store.repair() == [Finding("foreign", finding.problem, "left")]
    assert sql(path, "SELECT metadata FROM store") == [(stored,)]


@pytest.mark.parametrize("depth", [201, 900, 100_000])
def test_metadata_that_are_too_deep_are_damaged_and_hide_nothing(store, path, depth):
    put(store, "good", n=1)
    insert(path, "a", '{"n":1,"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}")
    insert(path, "deepest", '{"n":1,"a":' + "[" * 199 + "]" * 199 + "}")
    assert sorted(key for key, _ in store.query(n=1)) == ["deepest", "good"]
    assert sorted(key for key, _ in store.query()) == ["deepest", "good"]
    with pytest.raises(StoreError, match="damaged"):
        store.get_metadata("a")
    assert [finding.key for finding in store.check()] == ["a"]
    store.repair()
    assert store.get_metadata("a") == {}
    assert store.check() == []


def test_compact_drops_what_the_index_has_of_rows_that_are_gone(store, path):
    for n in range(50):
        sql(path, "REPLACE INTO store VALUES ('a', ?, 1.0, 1.0, x'')", f'{{"n":{n}}}')
    assert sql(path, 'SELECT count(*) FROM "store#index"') == [(50,)]
    store.compact()
    assert sql(path, 'SELECT count(*) FROM "store#index"') == [(1,)]
    assert [key for key, _ in store.query(n=49)] == ["a"]


def test_the_index_need_not_know_the_empty_key(path):
    with SqliteStore(path, index=None) as old:
        put(old, "a", n=1)
    insert(path, "", '{"n":1}')
    with SqliteStore(path) as store:
        assert [key for key, _ in store.query(n=1)] == ["a"]
        for findings in (store.check(), store.repair(), store.check()):
            assert [finding.problem for finding in findings] == ["a row has str: '' for a key"]


@pytest.mark.parametrize("key", [None, "", b"blob", "x" * 1025])
def test_a_row_that_has_no_key_is_told_of_and_left(store, path, key):
    insert(path, key, '{"a": 1}', b"data")
    (finding,) = store.check()
    assert finding.key is None
    assert "for a key" in finding.problem
    assert [finding.outcome for finding in store.repair()] == ["left"]
    assert sql(path, "SELECT key, data FROM store") == [(key, b"data")]


def test_a_key_that_is_no_utf_8_is_told_of(store, path):
    sql(path, "INSERT INTO store VALUES (CAST(x'61ff' AS TEXT), '{}', 1.0, 1.0, x'')")
    put(store, "good")
    assert ["for a key" in finding.problem for finding in store.check()] == [True]


def test_a_check_inside_a_transaction_sees_its_changes(store, path):
    with store.transaction():
        put(store, "a", BIG)
        handle = store._handle()
        handle.connection.execute("UPDATE store SET metadata = 'x' WHERE key = 'a'")
        assert [finding.key for finding in store.check()] == ["a"]
        handle.connection.execute("UPDATE store SET metadata = '{}' WHERE key = 'a'")
    assert store.check() == []


def test_a_check_does_not_write_and_keeps_nobody_out(store, path):
    filled(store)
    looked = []

    def rows(self):
        # In the middle of the check another process writes.
        insert(path, "other", "nonsense")
        looked.append(list(real(self)))
        return iter(looked[0])

    real = inspection.Inspection._rows
    with mock.patch.object(inspection.Inspection, "_rows", rows):
        version = sqlite3.connect(path)
        before = version.execute("PRAGMA data_version").fetchone()
        # What was changed meanwhile is no matter of the snapshot.
        assert store.check() == []
        assert version.execute("PRAGMA data_version").fetchone()[0] == before[0] + 1
        version.close()
    assert looked == [[]]
    assert [finding.key for finding in store.check()] == ["other"]


def test_wrong_use(store):
    with store.transaction():
        for method in (store.repair, store.compact, store.upgrade):
            with pytest.raises(StoreError, match="inside a transaction"):
                method()
    store.disconnect()
    for method in (store.check, store.repair, store.compact, store.upgrade):
        with pytest.raises(StoreError, match="not connected"):
            method()


# Large values


def test_data_that_are_gone_are_lost_and_the_metadata_kept(store, path):
    put(store, "big", BIG, a=1)
    sql(path, 'DELETE FROM "store#chunks"')
    finding = Finding("big", "all its data are missing")
    assert store.check() == [finding]
    events = told(store)
    finding.outcome = "lost"
    assert store.repair() == [finding]
    assert pair(store, "big") == (b"", {"a": 1})
    assert events == [("update", "big", {"a": 1})]
    assert store.check() == []


def test_a_table_of_chunks_that_is_gone(store, path):
    put(store, "big", BIG, a=1)
    sql(path, 'DROP TABLE "store#chunks"')
    assert [str(finding) for finding in store.repair()] == [
        "'big': all its data are missing (lost)"
    ]
    assert pair(store, "big") == (b"", {"a": 1})


@pytest.mark.parametrize("gone", [[0], [1], [1, 2], [0, 2]])
def test_of_chunks_that_are_missing_the_others_stay_where_they_belong(store, path, gone):
    put(store, "big", BIG, a=1)
    etag = store.get("big").etag
    base = number_of(path, "big") << SHIFT
    for n in gone:
        sql(path, 'DELETE FROM "store#chunks" WHERE id = ?', base + n)
    (finding,) = store.check()
    assert finding.key == "big"
    assert f"{gone[0] * CHUNK} to " in finding.problem
    (finding,) = store.repair()
    assert finding.outcome == "lost"
    expected = bytearray(BIG)
    for n in gone:
        expected[n * CHUNK : (n + 1) * CHUNK] = bytes(CHUNK)
    assert pair(store, "big") == (bytes(expected), {"a": 1})
    assert store.get("big").etag != etag
    assert store.check() == []


@pytest.mark.parametrize(
    ("n", "value", "expected"),
    [
        (1, b"short", BIG[:CHUNK] + b"short".ljust(CHUNK, b"\0") + BIG[2 * CHUNK :]),
        (0, "text", bytes(CHUNK) + BIG[CHUNK:]),
        (3, b"", BIG[: 3 * CHUNK] + bytes(CHUNK)),
        (1, None, BIG[:CHUNK] + bytes(CHUNK) + BIG[2 * CHUNK :]),
        (2, b"x" * (CHUNK + 5), BIG[: 2 * CHUNK] + b"x" * CHUNK + BIG[3 * CHUNK :]),
    ],
)
def test_chunks_of_the_wrong_size_or_kind(store, path, n, value, expected):
    put(store, "big", BIG)
    id = (number_of(path, "big") << SHIFT) + n
    sql(path, 'UPDATE "store#chunks" SET bytes = ? WHERE id = ?', value, id)
    assert [finding.key for finding in store.check()] == ["big"]
    assert [finding.outcome for finding in store.repair()] == ["lost"]
    assert pair(store, "big")[0] == expected
    assert store.check() == []


def test_a_chunk_far_behind_the_others_does_not_fill_the_disk(store, path):
    put(store, "big", BIG)
    id = (number_of(path, "big") << SHIFT) + (1 << SHIFT) - 1
    sql(path, 'INSERT INTO "store#chunks" VALUES (?, ?)', id, b"x")
    assert [finding.outcome for finding in store.repair()] == ["left"]
    assert sql(path, 'SELECT count(*) FROM "store#chunks"') == [(5,)]


def test_chunks_of_no_key_are_removed_and_others_not(store, path):
    put(store, "big", BIG)
    sql(path, 'INSERT INTO "store#chunks" VALUES (5, ?)', b"x")
    sql(path, 'INSERT INTO "store#chunks" VALUES (?, ?)', 1 << 61, b"x")
    sql(path, 'INSERT INTO "store#chunks" VALUES (-7, ?)', b"x")
    finding = Finding(None, "3 chunks of data belong to no key")
    assert store.check() == [finding]
    finding.outcome = "mended"
    assert store.repair() == [finding]
    assert sql(path, 'SELECT count(*) FROM "store#chunks"') == [(4,)]
    assert pair(store, "big")[0] == BIG


def test_two_rows_with_one_blob_get_one_each(store, path):
    put(store, "a", BIG)
    for key in ("b", "c"):
        sql(
            path, "INSERT INTO store SELECT ?, '{}', 1.0, 1.0, data FROM store WHERE key = 'a'", key
        )
    assert [str(finding) for finding in store.check()] == [
        "'b': it shares its data with 'a'",
        "'c': it shares its data with 'a'",
    ]
    assert [finding.outcome for finding in store.repair()] == ["mended", "mended"]
    assert store.check() == []
    store.delete("a")
    assert pair(store, "b")[0] == pair(store, "c")[0] == BIG


# The index


def index_names(path):
    return sql(path, 'SELECT * FROM "store#index" ORDER BY 1, 2, 3')


def test_rows_that_the_index_lacks(store, path):
    filled(store)
    before = index_names(path)
    sql(path, """DELETE FROM "store#index" WHERE key IN ('key0001', 'big')""")
    assert list(store.query_keys(n=1)) == []
    (finding,) = store.check()
    assert finding == Finding(None, "3 rows are missing from the index")
    assert [finding.outcome for finding in store.repair()] == ["mended"]
    assert index_names(path) == before
    assert list(store.query_keys(n=1)) == ["key0001"]
    assert store.check() == []


def test_rows_that_the_index_has_too_many(store, path):
    filled(store)
    before = index_names(path)
    sql(path, """INSERT INTO "store#index" VALUES ('n', 99, 'key0001')""")
    assert store.check() == [Finding("key0001", "1 rows are superfluous in the index")]
    sql(path, """INSERT INTO "store#index" VALUES (x'', x'', 'key0002')""")
    assert store.check() == [Finding(None, "2 rows are superfluous in the index")]
    assert [finding.outcome for finding in store.repair()] == ["mended"]
    assert index_names(path) == before


def test_what_another_version_of_sqlite_has_read_a_little_differently_is_right(store, path):
    put(store, "a", n=0.1, m=5e-324, o=1e308)
    sql(path, """UPDATE "store#index" SET value = 0.10000000000000002 WHERE name = 'n'""")
    assert store.check() == []


def test_every_kind_of_metadata_is_right_in_the_index(store, path):
    for n, value in enumerate([0, 1.5, True, False, None, "x" * 99, [1], {"a": 1}, "ä\0b", 10**30]):
        put(store, f"k{n}", **{"name": value, "n" * 99: value, "": n, "n\0m": 1})
    insert(path, "0.8", pickle.dumps({"a": 1}, 2))
    assert store.check() == []


def test_an_index_that_has_not_read_all_is_not_wrong(path):
    with SqliteStore(path, index=None) as store:
        for n in range(30):
            put(store, f"k{n:02}", n=n)
    with SqliteStore(path) as store:
        index = store._index
        connection = store._handle().connection
        assert store.check() == []
        assert not index.fill(connection, 10)
        assert store.check() == []
        sql(path, """DELETE FROM "store#index" WHERE key = 'k05'""")
        assert len(store.check()) == 1
        store.repair()
        assert index.is_filled(connection)
        assert list(store.query_keys(n=5)) == ["k05"]


def test_a_static_index_stays_one(path):
    with SqliteStore(path, index="static", index_columns=["n", "other"]) as store:
        put(store, "k", n=1, m=2)
        assert store.check() == []
        sql(path, 'DELETE FROM "store#index"')
        assert len(store.check()) == 1
        store.repair()
        assert index_names(path) == [("n", 1, "k")]
        assert sql(path, 'SELECT name FROM "store#indexed" ORDER BY 1') == [("n",), ("other",)]


# Damage in the file


def page_size(path):
    return sql(path, "PRAGMA page_size")[0][0]


def pages_of(path, name):
    """Return the pages of the leaves of a table or index, found as SQLite writes them."""
    (root,) = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = ?", name)[0]
    size = page_size(path)
    with open(path, "rb") as file:
        content = file.read()
    leaves, todo = [], [root]
    while todo:
        page = todo.pop()
        start = (page - 1) * size + (100 if page == 1 else 0)
        kind = content[start]
        if kind in (13, 10):
            leaves.append(page)
            continue
        cells = int.from_bytes(content[start + 3 : start + 5], "big")
        for n in range(cells):
            at = start + 12 + 2 * n
            cell = (page - 1) * size + int.from_bytes(content[at : at + 2], "big")
            todo.append(int.from_bytes(content[cell : cell + 4], "big"))
        todo.append(int.from_bytes(content[start + 8 : start + 12], "big"))
    return sorted(leaves)


def overwrite(path, page, offset=0, value=b"\xff" * 16):
    with open(path, "r+b") as file:
        file.seek((page - 1) * page_size(path) + offset)
        file.write(value)


@pytest.fixture(params=["wal", "delete"])
def damaged(request, path):
    """A function that makes a store and damages a page of a table, and opens it again."""
    stores = []

    def make(name, position=1, count=400, **options):
        with SqliteStore(path, durability="process") as store:
            filled(store, count)
            sql(path, "CREATE TABLE other (a, b UNIQUE)")
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.executemany(
                    "INSERT INTO other VALUES (?, ?)", [(n, n) for n in range(2000)]
                )
            sql(path, "CREATE VIEW seen AS SELECT a FROM other")
            sql(path, "CREATE TRIGGER never AFTER DELETE ON other BEGIN SELECT 1; END")
            sql(path, "PRAGMA user_version=7")
        sql(path, f"PRAGMA journal_mode={request.param}")
        pages = pages_of(path, name)
        overwrite(path, pages[position], **options)
        store = SqliteStore(path, durability="process", event_manager=EventManager())
        if request.param == "delete":
            with mock.patch("encore.storage.sqlite_store.set_up", return_value=False):
                store.connect()
        else:
            store.connect()
        assert store._wal == (request.param == "wal")
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.disconnect()


def readable(store, count=400):
    """Return the keys that can be read, each seen to be right."""
    keys = []
    for n in range(count):
        try:
            data, metadata = pair(store, f"key{n:04}")
        except (KeyError, StoreError):
            continue
        assert data == b"%d" % n
        assert metadata == {"n": n, "text": "x" * 40}
        keys.append(f"key{n:04}")
    return keys


def check_repaired(store, path, findings):
    assert findings[0].problem.startswith("the file is damaged: ")
    assert findings[0].outcome == "mended"
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert store.check() == []
    assert pair(store, "big") == (BIG, {"big": True})
    assert sql(path, "SELECT count(*), sum(a) FROM other") == [(2000, 1999000)]
    assert sql(path, "SELECT count(*) FROM seen") == [(2000,)]
    assert sql(path, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'other'")
    assert sql(path, "PRAGMA user_version") == [(7,)]
    names = {
        name.removeprefix(os.path.basename(path)) for name in os.listdir(os.path.dirname(path))
    }
    assert names <= {"", "-wal", "-shm"}
    put(store, "new", b"new", n=-1)
    assert list(store.query_keys(n=-1)) == ["new"]


def test_of_a_damaged_page_all_others_are_saved(damaged, path):
    store = damaged("store")
    before = readable(store)
    assert 300 < len(before) < 400
    found = store.check()
    assert found[0].problem.startswith("the file is damaged: ")
    findings = store.repair()
    assert readable(store) == before
    lost = {finding.key for finding in findings if finding.outcome == "lost" and finding.key}
    assert lost == {f"key{n:04}" for n in range(400)} - set(before)
    check_repaired(store, path, findings)


def test_large_data_of_a_row_that_is_lost_are_left(damaged, path):
    store = damaged("store", -1)
    with pytest.raises(StoreError):
        store.get("big")
    findings = store.repair()
    assert Finding("big", "it cannot be read", "lost") in findings
    assert Finding(None, "4 chunks of data belong to no key", "left") in findings
    assert sql(path, 'SELECT count(*) FROM "store#chunks"') == [(4,)]
    assert [str(finding) for finding in store.check()] == ["4 chunks of data belong to no key"]


def test_a_damaged_index_of_keys_loses_nothing(damaged, path):
    store = damaged("sqlite_autoindex_store_1")
    findings = store.repair()
    assert len(readable(store)) == 400
    assert {finding.outcome for finding in findings} == {"mended"}
    check_repaired(store, path, findings)


def test_an_index_with_wrong_rows_is_made_again_and_no_table_touched(path):
    with SqliteStore(path, durability="process") as store:
        filled(store, 400)
    page = pages_of(path, "sqlite_autoindex_store_1")[1]
    with open(path, "rb") as file:
        file.seek((page - 1) * page_size(path))
        at = file.read(page_size(path)).index(b"key0")
    overwrite(path, page, at, b"kez")
    with SqliteStore(path, durability="process") as store:
        assert len(readable(store)) == 399
        assert any("missing from index" in str(finding) for finding in store.check())
        with mock.patch.object(salvage, "_rebuild") as rebuild:
            findings = store.repair()
        assert not rebuild.called
        assert {finding.outcome for finding in findings} == {"mended"}
        assert len(readable(store)) == 400
        assert store.check() == []


def test_a_damaged_index_of_metadata_loses_nothing(damaged, path):
    store = damaged("store#index")
    findings = store.repair()
    assert len(readable(store)) == 400
    assert {finding.outcome for finding in findings} == {"mended"}
    assert list(store.query_keys(n=17)) == ["key0017"]
    check_repaired(store, path, findings)


def test_a_damaged_table_of_another_program(damaged, path):
    store = damaged("other", 2)
    findings = store.repair()
    # Its index knows all that it has.
    assert len(readable(store)) == 400
    assert Finding(None, "not all rows of table 'other' can be read", "lost") in findings
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert sql(path, "SELECT count(*) FROM other")[0][0] > 1000


def test_damaged_data_leave_the_metadata(damaged, path):
    with SqliteStore(path, durability="process") as store:
        put(store, "middle", b"m" * 30000, m=1)
    sql(path, "PRAGMA journal_mode=delete")
    with open(path, "rb") as file:
        # A page in the middle of the chain; its first bytes are the number of the next one.
        content = file.read()
    size = page_size(path)
    page = next(
        n
        for n in range(3, len(content) // size)
        if content[n * size + 9 : n * size + 99] == b"m" * 90
    )
    overwrite(path, page + 1, 0, b"\xff\xff\xff\xff")
    store = damaged("store", 0, offset=4000, value=b"")
    findings = store.repair()
    assert Finding("middle", "its data cannot be read", "lost") in findings
    assert pair(store, "middle") == (b"", {"m": 1})
    assert len(readable(store)) == 400
    check_repaired(store, path, findings)


def test_damaged_chunks_become_zeros(path):
    with SqliteStore(path, durability="process") as store:
        put(store, "big", BIG * 8, a=1)
        put(store, "other", b"x", a=2)
        put(store, "big2", BIG * 8, a=3)
    sql(path, "PRAGMA journal_mode=delete")
    overwrite(path, pages_of(path, "store#chunks")[1])
    with SqliteStore(path, durability="process") as store:
        findings = store.repair()
        assert pair(store, "other") == (b"x", {"a": 2})
        lost = [finding.key for finding in findings if finding.outcome == "lost" and finding.key]
        assert set(lost) <= {"big", "big2"}
        assert lost
        wrong = 0
        for key, a in (("big", 1), ("big2", 3)):
            data, metadata = pair(store, key)
            assert metadata == {"a": a}
            assert len(data) == len(BIG) * 8
            for start in range(0, len(data), CHUNK):
                piece = data[start : start + CHUNK]
                assert piece in (BIG[:CHUNK], bytes(CHUNK))
                wrong += piece == bytes(CHUNK)
        assert 0 < wrong < 16
        assert store.check() == []


def test_a_key_whose_row_is_gone_is_told_when_the_index_is_made_again(path):
    with SqliteStore(path, durability="process", index=None) as store:
        put(store, "a", b"1")
        put(store, "b", b"2")
    (page,) = pages_of(path, "store")
    with open(path, "rb") as file:
        file.seek((page - 1) * page_size(path))
        before = file.read(page_size(path))
    with SqliteStore(path, durability="process", index=None) as store:
        put(store, "c", b"3")
    # As if one of two pages had not been written.
    overwrite(path, page, 0, before)
    with SqliteStore(path, durability="process", index=None) as store:
        with mock.patch.object(salvage, "_rebuild") as rebuild:
            findings = store.repair()
        assert not rebuild.called
        assert Finding("c", "it cannot be read", "lost") in findings
        assert list(store.keys()) == ["a", "b"]
        assert store.check() == []


def in_page(path, page):
    """Return the rows of a leaf of a table with small rows: where each begins, and its id."""
    with open(path, "rb") as file:
        file.seek((page - 1) * page_size(path))
        content = file.read(page_size(path))
    for n in range(int.from_bytes(content[3:5], "big")):
        at = int.from_bytes(content[8 + 2 * n : 10 + 2 * n], "big")
        first, second = content[at + 1], content[at + 2]
        yield at, first if first < 128 else (first & 127) << 7 | second


def plain_table(path):
    with SqliteStore(path, durability="process"):
        sql(path, "CREATE TABLE plain (a)")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        sql(path, f"{numbers} INSERT INTO plain SELECT ? FROM n", "x" * 50)
    return pages_of(path, "plain")


def ids(path):
    with closing(sqlite3.connect(path)) as connection:
        return {id for (id,) in connection.execute("SELECT rowid FROM plain")}


def test_rows_between_two_damaged_pages_are_saved(path):
    pages = plain_table(path)
    expected = set(range(1, 1001))
    for page in (pages[2], pages[6]):
        expected -= {id for _, id in in_page(path, page)}
        overwrite(path, page)
    with SqliteStore(path, durability="process") as store:
        store.repair()
        assert store.check() == []
    assert ids(path) == expected


def test_rows_behind_a_damaged_page_are_saved_though_an_id_before_is_wrong(path):
    pages = plain_table(path)
    (at, wrong), *_ = in_page(path, pages[2])
    overwrite(path, pages[2], at + 1, b"\xff\x7f")
    expected = set(range(1, 1001)) - {wrong} | {0x3FFF}
    expected -= {id for _, id in in_page(path, pages[6])}
    overwrite(path, pages[6])
    with SqliteStore(path, durability="process") as store:
        store.repair()
        assert store.check() == []
    assert ids(path) == expected


def test_chunks_that_nothing_leads_to_are_found_by_their_number(path):
    with SqliteStore(path, durability="process") as store:
        put(store, "big", BIG * 16, a=1)
    sql(path, "PRAGMA journal_mode=delete")
    pages = pages_of(path, "store#chunks")
    for page in (pages[1], pages[-2]):
        overwrite(path, page)
    with SqliteStore(path, durability="process") as store:
        with mock.patch.object(salvage.Salvage, "_readable_behind", return_value=None):
            store.repair()
        data = store.get("big").data.read()
        gone = {n for n in range(64) if data[n * CHUNK : (n + 1) * CHUNK] == bytes(CHUNK)}
        assert data[: 4 * CHUNK] == BIG
        # Those of two pages, not those in between.
        assert len(gone) < 40
        assert max(gone) - min(gone) > len(gone)
        assert store.check() == []


def test_others_that_have_the_file_open_see_what_was_saved(damaged, path):
    store = damaged("store")
    other = SqliteStore(path, durability="process")
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM other").fetchone() == (2000,)
        if store._wal:
            other.connect()
            assert pair(other, "key0000")[0] == b"0"
        store.repair()
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with raw:
            raw.execute("INSERT INTO store VALUES ('raw', '{}', 1.0, 1.0, x'00')")
        if store._wal:
            assert readable(other) == readable(store)
            assert pair(other, "raw") == (b"\0", {})
            other.disconnect()
    assert pair(store, "raw") == (b"\0", {})


def test_what_others_write_in_between_is_not_lost(damaged, path):
    store = damaged("store")
    done = []
    real = salvage.Salvage.run

    def run(self):
        lost = real(self)
        done.append("read")

        def write(statement):
            # Between reading and writing back, for which the lock is given up in WAL mode.
            if "page_count" in statement and len(done) == 1:
                try:
                    with closing(sqlite3.connect(path, timeout=0)) as other, other:
                        other.execute("INSERT INTO store VALUES ('late', '{}', 1.0, 1.0, x'01')")
                    done.append("written")
                except sqlite3.OperationalError:
                    done.append("locked")

        self._target.set_trace_callback(write)
        return lost

    with mock.patch.object(salvage.Salvage, "run", run):
        store.repair()
    if store._wal:
        assert done == ["read", "written", "read"]
        assert pair(store, "late") == (b"\1", {})
    else:
        assert done == ["read", "locked"]
    assert store.check() == []
    put(store, "new")


def test_a_repair_under_constant_writing_gives_up_and_changes_nothing(damaged, path):
    store = damaged("store")
    if not store._wal:
        pytest.skip("the locks are kept")
    before = readable(store)
    numbers = iter(range(1000))
    with (
        mock.patch.object(salvage, "_version", side_effect=lambda _: next(numbers)),
        pytest.raises(StoreError, match="while others write"),
    ):
        store.repair()
    assert readable(store) == before
    assert store.check()


def test_a_repair_that_fails_in_the_middle_changes_nothing(store, path):
    put(store, "a", BIG)
    sql(path, "UPDATE store SET metadata = 'x'")
    sql(path, 'DELETE FROM "store#chunks"')
    before = sql(path, "SELECT * FROM store")
    found = store.check()
    with (
        mock.patch.object(inspection.Inspection, "_update", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        store.repair()
    assert sql(path, "SELECT * FROM store") == before
    assert store.check() == found
    put(store, "b")


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_flipped_lose_no_more_than_can_be_read_no_more(path, seed):
    """What could be read before can be read afterwards."""
    rng = random.Random(seed)
    with SqliteStore(path, durability="process") as store:
        filled(store, 300)
        put(store, "big", BIG, big=True)
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    size, total = page_size(path), os.path.getsize(path)
    with open(path, "r+b") as file:
        for _ in range(3):
            # Not the first pages, without which nothing is known of the tables.
            file.seek(rng.randrange(12 * size, total))
            file.write(bytes(rng.randrange(256) for _ in range(8)))
    with SqliteStore(path, durability="process") as store:
        before = {}
        for key in [f"key{n:04}" for n in range(300)] + ["big"]:
            try:
                before[key] = pair(store, key)
            except (KeyError, StoreError):
                pass
        found = store.check()
        findings = store.repair()
        assert bool(found) == bool(findings)
        assert store.check() == [] or all(each.outcome == "left" for each in findings)
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]
        for key, (data, metadata) in before.items():
            after = pair(store, key)
            assert after[1] == metadata
            assert after[0] == data or key == "big"


# compact()


def sizes(path):
    return sum(
        os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix)
    )


def test_compact_gives_space_back_while_others_are_connected(store, path):
    with SqliteStore(path, durability="process") as other:
        for n in range(20):
            put(store, f"big{n}", BIG)
        for n in range(19):
            store.delete(f"big{n}")
        assert pair(other, "big19")[0] == BIG
        assert sizes(path) > 10 * len(BIG)
        store.compact()
        assert sizes(path) < 2 * len(BIG)
        assert pair(other, "big19")[0] == pair(store, "big19")[0] == BIG
        put(other, "new", b"x")
        assert store.check() == []


def test_compact_is_refused_while_somebody_reads(store, path):
    put(store, "a", BIG)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM store").fetchall()
        put(store, "b", BIG)
        store.delete("a")
        before = os.path.getsize(path + "-wal")
        with (
            mock.patch.object(module, "_READERS", 10),
            pytest.raises(StoreError, match="compacted while"),
        ):
            store.compact()
        # Nothing was begun: all would stand in the WAL once more.
        assert os.path.getsize(path + "-wal") == before
    store.compact()
    assert sizes(path) < 1.2 * len(BIG)
    assert pair(store, "b")[0] == BIG


def test_compact_is_refused_while_large_values_are_open(store, path):
    put(store, "a", BIG)
    value = store.get("a")
    put(store, "b")
    with mock.patch.object(module, "_READERS", 10), pytest.raises(StoreError, match="large values"):
        store.compact()
    assert value.data.read() == BIG
    del value
    store.compact()


def test_compact_is_refused_while_somebody_writes(store, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        store._handle().connection.execute("PRAGMA busy_timeout=10")
        with pytest.raises(StoreError, match="locked"):
            store.compact()
        writer.execute("ROLLBACK")
    store.compact()


def test_compact_without_a_wal(path):
    put_here = SqliteStore(path, durability="process")
    put_here.connect()
    with mock.patch.object(put_here, "_wal", False):
        put_here._handle().connection.execute("PRAGMA journal_mode=DELETE")
        put(put_here, "a", BIG * 4)
        put_here.delete("a")
        put_here.compact()
        assert sizes(path) < len(BIG)
    put_here.disconnect()


# upgrade()


def old_rows(path, count, **more):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO store VALUES (?, ?, 1.5, 2.5, x'00')",
            [
                (f"old{n:05}", pickle.dumps({"n": n, "list": (1, 2), **more}, 2))
                for n in range(count)
            ],
        )


def test_upgrade_makes_json_and_changes_nothing_else(store, path):
    old_rows(path, 10)
    insert(path, "text", pickle.dumps({"a": 1}, 2).decode("latin-1"))
    insert(path, "blob", b'{"a": 2}')
    put(store, "new", a=3)
    before = {key: (store.get(key).etag, *pair(store, key)) for key in list(store.keys())}
    stamps = sql(path, "SELECT key, created, modified FROM store ORDER BY key")
    events = told(store)
    assert store.upgrade() == 12
    assert store.upgrade() == 0
    assert events == []
    assert {key: (store.get(key).etag, *pair(store, key)) for key in list(store.keys())} == before
    assert sql(path, "SELECT key, created, modified FROM store ORDER BY key") == stamps
    assert sql(path, "SELECT DISTINCT typeof(metadata), json_valid(metadata) FROM store") == [
        ("text", 1)
    ]
    assert list(store.query_keys(n=3)) == ["old00003"]
    assert sql(path, """SELECT count(*) FROM "store#index" WHERE name = x''""") == [(0,)]
    assert store.check() == []


def test_upgrade_leaves_what_cannot_be_read(store, path):
    foreign = pickle.dumps({"a": EventManager}, 2)
    for key, stored in (("a", foreign), ("b", b"\x80nonsense"), ("c", b'{"a": NaN}'), ("d", b"")):
        insert(path, key, stored)
    old_rows(path, 3)
    assert store.upgrade() == 3
    assert sql(path, "SELECT metadata FROM store WHERE key = 'a'") == [(foreign,)]
    assert [finding.key for finding in store.check()] == ["a", "b", "d"]


def test_an_interrupted_upgrade_goes_on(store, path):
    old_rows(path, 500)
    real = module._as_json
    calls = []

    def failing(stored):
        calls.append(stored)
        if len(calls) == 350:
            raise KeyboardInterrupt
        return real(stored)

    with (
        mock.patch.object(module, "_as_json", failing),
        mock.patch("time.sleep"),
        pytest.raises(KeyboardInterrupt),
    ):
        store.upgrade()
    assert sql(path, "SELECT count(*) FROM store WHERE typeof(metadata) = 'text'") == [(200,)]
    assert store.upgrade() == 300


def test_others_write_between_the_steps_of_an_upgrade(store, path):
    old_rows(path, 500)
    written = []

    def sleep(_):
        # Nobody is kept out here, and nothing is lost.
        with closing(sqlite3.connect(path, timeout=0)) as other, other:
            other.execute(
                "UPDATE store SET metadata = '{\"n\": -1}' WHERE key = ?",
                (f"old{450 + len(written):05}",),
            )
            written.append(1)

    with mock.patch("time.sleep", sleep):
        assert store.upgrade() == 500 - 3
    assert len(written) == 3
    assert store.get_metadata("old00450") == {"n": -1}
    assert store.get_metadata("old00453") == {"n": 453, "list": [1, 2]}


def test_a_row_changed_while_it_is_upgraded_stays_as_it_was_changed(store, path):
    old_rows(path, 2)
    real = module._as_json

    def slow(stored):
        text = real(stored)
        store._handle().connection.execute(
            "UPDATE store SET metadata = '{}' WHERE key = 'old00001'"
        )
        return text

    with mock.patch.object(module, "_as_json", slow):
        assert store.upgrade() == 1
    assert store.get_metadata("old00001") == {}


def test_a_table_whose_columns_are_called_as_row_ids(path):
    with SqliteStore(path) as store:
        pass
    sql(path, "ALTER TABLE store ADD COLUMN rowid")
    sql(path, "ALTER TABLE store ADD COLUMN oid")
    old = pickle.dumps({"n": 1}, 2)
    sql(path, "INSERT INTO store VALUES ('k', ?, 1.0, 1.0, x'', 'same', NULL)", old)
    sql(path, "INSERT INTO store VALUES ('l', ?, 1.0, 1.0, x'', 'same', NULL)", old)
    with SqliteStore(path) as store:
        assert store.upgrade() == 2
        assert store.check() == []


def test_a_table_without_row_ids(path):
    columns = "key text primary key, metadata dict, created float, modified float, data blob"
    sql(path, f"CREATE TABLE store ({columns}) WITHOUT ROWID")
    for n in range(300):
        insert(path, f"k{n:03}", pickle.dumps({"n": n}, 2))
    insert(path, "x", "nonsense")
    with SqliteStore(path) as store:
        assert store.upgrade() == 300
        assert [finding.outcome for finding in store.repair()] == ["lost"]
        assert store.get_metadata("k299") == {"n": 299}


def test_the_command_line(path):
    with SqliteStore(path) as store:
        put(store, "a")
    old_rows(path, 3)
    insert(path, "bad", "nonsense")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "encore", *arguments, f"sqlite:{path}"],
            capture_output=True,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)]),
            },
            text=True,
        )
        return done.returncode, done.stdout

    assert run("upgrade") == (0, "3 rewritten\n")
    assert run("check")[0] == 1
    code, out = run("check", "--repair")
    assert code == 1
    assert out.startswith("'bad': the metadata are damaged")
    assert "(lost)" in out
    assert run("check") == (0, "")
    assert run("compact") == (0, "")
