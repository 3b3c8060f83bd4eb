"""The table of an SqliteStore, and what others may have put there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from unittest import mock

import pytest
from sqlite_files import pair, put, sql

import encore.storage._sqlite_queries as queries
import encore.storage._sqlite_setup as setup
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.sqlite_store import SqliteStore

BIG = bytes(range(256)) * 1024  # four chunks


def test_the_table_has_the_five_columns_of_old(path, store):
    columns = [(row[1], row[2].lower(), row[5]) for row in sql(path, "PRAGMA table_info(store)")]
    assert columns == [
        ("key", "text", 1),
        ("metadata", "dict", 0),
        ("created", "float", 0),
        ("modified", "float", 0),
        ("data", "blob", 0),
    ]
    put(store, "a", b"1", n="ä")
    ((metadata, data),) = sql(path, "SELECT metadata, data FROM store")
    assert (json.loads(metadata), data) == ({"n": "ä"}, b"1")


def test_rows_that_others_insert_by_position(path, store):
    row = ("a", {"n": [1, None]}, 1.5, 2.5, b"theirs")
    sql(path, "INSERT INTO store VALUES (?, ?, ?, ?, ?)", row)
    value = store.get("a")
    assert (value.data.read(), value.metadata) == (b"theirs", {"n": [1, None]})
    assert (value.created, value.modified, value.size) == (1.5, 2.5, 6)
    assert list(store.query(n=[1, None])) == [("a", {"n": [1, None]})]
    store.set_metadata("a", {"n": 2})
    after = store.get("a")
    assert (after.created, after.data.read()) == (1.5, b"theirs")
    assert after.modified > 2.5
    sql(path, "DELETE FROM store")
    assert not store.exists("a")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_rows_of_old_hold_pickles(path, store, protocol):
    metadata = {"a": 1, "b": ["x", {"c": None}], "d": 1.5, "e": True, "t": (1, 2)}
    expected = {**metadata, "t": [1, 2]}
    stored = pickle.dumps(metadata, protocol)
    sql(path, "INSERT INTO store VALUES (?, ?, ?, ?, ?)", ("a", stored, 1, 2, b"x"))
    assert pair(store, "a") == (b"x", expected)
    assert list(store.query(e=True)) == [("a", expected)]
    store.update_metadata("a", {"n": 1})
    ((written,),) = sql(path, "SELECT metadata FROM store")
    assert json.loads(written) == {**expected, "n": 1}


def test_pickles_of_python_2_that_stand_as_text(path, store):
    stored = b"\x80\x02}q\x00U\x01aK\xe4s.".decode("latin-1")
    sql(path, "INSERT INTO store VALUES ('a', ?, 1, 2, ?)", (stored, b""))
    assert store.get_metadata("a") == {"a": 0xE4}


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_that_runs_code_is_not_run_and_hides_nothing(path, store, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for key, stored in (
        ("a", pickle.dumps({"a": Runs()}, 2)),
        ("b", b"cos\nsystem\n(S'mkdir ran'\ntR."),
        ("c", b"(S'mkdir ran'\nios\nsystem\n."),
    ):
        sql(path, "INSERT INTO store VALUES (?, ?, 1, 2, ?)", (key, stored, b""))
        with pytest.raises(StoreError, match="damaged"):
            store.get(key)
    put(store, "d", n=1)
    assert list(store.query()) == [("d", {"n": 1})]
    assert list(store.keys()) == ["a", "b", "c", "d"]
    store.set_metadata("a", {})
    store.delete("b")
    assert not os.path.exists("ran")


def test_columns_of_old_indexes_are_kept_and_not_trusted(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE store (key text primary key, metadata dict, created float, modified float, data blob)"
        )
        connection.execute("ALTER TABLE store ADD COLUMN n")
        connection.execute('ALTER TABLE store ADD COLUMN "odd name"')
        connection.execute("CREATE INDEX n_index ON store (n)")
        connection.execute(
            "INSERT INTO store VALUES ('a', ?, 1, 2, ?, ?, 'x')",
            (pickle.dumps({"n": 1}, 2), b"d", pickle.dumps(999, 2)),
        )
    for index in ("dynamic", "static", None):
        with SqliteStore(path, index=index, index_columns=["n"], durability="process") as store:
            assert list(store.query_keys(n=1)) == ["a"]
            assert list(store.query_keys(n=999)) == []
            put(store, "a", b"e", n=1)
            put(store, "b", b"", n=1)
            store.delete("b")
    assert [row[1] for row in sql(path, "PRAGMA table_info(store)")][5:] == ["n", "odd name"]
    assert sql(path, 'SELECT n, "odd name" FROM store') == [(pickle.dumps(999, 2), "x")]


def test_columns_are_found_by_name_whatever_their_order_and_case(path):
    sql(path, "CREATE TABLE store (DATA blob, Key text primary key, modified, created, metadata)")
    with SqliteStore(path, durability="process") as store:
        put(store, "a", b"1", n=1)
        assert pair(store, "a") == (b"1", {"n": 1})


def test_missing_columns_are_named(path):
    sql(path, "CREATE TABLE store (key text primary key, metadata, created float)")
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="no column modified, data"):
        store.connect()
    assert not store.is_connected()


@pytest.mark.parametrize(
    "table",
    ["select", "a b", "it's", "a;b", "--", "ä😀", "%s", "[x]", "`", "a.b", "Store", "\n", "1", "#"],
)
def test_odd_names_of_tables(path, table):
    with SqliteStore(path, table, durability="process") as store, SqliteStore(path) as other:
        put(store, "a", BIG, n=1)
        put(store, "b", b"1")
        assert pair(store, "a") == (BIG, {"n": 1})
        store.delete("b")
        assert list(store.keys()) == ["a"]
        if table != "Store":
            assert list(other.keys()) == []


@pytest.mark.parametrize(
    "table",
    ["", 'a"b', "a\0b", "sqlite_x", "SQLite_y", "\ud800"]
    + [f"x#{suffix}" for suffix in ("chunks", "CHUNKS", "index", "indexed", "changes", "pollers")],
)
def test_refused_names_of_tables(path, table):
    with pytest.raises(ValueError, match=r"(cannot|may) have the name|surrogates"):
        SqliteStore(path, table)
    assert not os.path.exists(path)


def test_wrong_arguments(path):
    for arguments in ((None,), (3,), (path, None), (path, b"store")):
        with pytest.raises(TypeError):
            SqliteStore(*arguments)
    for arguments in (("",), ("a\0b",), (path, "store", "always")):
        with pytest.raises(ValueError, match=r"is a path or|index is"):
            SqliteStore(*arguments)
    with pytest.raises(TypeError, match="index_columns"):
        SqliteStore(path, index_columns="name")
    with pytest.raises(TypeError, match="index_columns"):
        SqliteStore(path, index_columns=[1])
    with pytest.raises(ValueError, match="durability"):
        SqliteStore(path, durability="none")


def test_a_dict_can_be_bound_by_any_connection():
    code = """
