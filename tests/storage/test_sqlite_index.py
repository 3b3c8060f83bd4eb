"""The index of metadata: never a wrong answer, whoever writes, and whatever becomes of the index."""

from __future__ import annotations

import io
import json
import pickle
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import product
from unittest import mock

import pytest

import encore.storage._metadata_index as module
import encore.storage._sqlite_queries as queries
from encore.events.event_manager import EventManager
from encore.storage._metadata import equal, loads, matches
from encore.storage._metadata_index import MetadataIndex
from encore.storage._sqlite_filter import condition
from encore.storage._sqlite_rows import parse
from encore.storage.events import StoreSetEvent
from encore.storage.sqlite_store import SqliteStore

TABLE = "CREATE TABLE {} (key text primary key, metadata dict, created float, modified float, data blob)"
NAMES = [
    "a",
    "b",
    "",
    "Name",
    "name",
    "ä",
    "😀",
    "a.b",
    '"',
    "\\",
    "$",
    "x\0y",
    "x",
    "n" * 70,
    "n" * 69 + "m",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    10,
    2**31,
    2**53,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**30,
    10**400,
    0.0,
    -0.0,
]
NUMBERS += [
    1.0,
    0.1,
    1 / 3,
    1e22,
    1e23,
    5e-324,
    1e-300,
    1.7976931348623157e308,
    -1e308,
    0.30000000000000004,
]
TEXTS = [
    "",
    "a",
    "A",
    "1",
    "true",
    "null",
    "ä",
    "😀",
    "a\0b",
    "a\0c",
    "'",
    '"',
    "\\u0061",
    "\n",
    "t" * 64,
    "t" * 65,
]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [1],
    [1.0],
    [True],
    {"a": 1},
    {"a": 1.0},
    {"b": None, "a": [1]},
    ["a"],
    "t",
]
VALUES = [*NUMBERS, *TEXTS, *OTHERS]
STRANGE = [
    None,
    1,
    1.5,
    "",
    "{",
    "[1]",
    "5",
    '"a"',
    "null",
    b"{}",
    b'{"a":1}',
    b"\x00",
    "{}x",
    '{"a":1}\0',
    "\x80",
]
STRANGE += [
    pickle.dumps({"a": 1}, 2),
    '{"a":1,"a":2}',
    '{"a":2,"a":1}',
    '{"a":NaN,"b":1}',
    '{"\\u0061":1}',
]
STRANGE += [
    ' {"a" : 1 }',
    '{"a":1e0}',
    '{"a":10e-1}',
    '{"a":0.99999999999999999999}',
    '{"b":"\\u0061"}',
]
STRANGE += [
    '{"a":"\\ud800","b":1}',
    '{"\\ud800":1,"a":1}',
    '{"a":1e999,"b":"a"}',
    '{"a":' + "[" * 1500 + "]" * 1500 + "}",
]
STRANGE += [
    '{"a":' + "[" * 300 + "]" * 300 + ',"b":1}',
    '{"a":9223372036854775808.0}',
    '{"a":-0}',
    '{"a":0e5}',
]


def connect(path=":memory:", table="store"):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute(TABLE.format(f'"{table}"').replace("TABLE", "TABLE IF NOT EXISTS"))
    return connection


def put(connection, key, metadata, verb="REPLACE", table="store"):
    text = metadata if metadata is None or type(metadata) is not dict else json.dumps(metadata)
    connection.execute(f"{verb} INTO \"{table}\" VALUES (?, ?, 1, 2, x'')", (key, text))


def parsed(stored):
    try:
        if isinstance(stored, bytes) and not stored.startswith(b"{"):
            return pickle.loads(stored)
        return loads(stored)
    except (ValueError, TypeError, pickle.UnpicklingError, EOFError, IndexError):
        return None


def scan(connection, criteria):
    rows = connection.execute(
        "SELECT key, metadata FROM store WHERE typeof(key) = 'text'"
    ).fetchall()
    return {
        key
        for key, stored in rows
        if (found := parsed(stored)) is not None and matches(found, criteria)
    }


def check(connection, criteria, index=None):
    """Compare with the scan; return whether the index was of use."""
    found = (index or MetadataIndex("store")).find(connection, criteria, 10**6)
    if found is None:
        return False
    right = {
        key
        for key, stored in found
        if (each := parsed(stored)) is not None and matches(each, criteria)
    }
    assert right == scan(connection, criteria), criteria
    return True


@pytest.fixture
def connection():
    with closing(connect()) as connection:
        assert MetadataIndex("store").install(connection, None)
        yield connection


# One statement at a time


def test_every_value_is_found_by_every_value_that_equals_it(connection):
    for n, value in enumerate(VALUES):
        put(connection, f"k{n}", {"n": value})
    for value in VALUES:
        found = MetadataIndex("store").find(connection, {"n": value}, 10**6)
        if isinstance(value, str) and "\0" in value:
            assert found is None
            continue
        keys = [key for key, stored in found if equal(json.loads(stored)["n"], value)]
        expected = [f"k{n}" for n, other in enumerate(VALUES) if equal(other, value)]
        assert sorted(keys) == sorted(expected)
        assert len(found) <= 12


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_found(connection, name):
    for n, other in enumerate(NAMES):
        put(connection, f"k{n}", {other: 1})
    assert check(connection, {name: 1}) == ("\0" not in name)
    assert not check(connection, {name: "x\0"})


