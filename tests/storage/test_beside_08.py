"""Stores that EnCore 0.8 has written, and goes on using, in a process of its own.

What 0.8 is seen to do here with what this encore has written is its own behaviour, and the limit of
what is promised.
"""

import ast
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from io import BytesIO
from textwrap import dedent

import pytest

from encore.__main__ import main
from encore.events.api import EventManager
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore

WORKER = """
import ast, contextlib, faulthandler, io, os, sqlite3, sys, traceback
from encore.events.event_manager import EventManager
from encore.events.package_globals import set_event_manager
set_event_manager(EventManager())
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore

@contextlib.contextmanager
def opened(path, index=None, columns=None):
    # 0.8 polls in a thread that disconnect() does not end, and that would never wake up.
    if os.path.isfile(path) or path.endswith(".db"):
        store = SqliteStore(path, index=index, index_columns=columns)
    elif os.path.basename(path) == "locking":
        store = LockingFileSystemStore(path, remote_event_poll_interval=1e6)
    else:
        store = FileSystemStore(path)
    assert not hasattr(store, "mapping")
    store.connect()
    yield store
    store.disconnect()

def put(store, key, data=b"", metadata={}):
    store.set(key, (io.BytesIO(data), metadata))

def put_all(store, rows):
    for key, (data, metadata) in rows.items():
        put(store, key, data, metadata)

def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error).__name__

def row(store, key):
    value = store.get(key)
    return value.data.read(), value.metadata, value.created, value.modified

def contents(store, keys=None):
    return {key: attempt(row, store, key) for key in keys or list(store.query_keys())}

kept = {}
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    faulthandler.dump_traceback_later(60, exit=True)
    code, names = ast.literal_eval(line)
    space = {**globals(), **names, "answer": None}
    try:
        exec(code, space)
        print(ascii((None, space["answer"])), file=answers, flush=True)
    except Exception:
        print(ascii((traceback.format_exc(), None)), file=answers, flush=True)
    faulthandler.cancel_dump_traceback_later()
os._exit(0)
"""

METADATA = {
    "a_str": "t",
    "an_int": 1,
    "a_float": 2.5,
    "a_bool": True,
    "a_none": None,
    "a_list": ["one", 2, None],
    "a_tuple": (1, ("two",)),
    "a_dict": {"x": {"y": [1]}, "é": ""},
    "text": 'é☃😀 "quoted" \\ \n',
    "long": "ab" * 5000,
    "big": 2**70,
    "negative": -3,
    "empty": "",
}
NAMES = ["two words", "select", "self", "é", "sq'", "a;b", "1x", "", "n" * 100]

#: Not with index='dynamic', which makes columns of these names.
NOT_AS_COLUMNS = ["key", "data", "metadata", "created", 'quo"te']

PLAIN_KEYS = [
    "plain",
    "a.data",
    "a.metadata",
    "a.lock",
    "-dash",
    "_",
    "1",
    "x" * 200,
    "a" + "-" * 9,
]
FILE_KEYS = [
    *PLAIN_KEYS,
    *[
        "two words",
        "UPPER",
        "upper",
        "ünïcode",
        "😀",
        "%41",
        "%%61",
        "%20a",
        ".dot",
        "con",
        "tab\t",
    ],
    *['quo"te', "sq'uote", "back\\slash", "trail.", "trail ", "é", "e\u0301", "glob*?[x]", "\x7f"],
    *["__log__.txt"],
]
ANY_KEYS = [*FILE_KEYS, "new\nline", "a/b", "../up", "/", "nul\0l", ".FSx", "x" * 1024, "é" * 300]

CRITERIA = [
    *[{name: value} for name, value in METADATA.items() if name != "a_tuple"],
    {"a_tuple": [1, ["two"]]},
    {"n": 1},
    {"n": 1, "even": False},
    {"n": 2, "even": False},
    {"select": 7},
    {"": 7},
    {"n" * 100: 7},
    {"nobody has": 1},
]

