"""Databases that are no store, or none yet, and how they stay that."""

from __future__ import annotations

import errno
import io
import os
import pickle
import sqlite3
from contextlib import closing

import pytest

from encore.storage.errors import StoreError, StoreOSError
from encore.storage.opener import open_store
from encore.storage.sqlite_store import SqliteStore


def contents(folder):
    found = {}
    for name in os.listdir(folder):
        with open(f"{folder}/{name}", "rb") as file:
            found[name] = file.read()
    return found


def make(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for sql in statements:
            connection.execute(sql)


FOREIGN = {
    "empty": ([], "there is no table 'store' in "),
    "other table": (["CREATE TABLE bills (sum)"], "there is no table 'store' in "),
    "WAL": (
        ["PRAGMA journal_mode=WAL", "CREATE TABLE bills (sum)"],
        "there is no table 'store' in ",
    ),
    "other columns": (["CREATE TABLE store (key, data)"], "no column metadata, created, modified"),
}


@pytest.mark.parametrize(
    ("kind", "create"), [*((kind, False) for kind in FOREIGN), ("other columns", True)]
)
def test_a_database_that_is_no_store_stays_as_it_is(folder, path, kind, create):
    statements, message = FOREIGN[kind]
    with open(path, "wb"):
        pass
    make(path, *statements)
    before = contents(folder)
    store = SqliteStore(path, create=create)
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            store.connect()
        assert not store.is_connected()
        assert contents(folder) == before
    with pytest.raises(StoreError, match=message):
        open_store(f"sqlite:{path}", create=create).connect()
    assert contents(folder) == before


def test_a_wal_that_another_program_left_is_left_to_it(folder, path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE bills (sum)")
    there = {name: data for name, data in contents(folder).items() if not name.endswith("-shm")}
    connection.close()
    for name, data in there.items():
        with open(f"{folder}/{name}", "wb") as file:
            file.write(data)
    assert there["x.db-wal"]
    with pytest.raises(StoreError, match="no table"):
        SqliteStore(path, create=False).connect()
    after = contents(folder)
    assert {name: after[name] for name in there} == there


def test_a_database_that_is_not_there_is_not_made(folder, path):
    with pytest.raises(StoreOSError, match="there is no such database") as caught:
        SqliteStore(path, create=False).connect()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)
    assert os.listdir(folder) == []


def test_a_table_of_another_name_is_not_made(folder, path):
    with SqliteStore(path) as store:
        store.from_bytes("a", b"data")
    before = contents(folder)
    store = open_store(f"sqlite:{path}", options={"table": "typo"})
    with pytest.raises(StoreError, match="there is no table 'typo'"):
        store.connect()
    assert contents(folder) == before


@pytest.mark.parametrize(
    "name", ["x.db", "100%41.db", "why?mode=memory", "#1", "caf\u00e9", "\udcff"]
)
def test_a_store_is_opened_where_none_is_to_be_made(folder, name):
    path = f"{folder}/{name}"
    try:
        with SqliteStore(path) as store:
            store.set("a", (io.BytesIO(b"data"), {"n": 1}))
    except UnicodeEncodeError:
        pytest.skip("sqlite3 of this Python takes no such name")
    with SqliteStore(path, create=False) as store:
        assert list(store.query_keys(n=1)) == ["a"]
        store.from_bytes("b", b"more")
    assert os.listdir(folder) == [name]


def test_a_store_of_the_old_version_is_opened_and_indexed(path):
    columns = "key text primary key, metadata dict, created float, modified float, data blob"
    make(path, f"CREATE TABLE store ({columns})")
    with closing(sqlite3.connect(path)) as connection, connection:
        row = ("a", pickle.dumps({"n": 1}, 2), 1.0, 1.0, b"data")
        connection.execute("INSERT INTO store VALUES (?, ?, ?, ?, ?)", row)
    with open_store(f"sqlite:{path}") as store:
        assert list(store.query_keys(n=1)) == ["a"]
        assert store._has_index


def test_a_database_in_memory_is_always_made():
    with SqliteStore(create=False) as store:
        store.from_bytes("a", b"data")


def test_a_database_that_is_locked_is_waited_for(path, monkeypatch):
    with SqliteStore(path, durability="process"):
        pass
    monkeypatch.setattr("encore.storage._sqlite_setup.BUSY_SETUP", 1)
    real = SqliteStore._new_handle
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        looked = []

        def new_handle(self, how=""):
            if not how and not looked:
                looked.append(1)
                connection.execute("ROLLBACK")
            return real(self, how)

        monkeypatch.setattr(SqliteStore, "_new_handle", new_handle)
        with SqliteStore(path, create=True) as store:
            assert looked
            assert list(store.keys()) == []