@pytest.mark.parametrize("stored", STRANGE)
def test_what_others_have_written(connection, stored):
    put(connection, "strange", stored)
    put(connection, "fine", {"a": 1, "b": 2})
    for name in ("a", "b", "c"):
        for value in (0, 1, 2, 2**63, "a", "x", None, [], {}):
            assert check(connection, {name: value})
    put(connection, "strange", {"a": 1})
    assert check(connection, {"a": 1})
    connection.execute("DELETE FROM store WHERE key = 'strange'")
    assert check(connection, {"a": 1})


def entries(connection):
    return connection.execute(
        'SELECT name, value, key FROM "store#index" ORDER BY 1, 2, 3'
    ).fetchall()


def test_the_index_holds_no_more_than_there_is(connection):
    put(connection, "a", {"n": 1, "t": "x" * 100, "z": None})
    put(connection, "b", {"n": 1.5, "l": [1], "d": {}})
    put(connection, "c", b"pickle")
    assert entries(connection) == [
        ("d", b"{", "b"),
        ("l", b"[", "b"),
        ("n", 1, "a"),
        ("n", 1.5, "b"),
        ("t", "x" * 64, "a"),
        ("z", b"n", "a"),
        (b"", b"", "c"),
    ]
    connection.execute("UPDATE store SET metadata = '{\"n\":2}' WHERE key = 'a'")
    connection.execute("UPDATE store SET key = 'e', metadata = '{\"n\":3}' WHERE key = 'c'")
    connection.execute("DELETE FROM store WHERE key = 'b'")
    assert entries(connection) == [("n", 2, "a"), ("n", 3, "e")]
    connection.execute("DELETE FROM store")
    assert entries(connection) == []


@pytest.mark.parametrize("verb", ["ABORT", "FAIL", "ROLLBACK", "IGNORE", "REPLACE"])
def test_no_kind_of_statement_is_refused_or_loses_anything(connection, verb):
    put(connection, "k", {"a": 1, "b": 1})
    # This leaves rows in the index that should be gone.
    put(connection, "k", {"a": 2})
    assert ("b", 1, "k") in entries(connection)
    assert check(connection, {"a": 1})
    assert check(connection, {"b": 1})
    connection.execute(f'UPDATE OR {verb} store SET metadata = \'{{"a":1,"b":1,"b":1}}\'')
    assert check(connection, {"a": 1})
    connection.execute("DELETE FROM store")
    connection.execute("INSERT INTO \"store#index\" VALUES ('a', 1, 'k')")
    put(connection, "k", '{"a":1,"a":1}', f"INSERT OR {verb}")
    assert check(connection, {"a": 1})
    connection.execute(
        "INSERT INTO store VALUES ('k', '{}', 1, 2, '') ON CONFLICT (key) DO UPDATE SET metadata = '{\"a\":3}'"
    )
    assert check(connection, {"a": 3})
    if verb in ("IGNORE", "REPLACE"):
        put(connection, "k", {"a": 4}, f"INSERT OR {verb}")
        assert check(connection, {"a": 4})
        assert check(connection, {"a": 3})


def test_a_key_that_is_no_text_is_left_alone(connection):
    for key in (None, None, b"blob", ""):
        put(connection, key, {"a": 1}, "INSERT")
        put(connection, key, b"pickle", "REPLACE")
    assert all(type(key) is str for _, _, key in entries(connection))
    connection.execute("DELETE FROM store")


def test_writing_the_same_metadata_does_not_touch_the_index(connection):
    put(connection, "a", {"n": 1})
    connection.execute('DELETE FROM "store#index"')
    connection.execute("UPDATE store SET metadata = metadata, data = 'x'")
    assert entries(connection) == []


