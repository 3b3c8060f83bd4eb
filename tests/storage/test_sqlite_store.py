"""What is the SqliteStore's own: the table, large values, connections, and what SQLite does."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import pickle
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import closing, contextmanager
from unittest import mock

import pytest

import encore.storage._sqlite_base as base
import encore.storage._sqlite_connections as connections
import encore.storage._sqlite_queries as queries
import encore.storage._sqlite_setup as setup
import encore.storage._sqlite_short_way as short_way
import encore.storage.sqlite_store as module
from encore.events.event_manager import EventManager
from encore.storage._sqlite_blobs import CHUNK, is_number, new_number
from encore.storage._sqlite_large import Snapshot, is_tame
from encore.storage._sqlite_writing import Writing
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.events import StoreModificationEvent
from encore.storage.file_value import OpenFile
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
BIG = bytes(range(256)) * 1024  # four chunks
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 20 * CHUNK + 1]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield folder


@pytest.fixture
def path(folder):
    return f"{folder}/x.db"


@pytest.fixture(params=["wal", "delete"])
def store(request, path):
    store = SqliteStore(path, durability="process")
    with without_wal() if request.param == "delete" else contextmanager(lambda: iter([None]))():
        store.connect()
    assert store._wal == (request.param == "wal")
    yield store
    store.disconnect()


@contextmanager
def without_wal():
    """As on a network file system."""
    real = setup.set_up

    def set_up(store, connection):
        connection.set_authorizer(
            lambda action, name, value, *rest: (
                sqlite3.SQLITE_DENY
                if (action, name, value) == (sqlite3.SQLITE_PRAGMA, "journal_mode", "WAL")
                else sqlite3.SQLITE_OK
            )
        )
        try:
            # What is refused by an authorizer is a DatabaseError.
            with mock.patch("sqlite3.OperationalError", sqlite3.DatabaseError):
                return real(store, connection)
        finally:
            connection.set_authorizer(lambda *rest: sqlite3.SQLITE_OK)

    with mock.patch.object(module, "set_up", set_up):
        yield


class Stream:
    """A stream of which nothing is known."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def pair(store, key):
    value = store.get(key)
    return value.data.read(), value.metadata


def sql(path, text, values=()):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(text, values).fetchall()


def chunks_of(path):
    return sql(path, 'SELECT count(*) FROM "store#chunks"')[0][0]


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(60)
    assert result
    return result[0]


# The table


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


# Damage and strangers


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
def test_a_database_that_may_not_be_written_can_be_read(path, folder):
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


# Large values


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the limit can be set since Python 3.11")
def test_values_beyond_the_limit_of_sqlite(path):
    real = module.new_connection

    def limited(store):
        connection = real(store)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        return connection

    with (
        mock.patch.object(module, "new_connection", limited),
        SqliteStore(path, durability="process") as store,
    ):
        with pytest.raises(sqlite3.DataError):
            store._handle().connection.execute("SELECT zeroblob(100001)").fetchone()
        put(store, "a", BIG, n=1)
        store.from_bytes("b", BIG)
        store.copy("a", "c")
        for key in "abc":
            assert store.to_bytes(key) == BIG
            assert store.get_data_range(key, 5, 200_000).read() == BIG[5:200_000]
        # Metadata have no chunks.
        with pytest.raises(StoreError, match="too big"):
            store.set_metadata("a", {"n": "x" * 100_000})
        assert store.get_metadata("a") == {"n": 1}


class Recorder(io.BytesIO):
    """A stream of somebody's own kind, that uses the store while it is read."""

    store = None

    def read(self, size=-1):
        self.store.set_metadata("meanwhile", {})
        assert in_thread(lambda: self.store.set_metadata("elsewhere", {})) is None
        return super().read(size)


