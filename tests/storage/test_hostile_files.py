"""What somebody who means harm, or a mishap, may have put into the directory of a store."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
import threading
from unittest import mock

import pytest

from encore.storage import _posix
from encore.storage._metadata_files import dump
from encore.storage._pair_directory import PairDirectory
from encore.storage._sessions import Session
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.file_value import LateFile
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def base():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield folder


@pytest.fixture
def root(base):
    init_shared_store(f"{base}/store")
    return f"{base}/store"


def opened(root, kind=FileSystemStore):
    store = kind(root, durability="process")
    store.connect()
    return store


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def write(path, content=b""):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def put_both(store):
    with store.transaction("t"):
        put(store, "a", b"new")
        put(store, "b", b"new")


def within(seconds, function):
    """Call it; fail if it takes long."""
    answer = []

    def call():
        try:
            answer.append(function())
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


# Two owners of the lock


@pytest.mark.parametrize("kind", [FileSystemStore, LockingFileSystemStore])
@pytest.mark.parametrize("what", ["lock", "folder", "root"])
def test_there_is_one_writer_after_the_lock_file_was_removed(root, what, kind):
    first = opened(root, kind)
    put(first, "k", b"1")
    if what == "lock":
        os.unlink(f"{root}/.FStmp/lock")
    else:
        shutil.rmtree(root if what == "root" else f"{root}/.FStmp")
        init_shared_store(root)
    second = opened(root, kind)
    put(second, "k", b"2")
    with (
        second.transaction("t"),
        mock.patch("encore.storage.filesystem_store.LOCK_TIMEOUT", 0.01),
    ):
        second.from_bytes("k", b"3")
        with pytest.raises(StoreError, match="locked by another"):
            within(60, lambda: put(first, "k", b"4"))
    assert second.to_bytes("k") == b"3"
    # Its session lives again: nobody takes its files for those of a dead one.
    put(first, "k", b"5")
    staged = first._directory.stage([b"x"])
    second._directory.sweep()
    assert os.path.exists(staged.path)
    staged.remove()
    assert second.to_bytes("k") == b"5"
    first.disconnect()
    second.disconnect()


@pytest.mark.parametrize("kind", [FileSystemStore, LockingFileSystemStore])
def test_a_writer_goes_on_when_all_was_removed_and_made_again(root, kind):
    store = opened(root, kind)
    put(store, "k")
    shutil.rmtree(f"{root}/.FStmp")
    put(store, "k", b"1")
    assert store.to_bytes("k") == b"1"
    shutil.rmtree(f"{root}/.FStmp")
    store.delete("k")
    assert os.listdir(f"{root}/.FStmp")
    store.disconnect()


def test_a_directory_that_is_gone_is_no_missing_key(root):
    store = opened(root)
    put(store, "k")
    shutil.rmtree(root)
    for attempt in (store.get, store.exists, store.get_metadata, store.delete, store.to_bytes):
        with pytest.raises(StoreOSError):
            attempt("k")
    with pytest.raises(StoreOSError):
        put(store, "k")
    init_shared_store(root)
    put(store, "k", b"again")
    assert store.to_bytes("k") == b"again"
    store.disconnect()


# The journal

JOURNALS = [
    [["k", "../../secret-1", "m-0", False]],
    [["k", "m-1", "../../secret-1", False]],
    [["../victim", None, None, True]],
    [["a\0b", None, None, True]],
    [["a\ud800", None, None, True]],
    [["", None, None, True]],
    [[".FStmp/../k", None, None, True]],
    [[".FSx", None, None, True]],
    [["k", None, "p-1", False]],
    [["k", None, "lock", False]],
    [["k", None, 1, False]],
    [["k", None, "m-0", 0]],
    [["k", None, "x" * 300 + "-1", False]],
    [["x" * 300, None, None, True]],
    [["k", None, None, False]],
    [["k", None, "m-0", True]],
    [[1, 2, 3, 4]],
    {"k": 1},
    3,
    None,
]
TEXTS = [json.dumps(each) for each in JOURNALS] + ["[" * 200_000, "", "{", "\xff"]


@pytest.mark.parametrize(
    "text", TEXTS, ids=lambda text: text[:20].encode("unicode_escape").decode()
)
def test_a_journal_that_names_other_files_is_damaged(base, root, text):
    store = opened(root)
    put(store, "k", b"value")
    write(f"{base}/victim.data", b"precious")
    write(f"{base}/secret-1", b"secret")
    stamp = os.stat(f"{base}/secret-1").st_mtime_ns
    write(f"{root}/.FStmp/m-0", dump({}, (1, 1, stamp)))
    write(f"{root}/.FSjournal", text.encode("latin-1"))
    assert store.to_bytes("k") == b"value"
    assert list(store.query_keys()) == ["k"]
    assert any("journal" in each.problem and "damaged" in each.problem for each in store.check())
    put(store, "other")
    assert not os.path.lexists(f"{root}/.FSjournal")
    assert read(f"{root}/.FSlost/.FSjournal") == text.encode("latin-1")
    assert store.to_bytes("k") == b"value"
    assert read(f"{base}/victim.data") == b"precious"
    assert read(f"{base}/secret-1") == b"secret"
    store.disconnect()


def test_a_directory_or_device_in_place_of_the_journal_is_put_aside(root):
    store = opened(root)
    for plant in (os.mkdir, lambda path: os.symlink("/dev/zero", path), os.mkfifo):
        plant(f"{root}/.FSjournal")
        within(60, lambda: put(store, "k", b"1"))
        assert within(60, lambda: store.to_bytes("k")) == b"1"
        assert not os.path.lexists(f"{root}/.FSjournal")
    assert sorted(os.listdir(f"{root}/.FSlost")) == [
        ".FSjournal",
        "1-.FSjournal",
        "2-.FSjournal",
    ]
    store.disconnect()


# Links and FIFOs in the folder of temporary files


def test_a_pending_file_is_not_written_through_a_link(base, root):
    store = opened(root)
    put(store, "k", b"0")
    write(f"{base}/victim", b"precious")
    os.symlink(f"{base}/victim", f"{root}/.FStmp/p-k")
    put(store, "k", b"1", a=1)
    assert read(f"{base}/victim") == b"precious"
    assert not os.path.islink(f"{root}/k.metadata")
    assert store.get_metadata("k") == {"a": 1}
    os.mkfifo(f"{root}/.FStmp/p-k")
    within(60, lambda: put(store, "k", b"2"))
    assert store.to_bytes("k") == b"2"
    store.disconnect()


def test_a_lock_file_is_not_made_through_a_link(base, root):
    os.mkdir(f"{root}/.FStmp")
    os.symlink(f"{base}/victim", f"{root}/.FStmp/lock")
    store = opened(root)
    with pytest.raises(StoreOSError):
        put(store, "k")
    assert not os.path.lexists(f"{base}/victim")
    store.disconnect()


@pytest.mark.parametrize("what", ["link", "file"])
def test_the_folder_of_temporary_files_is_a_directory(base, root, what):
    if what == "link":
        os.mkdir(f"{base}/out")
        os.symlink(f"{base}/out", f"{root}/.FStmp")
    else:
        write(f"{root}/.FStmp")
    store = opened(root)
    with pytest.raises(StoreOSError) as caught:
        put(store, "k")
    assert caught.value.errno == errno.ENOTDIR
    if what == "link":
        assert os.listdir(f"{base}/out") == []
    store.disconnect()


# Metadata that are no metadata


def test_a_device_in_place_of_metadata_hangs_nobody(root):
    store = opened(root)
    put(store, "good", b"", a=1)
    write(f"{root}/k.data")
    os.symlink("/dev/zero", f"{root}/k.metadata")
    assert within(60, lambda: list(store.query(a=1))) == [("good", {"a": 1})]
    assert list(store.query_keys()) == ["good"]
    assert not store.exists("k")
    store.disconnect()


def test_metadata_that_are_too_large_are_damaged(root):
    store = opened(root)
    put(store, "good", b"", a=1)
    write(f"{root}/k.data", b"data")
    with open(f"{root}/k.metadata", "wb") as file:
        file.truncate(8 << 30)
    assert list(store.query(a=1)) == [("good", {"a": 1})]
    assert list(store.query()) == [("good", {"a": 1})]
    with pytest.raises(StoreError, match="damaged"):
        store.get("k")
    assert [(each.key, each.problem) for each in store.check()] == [
        ("k", "the metadata are damaged")
    ]
    for suffix in ("data", "metadata"):
        os.utime(f"{root}/k.{suffix}", (1, 1))
    with mock.patch("encore.storage._pair_maintenance._YOUNG", -1e10):
        assert [each.outcome for each in store.repair()] == ["lost"]
    assert store.to_bytes("k") == b"data"
    assert os.stat(f"{root}/.FSlost/k.metadata").st_size == 8 << 30
    store.disconnect()


def test_a_file_that_grows_while_it_is_read_has_an_end(tmp_path):
    write(tmp_path / "file", b"x" * 200_000)
    path = str(tmp_path / "file")
    assert len(_posix.read_file(path, 200_000)) == 200_000
    assert _posix.read_file(path, 199_999) == b""
    # As if it were shorter when it was looked at.
    status = os.stat_result((*os.stat(path)[:6], 0, 0, 0, 0))
    with mock.patch.object(_posix.os, "fstat", return_value=status):
        assert _posix.read_file(path, 199_999) == b""


def test_what_is_too_large_is_not_read_first(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(8 << 30)
    with mock.patch.object(_posix.os, "read", wraps=os.read) as reads:
        assert _posix.read_file(str(tmp_path / "file")) == b""
        assert _posix.read_file("/dev/zero") is None
    assert reads.call_count == 2


def test_metadata_that_nobody_would_read_are_not_written(root):
    store = opened(root)
    put(store, "k", b"1", a=1)
    with mock.patch("encore.storage._pair_writer.LARGEST", 300):
        with pytest.raises(StoreError, match="too large"):
            put(store, "k", b"2", a="x" * 300)
        with pytest.raises(StoreError, match="too large"):
            store.set_metadata("k", {"a": "x" * 300})
    assert (store.to_bytes("k"), store.get_metadata("k")) == (b"1", {"a": 1})
    assert "p-k" not in os.listdir(f"{root}/.FStmp")
    store.disconnect()


def test_a_fifo_in_place_of_data_hangs_nobody_who_reads_late(tmp_path):
    write(tmp_path / "file", b"data")
    late = LateFile(str(tmp_path / "file"), os.stat(tmp_path / "file"))
    assert late.pread(4, 0) == b"data"
    os.unlink(tmp_path / "file")
    os.mkfifo(tmp_path / "file")
    with pytest.raises(StoreError, match="changed"):
        within(60, lambda: late.pread(4, 0))


def test_a_link_is_no_sign_that_a_session_is_over(tmp_path):
    write(tmp_path / "file")
    os.symlink("file", tmp_path / "other.alive")
    write(tmp_path / "other-1")
    Session(str(tmp_path)).sweep(["other.alive", "other-1"])
    assert sorted(os.listdir(tmp_path)) == ["file", "other-1", "other.alive"]


@pytest.mark.parametrize("suffix", ["data", "metadata"])
@pytest.mark.parametrize("target", ["a" * 300, "/proc/self/clear_refs", "/proc/self/mem"])
def test_one_link_that_cannot_be_read_hides_no_other_key(root, target, suffix):
    store = opened(root)
    put(store, "good", b"", a=1)
    for each in ("data", "metadata"):
        if each == suffix:
            os.symlink(target, f"{root}/k.{each}")
        else:
            write(f"{root}/k.{each}", b"{" if each == "metadata" else b"")
    assert list(store.query(a=1)) == [("good", {"a": 1})]
    assert list(store.query()) == [("good", {"a": 1})]
    assert "good" in list(store.query_keys())
    assert "good" in list(store.keys())
    assert list(store.glob("g*")) == ["good"]
    store.disconnect()


def test_a_process_that_has_too_many_files_open_is_told_so(root):
    store = opened(root)
    put(store, "k")
    real = os.open

    def full(path, *args, **kwargs):
        if str(path).endswith("k.metadata"):
            raise OSError(errno.EMFILE, "too many")
        return real(path, *args, **kwargs)

    with mock.patch("os.open", full), pytest.raises(StoreOSError):
        list(store.query())
    store.disconnect()


# Names


def test_what_is_half_done_is_no_temporary_file_whatever_the_key(tmp_path):
    files = ["p-123", "g-123", "p-2024-01-01", "dead-1"]
    for file in files:
        write(tmp_path / file)
    Session(str(tmp_path)).sweep(files)
    assert sorted(os.listdir(tmp_path)) == ["g-123", "p-123", "p-2024-01-01"]


@pytest.mark.parametrize(
    "name",
    [
        ".FStmp",
        ".FSjournal",
        ".FSlost",
        "__log__.txt",
        "__log__.txt.1",
        "a.data",
        "a.metadata",
        "a.key",
    ],
)
def test_the_magic_file_has_a_name_of_its_own(tmp_path, name):
    with pytest.raises(ValueError, match="magic_fname"):
        init_shared_store(tmp_path, name)
    with pytest.raises(ValueError, match="magic_fname"):
        FileSystemStore(tmp_path, name)
    assert os.listdir(tmp_path) == []


# What the system refuses


def refuse(*ends, number=errno.EPERM):
    real = os.rename, os.unlink

    def rename(source, target):
        if str(target).endswith(ends) and "/.FS" not in str(target):
            raise OSError(number, os.strerror(number), target)
        real[0](source, target)

    def unlink(path):
        if str(path).endswith(ends):
            raise OSError(number, os.strerror(number), path)
        real[1](path)

    return mock.patch.multiple("os", rename=rename, unlink=unlink)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EBUSY])
def test_a_refused_part_of_a_transaction_blocks_nobody(root, number):
    store = opened(root)
    put(store, "a", b"old")
    put(store, "gone", b"old")
    with refuse("/a.data", "/gone.metadata", number=number):
        with store.transaction("t"):
            put(store, "a", b"new", n=1)
            put(store, "b", b"new")
            store.delete("gone")
        put(store, "c", b"after")
    assert not os.path.exists(f"{root}/.FSjournal")
    assert {key: store.to_bytes(key) for key in store.query_keys()} == {
        "a": b"old",
        "b": b"new",
        "c": b"after",
        "gone": b"old",
    }
    assert read(f"{root}/.FSlost/refused-a.data") == b"new"
    told = [each.key for each in store.check() if "refused" in each.problem]
    assert told == ["a", "a", "gone"]
    store.disconnect()


def test_what_is_refused_once_is_carried_out_by_the_next_writer(root):
    store = opened(root)
    put(store, "a", b"old")
    put(store, "gone", b"old")
    with refuse("/a.data", "/gone.metadata"), store.transaction("t"):
        put(store, "a", b"new", n=1)
        put(store, "b", b"new")
        store.delete("gone")
    # All see it as it will be.
    with opened(root) as other:
        expected = {"a": b"new", "b": b"new"}
        for each in (store, other):
            assert {key: each.to_bytes(key) for key in each.query_keys()} == expected
        assert [each.problem for each in other.check()] == [
            "a transaction was not carried out to its end"
        ]
        put(other, "c")
        assert other.check() == []
    assert not os.path.exists(f"{root}/.FSjournal")
    assert not os.path.exists(f"{root}/.FSlost")
    assert read(f"{root}/a.data") == b"new"
    store.disconnect()


def test_metadata_that_are_refused_tear_no_pair(root):
    store = opened(root)
    put(store, "a", b"old")
    with refuse("/a.metadata"):
        with store.transaction("t"):
            put(store, "a", b"new", n=1)
            put(store, "b", b"new")
        put(store, "c")
        with opened(root) as other:
            for each in (store, other):
                assert each.to_bytes("a") == b"new"
                assert each.get_metadata("a") == dict(each.query(n=1))["a"] == {"n": 1}
            told = [(each.key, each.problem) for each in other.check()]
            assert told == [("a", "a change was not carried out to its end")]
    store.disconnect()
    assert not os.path.exists(f"{root}/.FSlost")
    with opened(root) as later:
        put(later, "c")
        assert later.check() == []
        assert json.loads(read(f"{root}/a.metadata")) == {"n": 1}


def test_what_is_put_aside_is_logged(root, caplog):
    store = opened(root)
    put(store, "a", b"old")
    with refuse("/a.data"):
        put_both(store)
        assert caplog.text == ""
        put(store, "c")
    assert "a committed change of 'a'" in caplog.text
    store.disconnect()


def test_what_may_pass_is_tried_again(root):
    store = opened(root)
    put(store, "a", b"old")
    with refuse("/a.data", number=errno.EIO):
        put_both(store)
        with pytest.raises(StoreOSError):
            put(store, "c")
    put(store, "c")
    assert store.to_bytes("a") == b"new"
    store.disconnect()


def test_files_of_others_are_found_before_the_commit(root):
    store = opened(root)
    put(store, "a", b"old")
    os.chmod(root, 0o1777)
    uid = os.geteuid() + 1
    with (
        mock.patch("os.geteuid", return_value=uid),
        pytest.raises(StoreOSError),
    ):
        put_both(store)
    assert {key: store.to_bytes(key) for key in store.query_keys()} == {"a": b"old"}
    assert not os.path.exists(f"{root}/.FSjournal")
    store.disconnect()


def test_an_immutable_file_is_found_before_the_commit(root):
    store = opened(root)
    put(store, "a", b"old")
    real = os.open

    def immutable(path, flags, *args, **kwargs):
        if str(path) == f"{root}/a.data" and flags & os.O_WRONLY:
            raise PermissionError(errno.EPERM, "immutable", path)
        return real(path, flags, *args, **kwargs)

    with (
        mock.patch("os.open", immutable),
        mock.patch("os.access", lambda path, how: how == os.F_OK and os.path.exists(path)),
        pytest.raises(StoreOSError),
    ):
        put_both(store)
    assert list(store.query_keys()) == ["a"]
    store.disconnect()


def test_one_that_was_interrupted_while_it_was_made_closes_quietly():
    # As if an interrupt came at the first line.
    PairDirectory.__new__(PairDirectory).__del__()