def test_two_criteria_are_looked_up_by_the_one_that_finds_less(connection):
    for n in range(1000):
        put(connection, f"k{n}", {"few": n // 10, "many": True, "none": n})
    index = MetadataIndex("store")
    for criteria in ({"few": 5, "many": True}, {"many": True, "few": 5}):
        assert len(index.find(connection, criteria, 10**6)) == 10
        assert check(connection, criteria)
    assert index.find(connection, {"many": True, "few": 5, "none": -1}, 10**6) == []
    assert index.find(connection, {"many": True, "x": "a\0b"}, 10**6) is not None
    for limit in (0, 1, 998, 999):
        assert len(index.find(connection, {"many": True}, limit)) == limit + 1
    keys = index.find(connection, {"many": True}, 1000, keys_only=True)
    assert set(keys) == {(f"k{n}",) for n in range(1000)}
    assert len(index.find(connection, {"many": True}, 1000)) == 1000
    assert index.find(connection, {"x\0y": 1, "many": "\0"}, 10**6) is None
    assert index.find(connection, {}, 10**6) is None


# What is indexed, and since when


def test_names_are_added_and_never_taken_away():
    with closing(connect()) as connection:
        index = MetadataIndex("store")
        put(connection, "k", {"a": 1, "b": 1, "c": 1})
        assert not index.install(connection, [])
        assert not check(connection, {"a": 1})
        assert index.install(connection, ["a", "x\0y"])
        assert not check(connection, {"a": 1})
        assert index.fill(connection)
        assert check(connection, {"a": 1})
        assert not check(connection, {"b": 1})
        assert index.install(connection, ["b"])
        assert not check(connection, {"b": 1})
        assert check(connection, {"a": 1})
        assert check(connection, {"a": 1, "b": 1})
        assert check(connection, {"b": 1, "a": 1})
        assert index.fill(connection)
        assert check(connection, {"b": 1})
        assert index.install(connection, None)
        assert not check(connection, {"c": 1})
        assert index.fill(connection)
        assert check(connection, {"c": 1})
        changes = connection.total_changes
        for names in (["a"], [], None, ["z"]):
            assert index.install(connection, names)
        assert connection.total_changes == changes
        assert check(connection, {"z": 1})
        index.drop(connection)
        assert not index.exists(connection)
        assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == [
            "store",
            "sqlite_autoindex_store_1",
        ]


def test_it_is_filled_a_bit_at_a_time_while_rows_change():
    rng = random.Random(1)
    with closing(connect()) as connection:
        index = MetadataIndex("store")
        keys = [f"k{n:03}" for n in range(300)] + ["😀", "a\0b", "a\0c", "z"]
        for key in keys:
            put(connection, key, {"n": rng.randrange(5), "x": [1]})
        put(connection, b"blob", {"n": 1})
        put(connection, None, {"n": 1})
        index.install(connection, ["n"])
        steps = 0
        while not index.fill(connection, 10):
            steps += 1
            assert not check(connection, {"x": [1]})
            assert steps > 10 or not check(connection, {"n": 1})
            for key in rng.sample(keys, 5):
                put(connection, key, {"n": rng.randrange(5)}, "REPLACE")
            for key in rng.sample(keys, 5):
                connection.execute("DELETE FROM store WHERE key = ?", (key,))
            for key in rng.sample(keys, 5):
                changed = json.dumps({"n": rng.randrange(5), "x": 1})
                connection.execute("UPDATE store SET metadata = ? WHERE key = ?", (changed, key))
            if steps == 10:
                index.install(connection, ["x"])
        assert steps > 30
        for n in range(5):
            assert check(connection, {"n": n})
        assert check(connection, {"x": [1]})
        assert index.fill(connection, 10)


def test_an_empty_table_needs_no_filling(connection):
    assert connection.execute('SELECT * FROM "store#indexed"').fetchall() == [(b"", None)]


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_filling_in_steps_of_any_size(rows):
    with closing(connect()) as connection:
        index = MetadataIndex("store")
        for n in range(10):
            put(connection, f"k{n}", {"n": n})
        index.install(connection, None)
        while not index.fill(connection, rows):
            pass
        for n in range(10):
            assert check(connection, {"n": n})
        assert len(entries(connection)) == 10


def test_a_table_that_was_made_again_is_not_taken_for_the_old_one(connection):
    index = MetadataIndex("store")
    put(connection, "a", {"n": 1})
    connection.execute("DROP TABLE store")
    connection.execute(TABLE.format("store"))
    put(connection, "b", {"n": 1})
    assert not index.exists(connection)
    assert not index.fill(connection)
    assert not check(connection, {"n": 1})
    assert index.install(connection, None)
    assert not check(connection, {"n": 1})
    index.fill(connection)
    assert check(connection, {"n": 1})
    assert entries(connection) == [("n", 1, "b")]


def test_a_table_that_was_renamed_keeps_the_triggers(connection):
    put(connection, "a", {"n": 1})
    connection.execute("ALTER TABLE store RENAME TO other")
    connection.execute(TABLE.format("store"))
    put(connection, "b", {"n": 1})
    assert not check(connection, {"n": 1})
    assert MetadataIndex("store").install(connection, None)
    MetadataIndex("store").fill(connection)
    assert check(connection, {"n": 1})
    put(connection, "c", {"n": 1}, table="other")
    assert entries(connection) == [("n", 1, "b")]


@pytest.mark.parametrize("what", ["insert", "update", "delete"])
def test_without_one_of_its_triggers_it_is_not_used(connection, what):
    put(connection, "a", {"n": 1})
    connection.execute(f'DROP TRIGGER "store#index {what}"')
    put(connection, "b", {"n": 1})
    assert not check(connection, {"n": 1})
    MetadataIndex("store").install(connection, None)
    MetadataIndex("store").fill(connection)
    assert check(connection, {"n": 1})


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE store (key text, metadata dict)",
        "CREATE TABLE store (key, metadata, primary key (key, metadata))",
    ],
)
def test_a_table_whose_key_is_not_unique_has_no_index(table):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(table)
        assert not MetadataIndex("store").install(connection, None)