def test_streams_of_strangers_are_read_before_the_transaction_begins(store):
    stream = Recorder(BIG)
    stream.store = store
    store.set_data("a", stream)
    assert store.to_bytes("a") == BIG


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("buffer_size", [1000, CHUNK, CHUNK + 1, 1 << 20])
def test_files_and_bytes_in_memory_need_no_copy(folder, store, size, buffer_size):
    data = (b"0123456789abcde" * (size // 15 + 2))[: size + 3]
    with open(f"{folder}/file", "wb") as file:
        file.write(data)
    with (
        open(f"{folder}/file", "rb") as file,
        open(f"{folder}/file", "rb", buffering=0) as raw,
    ):
        for stream in (io.BytesIO(data), file, raw):
            stream.seek(3)
            with mock.patch.object(store, "_temporary_file", side_effect=AssertionError):
                store.set_data("a", stream, buffer_size)
            assert (stream.tell(), stream.closed) == (len(data), False)
            assert store.to_bytes("a") == data[3:]
    with mock.patch.object(store, "_temporary_file", side_effect=AssertionError):
        store.from_file("b", f"{folder}/file", buffer_size)
    assert store.to_bytes("b") == data


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_tame(folder):
    os.mkfifo(f"{folder}/pipe")
    open(f"{folder}/file", "w").close()

    class Own(io.BytesIO):
        pass

    with (
        open(os.open(f"{folder}/pipe", os.O_RDWR), "rb", buffering=0) as pipe,
        open(f"{folder}/file", "rb") as file,
        open(f"{folder}/file", "rb", buffering=0) as raw,
        io.BufferedReader(Own()) as wrapped,
        io.BufferedReader(pipe) as buffered,
    ):
        assert [is_tame(each) for each in (io.BytesIO(), file, raw)] == [True] * 3
        for each in (pipe, buffered, wrapped, Own(), Stream(b"")):
            assert not is_tame(each)
    assert not is_tame(file)


def test_what_a_file_raises_passes_through_and_changes_nothing(folder, store):
    put(store, "a", b"old", n=1)
    with open(f"{folder}/file", "wb") as file:
        file.write(BIG)
    for stream in (open(f"{folder}/file", "rb"), io.BytesIO(BIG)):  # noqa: SIM115
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            store.set_data("a", stream)
    with open(f"{folder}/file", "rb") as file:
        real, left = file, [3]

        class Failing:
            def read(self, size):
                left[0] -= 1
                if not left[0]:
                    raise OSError(errno.EIO, "theirs")
                return real.read(size)

        with (
            mock.patch.object(short_way, "is_tame", return_value=True),
            pytest.raises(OSError, match="theirs") as caught,
        ):
            store.set("a", (Failing(), {}))
    assert not isinstance(caught.value, StoreError)
    assert pair(store, "a") == (b"old", {"n": 1})


def test_a_pipe_is_no_file(store):
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as stream, os.fdopen(theirs, "wb") as pipe:
        thread = threading.Thread(target=lambda: (pipe.write(BIG), pipe.close()))
        thread.start()
        store.set_data("a", stream)
        thread.join(60)
    assert store.to_bytes("a") == BIG


# The short way


def test_the_short_way_is_the_long_way(path, store, monkeypatch):
    """The same for every kind of row that there may be."""
    rows = {
        "small": ("{}", 1.5, 2.5, b"x"),
        "late": ("{}", 1.5, 4e9, b"x"),
        "whole": ("{}", 1, 2, b"x"),
        "text": ("{}", 1.5, 2.5, "x"),
        "none": (None, None, None, None),
        "strange": ("{", "x", "y", 12),
        "infinite": ("{}", 9e999, 9e999, b""),
        "beyond": ("{}", 1.5, 1e30, b""),
    }
    monkeypatch.setattr(store, "_clock", lambda: 1e9)

    def outcome(short):
        store.event_manager = EventManager()
        put(store, "large", BIG)
        sql(path, "DELETE FROM store WHERE key <> 'large'")
        for key, row in rows.items():
            sql(path, "INSERT INTO store VALUES (?, ?, ?, ?, ?)", (key, *row))
        told = []
        store.event_manager = manager = EventManager()
        manager.connect(
            StoreModificationEvent, lambda e: told.append((e.action, e.key, e.metadata))
        )
        with contextmanager(lambda: iter([None]))() if short else without_short_way(store):
            for _ in range(2):
                for key in (*rows, "large", "new", "new2"):
                    put(store, key, b"y", n=1)
            with store.transaction("t"):
                for key in (*rows, "large", "new", "new3"):
                    put(store, key, b"z" + key.encode(), n=2)
                for key in ("small", "new"):
                    store.delete(key)
            for key in ("late", "large", "text"):
                store.delete(key)
        assert chunks_of(path) == 0
        columns = "key, metadata, created, modified, data"
        return told, sql(path, f"SELECT {columns} FROM store ORDER BY key")

    one, other = outcome(True), outcome(False)
    assert one[0] == other[0]
    assert one[1] == other[1]


@contextmanager
def without_short_way(store):
    with (
        mock.patch.object(short_way, "put", return_value=None),
        mock.patch.object(store, "_execute", return_value=0),
    ):
        yield


def test_deleting_the_short_way(path, store):
    store.event_manager = EventManager()
    put(store, "a", b"1", n=1)
    put(store, "large", BIG)
    sql(path, "INSERT INTO store VALUES ('text', '{', 1, 2, 'x')")
    for key in ("a", "large", "text"):
        store.delete(key)
        with pytest.raises(KeyError) as caught:
            store.delete(key)
        assert caught.value.args == (key,)
    assert list(store.keys()) == []
    assert chunks_of(path) == 0
    for key, error in (("", ValueError), (3, TypeError)):
        with pytest.raises(error):
            store.delete(key)
    store.disconnect()
    with pytest.raises(StoreError, match="not connected"):
        store.delete("a")


def test_the_short_way_counts_who_waits(path, store, monkeypatch):
    """Inside, the store is as inside a transaction for a fork in another thread."""
    seen = []
    real = store._handle().connection

    class Spy:
        def execute(self, *args):
            seen.append((store._writer, store._handle().users))
            return real.execute(*args)

        in_transaction = False

    store._handle().connection = Spy()
    put(store, "a", b"1")
    store._handle().connection = real
    assert seen == [((threading.get_ident(), store._handle()), 1)]
    assert (store._writer, store._handle().users) == (None, 0)


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


# Many at once


def test_many_new_and_old_keys_at_once(path, store):
    put(store, "k7", b"old", n=0)
    put(store, "large", BIG)
    keys = [f"k{n}" for n in range(20)]
    stream = io.BytesIO(b"shared")
    heard = []
    store.event_manager = EventManager()
    store.event_manager.connect(StoreModificationEvent, lambda e: heard.append((e.action, e.key)))
    values = [(io.BytesIO(b"%d" % n), {"n": n}) for n in range(20)]
    store.multiset(keys, values)
    assert heard == [("update" if key == "k7" else "set", key) for key in keys]
    assert [pair(store, key) for key in keys] == [(b"%d" % n, {"n": n}) for n in range(20)]
    heard.clear()
    store.multiset(
        ("x1", "x2", "x1", "large", "x3", "x4", "x5", "excess"),
        (
            (io.BytesIO(b"1"), {}),
            (stream, {}),
            (stream, {"twice": True}),
            (io.BytesIO(b"s"), {}),
            (io.BytesIO(BIG), {}),
            store.get("k1"),
            (Stream(b"5"), {}),
        ),
        buffer_size=4,
    )
    assert [store.to_bytes(f"x{n}") for n in range(1, 6)] == [b"", b"shared", BIG, b"1", b"5"]
    assert heard == [
        ("set", "x1"),
        ("set", "x2"),
        ("update", "x1"),
        ("update", "large"),
        ("set", "x3"),
        ("set", "x4"),
        ("set", "x5"),
    ]
    assert chunks_of(path) == 4
    assert sorted(store.query_keys(n=1)) == ["k1", "x4"]


def test_nothing_of_many_is_left_after_an_error(store):
    put(store, "old", b"1")
    for wrong, error in (("", ValueError), (3, TypeError)):
        with pytest.raises(error):
            store.multiset(["a", wrong], [(io.BytesIO(), {}), (io.BytesIO(), {})])
    for value, error in ((b"", TypeError), ((io.BytesIO(), {"x": b""}), TypeError)):
        with pytest.raises(error):
            store.multiset(["a", "b"], [(io.BytesIO(), {}), value])
    with pytest.raises(ValueError, match="buffer_size"):
        store.multiset([], [], 0)
    fill_up(store, 3)
    with pytest.raises(StoreOSError):
        store.multiset(
            [f"k{n}" for n in range(50)], [(io.BytesIO(bytes(9000)), {}) for _ in range(50)]
        )
    assert list(store.keys()) == ["old"]


def test_many_at_once_run_the_set_of_a_subclass(path):
    class Louder(SqliteStore):
        def set(self, key, value, *args, **kwargs):
            super().set(key.upper(), value, *args, **kwargs)

    with Louder(path, durability="process") as store:
        store.multiset(["a"], [(io.BytesIO(b""), {})])
        assert list(store.keys()) == ["A"]


def test_what_a_subclass_has_changed_is_run(path):
    class Counting(SqliteStore):
        counted = ()

        def _save(self, key, staged, head):
            self.counted += (key,)
            super()._save(key, staged, head)

        def _remove(self, key):
            self.counted += ("-" + key,)
            super()._remove(key)

    with Counting(path, durability="process") as store:
        put(store, "a", b"1")
        store.multiset(["b", "c"], [(io.BytesIO(b""), {}), (io.BytesIO(BIG), {})])
        store.delete("a")
        assert store.counted == ("a", "b", "c", "-a")


def test_a_generator_sees_what_was_set_before(store):
    def values():
        yield (io.BytesIO(b"1"), {"n": 1})
        yield (io.BytesIO(store.to_bytes("a") + b"2"), {"n": 2})

    store.multiset(["a", "b"], values())
    assert store.to_bytes("b") == b"12"


@pytest.mark.parametrize("size", SIZES)
def test_values_of_any_size_and_their_parts(path, store, size):
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    put(store, "a", data, n=1)
    value = store.get("a")
    assert value.size == size
    assert value.data.read() == data
    bounds = [
        None,
        0,
        1,
        5,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK,
        size - 1,
        size,
        size + 1,
        -1,
        -CHUNK,
    ]
    for start in bounds:
        for end in bounds:
            assert store.get_data_range("a", start, end).read() == data[start:end]
            assert value.range(start, end).read() == data[start:end]
    with store.transaction("t"):
        assert store.get_data_range("a", 3, -3).read() == data[3:-3]
        assert store.get("a").range(3, -3).read() == data[3:-3]
    put(store, "a", b"short")
    assert pair(store, "a") == (b"short", {})
    assert store.get_data_range("a", 1, 3).read() == b"ho"
    if size > CHUNK:
        assert chunks_of(path) == 0
    # What is held stays what it was.
    assert value.data.read() == data
    with pytest.raises(KeyError):
        store.get_data_range("none", 0, 1)


def test_large_parts_of_large_values(store):
    data = os.urandom(3 << 20)
    put(store, "a", data)
    assert store.get_data_range("a", 5, -5).read() == data[5:-5]


def test_an_open_reader_keeps_what_it_opened(store):
    put(store, "a", BIG)
    value = store.get("a")
    stream = value.data
    assert stream.read(10) == BIG[:10]
    put(store, "a", BIG[::-1])
    assert stream.read(10) == BIG[10:20]
    put(store, "a", b"")
    store.delete("a")
    with store.transaction("t"):
        put(store, "b", BIG)
    store.disconnect()
    assert stream.read() == BIG[20:]
    assert value.data.read() == BIG


def test_values_inside_a_transaction(path, store):
    put(store, "a", BIG, n=1)
    with store.transaction("t"):
        committed = store.get("a")
        put(store, "a", BIG[::-1], n=2)
        mine = store.get("a")
        assert mine.data.read() == BIG[::-1]
        assert mine.metadata == {"n": 2}
        assert in_thread(lambda: pair(store, "a")) == (BIG, {"n": 1})
        put(store, "a", b"small")
        assert mine.range(1, 5).read() == BIG[::-1][1:5]
        assert committed.data.read() == BIG
        put(store, "b", BIG)
        store.set("c", store.get("b"))
        store.delete("b")
    assert pair(store, "a") == (b"small", {})
    assert pair(store, "c") == (BIG, {})
    assert chunks_of(path) == 4


def test_many_large_values_at_once(path, store):
    size = CHUNK + 10
    for n in range(300):
        put(store, f"k{n:03}", b"%d" % (n % 10) * size)
    descriptors = len(os.listdir("/proc/self/fd"))
    values = [store.get(f"k{n:03}") for n in range(300)]
    assert len(os.listdir("/proc/self/fd")) - descriptors < 200
    streams = [value.data for value in values[-5:]]
    for n, value in enumerate(values):
        assert value.range(-5, None).read() == b"%d" % (n % 10) * 5
        assert (value.size, value.metadata) == (size, {})
    with store.transaction("t"):
        for n in range(300):
            store.delete(f"k{n:03}")
    # Those that were opened are kept, and as many of the others as can be.
    assert values[0].data.read() == b"0" * size
    assert [stream.read() for stream in streams] == [b"%d" % n * size for n in range(5, 10)]
    with pytest.raises(StoreError, match="changed since"):
        values[-1].data.read()
    del values, value, streams
    gc.collect()
    assert chunks_of(path) == 0
    assert len(Snapshot.live) == 0
    assert len(OpenFile.live) == 0


def test_chunks_are_never_left_alone(path, store):
    put(store, "a", BIG)
    put(store, "b", BIG)
    assert chunks_of(path) == 8
    put(store, "a", BIG)
    store.set_metadata("a", {"n": 1})
    store.delete("b")
    assert chunks_of(path) == 4

    def fail():
        with store.transaction("t"):
            put(store, "a", BIG * 2)
            put(store, "c", BIG)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert chunks_of(path) == 4

    def inner():
        with store.transaction("t"):
            put(store, "d", BIG)
            try:
                with store.transaction("u"):
                    put(store, "d", BIG * 2)
                    put(store, "e", BIG)
                    raise ValueError
            except ValueError:
                pass
            assert pair(store, "d") == (BIG, {})

    inner()
    assert chunks_of(path) == 8

    class Failing:
        left = 3

        def read(self, size):
            self.left -= 1
            if not self.left:
                raise ZeroDivisionError
            return bytes(CHUNK)

    with pytest.raises(ZeroDivisionError):
        store.set_data("a", Failing())
    assert chunks_of(path) == 8
    for key in list(store.keys()):
        store.delete(key)
    assert chunks_of(path) == 0


def test_lost_chunks_are_damage_that_can_be_overwritten(path, store):
    for damage in ('DELETE FROM "store#chunks"', 'DROP TABLE "store#chunks"'):
        for repair in (
            lambda: store.delete("a"),
            lambda: put(store, "a", b"small"),
            lambda: put(store, "a", BIG),
        ):
            put(store, "a", BIG, n=1)
            sql(path, damage)
            with pytest.raises(StoreError, match="damaged"):
                store.get("a")
            assert store.get_metadata("a") == {"n": 1}
            assert list(store.query()) == [("a", {"n": 1})]
            repair()
    assert pair(store, "a") == (BIG, {})


def test_numbers_of_blobs_are_no_other_integers():
    assert all(is_number(new_number()) for _ in range(1000))
    for data in (None, b"", "1", 0, 1, -1, 2**62, 2**37 - 1, 2**38, 1.5):
        assert not is_number(data)


MEMORY = """
import resource, sys
from encore.storage.sqlite_store import SqliteStore
class Zeros:
    left = 64
    def read(self, size):
        self.left -= 1
        return bytes(1 << 20) if self.left >= 0 else b""
with SqliteStore(sys.argv[1], durability="process") as store:
    store.from_bytes("warm", bytes(3_000_000))
    sum(map(len, store.get("warm").iterdata()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.set("big", (Zeros(), {}))
    assert sum(map(len, store.get("big").iterdata())) == 64 << 20
    with store.transaction("t"):
        store.set_data("big", Zeros())
        assert sum(map(len, store.get("big").iterdata())) == 0
        Zeros.left = 64
        store.set_data("big", Zeros())
        assert sum(map(len, store.get("big").iterdata())) == 64 << 20
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_values_stream_in_bounded_memory(path):
    text = MEMORY.replace(
        "    with store.transaction", "    Zeros.left = 0\n    with store.transaction"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 << 10  # KiB


# The disk


def fill_up(store, extra):
    """Let the database grow by no more than so many pages."""
    connection = store._handle().connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + extra}")
    return connection


def test_a_full_disk_keeps_the_old_value(path, store):
    put(store, "a", b"old", n=1)
    put(store, "big", BIG)
    connection = fill_up(store, 10)
    for call in (lambda: put(store, "a", BIG * 4, n=2), lambda: put(store, "b", bytes(60_000))):
        with pytest.raises(StoreOSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
        assert isinstance(caught.value, OSError)
        assert "full" in str(caught.value)
        assert pair(store, "a") == (b"old", {"n": 1})
        assert pair(store, "big") == (BIG, {})
        assert not store.exists("b")
    connection.execute("PRAGMA max_page_count=1000000")
    put(store, "a", BIG * 4, n=2)
    assert pair(store, "a") == (BIG * 4, {"n": 2})
    assert chunks_of(path) == 20


def test_a_full_disk_inside_a_transaction(path, store):
    put(store, "a", b"old", n=1)
    fill_up(store, 10)

    def transaction():
        with store.transaction("t"):
            put(store, "b", b"small")
            with pytest.raises(StoreOSError) as caught:
                put(store, "a", BIG * 4, n=2)
            assert caught.value.errno == errno.ENOSPC
            # SQLite has rolled back everything by itself.
            assert pair(store, "a") == (b"old", {"n": 1})
            for call in (lambda: put(store, "c"), lambda: store.delete("a")):
                with pytest.raises(StoreError, match="rolled back"):
                    call()

    with pytest.raises(StoreError, match="rolled back"):
        transaction()
    assert store.get_metadata("a") == {"n": 1}
    assert list(store.keys()) == ["a"]
    assert in_thread(lambda: put(store, "z", b"")) is None


def test_a_full_disk_while_staging(store):
    put(store, "a", b"old")

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "full")

        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.ENOSPC, "full")

    with (
        mock.patch.object(store, "_temporary_file", Full),
        pytest.raises(StoreOSError) as caught,
    ):
        store.set_data("a", Stream(BIG))
    assert caught.value.errno == errno.ENOSPC
    assert pair(store, "a") == (b"old", {})

    class Failing(io.BytesIO):
        def seek(self, *args):
            raise OSError(errno.EIO, "I/O error")

    with (
        mock.patch.object(store, "_temporary_file", Failing),
        pytest.raises(StoreOSError) as caught,
    ):
        store.set_data("a", Stream(BIG))
    assert caught.value.errno == errno.EIO
    assert pair(store, "a") == (b"old", {})


LIMITED = """
import resource, sys
from encore.storage.sqlite_store import SqliteStore
from encore.storage.errors import StoreOSError
with SqliteStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for size in (1_000_000, 60_000, 60_000, 60_000, 60_000, 60_000, 60_000):
        try:
            store.from_bytes("a" if size > 100_000 else "b%d" % size, bytes(size))
        except StoreOSError as error:
            print(size > 100_000, isinstance(error, OSError) and error.errno > 0, store.to_bytes("a"))
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""


def test_a_limit_on_file_sizes_keeps_the_old_value(path):
    with SqliteStore(path) as store:
        put(store, "a", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True True b'old'\n"
    with SqliteStore(path) as store:
        assert pair(store, "a") == (b"old", {})


# In memory


def test_memory_is_emptied_by_disconnect_and_isolated():
    one, other = SqliteStore(), SqliteStore()
    with one, other:
        put(one, "a", BIG)
        assert in_thread(lambda: pair(one, "a")) == (BIG, {})
        assert list(other.keys()) == []
        value = one.get("a")
        folder = os.path.dirname(one._path)
        assert os.path.isdir(folder)
        assert one.info()["durable"] == "none"
    assert not os.path.exists(folder)
    assert value.data.read() == BIG
    with one:
        assert list(one.keys()) == []
    assert repr(one) == "SqliteStore(':memory:', 'store')"


def memory_folders():
    places = {tempfile.gettempdir(), FAST or tempfile.gettempdir()}
    return {
        name for place in places for name in os.listdir(place) if name.startswith("encore-sqlite-")
    }


def test_memory_leaves_nothing_on_disk(folder, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    store = SqliteStore()
    store.connect()
    put(store, "a", BIG)
    assert len(os.listdir(folder)) == 1
    del store
    gc.collect()
    assert os.listdir(folder) == []
    code = """
import sys, tempfile
from encore.storage.sqlite_store import SqliteStore
store = SqliteStore()
store.connect()
store.from_bytes("a", b"")
print(store._path)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not os.path.exists(os.path.dirname(done.stdout.strip()))


def test_memory_that_cannot_be_had_is_an_error(monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(StoreOSError):
        SqliteStore().connect()


# Threads, processes and connections


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
        for n in range(1500):
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
    for _ in range(60):
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


def test_a_pickled_store_arrives_disconnected(store):
    put(store, "a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert not copy.is_connected()
    with pytest.raises(StoreError, match="not connected"):
        copy.get("a")
    with copy:
        assert pair(copy, "a") == (b"1", {})


def test_relative_paths_survive_a_change_of_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    store = SqliteStore("x.db")
    monkeypatch.chdir("/")
    with store:
        put(store, "a")
    assert os.path.exists(f"{folder}/x.db")


def test_durability_is_what_sqlite_was_told(path):
    for durability, level in (("power", 3), ("process", 1)):
        with SqliteStore(path, durability=durability) as store:
            connection = store._handle().connection
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert store.info()["durable"] == durability
    with SqliteStore() as store:
        assert store._handle().connection.execute("PRAGMA synchronous").fetchone() == (0,)
    assert SqliteStore(path).info()["table"] == "store"


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