import sys
assert "sqlite3" not in sys.modules
import encore.storage.sqlite_store
assert "sqlite3" not in sys.modules
import sqlite3
encore.storage.sqlite_store.SqliteStore()
print(sqlite3.connect(":memory:").execute("SELECT ?", ({"b": [1, (2,)]},)).fetchone()[0])
"""
    for text in (
        code,
        "import sqlite3\n"
        + code.replace("assert", "0 and").replace("encore.storage.sqlite_store.SqliteStore()", ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=True
        )
        assert done.stdout == '{"b":[1,[2]]}\n'


def test_strange_rows_hide_nothing(path, store):
    put(store, "fine", b"1", n=1)
    big = "x" * 100
    for key, metadata, created, data in (
        ("'a'", "'{'", "1", "x'00'"),
        ("'b'", "NULL", "NULL", "NULL"),
        ("'c'", "'{}'", "'text'", "'text'"),
        ("'d'", "'{}'", "9e999", "12345"),
        ("'e'", "'{}'", "-9e999", "9223372036854775807"),
        ("'f'", "CAST(x'ff' AS TEXT)", "1", "x''"),
        ("CAST(x'67ff' AS TEXT)", "'{}'", "1", "x''"),
        ("NULL", "'{}'", "1", "x''"),
        ("NULL", "'{}'", "1", "x''"),
        ("x'6868'", "'{}'", "1", "x''"),
        ("''", "'{}'", "1", "x''"),
        ("'i'", f"x'{'5b' * 2000}'", "1", "x''"),
        ("'j'", "'{\"n\": 1e999}'", "1", "1.5"),
        ("'k'", f"'{big}'", "1", "x''"),
    ):
        sql(path, f"INSERT INTO store VALUES ({key}, {metadata}, {created}, {created}, {data})")
    keys = ["a", "b", "c", "d", "e", "f", "fine", "i", "j", "k"]
    with mock.patch.object(queries, "_PAGE", 3):
        assert list(store.keys()) == list(store.query_keys()) == list(store.glob("*")) == keys
        assert list(store.keys(start_after="c", limit=3)) == ["d", "e", "f"]
        assert list(store.keys("f")) == ["f", "fine"]
        assert list(store.keys("f", start_after="f")) == ["fine"]
        assert list(store.keys("f", start_after="a")) == ["f", "fine"]
        assert list(store.keys("f", start_after="g")) == []
        assert sorted(dict(store.query())) == ["c", "d", "e", "fine", "j"]
        assert list(store.query(n=1)) == [("fine", {"n": 1})]
    assert pair(store, "c") == (b"text", {})
    assert pair(store, "d") == (b"12345", {})
    assert pair(store, "e") == (b"9223372036854775807", {})
    assert store.get("c").created == store.get("d").created == 0
    for key in ("a", "b", "f", "i", "k"):
        with pytest.raises(StoreError, match="damaged"):
            store.get(key)
    # All of them can be overwritten and deleted.
    for key in keys:
        store.set_metadata(key, {"n": 2})
        put(store, key, BIG, n=3)
        assert pair(store, key) == (BIG, {"n": 3})
        store.delete(key)
    assert list(store.keys()) == []


@pytest.mark.parametrize("prefix", ["\ud800", "a\udfff", "\U0010ffff", "\ud7ff", "\0"])
def test_prefixes_at_the_edges_of_unicode(store, prefix):
    keys = [
        "a",
        "a\ue000",
        "\ud7ff",
        "\ud7ffx",
        "\ue000",
        "\U0010ffff",
        "\U0010ffff\U0010ffff",
        "\0",
        "\0a",
    ]
    for key in keys:
        put(store, key)
    expected = sorted(keys)
    assert list(store.keys()) == expected
    assert list(store.keys(prefix)) == [key for key in expected if key.startswith(prefix)]
    assert list(store.keys(start_after=prefix)) == [key for key in expected if key > prefix]


def test_a_database_in_utf_16(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding='UTF-16le'")
        connection.execute(f"CREATE TABLE store ({setup._COLUMNS})")
    keys = ["a", "b", "ab", "\u0100", "\uff00", "\U00010000", "a\0", "é"]
    with SqliteStore(path, durability="process") as store:
        for key in keys:
            put(store, key, key.encode())
        assert list(store.keys()) == sorted(keys)
        assert list(store.keys("a")) == sorted(key for key in keys if key.startswith("a"))
        assert list(store.keys(start_after="a", limit=2)) == sorted(keys)[1:3]
        assert set(store.glob("a*")) == {"a", "ab", "a\0"}
        with mock.patch.object(queries, "_PAGE", 2):
            assert set(store.query_keys()) == set(keys)


def test_what_is_no_database(folder):
    with open(f"{folder}/text", "w") as file:
        file.write("This is no database. " * 100)
    os.mkdir(f"{folder}/dir")
    for name, number in (("text", None), ("dir", errno.EISDIR), ("no/x.db", errno.ENOENT)):
        store = SqliteStore(f"{folder}/{name}")
        with pytest.raises(StoreError) as caught:
            store.connect()
        assert f"{folder}/{name}" in str(caught.value)
        assert getattr(caught.value, "errno", None) == number
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert ("Is a directory" in str(caught.value)) == (name == "dir")
        assert not store.is_connected()
        with pytest.raises(StoreError, match="not connected"):
            store.exists("a")
    with open(f"{folder}/text") as file:
        assert file.read(7) == "This is"


def test_too_many_open_files_is_named_as_that(path, store):
    real = os.open

    def none(name, *rest):
        if name == os.devnull:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *rest)

    def connect(*args, **kwargs):
        raise sqlite3.OperationalError("unable to open database file")

    with (
        mock.patch("sqlite3.connect", connect),
        mock.patch("os.open", none),
        pytest.raises(StoreOSError) as caught,
    ):
        SqliteStore(path).connect()
    assert caught.value.errno == errno.EMFILE
    with mock.patch("sqlite3.connect", connect), pytest.raises(StoreOSError) as caught:
        SqliteStore(path).connect()
    assert caught.value.errno == errno.EACCES


UNPRIVILEGED = """
import io, os, sys
from encore.storage.sqlite_store import SqliteStore
from encore.storage.errors import StoreOSError
store = SqliteStore(sys.argv[1] + ".warm")
with store:
    list(store.query())
    store.from_bytes("z", bytes(100_000))
    store.to_bytes("z")