def test_tables_of_other_people_are_not_dropped():
    for theirs in ("store#index", "store#indexed"):
        with closing(connect()) as connection:
            connection.execute(TABLE.format(f'"{theirs}"'))
            put(connection, "a", {}, table=theirs)
            assert not MetadataIndex("store").install(connection, None)
            assert connection.execute(f'SELECT key FROM "{theirs}"').fetchall() == [("a",)]


def test_a_database_in_utf_16_has_no_index():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute(TABLE.format("store"))
        assert not MetadataIndex("store").install(connection, None)


@pytest.mark.parametrize(
    "table", ["Store", "sto're", 'st"ore', "%s", "a b", "ä", "insert", "#index", "-- x"]
)
def test_names_of_tables(table):
    with closing(connect(table=table.replace('"', '""'))) as connection:
        index = MetadataIndex(table)
        assert index.install(connection, None)
        connection.execute(f"INSERT INTO {index._sql} VALUES ('a', '{{\"n\":1}}', 1, 2, '')")
        assert index.find(connection, {"n": 1}, 10**6) == [("a", '{"n":1}')]
        assert table in repr(index)
        same = MetadataIndex(table.upper().replace("Ä", "ä"))
        assert same.exists(connection)
        assert len(same.find(connection, {"n": 1}, 10**6)) == 1


def test_names_of_columns():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute('CREATE TABLE t ("the FROM key" text primary key, "meta""data" text)')
        connection.execute("INSERT INTO t VALUES ('a', '{\"n\":1}')")
        index = MetadataIndex("t", "the FROM key", 'meta"data')
        assert index.install(connection, None)
        assert index.fill(connection)
        connection.execute("INSERT INTO t VALUES ('b', '{\"n\":1}')")
        assert index.find(connection, {"n": 1}, 10**6) == [("a", '{"n":1}'), ("b", '{"n":1}')]
        connection.execute("UPDATE t SET \"the FROM key\" = 'c' WHERE \"the FROM key\" = 'b'")
        connection.execute("DELETE FROM t WHERE \"the FROM key\" = 'a'")
        assert index.find(connection, {"n": 1}, 10**6) == [("c", '{"n":1}')]


# Libraries without JSON


def test_without_json_functions_nothing_stops_writing(connection):
    index = MetadataIndex("store")
    put(connection, "a", {"n": 1})
    with mock.patch.object(module, "has_json", return_value=False):
        assert not index.install(connection, None)
    assert (
        connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger'").fetchone() is None
    )
    put(connection, "b", {"n": 1})
    assert not check(connection, {"n": 1})
    assert index.install(connection, None)
    index.fill(connection)
    assert check(connection, {"n": 1})


def test_json_functions_are_looked_for(connection, monkeypatch):
    assert module.has_json(connection)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 22, 0))
    assert not module.has_json(connection)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 24, 0))

    class Without:
        def execute(self, *arguments):
            raise sqlite3.OperationalError("no such table: json_each")

    assert not module.has_json(Without())


# Failures


def test_a_database_that_cannot_be_written(tmp_path):
    path = str(tmp_path / "x.db")
    with closing(connect(path)) as connection:
        put(connection, "a", {"n": 1})
    index = MetadataIndex("store")
    with closing(
        sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    ) as readonly:
        with pytest.raises(sqlite3.OperationalError):
            index.install(readonly, None)
        assert not readonly.in_transaction
        with closing(connect(path)) as connection:
            index.install(connection, None)
            with pytest.raises(sqlite3.OperationalError):
                index.fill(readonly)
            assert index.find(readonly, {"n": 1}, 10**6) is None
            index.fill(connection)
        assert len(index.find(readonly, {"n": 1}, 10**6)) == 1


def test_text_that_is_no_utf_8_is_left_to_the_scan(connection):
    connection.execute(
        "INSERT INTO store VALUES ('a', CAST(x'7b2261223a2231ff227d' AS TEXT), 1, 2, '')"
    )
    connection.execute("INSERT INTO store VALUES (CAST(x'ff' AS TEXT), '{}', 1, 2, '')")
    assert MetadataIndex("store").find(connection, {"a": "1"}, 10**6) == []
    put(connection, "b", {"a": 1})
    connection.execute("INSERT INTO store VALUES ('c', CAST(x'ff' AS TEXT), 1, 2, '')")
    assert MetadataIndex("store").find(connection, {"a": 1}, 10**6) is None


def test_install_and_fill_inside_a_transaction_are_rolled_back_with_it():
    with closing(connect()) as connection:
        index = MetadataIndex("store")
        put(connection, "a", {"n": 1})
        connection.execute("BEGIN")
        index.install(connection, None)
        index.fill(connection)
        assert check(connection, {"n": 1})
        connection.execute("ROLLBACK")
        assert not index.exists(connection)
        index.install(connection, None)
        connection.execute("BEGIN")
        put(connection, "b", {"n": 1})
        with (
            mock.patch.object(index, "_entries", return_value="no SQL"),
            pytest.raises(sqlite3.OperationalError),
        ):
            index.fill(connection)
        assert connection.in_transaction
        connection.execute("COMMIT")
        index.fill(connection)
        assert check(connection, {"n": 1})
        assert len(entries(connection)) == 2


# Anything


def random_metadata(rng):
    return {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randrange(5))}


