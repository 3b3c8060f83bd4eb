"""What is the FileSystemStore's own: the files, and what others do to them."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from unittest import mock

import pytest
from pair_files import pair, plant, put

from encore.storage._metadata_files import parse, trailer
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.file_value import OpenFile
from encore.storage.filesystem_store import (
    FileSystemStore,
    FileSystemStoreError,
    init_shared_store,
)

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


@pytest.fixture
def store(root):
    store = FileSystemStore(root, durability="process")
    store.connect()
    yield store
    store.disconnect()


def own_files(root):
    return sorted(name for name in os.listdir(root) if not name.startswith(".FS"))


# Names and files


@pytest.mark.parametrize(
    "key", ["a", "abc.txt", "a-b_c.0", "-x", "a" * 246, "x.data", "x.metadata"]
)
def test_plain_keys_have_the_file_names_of_old(root, store, key):
    put(store, key, b"bytes\0", a=[1, "\xe4"], b={"c": None})
    assert own_files(root) == sorted([f"{key}.data", f"{key}.metadata"])
    with open(f"{root}/{key}.data", "rb") as file:
        assert file.read() == b"bytes\0"
    with open(f"{root}/{key}.metadata", encoding="utf-8") as file:
        assert json.load(file) == {"a": [1, "\xe4"], "b": {"c": None}}
    store.delete(key)
    assert own_files(root) == []


@pytest.mark.parametrize(
    "key", ["A", "a/b", "..", "a\0b", "con", "é", "e\u0301", "%41", "%%41", "k" * 247, "/" * 1024]
)
def test_other_keys_have_names_that_are_safe_everywhere(root, store, key):
    put(store, key, b"1", a=1)
    names = own_files(root)
    assert len(names) in (2, 3)
    for name in names:
        assert len(name) <= 255
        assert name == name.lower()
        assert name.isascii()
    assert pair(store, key) == (b"1", {"a": 1})
    assert list(store.keys()) == list(store.query_keys(a=1)) == [key]
    put(store, key, b"2")
    assert own_files(root) == names
    store.delete(key)
    assert own_files(root) == []


def test_a_long_key_is_known_again_after_its_name_was_lost(root, store):
    key = "long/" * 100
    put(store, key, b"1")
    (name,) = (name for name in own_files(root) if name.endswith(".key"))
    for damage in (b"", b"\xff", b"another key"):
        with open(f"{root}/{name}", "wb") as file:
            file.write(damage)
        assert list(store.keys()) == []
        assert pair(store, key) == (b"1", {})
        put(store, key, b"1")
        assert list(store.keys()) == [key]
    os.unlink(f"{root}/{name}")
    os.mkfifo(f"{root}/{name}")
    assert list(store.keys()) == []
    with store.transaction("t"):
        put(store, key, b"2")
        put(store, "other")
    assert list(store.keys()) == [key, "other"]
    with store.transaction("t"):
        store.delete(key)
        store.delete("other")
    assert own_files(root) == []


def test_files_of_the_store_itself_start_with_fs(root, store):
    put(store, "a")
    with store.transaction("t"):
        put(store, "b")
        put(store, "c")
    rest = set(os.listdir(root)) - set(own_files(root))
    assert rest == {".FSStore", ".FStmp"}
    assert set(os.listdir(f"{root}/.FStmp")) == {"lock", f"{store._pairs.session.name}.alive"}


OLD_KEYS = [
    "Upper",
    "a.B.c",
    "with space",
    "%41",
    "%20x",
    "é",
    "e\u0301",
    "con",
    "a.",
    ".x",
    "日本",
]


@pytest.mark.parametrize("key", OLD_KEYS)
def test_keys_of_old_are_found_listed_changed_and_deleted_under_their_names(root, store, key):
    plant(root, key, b"old", {"a": 1})
    names = own_files(root)
    assert list(store.keys()) == list(store.query_keys()) == list(store.glob("*")) == [key]
    assert list(store.query(a=1)) == [(key, {"a": 1})]
    assert store.exists(key)
    assert pair(store, key) == (b"old", {"a": 1})
    store.set_metadata(key, {"a": 2})
    put(store, key, b"new", a=3)
    assert pair(store, key) == (b"new", {"a": 3})
    assert own_files(root) == names
    with store.transaction("t"):
        put(store, key, b"newer", a=4)
        put(store, "z")
    assert list(store.keys()) == sorted([key, "z"])
    store.delete("z")
    assert own_files(root) == names
    store.delete(key)
    assert not store.exists(key)
    assert own_files(root) == []


def test_a_planted_percent_name_is_no_other_key(root, store):
    plant(root, "%41", b"old")
    assert not store.exists("A")
    put(store, "A", b"ours")
    assert pair(store, "%41") == (b"old", {})
    assert list(store.keys()) == ["%41", "A"]


def test_deleting_a_key_deletes_it_under_all_its_names(root, store):
    put(store, "Upper", b"ours")
    plant(root, "Upper", b"of old")
    assert pair(store, "Upper") == (b"ours", {})
    assert list(store.keys()) == ["Upper"]
    store.delete("Upper")
    assert not store.exists("Upper")
    assert own_files(root) == []


def test_names_prove_nothing_where_case_is_folded(root):
    store = FileSystemStore(root, durability="process")
    with mock.patch("os.path.lexists", return_value=True):
        store.connect()
    plant(root, "Upper", b"1")
    assert pair(store, "Upper") == (b"1", {})

    def fold(path):
        return f"{os.path.dirname(path)}/Upper.{path.rpartition('.')[2]}"

    real = os.stat

    def stat(path, **kwargs):
        # As a file system that folds case has it.
        return real(fold(path) if "upper." in str(path).lower() else path, **kwargs)

    with mock.patch("os.stat", stat):
        assert store.exists("Upper")
        assert not store.exists("UPPER")
    store.disconnect()


def test_patterns_find_names_of_all_kinds(root, store):
    mine = ["key/1", "key1", "KEY1", "k" * 300, "key.x", "other"]
    old = ["Key1", "key é", "%%key"]
    for key in mine:
        put(store, key)
    for key in old:
        plant(root, key)
    for pattern in ("*", "key*", "k*", "K*", "key1", "%*", "Key?", "key[.1]*", "nothing*", ""):
        found = [key for key in mine + old if fnmatch.fnmatchcase(key, pattern)]
        assert sorted(store.glob(pattern)) == sorted(found), pattern
        with store.transaction("t"):
            put(store, "key2")
            store.delete("key1")
            put(store, "Key1")
            inside = (set(mine + old) - {"key1"}) | {"key2"}
            assert sorted(store.glob(pattern)) == sorted(
                key for key in inside if fnmatch.fnmatchcase(key, pattern)
            )
            assert sorted(key for key, _ in store.query()) == sorted(inside)
            store.delete("key2")
            put(store, "key1")


# Others at work


def test_pairs_that_others_plant_change_and_remove(root, store):
    put(store, "a", b"ours", n=1)
    plant(root, "b", b"theirs", {"n": 2})
    assert dict(store.query()) == {"a": {"n": 1}, "b": {"n": 2}}
    plant(root, "a", b"theirs", {"n": 3})
    assert pair(store, "a") == (b"theirs", {"n": 3})
    store.set_metadata("b", {"n": 4})
    with open(f"{root}/b.data", "wb") as file:
        file.write(b"only the data")
    assert pair(store, "b") == (b"only the data", {"n": 4})
    os.unlink(f"{root}/b.metadata")
    assert not store.exists("b")
    assert list(store.keys()) == ["a"]
    os.unlink(f"{root}/a.data")
    assert list(store.keys()) == []
    with pytest.raises(KeyError):
        store.get("a")
    # Nothing of the old halves is left.
    store.set_metadata("a", {"n": 5})
    assert pair(store, "a") == (b"", {"n": 5})
    store.from_bytes("b", b"new")
    assert pair(store, "b") == (b"new", {})


@pytest.mark.parametrize("suffix", ["data", "metadata"])
def test_half_a_pair_does_not_exist(root, store, suffix):
    put(store, "a", b"1", n=1)
    os.unlink(f"{root}/a.{suffix}")
    assert not store.exists("a")
    assert list(store.query_keys()) == list(store.query()) == list(store.keys()) == []
    for call in (store.get, store.get_metadata, store.delete, store.to_bytes):
        with pytest.raises(KeyError):
            call("a")
    with pytest.raises(KeyError):
        store.update_metadata("a", {})
    put(store, "a", b"2")
    assert pair(store, "a") == (b"2", {})


def test_stamps_of_planted_pairs_are_the_times_of_their_files(root, store):
    plant(root, "a", stamp=1_000_000_000)
    os.utime(f"{root}/a.metadata", (1_200_000_000, 1_200_000_000))
    value = store.get("a")
    assert value.created == 1_000_000_000
    assert value.modified == 1_200_000_000
    store.set_metadata("a", {"n": 1})
    after = store.get("a")
    assert after.created == 1_000_000_000
    assert after.modified >= time.time() - 60
    assert after.etag != value.etag
    # Touched: modified moves, created is known by now.
    os.utime(f"{root}/a.data", (4e9, 4e9))
    assert store.get("a").created == 1_000_000_000
    assert store.get("a").modified == 4e9
    put(store, "a", b"")
    assert store.get("a").modified > 4e9


def test_stamps_before_the_epoch(root, store):
    plant(root, "a", b"1", stamp=-1000.5)
    assert store.get("a").created == -1000.5
    store.set_metadata("a", {"n": 1})
    assert pair(store, "a") == (b"1", {"n": 1})
    put(store, "a", b"2")
    assert pair(store, "a") == (b"2", {})


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\u00e4\\/", "b": 1E2}',
        ' \n{"a": "ä"}\t\r\n ',
        '{"a": {"b": [1, null, true]}}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_metadata_are_read_however_others_write_json(root, store, text, encoding):
    plant(root, "a", metadata=text.encode(encoding))
    metadata = json.loads(text)
    assert list(store.query()) == [("a", metadata)]
    assert store.get_metadata("a") == metadata


@pytest.mark.parametrize("ending", ["", trailer((1, 2, 3)).decode(), "\n" + 96 * " "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(
    "text", ['{"a": "\\u0073\\u002f7"}', '{"a": "s\\/7"}', '{"x": "s", "a": "s/7", "n": 1.0}']
)
def test_a_query_finds_text_however_others_write_it(root, store, text, encoding, ending):
    # As if another program had changed a file of ours, and kept the white space.
    plant(root, "a", metadata=text.encode(encoding) + ending.encode(encoding))
    put(store, "b", a="s/7", n=1)
    put(store, "c", a="s7", n=1)
    assert sorted(store.query_keys(a="s/7")) == ["a", "b"]
    assert "b" in dict(store.query(where={"a": "s/7", "n": 1.0}))


@pytest.mark.parametrize(
    "value", ["", "a", '"', "\\", "/", "\x7f", "\n", "\xe4", "\ud7ff", "x" * 5000, "\U0001f600"]
)
def test_a_query_finds_any_text(store, value):
    put(store, "a", t=value, u="other")
    put(store, "b", t=value + "x")
    assert dict(store.query(t=value)) == {"a": {"t": value, "u": "other"}}
    assert list(store.query(t=value, u=value)) == []
    assert list(store.query(t=[value])) == []


def test_a_query_for_text_parses_only_what_contains_it(store):
    for number in range(5):
        put(store, f"k{number}", t=f"t{number}")
    with mock.patch("encore.storage._pair_reader.parse", side_effect=parse) as parsed:
        assert list(store.query_keys(t="t3")) == ["k3"]
    assert parsed.call_count == 1


DAMAGED = [
    b'{"a": 1}\x0b',
    b'{"a": 1}\0',
    b"{}{}",
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a": 1} x',
    b"[" * 100_000,
    b"\0" * 300,
]


@pytest.mark.parametrize("metadata", DAMAGED)
def test_damaged_metadata_hide_nothing_else(root, store, metadata):
    plant(root, "a", metadata=metadata)
    put(store, "b", n=1)
    assert list(store.query()) == [("b", {"n": 1})]
    assert list(store.keys()) == ["a", "b"]
    assert store.exists("a")
    for call in (store.get, store.get_metadata, store.to_bytes):
        with pytest.raises(StoreError, match="damaged"):
            call("a")
    with pytest.raises(StoreError, match="damaged"):
        store.from_bytes("a", b"")
    with pytest.raises(StoreError, match="damaged"):
        store.update_metadata("a", {})
    store.set_metadata("a", {"n": 2})
    assert pair(store, "a") == (b"data", {"n": 2})
    plant(root, "a", metadata=metadata)
    put(store, "a", b"x")
    assert pair(store, "a") == (b"x", {})
    plant(root, "a", metadata=metadata)
    store.delete("a")
    assert not store.exists("a")


def test_foreign_files_hide_nothing(root, store):
    put(store, "fine", n=1)
    os.mkdir(f"{root}/folder")
    os.mkdir(f"{root}/d.data")
    os.mkdir(f"{root}/d.metadata")
    os.mkfifo(f"{root}/f.data")
    os.mkfifo(f"{root}/f.metadata")
    os.mkfifo(f"{root}/g.metadata")
    with open(f"{root}/g.data", "w"):
        pass
    for suffix in ("data", "metadata"):
        os.symlink("nowhere", f"{root}/link.{suffix}")
        os.symlink(f"loop.{suffix}", f"{root}/loop.{suffix}")
        os.symlink(f"fine.{suffix}", f"{root}/alias.{suffix}")
        os.symlink(f"fine.{suffix}/x", f"{root}/through.{suffix}")
    plant(root, "\udcff\udcfe")
    plant(root, ".FShidden")
    plant(root, "")
    for name in ("readme", "x.tmp", "data", "metadata", ".hidden", "%%41.key"):
        with open(f"{root}/{name}", "w"):
            pass
    for keys in (store.keys(), store.query_keys(), store.glob("*")):
        assert sorted(keys) == ["alias", "fine"]
    assert dict(store.query()) == {"alias": {"n": 1}, "fine": {"n": 1}}
    for key in ("d", "f", "g", "link", "loop", "through"):
        assert not store.exists(key)
        with pytest.raises(KeyError):
            store.get(key)
        with pytest.raises(KeyError):
            store.delete(key)
    for key in ("f", "g", "link", "loop"):
        put(store, key, b"replaced")
        assert pair(store, key) == (b"replaced", {})
    with pytest.raises(StoreOSError) as caught:
        put(store, "d")
    assert caught.value.errno in (errno.EISDIR, errno.ENOTEMPTY)
    assert not store.exists("d")
    # Replacing a link replaces nothing behind it.
    put(store, "alias", b"new")
    assert pair(store, "fine") == (b"", {"n": 1})


def test_a_file_in_place_of_the_temporary_folder_is_an_error(root):
    with open(f"{root}/.FStmp", "w"):
        pass
    plant(root, "a")
    with FileSystemStore(root) as store:
        assert store.exists("a")
        with pytest.raises(StoreOSError) as caught:
            put(store, "b")
        assert caught.value.errno == errno.ENOTDIR
        assert list(store.keys()) == ["a"]


UNPRIVILEGED = """
import io, os, sys
from encore.storage.filesystem_store import FileSystemStore
from encore.storage.errors import StoreOSError
with FileSystemStore(sys.argv[1]) as store:
    # What is imported late may be out of this user's sight.
    list(store.query())
    store.from_bytes("z", b"")
    store.delete("z")
    os.setgid(65534); os.setuid(65534)