INDICES = ["dynamic", "static", None]
COLUMNS = ["n", "a_str"]


def rows(keys, names):
    """Return what 0.8 is given to write: data and metadata by key."""
    found = {key: (key.encode(), {"n": n % 3, "even": n % 2 == 0}) for n, key in enumerate(keys)}
    found |= {f"kind {name}": (b"1", {name: value}) for name, value in METADATA.items()}
    # Equal to True in Python.
    found["kind one"] = b"1", {"a_bool": 1}
    for number, name in enumerate(names):
        found[f"name {number}"] = b"2", {name: 7}
    found["all"] = bytes(range(256)) * 800, METADATA
    found["nothing"] = b"", {}
    return found


def as_json(metadata):
    return json.dumps(metadata, sort_keys=True)


def expected(rows):
    """Return what is to be read of them."""
    return {key: (data, json.loads(json.dumps(metadata))) for key, (data, metadata) in rows.items()}


def matching(rows, criteria):
    return {
        key
        for key, (_, metadata) in rows.items()
        if all(
            name in metadata and as_json(metadata[name]) == as_json(value)
            for name, value in criteria.items()
        )
    }


def contents(store):
    return {key: (store.to_bytes(key), store.get_metadata(key)) for key in list(store.keys())}


def check_queries(store, rows, asked=None):
    assert dict(store.query()) == {key: metadata for key, (_, metadata) in rows.items()}
    for criteria in asked or [{"a_str": "t"}, {"n": 1, "even": False}, {"nobody has": 1}]:
        keys = list(store.query_keys(where=criteria))
        assert len(keys) == len(set(keys))
        assert set(keys) == matching(rows, criteria)


def put(store, key, data=b"", **metadata):
    store.set(key, (BytesIO(data), metadata))


def recorded(store):
    """Have the events of a store kept."""
    found = []

    def listen(event):
        found.append((event.action, event.key, event.metadata, getattr(event, "remote", False)))

    store.event_manager = EventManager()
    store.event_manager.connect(StoreModificationEvent, listen)
    store.event_manager.listener = listen
    return found