def random_step(rng, connection, keys):
    key = rng.choice(keys)
    stored = rng.choice(STRANGE) if rng.random() < 0.15 else json.dumps(random_metadata(rng))
    kind = rng.randrange(10)
    if kind < 4:
        put(
            connection,
            key,
            stored,
            rng.choice(["REPLACE", "INSERT OR IGNORE", "INSERT OR REPLACE"]),
        )
    elif kind < 6:
        connection.execute("UPDATE store SET metadata = ? WHERE key = ?", (stored, key))
    elif kind == 6:
        connection.execute(
            "UPDATE OR REPLACE store SET key = ? WHERE key = ?", (rng.choice(keys), key)
        )
    elif kind == 7:
        connection.execute("DELETE FROM store WHERE key = ?", (key,))
    elif kind == 8:
        connection.execute(
            "UPDATE store SET metadata = ? WHERE key > ? AND key < ?", (stored, key, key + "3")
        )
    else:
        connection.execute("DELETE FROM store WHERE key > ? AND key < ?", (key, key + "1"))


@pytest.mark.parametrize("seed", [3, 4])
def test_random_changes_give_the_answers_of_a_scan(tmp_path, seed):
    assert random_changes(tmp_path, seed) > 20


@pytest.mark.slow
def test_many_random_changes_give_the_answers_of_a_scan(tmp_path):
    assert sum(random_changes(tmp_path / str(seed), seed) for seed in range(200)) > 10_000


def random_changes(folder, seed):
    """Change a table through two connections that keep, extend, drop and fill the index as they like."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(seed)
    path = str(folder / "x.db")
    keys = [f"k{n}" for n in range(30)]
    used = 0
    with closing(connect(path)) as one, closing(connect(path)) as other:
        index = MetadataIndex("store")
        for _ in range(25):
            connection = rng.choice([one, other])
            action = rng.randrange(8)
            if action < 1:
                names = rng.choice([None, [], [rng.choice(NAMES)], rng.sample(NAMES, 4)])
                index.install(connection, names)
            elif action < 5:
                index.fill(connection, rng.choice([3, 1000]))
            elif action == 5 and rng.random() < 0.3:
                index.drop(connection)
            transaction = rng.choice(["COMMIT", "ROLLBACK", None])
            if transaction:
                connection.execute("BEGIN IMMEDIATE")
            for _ in range(rng.randrange(12)):
                if transaction and rng.random() < 0.2:
                    connection.execute("SAVEPOINT s")
                    random_step(rng, connection, keys)
                    if rng.random() < 0.5:
                        connection.execute("ROLLBACK TO s")
                    connection.execute("RELEASE s")
                else:
                    random_step(rng, connection, keys)
            criteria = [{name: rng.choice(VALUES)} for name in NAMES]
            criteria += [random_metadata(rng) for _ in range(5)]
            used += sum([check(connection, each) for each in criteria])
            if transaction:
                connection.execute(transaction)
            used += sum([check(rng.choice([one, other]), each) for each in criteria])
    return used


def test_changes_by_another_process(tmp_path):
    path = str(tmp_path / "x.db")
    code = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute("INSERT INTO store VALUES (?, ?, ?, ?, ?)", ("c", '{"n":1}', 1, 2, b""))
    connection.execute("UPDATE store SET metadata = '{\\"n\\":2}' WHERE key = 'a'")
    connection.execute("DELETE FROM store WHERE key = 'b'")
"""
    with closing(connect(path)) as connection:
        MetadataIndex("store").install(connection, None)
        for key in ("a", "b"):
            put(connection, key, {"n": 1})
        subprocess.run([sys.executable, "-c", code, path], check=True)
        assert MetadataIndex("store").find(connection, {"n": 1}, 10**6) == [("c", '{"n":1}')]
        assert MetadataIndex("store").find(connection, {"n": 2}, 10**6) == [("a", '{"n":2}')]


# The conditions that rows are filtered by