import tempfile
os.setgid(65534); os.setuid(65534)
with SqliteStore(sys.argv[1]) as store:
    print(dict(store.query()), store.to_bytes("a"), store.get("big").size, len(store.get("big").data.read()))
    for call in (lambda: store.from_bytes("a", b""), lambda: store.delete("a")):
        try:
            call()
        except StoreOSError as error:
            print(error.errno)
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user"
)
def test_a_database_that_may_not_be_written_can_be_read(path, folder, without_wal):
    with without_wal(), SqliteStore(path) as store:
        put(store, "a", b"1", n=1)
        put(store, "big", BIG)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o644)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, path], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        f"{{'a': {{'n': 1}}, 'big': {{}}}} b'1' {len(BIG)} {len(BIG)}",
        str(errno.EROFS),
        str(errno.EROFS),
    ], done.stderr


FOLDER = """
import io, os, sys, tempfile, urllib.parse
from encore.storage.errors import StoreOSError
from encore.storage.sqlite_store import SqliteStore
with SqliteStore(sys.argv[1] + ".warm") as store:
    list(store.query(n=1))
    store.from_bytes("z", bytes(100_000))
    store.to_bytes("z")
os.setgid(65534); os.setuid(65534)
if sys.argv[2] == "nobody can":
    real = os.statvfs
    class Status:
        f_flag = os.ST_RDONLY
    os.statvfs = lambda path: Status
store = SqliteStore(sys.argv[1])
try:
    with store:
        print(store.get_metadata("a"), len(store.to_bytes("big")), list(store.query_keys(n=1)), list(store.keys()))
        store.delete("a")
except StoreOSError as error:
    print(error.errno, "WAL mode" in str(error))
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user"
)
@pytest.mark.parametrize("who", ["others can", "others do", "nobody can"])
def test_a_wal_database_in_a_folder_that_may_not_be_written(path, folder, who):
    with SqliteStore(path) as store:
        put(store, "a", b"1", n=1)
        put(store, "big", BIG)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o644)
    writer = sqlite3.connect(path)
    with closing(writer):
        if who == "others do":
            with writer:
                writer.execute("INSERT INTO store VALUES ('new', '{}', 1, 2, '')")
            os.chmod(path + "-wal", 0o644)
            os.chmod(path + "-shm", 0o644)
        done = subprocess.run(
            [sys.executable, "-c", FOLDER, path, who], capture_output=True, text=True, check=False
        )
    new = ["new"] if who == "others do" else []
    assert done.stdout.splitlines() == (
        [f"{errno.EACCES} True"]
        if who == "others can"
        else [f"{{'n': 1}} {len(BIG)} ['a'] {['a', 'big', *new]}", f"{errno.EROFS} False"]
    ), done.stderr
