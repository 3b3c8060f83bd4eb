"""check() and repair() of the stores in a directory."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import pytest

import encore.storage._pair_maintenance as module
from encore.events.event_manager import EventManager
from encore.storage._metadata_files import stamps_of
from encore.storage._pair_index_file import IndexLock
from encore.storage.api import Finding
from encore.storage.errors import StoreError
from encore.storage.events import StoreUpdateEvent
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
LONG = "k" * 300

# A thread of another test may be at work.
dies = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


@pytest.fixture(params=[FileSystemStore, LockingFileSystemStore])
def store(request, root):
    with request.param(root, durability="process", event_manager=EventManager()) as store:
        yield store


@pytest.fixture(autouse=True)
def old():
    """What other programs have changed was long ago."""
    with mock.patch.object(module, "_YOUNG", -60):
        yield


def put(store, key, data=b"data", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def write(root, file, content):
    with open(os.path.join(os.fsencode(root), os.fsencode(file)), "wb") as target:
        target.write(content)


def read(root, file):
    with open(f"{root}/{file}", "rb") as source:
        return source.read()


def contents(store):
    return {
        key: (store.to_bytes(key), store.get_metadata(key), store.get(key).etag)
        for key in sorted(store.query_keys())
    }


def files(root):
    """What there is, down to times."""
    return {
        path: (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        for folder, _, names in os.walk(root)
        for path in (f"{folder}/{name}" for name in names)
        for status in [os.lstat(path)]
    }


def found(findings):
    return [(each.key, each.problem, each.outcome) for each in findings]


def test_nothing_is_found_where_all_is_well_and_nothing_is_touched(root, store):
    for key in ("a", "Upper", "\u00e4/\u00f6", LONG):
        put(store, key, name=key)
    store.set_metadata("empty", {})
    put(store, "a", a=2)
    with store.transaction(""):
        put(store, "b")
        store.delete("Upper")
    write(root, "planted.data", b"planted")
    write(root, "planted.metadata", b'{"a": 1}')
    write(root, "Old.data", b"old")
    write(root, "Old.metadata", b"{}")
    before = contents(store), files(root)
    assert store.check() == []
    assert (contents(store), files(root)) == before
    assert store.repair() == []
    own = re.compile(r"/\.FStmp/|__log__")
    assert contents(store) == before[0]
    assert {path: each for path, each in files(root).items() if not own.search(path)} == {
        path: each for path, each in before[1].items() if not own.search(path)
    }


def damage_data_without_metadata(root):
    os.unlink(f"{root}/b.metadata")
    return ("b", "it has no metadata", "lost", "; they are empty now"), {"b": (b"data", {})}


def damage_encoded_data_without_metadata(root):
    write(root, "%%c3%a4.data", b"more")
    text = ("\u00e4", "it has no metadata", "lost", "; they are empty now")
    return text, {"\u00e4": (b"more", {})}


def damage_metadata_without_data(root):
    os.unlink(f"{root}/b.data")
    text = "; its metadata are in '.FSlost/b.metadata'"
    return ("b", "it has no data", "lost", text), {"b": None}


def damage_metadata(root):
    write(root, "b.metadata", b'{"a": ')
    text = "; they are in '.FSlost/b.metadata', and are empty now"
    return ("b", "the metadata are damaged", "lost", text), {"b": (b"data", {})}


def damage_metadata_that_are_no_object(root):
    write(root, "b.metadata", b"[1]")
    text = "; they are in '.FSlost/b.metadata', and are empty now"
    return ("b", "the metadata are damaged", "lost", text), {"b": (b"data", {})}


def damage_change_data(root):
    write(root, "b.data", b"other")
    text = (
        "the data have another time than when they were written: the files were copied, or another "
        "program has changed the data"
    )
    return ("b", text, "mended", ""), {"b": (b"other", {"a": 1})}


def damage_digest_without_key(root):
    [file] = [file for file in os.listdir(root) if file.endswith(".key")]
    os.unlink(f"{root}/{file}")
    return (None, f"{file[:-4] + '.data'!r} belongs to no key", "left", ""), {LONG: ...}


def damage_digest_with_wrong_key(root):
    [file] = [file for file in os.listdir(root) if file.endswith(".key")]
    write(root, file, b"k" * 301)
    return (None, f"{file[:-4] + '.data'!r} belongs to no key", "left", ""), {LONG: ...}


def damage_name_that_is_no_utf8(root):
    for suffix in (b"data", b"metadata"):
        write(root, b"\xff." + suffix, b"{}")
    return (None, "'\\udcff.data' belongs to no key", "left", ""), {}


def damage_hidden_pair(root):
    for suffix in ("data", "metadata"):
        write(root, f"Upper.{suffix}", b"{}")
    text = "what 'Upper.data' holds is hidden by another pair of this key"
    return ("Upper", text, "left", ""), {}


def damage_key_file_without_pair(root):
    name = "%%%" + "0" * 64
    write(root, f"{name}.key", b"something")
    return (None, f"'{name}.key' belongs to no pair", "left", ""), {}


def damage_directory_in_the_way(root):
    os.unlink(f"{root}/b.metadata")
    os.mkdir(f"{root}/b.metadata")
    return ("b", "'b.metadata' is something else than a file", "left", ""), {"b": None}


def damage_fifo(root):
    os.unlink(f"{root}/b.data")
    os.mkfifo(f"{root}/b.data")
    return ("b", "'b.data' is something else than a file", "left", ""), {"b": None}


def damage_foreign_file(root):
    write(root, "notes.txt", b"x")
    return (None, "1 file is no part of the store: 'notes.txt'", "left", ""), {}


def damage_foreign_files(root):
    for name in ("notes.txt", ".FSother", ".data", "x.key"):
        write(root, name, b"x")
    os.mkdir(f"{root}/folder")
    text = "5 files are no part of the store: '.FSother', '.data', 'folder', …"
    return (None, text, "left", ""), {}


DAMAGES = [value for name, value in globals().copy().items() if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_repaired_and_all_else_is_left(root, store, damage):
    for key in ("a", "b", "Upper", LONG, "z"):
        put(store, key, a=1)
    before = contents(store)
    (key, problem, outcome, more), changed = damage(root)
    untouched = files(root)
    assert found(store.check()) == [(key, problem, "")]
    assert files(root) == untouched
    assert found(store.repair()) == [(key, problem + more, outcome)]
    if outcome != "left":
        assert store.check() == []
    else:
        assert found(store.check()) == [(key, problem, "")]
    after = contents(store)
    for key, what in changed.items():
        expected = before.pop(key, None)
        now = after.pop(key, None)
        if what is ...:
            # It cannot be listed, but who knows it has it.
            assert store.get(key).etag == expected[2]
        else:
            assert (now and now[:2]) == what
    assert after == before


def test_a_copy_with_other_times_is_told_once(root, store):
    for key in ("a", "b", "c", "d", LONG):
        put(store, key, key.encode(), a=1)
    before = contents(store)
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        copied = f"{folder}/copied"
        # As "cp -r": the times are new.
        shutil.copytree(root, copied, copy_function=shutil.copyfile)
        with type(store)(copied, durability="process") as copy:
            now = contents(copy)
            text = damage_change_data(root)[0][1]
            [(key, problem, outcome)] = found(copy.check())
            assert (key, outcome) == (None, "")
            assert problem == f"5 keys ('a', 'b', 'c', …): {text}"
            with mock.patch.object(module, "_YOUNG", 3600):
                # Before it perhaps that of the session that was copied.
                finding = copy.repair()[-1]
            assert finding == Finding(None, f"{problem}; changed only just now", "left")
            assert Finding(None, problem, "mended") in copy.repair()
            assert copy.check() == []
            assert contents(copy) == now
        # With the times, as by "cp -a", it is the same store.
        kept = f"{folder}/kept"
        shutil.rmtree(f"{root}/.FStmp")
        os.unlink(f"{root}/b.data")
        os.unlink(f"{root}/b.metadata")
        shutil.copytree(root, kept)
        with type(store)(kept, durability="process") as copy:
            assert copy.check() == []
            del before["b"]
            assert contents(copy) == before


@dies
def test_what_a_child_left_that_used_the_store_is_no_damage(root, store):
    put(store, "a")
    pid = os.fork()
    if not pid:
        try:
            put(store, "b")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    put(store, "c")
    assert store.check() == []
    assert len(store.repair()) == 1
    assert store.repair() == []


def test_no_byte_is_removed(root, store):
    for turn in range(3):
        put(store, "b", a=1)
        write(root, "b.metadata", b"damaged %d" % turn)
        store.repair()
        put(store, "gone", a=turn)
        os.unlink(f"{root}/gone.data")
        store.repair()
    lost = sorted(os.listdir(f"{root}/.FSlost"))
    assert lost == sorted(
        f"{number}{name}.metadata" for name in ("b", "gone") for number in ("", "1-", "2-")
    )
    assert [read(root, f".FSlost/{number}b.metadata") for number in ("", "1-", "2-")] == [
        b"damaged %d" % turn for turn in range(3)
    ]
    assert [
        json.loads(read(root, f".FSlost/{number}gone.metadata")) for number in ("", "1-", "2-")
    ] == [{"a": turn} for turn in range(3)]
    assert store.check() == []


def test_a_name_of_full_length_is_put_aside_too(root, store):
    key = "k" * 246
    for _ in range(2):
        put(store, key)
        write(root, f"{key}.metadata", b"damaged")
        assert [each.outcome for each in store.repair()] == ["lost"]
    assert len(os.listdir(f"{root}/.FSlost")) == 2


def test_what_was_changed_just_now_is_left(root, store):
    for key in ("half", "damaged", "changed", "nodata"):
        put(store, key, a=1)
    os.unlink(f"{root}/half.metadata")
    os.unlink(f"{root}/nodata.data")
    write(root, "damaged.metadata", b"{")
    write(root, "changed.data", b"other")
    before = files(root)
    with mock.patch.object(module, "_YOUNG", 60):
        findings = store.repair()
    assert {each.key: each.outcome for each in findings} == dict.fromkeys(
        ("half", "damaged", "changed", "nodata"), "left"
    )
    assert all(each.problem.endswith("; changed only just now") for each in findings)
    assert {path: each for path, each in files(root).items() if "/.FS" not in path} == {
        path: each for path, each in before.items() if "/.FS" not in path
    }
    assert {each.outcome for each in store.repair()} == {"lost", "mended"}


def test_metadata_that_come_in_the_middle_of_a_repair_are_kept(root, store):
    put(store, "b", a=1)
    content = read(root, "b.metadata")
    os.unlink(f"{root}/b.metadata")
    link = os.link

    def planted(source, target, **options):
        if target.endswith("/b.metadata"):
            write(root, "b.metadata", content)
        return link(source, target, **options)

    with mock.patch.object(os, "link", planted):
        assert [each.outcome for each in store.repair()] == ["left"]
    assert store.get_metadata("b") == {"a": 1}
    assert store.check() == []


def test_what_is_rewritten_keeps_its_times_and_etag(root, store):
    put(store, "b", a=1)
    created = store.get("b").created
    write(root, "b.data", b"other")
    before = store.get("b")
    assert [each.outcome for each in store.repair()] == ["mended"]
    after = store.get("b")
    assert after.etag == before.etag
    assert (after.created, after.modified) == (created, before.modified)
    stamp = os.stat(f"{root}/b.data").st_mtime_ns
    assert stamps_of(read(root, "b.metadata"))[2] == stamp


def test_listeners_are_told_what_repair_has_changed(root, store):
    events = []
    put(store, "a")
    put(store, "b")
    os.unlink(f"{root}/a.metadata")
    write(root, "b.metadata", b"{")
    store.event_manager.connect(StoreUpdateEvent, events.append)
    store.repair()
    assert sorted((event.key, event.metadata) for event in events) == [("a", {}), ("b", {})]


def test_data_of_a_hidden_name_are_left(root, store):
    put(store, "Upper")
    write(root, "Upper.data", b"old")
    assert found(store.repair()) == [
        ("Upper", "it has no metadata, and there is a pair of this key", "left")
    ]
    assert store.to_bytes("Upper") == b"data"


# What dead writers left


def fill(root):
    with FileSystemStore(root, durability="process") as store:
        put(store, "a", b"old", a=1)
        put(store, "b", b"old", a=1)


def die(root, act, name, number=0):
    """Let a writer die just before it calls a function of the system once more than so often."""
    child = os.fork()
    if not child:
        try:
            store = FileSystemStore(root, durability="process")
            store.connect()
            function, calls = getattr(os, name), []

            def call(*args):
                calls.append(args)
                if len(calls) > number:
                    os._exit(0)
                return function(*args)

            setattr(os, name, call)
            act(store)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def set_a(store):
    put(store, "a", b"new", a=2)


def delete_a(store):
    store.delete("a")


def set_both(store):
    with store.transaction(""):
        put(store, "a", b"new", a=2)
        store.delete("b")


DEATHS = {
    "before the rename of the data": (set_a, "rename", 0, "a change", {"a": b"old", "b": b"old"}),
    "before that of the metadata": (set_a, "rename", 1, "a change", {"a": b"new", "b": b"old"}),
    "in a deletion": (delete_a, "unlink", 0, "a deletion", {"b": b"old"}),
    "at the begin of a transaction": (set_both, "rename", 1, "a transaction", {"a": b"new"}),
    "at the end of a transaction": (set_both, "unlink", 2, "a transaction", {"a": b"new"}),
}


@dies
@pytest.mark.parametrize("case", DEATHS)
@pytest.mark.parametrize("has_written", [True, False])
def test_what_dead_writers_left_is_found_and_finished(root, case, has_written):
    act, name, number, what, expected = DEATHS[case]
    fill(root)
    with FileSystemStore(root, durability="process") as store:
        if has_written:
            # Who has, looks no more for what others have left.
            put(store, "a", b"old")
        die(root, act, name, number)
        before = files(root)
        findings = store.check()
        assert files(root) == before
        assert [each.problem for each in findings] == [f"{what} was not carried out to its end"]
        assert {key: store.to_bytes(key) for key in store.query_keys()} == expected
        repaired = store.repair()
        # The sign of life of its session, and data that were not put in place: no damage.
        count = 2 if case == "before the rename of the data" else 1
        were = "1 temporary file was" if count == 1 else "2 temporary files were"
        assert {(each.key, each.problem) for each in repaired} == {
            (None, f"{were} left by writers that died"),
            *((each.key, each.problem) for each in findings),
        }
        assert {each.outcome for each in repaired} == {"mended"}
        assert store.check() == []
        assert {key: store.to_bytes(key) for key in store.query_keys()} == expected


@dies
def test_a_damaged_journal_is_lost(root):
    fill(root)
    die(root, set_both, "unlink")
    write(root, ".FSjournal", b"[[")
    with FileSystemStore(root, durability="process") as store:
        problem = Finding(None, "the journal of a transaction is damaged")
        assert problem in store.check()
        assert Finding(None, problem.problem, "lost") in store.repair()
        assert store.check() == []


def test_a_key_file_that_a_dead_writer_left_is_removed(root, store):
    put(store, LONG)
    [name] = [file[:-4] for file in os.listdir(root) if file.endswith(".key")]
    os.unlink(f"{root}/{name}.data")
    os.unlink(f"{root}/{name}.metadata")
    assert found(store.check()) == [(None, f"'{name}.key' belongs to no pair", "")]
    assert [each.outcome for each in store.repair()] == ["mended"]
    assert store.check() == []
    assert not os.path.exists(f"{root}/{name}.key")


def test_what_live_writers_are_doing_is_no_damage(root, store):
    fill(root)
    with FileSystemStore(root, durability="process") as other:
        seen = []

        def chunks():
            yield b"begun"
            seen.extend(store.check())
            yield b"ended"

        class Stream:
            rest = chunks()

            def read(self, size=-1):
                return next(self.rest, b"")

        other.set("a", (Stream(), {}))
        with other.transaction(""):
            put(other, "b", b"new")
            put(other, LONG, b"new")
            seen += store.check()
        # In the middle of changes.
        rename = os.rename

        def looking(source, target):
            seen.extend(store.check())
            rename(source, target)
            seen.extend(store.check())

        with mock.patch.object(os, "rename", looking):
            put(other, "a", b"newer")
            with other.transaction(""):
                put(other, "b", b"newer")
                other.delete("a")
                other.delete(LONG)
        assert seen == []
        assert store.check() == []


def test_what_changes_meanwhile_is_no_damage(root, store):
    put(store, "b", a=1)
    look = module.Inspection._pair

    def overtaken(self, name):
        problem = look(self, name)
        # Another program puts the other half there.
        write(root, "b.metadata", b"{}")
        return problem

    os.unlink(f"{root}/b.metadata")
    with mock.patch.object(module.Inspection, "_pair", overtaken):
        assert store.check() == []


def test_inside_a_transaction(root, store):
    with store.transaction(""):
        put(store, "a")
        assert store.check() == []
        with pytest.raises(StoreError, match="cannot be repaired inside a transaction"):
            store.repair()


def test_before_connect(root):
    store = FileSystemStore(root)
    for method in (store.check, store.repair):
        with pytest.raises(StoreError, match="is not connected"):
            method()


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_found(root, store):
    put(store, "a")
    os.chmod(f"{root}/a.data", 0)
    assert found(store.check()) == [("a", "its files cannot be read: Permission denied", "")]


def test_what_the_disk_cannot_read_is_found(root, store):
    put(store, "a")
    put(store, "b")
    with mock.patch.object(
        module.Inspection, "_read_data", side_effect=OSError(5, "Input/output error")
    ):
        assert found(store.repair()) == [
            (key, "its files cannot be read: Input/output error", "left") for key in "ab"
        ]


# The index


@pytest.fixture
def indexed(root):
    with (
        mock.patch("encore.storage._pair_index._TICK", -60),
        FileSystemStore(root, durability="process", index=True) as store,
    ):
        for number in range(5):
            put(store, f"k{number}", a=number)
        assert list(store.query_keys(a=1)) == ["k1"]
        assert store.check() == []
        yield store


def tamper(store, *statements):
    """Change the index as if a store had made a mistake."""
    index = store._pair_index
    with IndexLock(index) as lock:
        for statement in statements:
            index._connection.execute(statement)
        lock.note(index.path)


WRONG = {
    "the index is wrong": "update pairs set metadata = '{\"a\":7}' where key = 'k1'",
    "the index lacks some of its entries": """delete from "pairs#index" where key = 'k1'""",
    "the index has too many of its entries": """insert into "pairs#index" values ('b', 1, 'k1')""",
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_entries_in_the_index_are_found_and_it_is_made_anew(root, indexed, problem):
    tamper(indexed, WRONG[problem])
    for store in (indexed, FileSystemStore(root, durability="process")):
        with store:
            assert found(store.check()) == [("k1", problem, "")]
    indexed.connect()
    assert found(indexed.repair()) == [("k1", problem, "mended")]
    assert list(indexed.query_keys(a=1)) == ["k1"]
    assert indexed.check() == []
    assert os.path.exists(indexed._pair_index.path)


def test_damage_in_the_index_is_found(indexed):
    with IndexLock(indexed._pair_index) as lock:
        with open(indexed._pair_index.path, "r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 3996)
        lock.note(indexed._pair_index.path)
    [finding] = indexed.check()
    assert finding.problem.startswith("the index is damaged: ")
    assert [each.outcome for each in indexed.repair()] == ["mended"]
    assert list(indexed.query_keys(a=1)) == ["k1"]
    assert indexed.check() == []


# The command


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "encore", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_there_is(root):
    fill(root)
    os.unlink(f"{root}/a.metadata")
    done = run(f"fs:{root}")
    assert (done.stdout, done.returncode) == ("'a': it has no metadata\n", 1)