@pytest.mark.parametrize("has_json", [True, False])
def test_no_row_that_matches_is_filtered_out(has_json):
    rng = random.Random(7)
    pairs = [(name, value) for name in NAMES for value in VALUES]
    shapes = [(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]
    with closing(connect()) as connection:
        used = rng.sample(pairs, 100)
        for n, (name, value) in enumerate(used):
            stored = {name: value, "other": [name, value]}
            text = json.dumps(stored, ensure_ascii=n % 2 == 0, separators=shapes[n % 3])
            put(connection, f"k{n}", text)
        for n, stored in enumerate(STRANGE):
            put(connection, f"s{n}", stored)
        for name, value in [*used, *rng.sample(pairs, 40), *product("ab", VALUES)]:
            every = "\0" in name
            assert every or filtered(connection, {name: value}, has_json) < 100
        assert filtered(connection, {"a": 1, "b": 2, "x": 3, "y": 4}, has_json) < 100


def filtered(connection, criteria, has_json):
    text, values = condition(criteria, has_json)
    rows = connection.execute(f"SELECT key, metadata FROM store WHERE {text}", values).fetchall()
    right = {key for key, stored in rows if (each := parsed(stored)) and matches(each, criteria)}
    assert right == scan(connection, criteria), criteria
    return len(rows)


def test_pickles_are_filtered_too_and_none_is_lost():
    texts = ["plain", "ä", "back\\slash", "a\nline", 'it\'s "quoted"', "\x80", "", "1"]
    with closing(connect()) as connection:
        for n, (name, value) in enumerate(product(texts, [*texts, 1, 2.5, None, True, ["plain"]])):
            protocol = 2 if n % 3 else n % 5
            put(connection, f"k{n}", pickle.dumps({name: value, "other": n}, protocol))
        for n in range(100):
            put(connection, f"m{n}", pickle.dumps({"plain": f"m{n}"}, 2))
        put(connection, "escaped", b"\x80\x02}q\x00S'pl\\x61in'\nS'pl\\x61in'\ns.")
        put(connection, "latin", b"\x80\x02}q\x00U\x01\xe4q\x01U\x05plainq\x02s.")
        put(connection, "text", pickle.dumps({"plain": "plain"}, 2).decode("latin-1"))
        put(connection, "wide", '{"plain":"plain"}'.encode("utf-16-le"))
        found = {}
        for name, value in product(texts, [*texts, 1, 1.0, 2.5, None, True, ["plain"]]):
            text, values = condition({name: value}, True)
            rows = connection.execute(f"SELECT key, metadata FROM store WHERE {text}", values)
            read = [(key, parse(stored)) for key, stored in rows]
            found[name, repr(value)] = {
                key for key, each in read if each and each.get(name) == value
            }
            if (name, value) == ("plain", "a\nline"):
                assert len(read) < 60
        rows = connection.execute("SELECT key, metadata FROM store")
        every = [(key, parse(stored)) for key, stored in rows]
        for name, value in product(texts, [*texts, 1, 2.5, None, True, ["plain"]]):
            right = {key for key, each in every if each and each.get(name, every) == value}
            assert found[name, repr(value)] >= right, (name, value)
        assert found["plain", "'plain'"] >= {"escaped", "text", "wide"}
        assert "latin" in found["ä", "'plain'"]


@pytest.mark.parametrize("has_json", [True, False])
def test_few_rows_are_left_to_python(has_json):
    with closing(connect()) as connection:
        for n in range(300):
            row = {"n": n, "t": f"text {n}", "b": n % 3 == 0, "f": n / 7, "l": [f"x{n}"], "z": None}
            put(connection, f"k{n}", json.dumps(row, separators=(",", ":")))
        for criteria, most in (
            ({"t": "text 7"}, 1),
            ({"l": ["x7"]}, 1),
            ({"n": 7}, 1 if has_json else 300),
            ({"f": 1.0}, 1 if has_json else 300),
            ({"b": True}, 100),
            ({"t": True}, 0 if has_json else 100),
            ({"none": None}, 0),
        ):
            assert filtered(connection, criteria, has_json) <= most


# Many rows at once

INSERT = (
    "INSERT OR IGNORE INTO store (metadata, created, modified, data, key) VALUES (?, 1, 2, '', ?)"
)


@pytest.mark.parametrize("names", [None, ["a"], []])
def test_rows_that_are_inserted_together_are_indexed(names):
    with closing(connect()) as connection:
        index = MetadataIndex("store")
        index.install(connection, names)
        put(connection, "old", {"a": 1})
        rows = [(json.dumps({"a": n % 5, "b": n}), f"k{n}") for n in range(100)]
        rows += [(stored, f"s{n}") for n, stored in enumerate(STRANGE)]
        connection.execute("BEGIN")
        assert index.insert_many(connection, INSERT, rows) == len(rows)
        connection.execute("COMMIT")
        for criteria in ({"a": 1}, {"b": 2}, {"a": 7}):
            wanted = names is None or next(iter(criteria)) in names
            assert check(connection, criteria) == wanted
        connection.execute("BEGIN")
        assert index.insert_many(connection, INSERT, [("{}", "k1"), ('{"a":1}', "new")]) == 1
        connection.execute("ROLLBACK")
        assert check(connection, {"a": 1}) == (names != [])


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER mine AFTER INSERT ON store BEGIN"
        " UPDATE store SET metadata = '{\"a\":7}' WHERE key = 'old'; END",
        "ALTER TABLE store ADD COLUMN _rowid_",
        "INSERT INTO store (rowid, key, metadata) VALUES (9223372036854775807, 'last', '{}')",
        'DROP TRIGGER "store#index delete"',
        'DROP TABLE "store#indexed"',
    ],
)
def test_rows_that_cannot_be_told_from_others_are_inserted_one_by_one(connection, change):
    put(connection, "old", {"a": 1})
    connection.execute(change)
    dropped = change.startswith("DROP")
    connection.execute("BEGIN")
    if "indexed" in change:
        with pytest.raises(sqlite3.OperationalError):
            MetadataIndex("store").insert_many(connection, INSERT, [('{"a":1}', "k")])
        return
    MetadataIndex("store").insert_many(connection, INSERT, [('{"a":1}', "k")])
    connection.execute("COMMIT")
    assert check(connection, {"a": 1}) == check(connection, {"a": 7}) == (not dropped)