@pytest.fixture(scope="module")
def old(start_08):
    """A function that executes code with EnCore 0.8 and returns what it assigns to `answer`."""
    process = start_08(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(code, **names):
        names = {name: str(value) if name == "path" else value for name, value in names.items()}
        process.stdin.write(ascii((dedent(code), names)) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "EnCore 0.8 has ended"
        error, answer = ast.literal_eval(line)
        assert error is None, error
        return answer

    yield run
    process.stdin.close()
    process.stdout.close()
    process.wait()


class Written:
    """Stores that 0.8 has written: their path and rows, and what 0.8 then reads, all by name."""

    def __init__(self, folder, old):
        self.folder = folder
        self.rows = {}
        self.read = {}
        for index in INDICES:
            names = NAMES if index == "dynamic" else NAMES + NOT_AS_COLUMNS
            name = f"{index}.db"
            self.rows[name] = rows(ANY_KEYS, names)
            # 0.8 makes no columns in a new table for index='static', which needs them.
            self.read[name] = old(
                """
                if index == "static":
                    with opened(path, "dynamic") as store:
                        put(store, "first", metadata=dict.fromkeys(columns))
                        store.delete("first")
                with opened(path, index, columns if index == "static" else None) as store:
                    with store.transaction("all"):
                        put_all(store, rows)
                    answer = contents(store)
                """,
                path=folder / name,
                index=index,
                columns=COLUMNS,
                rows=self.rows[name],
            )
        for name in ("files", "locking"):
            self.rows[name] = rows(FILE_KEYS, NAMES + NOT_AS_COLUMNS)
            self.read[name] = old(
                """
                os.mkdir(path)
                init_shared_store(path)
                with opened(path) as store:
                    put_all(store, rows)
                    # Of keys with a leading dot it lists none.
                    answer = contents(store, rows)
                """,
                path=folder / name,
                rows=self.rows[name],
            )

    def copy(self, name, folder):
        """Return the path of a copy that a test may change."""
        copy = shutil.copytree if (self.folder / name).is_dir() else shutil.copy
        return str(copy(self.folder / name, folder / name))


@pytest.fixture(scope="module")
def written(tmp_path_factory, old):
    return Written(tmp_path_factory.mktemp("written"), old)


@pytest.fixture
def opened():
    """A function that opens stores by path, which are closed after the test."""
    stores = []

    def open_one(path, index="dynamic", **options):
        options["durability"] = "process"
        if path.endswith(".db"):
            store = SqliteStore(path, index=index, index_columns=COLUMNS, **options)
        elif path.endswith("locking"):
            store = LockingFileSystemStore(path, remote_event_poll_interval=0, **options)
        else:
            store = FileSystemStore(path, index=bool(index), **options)
        store.connect()
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.disconnect()


DATABASES = [(f"{by}.db", index) for by in INDICES for index in INDICES]
FOLDERS = [("files", "index"), ("files", None), ("locking", None)]


@pytest.mark.parametrize(("name", "index"), DATABASES + FOLDERS)
def test_all_that_old_has_written_is_read(name, index, written, opened, tmp_path):
    store = opened(written.copy(name, tmp_path), index)
    there = expected(written.rows[name])
    assert contents(store) == there
    assert sorted(store.query_keys()) == list(store.keys()) == sorted(there)
    # This fills an index.
    check_queries(store, there)
    check_queries(store, there, CRITERIA)
    assert store.check() == []
    for key, (data, _, created, modified) in written.read[name].items():
        value = store.get(key)
        assert value.size == len(data)
        if name.endswith(".db"):
            assert (value.created, value.modified) == (created, modified)
        else:
            assert value.modified == pytest.approx(modified, abs=5)
    assert set(store.glob("kind*")) == {key for key in there if key.startswith("kind")}
    assert store.get_data_range("all", 300, 303).read() == bytes([44, 45, 46])


def change_and_fail(store):
    store.delete("upper")
    put(store, "ours too", n=1)
    put(store, "kind empty", n=1)
    store.set_metadata("kind a_float", {"n": 1})
    raise ZeroDivisionError


def change(store, there):
    """Make changes of every kind, in `there` as well; return the keys of 0.8 that were changed."""
    put(store, "ours", b"o", n=1, ours=True)
    store.set_metadata("kind a_str", {"n": 2, "even": False})
    store.update_metadata("kind an_int", {"n": 1})
    store.set_data("kind empty", BytesIO(b"new"))
    store.delete("kind big")
    store.from_bytes("two words", b"2 words")
    with store.transaction("several"):
        put(store, "plain", b"p", a_str="t")
        store.delete("kind negative")
        with pytest.raises(ZeroDivisionError), store.transaction("inner"):
            change_and_fail(store)
        store.update_metadata("UPPER", {"a_bool": True})
    with pytest.raises(ZeroDivisionError), store.transaction("undone"):
        change_and_fail(store)
    there["ours"] = b"o", {"n": 1, "ours": True}
    there["kind a_str"] = b"1", {"n": 2, "even": False}
    there["kind an_int"][1]["n"] = 1
    there["kind empty"] = b"new", {"empty": ""}
    there["two words"] = b"2 words", there["two words"][1]
    there["plain"] = b"p", {"a_str": "t"}
    there["UPPER"][1]["a_bool"] = True
    del there["kind big"], there["kind negative"]
    return ["kind a_str", "kind an_int", "kind empty", "two words", "plain", "UPPER"]


@pytest.mark.parametrize(("name", "index"), DATABASES)
def test_a_database_of_old_is_changed_and_the_other_rows_stay_readable_for_old(
    name, index, written, opened, tmp_path, old
):
    path = written.copy(name, tmp_path)
    before = columns(path)
    store = opened(path, index)
    there = expected(written.rows[name])
    changed = [*change(store, there), "ours"]
    assert contents(store) == there
    check_queries(store, there)
    assert store.check() == []
    store.disconnect()
    assert columns(path) == before
    keys, untouched, ours, data, queried, deleted, reopened = old(
        """
        def reopen():
            with opened(path, index, ["n"]):
                pass
        with opened(path, index) as store:
            keys = list(store.query_keys())
            untouched = contents(store, [key for key in keys if key not in changed])
            ours = {key: attempt(row, store, key) for key in changed}
            data = {key: store.get_data(key).read() for key in changed}
            queried = attempt(lambda: list(store.query()))
            deleted = attempt(store.delete, "ours")
        # Where it is told of columns, connect() reads the metadata of all rows.
        reopened = index and attempt(reopen)
        answer = keys, untouched, ours, data, queried, deleted, reopened
        """,
        path=path,
        index=None if name == "None.db" else "dynamic",
        changed=changed,
    )
    assert sorted(keys) == sorted(there)
    read = written.read[name]
    assert untouched == {key: read[key] for key in there if key not in changed}
    # 0.8 reads no JSON: of rows of ours it has the key and the data.
    assert set(ours.values()) == {queried, deleted} == {"UnpicklingError"}
    assert data == {key: there[key][0] for key in changed}
    assert reopened == (None if name == "None.db" else "UnpicklingError")


def columns(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA table_info(store)").fetchall()


def options_of_old(path):
    """Return how 0.8 opens a database that it has written, of whose columns it must be told."""
    if path.endswith("static.db"):
        return {"index": "static", "columns": COLUMNS}
    if path.endswith("dynamic.db"):
        return {"index": "dynamic", "columns": [column[1] for column in columns(path)[5:]]}
    return {"index": None, "columns": None}


def types(path):
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT key, typeof(metadata) FROM store"))


OLD_CHANGES = """
with opened(path, index, columns) as store:
    put(store, "new", b"n", {"n": 1, "a new name": [1]})
    put(store, "plain", b"p", {"n": 2, "even": False})
    store.set_metadata("kind a_str", {"a_str": "other"})
    # That of a FileSystemStore replaces them.
    store.update_metadata("kind an_int", {"an_int": 1, "a_str": "t"})
    store.set_data("UPPER", io.BytesIO(b"up"))
    store.delete("kind big")
    with store.transaction("several"):
        put(store, "two words", b"2", {"a_dict": {"x": {"y": [1]}, "\\xe9": ""}})
        store.delete("kind negative")
    if undone:
        try:
            with store.transaction("undone"):
                put(store, "undone", b"", {"n": 1})
                store.delete("upper")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    answer = contents(store, ["new", "plain", "kind an_int"])
"""

OLD_EVENTS = [
    ("set", "new", {"n": 1, "a new name": [1]}, True),
    ("update", "plain", {"n": 2, "even": False}, True),
    ("update", "kind a_str", {"a_str": "other"}, True),
    ("update", "kind an_int", {"an_int": 1, "a_str": "t"}, True),
    ("update", "UPPER", {"n": 1, "even": True}, True),
    ("delete", "kind big", {"big": 2**70}, True),
    ("update", "two words", {"a_dict": {"x": {"y": [1]}, "é": ""}}, True),
    ("delete", "kind negative", {"negative": -3}, True),
]


def after_old_changes(there):
    for action, key, metadata, _ in OLD_EVENTS:
        if action == "delete":
            del there[key]
        else:
            there[key] = there.get(key, (b"", {}))[0], metadata
    for key, data in (("new", b"n"), ("plain", b"p"), ("UPPER", b"up"), ("two words", b"2")):
        there[key] = data, there[key][1]
    return there


@pytest.mark.parametrize(("name", "index"), DATABASES)
def test_old_writes_into_a_database_that_is_open_here(name, index, written, opened, tmp_path, old):
    path = written.copy(name, tmp_path)
    store = opened(path, index, poll=3600)
    found = recorded(store)
    there = expected(written.rows[name])
    check_queries(store, there)
    reader = opened(path, index)
    value = reader.get("plain")
    read = old(OLD_CHANGES, path=path, **options_of_old(path), undone=True)
    after_old_changes(there)
    for one in (store, reader):
        assert contents(one) == there
        check_queries(one, there)
        assert one.check() == []
    assert value.data.read() == b"plain"
    assert {key: row[:2] for key, row in read.items()} == {key: there[key] for key in read}
    store._poll()
    assert found == OLD_EVENTS
    put(store, "new", b"again", n=1)
    there["new"] = b"again", {"n": 1}
    check_queries(reader, there)


def test_old_keeps_a_database_open_while_it_is_changed_here(written, opened, tmp_path, old):
    path = written.copy("dynamic.db", tmp_path)
    old(
        """
        kept["store"] = store = SqliteStore(path, index_columns=columns)
        store.connect()
        """,
        path=path,
        columns=options_of_old(path)["columns"],
    )
    try:
        store = opened(path)
        there = expected(written.rows["dynamic.db"])
        change(store, there)
        read = old(
            """
            store = kept["store"]
            put(store, "upper", b"of old", {"n": 2})
            answer = row(store, "tab\\t"), store.get_data("plain").read()
            """
        )
        assert read == (written.read["dynamic.db"]["tab\t"], b"p")
        there["upper"] = b"of old", {"n": 2}
        assert contents(store) == there
        check_queries(store, there)
    finally:
        old("kept.pop('store').disconnect()")


@pytest.mark.parametrize("way", ["method", "command"])
@pytest.mark.parametrize(("name", "index"), [(f"{by}.db", by) for by in INDICES])
def test_upgrade_rewrites_what_old_has_written(
    name, index, way, written, opened, tmp_path, old, capsys
):
    path = written.copy(name, tmp_path)
    there = expected(written.rows[name])
    before = columns(path)
    assert set(types(path).values()) == {"blob"}
    with opened(path, index) as store:
        found = recorded(store)
        stamps = {key: (store.get(key).created, store.get(key).modified) for key in there}
        for count in (len(there), 0):
            if way == "method":
                assert store.upgrade() == count
            else:
                assert main(["upgrade", f"sqlite:{path}"]) == 0
                assert capsys.readouterr().out == f"{count} rewritten\n"
        assert found == []
        assert types(path) == dict.fromkeys(there, "text")
        assert columns(path) == before
        assert contents(store) == there
        assert {key: (store.get(key).created, store.get(key).modified) for key in there} == stamps
        check_queries(store, there)
        assert store.check() == []
    keys, read, data = old(
        """
        with opened(path, None) as store:
            keys = list(store.query_keys())
            answer = keys, attempt(row, store, "plain"), store.get_data("plain").read()
        """,
        path=path,
    )
    assert sorted(keys) == sorted(there)
    assert (read, data) == ("UnpicklingError", b"plain")


def test_upgrade_has_nothing_to_do_in_files(written, tmp_path, capsys):
    path = written.copy("files", tmp_path)
    assert main(["upgrade", f"fs:{path}"]) == 2
    assert "has no upgrade" in capsys.readouterr().err


def test_metadata_that_is_no_json_is_found_by_check_and_hides_nothing_else(opened, tmp_path, old):
    path = str(tmp_path / "odd.db")
    old(
        """
        with opened(path) as store:
            for number, odd in enumerate([b"bytes", {1}, float("nan"), object]):
                put(store, "odd %d" % number, b"1", {"odd": odd})
            put(store, "fine", b"2", {"odd": 1})
        """,
        path=path,
    )
    for index in INDICES:
        store = opened(path, index)
        odd = [f"odd {number}" for number in range(4)]
        assert list(store.keys()) == ["fine", *odd]
        assert list(store.query(odd=1)) == [("fine", {"odd": 1})]
        assert [finding.key for finding in store.check()] == odd
        with pytest.raises(StoreError, match="damaged"):
            store.get_metadata("odd 3")
    assert [finding.outcome for finding in store.repair()] == ["left"] * 4
    assert store.upgrade() == 1
    read = old("with opened(path) as store: answer = contents(store, odd)", path=path, odd=odd[:2])
    assert [read[key][:2] for key in odd[:2]] == [(b"1", {"odd": b"bytes"}), (b"1", {"odd": {1}})]
    put(store, "odd 0", b"mended", odd=2)
    assert list(store.query_keys(odd=2)) == ["odd 0"]


def test_a_key_that_is_empty_hides_nothing_else(opened, tmp_path, old):
    path = str(tmp_path / "empty.db")
    old(
        """
        with opened(path, "dynamic") as store:
            put(store, "", b"1", {"n": 1})
            put(store, "a", b"2", {"n": 1})
        """,
        path=path,
    )
    store = opened(path, None)
    assert contents(store) == {"a": (b"2", {"n": 1})}
    assert list(store.query_keys(n=1)) == ["a"]
    assert [str(finding) for finding in store.check()] == ["a row has str: '' for a key"]


# Files


@pytest.mark.parametrize(("name", "index"), FOLDERS)
def test_a_folder_of_old_is_changed_and_read_by_old(name, index, written, opened, tmp_path, old):
    path = written.copy(name, tmp_path)
    store = opened(path, index)
    there = expected(written.rows[name])
    changed = [*change(store, there), "ours"]
    for key in PLAIN_KEYS[1:4]:
        put(store, key, key.encode(), n=8)
        there[key] = key.encode(), {"n": 8}
    put(store, "A/b", b"encoded", n=1)
    assert contents(store) == {**there, "A/b": (b"encoded", {"n": 1})}
    check_queries(store, {**there, "A/b": (b"encoded", {"n": 1})})
    store.delete("A/b")
    assert store.check() == []
    store.disconnect()
    listed, read = old(
        """
        with opened(path) as store:
            answer = list(store.query_keys()), contents(store, keys)
        """,
        path=path,
        keys=list(there),
    )
    assert sorted(listed) == sorted(set(there) - {".dot"})
    assert {key: row[:2] for key, row in read.items()} == there
    before = written.read[name]
    for key in set(there) - {*changed, *PLAIN_KEYS}:
        assert read[key][:2] == before[key][:2]
        assert read[key][2:] == pytest.approx(before[key][2:], abs=5)
    with open(f"{path}/.FSStore", "rb") as file:
        assert file.read() == b"__version__ = 0\n"


def test_old_reads_a_folder_that_was_made_here(opened, tmp_path, old):
    path = str(tmp_path / "files")
    init_shared_store(path)
    rows = {key: (key.encode(), {"n": n, **METADATA}) for n, key in enumerate(PLAIN_KEYS)}
    store = opened(path)
    for key, (data, metadata) in rows.items():
        put(store, key, data, **metadata)
    put(store, "A/b", b"1")
    read = old("with opened(path) as store: answer = contents(store)", path=path)
    # The name of its file.
    assert read.pop("%%41%2fb")[:2] == (b"1", {})
    assert {key: row[:2] for key, row in read.items()} == expected(rows)


@pytest.mark.parametrize(("name", "index"), FOLDERS)
def test_old_writes_into_a_folder_that_is_open_here(name, index, written, opened, tmp_path, old):
    path = written.copy(name, tmp_path)
    store = opened(path, index)
    found = recorded(store)
    there = expected(written.rows[name])
    check_queries(store, there)
    for key in ("plain", "UPPER", "ours"):
        put(store, key, key.encode(), n=1, even=True)
        there[key] = key.encode(), {"n": 1, "even": True}
    del found[:]
    value = store.get("plain")
    read = old(OLD_CHANGES, path=path, index=None, columns=None, undone=False)
    after_old_changes(there)
    assert contents(store) == there
    check_queries(store, there)
    assert value.data.read() == b"plain"
    assert store.check() == []
    assert {key: row[:2] for key, row in read.items()} == {key: there[key] for key in read}
    if name == "locking":
        store._poll()
        # The log of 0.8 tells neither what is new nor what was deleted, and of set_data() twice.
        logged = [*OLD_EVENTS[:5], *OLD_EVENTS[4:]]
        assert found == [
            ("delete", key, {}, True) if action == "delete" else ("update", key, metadata, True)
            for action, key, metadata, _ in logged
        ]
        modified = store.get_modified_keys("2000-01-01 00:00:00.000000")
        assert modified[-len(logged) :] == [event[1] for event in logged]
    for key in ("new", "plain", "two words"):
        put(store, key, b"again", n=1)
    read = old("with opened(path) as store: answer = contents(store)", path=path)
    for key in ("new", "plain", "two words"):
        assert read[key][:2] == (b"again", {"n": 1})


def test_keys_of_old_that_are_none_here_are_kept_and_told_by_check(opened, tmp_path, old):
    path = str(tmp_path / "files")
    old(
        """
        os.mkdir(path)
        init_shared_store(path)
        with opened(path) as store:
            for key in ["a", ".FSx", ""]:
                put(store, key, b"1", {"n": 1})
        """,
        path=path,
    )
    store = opened(path, None)
    assert contents(store) == {"a": (b"1", {"n": 1})}
    (finding,) = store.check()
    assert "4 files are no part of the store: '.FSx.data', '.FSx.metadata'" in finding.problem
    assert [finding.outcome for finding in store.repair()] == ["left"]
    assert not store.exists(".FSx")
    store.set_metadata("a", {"n": 2})
    store.disconnect()
    read = old("with opened(path) as store: answer = contents(store, ['a', '.FSx', ''])", path=path)
    assert [row[:2] for row in read.values()] == [
        (b"1", {"n": 2}),
        (b"1", {"n": 1}),
        (b"1", {"n": 1}),
    ]


# Many rows

SLOW = pytest.param(200_000, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def large(tmp_path_factory, old):
    """A function that returns the path of a database with so many rows that 0.8 has written."""
    paths = {}

    def find(count):
        if count not in paths:
            paths[count] = path = str(tmp_path_factory.mktemp("large") / f"{count}.db")
            old(
                """
                with opened(path, None) as store:
                    put(store, "key", b"", {})
                    store.delete("key")
                with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                    connection.executemany(
                        # What it does itself, in a tenth of the time.
                        "INSERT INTO store VALUES (?, ?, ?, ?, ?)",
                        (("key%d" % n, {"n": n, "even": n % 2 == 0}, 1.5, 2.5, b"data")
                            for n in range(count)),
                    )
                """,
                path=path,
                count=count,
            )
        return paths[count]

    return find


class Work:
    """Counts steps of SQLite's virtual machine, in hundreds, on all connections that are made."""

    def __init__(self, monkeypatch):
        self.steps = 0
        connect = sqlite3.connect

        def counting(*arguments, **options):
            connection = connect(*arguments, **options)
            connection.set_progress_handler(self._count, 100)
            return connection

        monkeypatch.setattr(sqlite3, "connect", counting)

    def _count(self):
        self.steps += 1

    def of(self, function):
        before = self.steps
        function()
        return self.steps - before


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("count", [20_000, SLOW])
def test_a_large_database_is_opened_without_being_read(
    index, count, large, opened, tmp_path, monkeypatch
):
    work = Work(monkeypatch)
    path = shutil.copy(large(count), tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        reading = work.of(connection.execute("SELECT key, metadata FROM store").fetchall)
    assert reading > count / 100
    stores = []
    assert work.of(lambda: stores.append(opened(path, index))) < reading / 50
    store = stores[0]

    def use():
        assert store.get_metadata("key7") == {"n": 7, "even": False}
        put(store, "new", n=1)
        store.delete("key8")
        assert list(store.keys(limit=2)) == ["key0", "key1"]

    assert work.of(use) < reading / 50
    assert len(list(store.keys())) == count