with FileSystemStore(sys.argv[1]) as store:
    print(sorted(store.query_keys()), dict(store.query()))
    for call in (lambda: store.get("secret"), lambda: store.from_bytes("a", b""), lambda: store.delete("a")):
        try:
            call()
        except StoreOSError as error:
            print(type(error).__name__, error.errno)
    print(store.to_bytes("a"))
"""


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user"
)
def test_what_may_not_be_read_hides_nothing_and_read_only_stores_can_be_read(root):
    plant(root, "a", b"1", {"n": 1})
    plant(root, "secret", b"2", {"n": 2})
    os.chmod(root, 0o755)
    for suffix in ("data", "metadata"):
        os.chmod(f"{root}/secret.{suffix}", 0o600)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, root], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "['a', 'secret'] {'a': {'n': 1}}",
        *[f"StoreOSError {errno.EACCES}"] * 3,
        "b'1'",
    ], done.stderr


# The magic file


def test_init_makes_a_store_and_is_harmless_again(tmp_path):
    path = tmp_path / "a" / "b"
    with pytest.raises(FileSystemStoreError, match="no directory"):
        FileSystemStore(path)
    init_shared_store(path)
    with FileSystemStore(path) as store:
        put(store, "a")
        init_shared_store(path)
        assert store.exists("a")
    assert (path / ".FSStore").read_text() == "__version__ = 1\n"
    assert sorted(os.listdir(path)) == [".FSStore", ".FStmp", "a.data", "a.metadata"]


def test_a_failed_init_leaves_nothing(tmp_path):
    with (
        mock.patch("os.replace", side_effect=OSError(errno.EIO, "no")),
        pytest.raises(StoreOSError),
    ):
        init_shared_store(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["__version__ = 0\n", "", "anything", "__version__ = 1", "__version__=0"]
)
def test_magic_files_of_any_age_will_do(tmp_path, text):
    (tmp_path / ".FSStore").write_text(text)
    plant(tmp_path, "Upper", b"1", {"n": 1})
    with FileSystemStore(tmp_path, durability="process") as store:
        assert pair(store, "Upper") == (b"1", {"n": 1})
        put(store, "a/b", b"2")
        assert list(store.keys()) == ["Upper", "a/b"]
    assert (tmp_path / ".FSStore").read_text() == text


def test_a_newer_store_is_refused(tmp_path):
    (tmp_path / ".FSStore").write_text("__version__ = 2\n")
    with pytest.raises(FileSystemStoreError, match="newer encore: version 2"):
        FileSystemStore(tmp_path)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(FileSystemStoreError, match=r"no '\.FSStore'"):
        FileSystemStore(tmp_path)
    with pytest.raises(FileSystemStoreError, match="no directory"):
        FileSystemStore(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileSystemStoreError, match="no directory"):
        FileSystemStore(tmp_path / "file")
    os.mkfifo(tmp_path / ".FSStore")
    # It must not wait for a writer either.
    FileSystemStore(tmp_path)
    assert issubclass(FileSystemStoreError, StoreError)
    (tmp_path / "sub" / ".FSStore").mkdir(parents=True)
    with pytest.raises(FileSystemStoreError):
        FileSystemStore(tmp_path / "sub")
    with (
        mock.patch(
            "encore.storage._posix.read_file",
            side_effect=OSError(errno.EACCES, "Permission denied"),
        ),
        pytest.raises(FileSystemStoreError, match="Permission denied"),
    ):
        FileSystemStore(tmp_path)


def test_a_magic_name_of_ones_own(tmp_path):
    init_shared_store(tmp_path, "magic")
    with pytest.raises(FileSystemStoreError):
        FileSystemStore(tmp_path)
    with FileSystemStore(tmp_path, "magic", durability="process") as store:
        put(store, "magic", b"1")
        assert list(store.keys()) == ["magic"]
    assert os.listdir(tmp_path / ".FStmp") == ["lock"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_magic_names_that_are_none(tmp_path, name):
    with pytest.raises(ValueError, match="magic_fname"):
        init_shared_store(tmp_path, name)


def test_wrong_arguments(tmp_path):
    init_shared_store(tmp_path)
    with pytest.raises(TypeError):
        FileSystemStore(None)
    with pytest.raises(ValueError, match="not empty"):
        FileSystemStore("")
    with pytest.raises(TypeError, match="magic_fname"):
        FileSystemStore(tmp_path, 3)
    with pytest.raises(ValueError, match="durability"):
        FileSystemStore(tmp_path, durability="always")


def test_a_store_that_vanished_is_noticed_by_connect(tmp_path):
    init_shared_store(tmp_path)
    store = FileSystemStore(tmp_path)
    os.unlink(tmp_path / ".FSStore")
    with pytest.raises(FileSystemStoreError):
        store.connect()
    assert not store.is_connected()


def test_relative_paths_survive_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_shared_store("s")
    store = FileSystemStore("s", durability="process")
    monkeypatch.chdir("/")
    with store:
        put(store, "a")
    assert (tmp_path / "s" / "a.data").exists()
    assert repr(store) == f"FileSystemStore({str(tmp_path / 's')!r})"


# Values


def test_values_stay_what_they_were(root, store):
    values = {}
    for size in (0, 10, 65536, 65537, 300_000):
        put(store, "a", b"x" * size, size=size)
        values[size] = store.get("a")
    store.delete("a")
    plant(root, "a", b"planted")
    for size, value in values.items():
        assert value.size == size
        assert value.metadata == {"size": size}
        assert value.data.read() == b"x" * size
        assert value.range(5, -5).read() == b"x" * max(0, size - 10)


def test_many_large_values_do_not_use_up_the_open_files(store):
    for n in range(300):
        put(store, f"k{n}", b"%d" % n * 70_000)
    before = len(OpenFile.live)
    values = [store.get(f"k{n}") for n in range(300)]
    assert len(OpenFile.live) - before <= 130
    for n, value in enumerate(values):
        assert value.range(0, 3).read() == (b"%d" % n * 3)[:3]
    put(store, "k0", b"new")
    put(store, "k299", b"new")
    assert values[0].range(0, 1).read() == b"0"
    with pytest.raises(StoreError, match="changed since"):
        values[299].data.read()
    del values, value
    assert len(OpenFile.live) == before


def test_short_reads_of_small_values_are_made_whole(root, store):
    put(store, "a", b"0123456789")
    read, pread = os.read, os.pread
    with (
        mock.patch("os.read", lambda fd, size: read(fd, min(size, 3))),
        mock.patch("os.pread", lambda fd, size, position: pread(fd, min(size, 3), position)),
    ):
        with open(f"{root}/a.metadata", "wb") as file:
            # Not ours: it takes the other way.
            file.write(b"{}")
        assert store.to_bytes("a") == b"0123456789"
    put(store, "a", b"0123456789")
    # A file that others make shorter meanwhile.
    with mock.patch("os.read", lambda fd, size: read(fd, size)[: {10: 2, 8: 0}.get(size)]):
        assert store.get("a").data.read() == b"01"


def test_ranges_of_files_that_stay_open(root, store):
    data = bytes(range(256)) * 1000
    put(store, "a", data)
    value = store.get("a")
    for start, end in [
        (None, None),
        (0, 10),
        (100_000, 100_010),
        (-10, None),
        (5, 5),
        (9, 3),
        (0, 65536),
        (0, 65537),
        (255_990, 10**9),
        (10**9, None),
    ]:
        assert value.range(start, end).read() == data[start:end]
        assert store.get_data_range("a", start, end).read() == data[start:end]
    with pytest.raises(TypeError):
        value.range("1")
    assert value.etag == store.get("a").etag
    # Others may make the file shorter: no more than there is, and no error.
    with open(f"{root}/a.data", "r+b") as file:
        file.truncate(100_005)
    assert value.range(100_000, 100_010).read() == data[100_000:100_005]


def test_a_full_disk_keeps_the_old_value(root, store):
    put(store, "a", b"old", n=1)
    real = os.write
    for data in (b"x" * 10, b"x" * 3_000_000):
        left = [len(data) // 2]

        def write(fd, data, left=left):
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done = real(fd, bytes(data)[: left[0]])
            left[0] -= done
            return done

        with mock.patch("os.write", write), pytest.raises(StoreOSError) as caught:
            put(store, "a", data, n=2)
        assert caught.value.errno == errno.ENOSPC
        assert pair(store, "a") == (b"old", {"n": 1})
    with mock.patch("os.write", write):
        for call in (
            lambda: store.set_metadata("a", {"n": 2}),
            lambda: store.set_metadata("b", {"n": 2}),
            lambda: two(store),
        ):
            with pytest.raises(StoreOSError):
                call()
    assert list(store.query()) == [("a", {"n": 1})]
    assert set(os.listdir(f"{root}/.FStmp")) == {"lock", f"{store._pairs.session.name}.alive"}
    put(store, "a", b"new")
    assert pair(store, "a") == (b"new", {})


def two(store):
    with store.transaction("t"):
        put(store, "a", b"two")
        put(store, "b", b"two")


LIMITED = """
import io, resource, sys
from encore.storage.filesystem_store import FileSystemStore
from encore.storage.errors import StoreOSError
with FileSystemStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        store.from_bytes("a", bytes(200_000))
    except StoreOSError as error:
        print(error.errno, isinstance(error, OSError), store.to_bytes("a"))
    store.from_bytes("a", b"new")
    print(store.to_bytes("a"))
"""


def test_a_limit_on_file_sizes_keeps_the_old_value(root, store):
    put(store, "a", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, root], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{errno.EFBIG} True b'old'", "b'new'"]


def test_too_many_open_files_is_an_error_of_the_system(root, store):
    put(store, "a", b"1")
    with mock.patch("os.open", side_effect=OSError(errno.EMFILE, os.strerror(errno.EMFILE))):
        for call in (
            lambda: store.get("a"),
            lambda: list(store.query()),
            lambda: put(store, "a", b"2"),
            lambda: store.get_metadata("a"),
        ):
            with pytest.raises(StoreOSError) as caught:
                call()
            assert caught.value.errno == errno.EMFILE
    assert pair(store, "a") == (b"1", {})


def test_large_values_stream(root, store):
    class Zeros:
        left = 64

        def read(self, size):
            self.left -= 1
            return bytes(1 << 20) if self.left >= 0 else b""

    import tracemalloc

    tracemalloc.start()
    store.set("big", (Zeros(), {}))
    assert sum(map(len, store.get("big").iterdata())) == 64 << 20
    assert store.get_data_range("big", 10, 20).read() == bytes(10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20