def test_a_table_without_rowid_is_indexed_too():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        columns = "key text primary key, metadata, created, modified, data"
        connection.execute(f"CREATE TABLE store ({columns}) WITHOUT ROWID")
        index = MetadataIndex("store")
        index.install(connection, None)
        index.insert_many(connection, INSERT, [('{"a":1}', "k")])
        assert check(connection, {"a": 1})


# In a store


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.db")


def fill(store, count, **more):
    keys = [f"k{n:04}" for n in range(count)]
    store.multiset(
        keys, [(io.BytesIO(b"x"), {"n": n, "mod": n % 10, **more}) for n in range(count)]
    )


def without_scan():
    """Queries can be answered by the index only."""
    return mock.patch.object(queries.Queries, "_filter", side_effect=AssertionError)


def test_a_store_answers_by_the_index(path):
    for index, columns, names in (
        ("dynamic", None, ["n", "mod", "other"]),
        ("static", ["n", "mod"], ["n", "mod"]),
    ):
        with SqliteStore(path, index, index, columns, durability="process") as store:
            fill(store, 50)
            store.set_metadata("k0007", {"n": "seven"})
            store.delete("k0017")
            with without_scan():
                for name in names:
                    assert sorted(store.query_keys(**{name: 7})) == (
                        [f"k00{n}7" for n in (2, 3, 4)] if name == "mod" else []
                    )
            if index == "static":
                with without_scan(), pytest.raises(AssertionError):
                    list(store.query(other=1))
                assert list(store.query(other=1)) == []
    with SqliteStore(path, "dynamic", None) as store, without_scan():
        assert list(store.query(n="seven")) == [("k0007", {"n": "seven"})]
    with SqliteStore(path, "plain", None) as store:
        fill(store, 5)
        assert list(store.query_keys(n=3)) == ["k0003"]
        with closing(sqlite3.connect(path)) as connection:
            assert not MetadataIndex("plain").exists(connection)


def test_more_rows_than_are_looked_up_at_once(path, monkeypatch):
    with SqliteStore(path, durability="process") as store:
        fill(store, 100, same=True)
        expected = [f"k{n:04}" for n in range(100)]
        for few, most in ((1000, 1000), (100, 1000), (99, 100), (30, 100), (1, 100)):
            monkeypatch.setattr(queries, "_FEW", few)
            monkeypatch.setattr(queries, "_MOST", most)
            with without_scan():
                assert sorted(store.query_keys(same=True)) == expected
        monkeypatch.setattr(queries, "_MOST", 99)
        assert sorted(store.query_keys(same=True)) == expected
        monkeypatch.setattr(queries, "_PAGE", 7)
        assert sorted(store.query_keys(same=True)) == expected
        # The walk is safe.
        seen = []
        for key, _ in store.query(same=True):
            seen.append(key)
            store.delete(key)
            store.set_metadata("new" + key, {"other": 1})
        assert sorted(seen) == expected


def test_a_key_that_the_index_holds_twice_is_found_once(path, monkeypatch):
    monkeypatch.setattr(queries, "_FEW", 1)
    with SqliteStore(path, durability="process") as store:
        for key in ("a", "b"):
            store.set_metadata(key, {"n": 1.5})
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("INSERT INTO \"store#index\" VALUES ('n', ?, 'a')", (1.5 + 1e-15,))
        with without_scan():
            assert list(store.query_keys(n=1.5)) == ["a", "b"]
        monkeypatch.setattr(queries, "_FEW", 10)
        with without_scan():
            assert list(store.query_keys(n=1.5)) == ["a", "b"]


def test_an_old_file_is_not_read_when_it_is_opened_but_by_its_first_query(path, monkeypatch):
    with SqliteStore(path, index=None, durability="process") as store:
        fill(store, 500)
        with closing(sqlite3.connect(path)) as other, other:
            old = pickle.dumps({"n": 3}, 2)
            other.execute("INSERT INTO store VALUES ('old', ?, 1, 2, '')", (old,))
        monkeypatch.setattr(queries, "_FILL", 100)
        with SqliteStore(path, durability="process") as new:
            with closing(sqlite3.connect(path)) as other:
                assert not other.execute('SELECT 1 FROM "store#index"').fetchall()
            # In a transaction, or while another writes, it is left for later.
            with new.transaction("t"):
                assert sorted(new.query_keys(n=3)) == ["k0003", "old"]
            with store.transaction("t"):
                assert sorted(new.query_keys(n=3)) == ["k0003", "old"]
            # Not for longer than it should.
            monkeypatch.setattr(queries, "_PATIENCE", 0)
            assert sorted(new.query_keys(n=3)) == ["k0003", "old"]
            with closing(sqlite3.connect(path)) as other:
                assert not other.execute('SELECT 1 FROM "store#index"').fetchall()
            monkeypatch.setattr(queries, "_PATIENCE", 100)
            with without_scan():
                assert sorted(new.query_keys(n=3)) == ["k0003", "old"]
                assert sorted(new.query_keys(mod=9, n=19)) == ["k0019"]


def test_an_index_that_cannot_be_filled_is_done_without(path):
    with SqliteStore(path, index=None, durability="process") as store:
        fill(store, 10)
    with SqliteStore(path, durability="process") as store:
        with mock.patch.object(store._index, "fill", side_effect=sqlite3.OperationalError("full")):
            assert list(store.query_keys(n=3)) == ["k0003"]
        store.set_metadata("k0004", {"n": 3})
        assert sorted(store.query_keys(n=3)) == ["k0003", "k0004"]
    with SqliteStore(path, durability="process") as store:
        with (
            mock.patch.object(store._index, "fill", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            list(store.query_keys(n=3))
        with without_scan():
            assert sorted(store.query_keys(n=3)) == ["k0003", "k0004"]


def test_what_a_finalizer_does_while_the_index_is_filled_is_told(path):
    with SqliteStore(path, index=None, durability="process") as store:
        fill(store, 10)
    with SqliteStore(path, durability="process", event_manager=EventManager()) as store:
        real, heard = store._index.fill, []
        store.event_manager.connect(StoreSetEvent, lambda event: heard.append(event.key))

        def fill_and_set(*arguments):
            store.set_metadata("k0004x", {"n": 4})
            return real(*arguments)

        with mock.patch.object(store._index, "fill", fill_and_set):
            assert sorted(store.query_keys(n=4)) == ["k0004", "k0004x"]
        assert heard == ["k0004x"]


OTHER = """
import io, sys
from encore.storage.sqlite_store import SqliteStore
with SqliteStore(sys.argv[1], index=eval(sys.argv[2]), index_columns=["z"], durability="process") as store:
    store.set("theirs", (io.BytesIO(b""), {"n": 1, "z": 1}))
    store.update_metadata("a", {"n": 2})
    store.delete("b")
    with store.transaction("t"):
        store.set_metadata("c", {"n": 1})
    assert sorted(store.query_keys(n=1)) == ["c", "theirs"]
"""


@pytest.mark.parametrize("theirs", ["dynamic", "static", None])
@pytest.mark.parametrize("ours", ["dynamic", "static", None])
def test_a_process_with_another_setting_keeps_the_index_right(path, ours, theirs):
    with SqliteStore(path, index=ours, index_columns=["n"], durability="process") as store:
        for key in ("a", "b"):
            store.set_metadata(key, {"n": 1})
        assert sorted(store.query_keys(n=1)) == ["a", "b"]
        subprocess.run([sys.executable, "-c", OTHER, path, repr(theirs)], check=True)
        assert sorted(store.query_keys(n=1)) == ["c", "theirs"]
        assert sorted(store.query_keys(n=2)) == ["a"]
        assert sorted(store.query_keys(z=1)) == ["theirs"]


def test_thousands_of_names_of_every_kind(path):
    names = [*NAMES, *(f"name {n}" for n in range(3000)), "key", "metadata", "select", "self"]
    with SqliteStore(path, durability="process") as store:
        store.set_metadata("a", {name: n for n, name in enumerate(names)})
        for n in (0, 5, 2000, len(names) - 1):
            assert list(store.query_keys(where={names[n]: n})) == ["a"]
            assert list(store.query_keys(where={names[n]: -1})) == []
        store.update_metadata("a", {"name 7": "x"})
        with without_scan():
            assert list(store.query_keys(**{"name 7": "x", "name 8": names.index("name 8")})) == [
                "a"
            ]
        columns = store._handle().connection.execute("PRAGMA table_info(store)").fetchall()
        assert len(columns) == 5


@pytest.mark.parametrize("seed", range(3))
def test_stores_of_all_settings_give_the_same_answers(path, seed):
    rng = random.Random(seed)
    stores = [
        SqliteStore(path, index=index, index_columns=rng.sample(NAMES, 3), durability="process")
        for index in ("dynamic", "static", None)
    ]
    model = {}
    for turn in range(40):
        store = rng.choice(stores)
        if store.is_connected() and rng.random() < 0.2:
            store.disconnect()
        store.connect()
        before = dict(model)
        fails = rng.random() < 0.3
        try:
            with store.transaction("t"):
                for _ in range(rng.randrange(5)):
                    key, metadata = f"k{rng.randrange(10)}", random_metadata(rng)
                    kind = rng.randrange(4)
                    if kind == 0 or key not in model:
                        store.set(key, (io.BytesIO(b"x"), metadata))
                        model[key] = metadata
                    elif kind == 1:
                        store.update_metadata(key, metadata)
                        model[key] = {**model[key], **metadata}
                    elif kind == 2:
                        keys = [key, f"m{turn}", f"m{turn}x"]
                        store.multiset(keys, [(io.BytesIO(b""), metadata)] * 3)
                        model.update(dict.fromkeys(keys, metadata))
                    else:
                        store.delete(key)
                        del model[key]
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            model = before
        criteria = [{name: rng.choice(VALUES)} for name in NAMES] + [random_metadata(rng)]
        for each in stores:
            each.connect()
            for one in criteria:
                found = dict(each.query(where=one))
                assert found == {k: m for k, m in model.items() if matches(m, one)}
    for store in stores:
        store.disconnect()
