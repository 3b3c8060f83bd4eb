"""Stores of which one file is damaged, each file in turn, in each way there is."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import tempfile

import pytest

from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None

VALUES = {
    "a": (b"first", {"n": 1, "text": "one"}),
    "b/ B": (b"second", {"n": 2, "list": [1, 2]}),
    "large": (b"0123456789" * 10_000, {"n": 3}),
    "long/" * 100: (b"long", {"n": 4}),
    "z": (b"", {}),
}


class Sqlite:
    def make(self, folder):
        return SqliteStore(os.path.join(folder, "x.db"), durability="process")

    #: Whether each key has files of its own.
    separate = False


class SqliteInUse(Sqlite):
    """As it is left by a process that was killed: with a write-ahead log."""


class FileSystem:
    separate = True

    def make(self, folder):
        return FileSystemStore(folder, durability="process")


class Locking(FileSystem):
    def make(self, folder):
        return LockingFileSystemStore(folder, remote_event_poll_interval=0, durability="process")


KINDS = [Sqlite, SqliteInUse, FileSystem, Locking]


def emptied(data, place):
    return b""


def cut(data, place):
    return data[:place]


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def one_bit(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def replaced(data, place):
    return b"\x80\x00nonsense{" * 10


def longer(data, place):
    return data + b"}\x00more"


def zeros(data, place):
    return data[:place] + bytes(len(data) - place)


def removed(data, place):
    return None


DAMAGES = [emptied, cut, flipped, one_bit, replaced, longer, zeros, removed]


@contextlib.contextmanager
def copied(folder):
    with tempfile.TemporaryDirectory(dir=FAST) as other:
        target = os.path.join(other, "copy")
        shutil.copytree(folder, target)
        yield target


@pytest.fixture
def filled(request):
    kind = request.param()
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        if kind.separate:
            init_shared_store(folder)
        with kind.make(folder) as store:
            for key, (data, metadata) in VALUES.items():
                store.set(key, (io.BytesIO(data), metadata))
            if request.param is SqliteInUse:
                shutil.copytree(folder, f"{folder}/used")
        if request.param is SqliteInUse:
            folder = f"{folder}/used"
            os.unlink(f"{folder}/x.db-shm")
            assert files_of(folder) == ["x.db", "x.db-wal"]
        yield kind, folder


def files_of(folder):
    found = [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    ]
    return sorted(found)


def key_of(file):
    """Return the key to which a file of a file system store belongs, None if to none."""
    name, _, suffix = os.path.basename(file).rpartition(".")
    if suffix not in ("data", "metadata", "key"):
        return None
    plain = {"a": "a", "large": "large", "z": "z"}
    return plain.get(name, "long/" * 100 if name.startswith("%%%") else "b/ B")


def places(data, every):
    if not data:
        return [0]
    return sorted({0, len(data) // 2, len(data) - 1, *range(0, len(data), every)})


def damage(path, how, place):
    """Damage a file; return False if that changes nothing."""
    with open(path, "rb") as file:
        old = file.read()
    if place >= len(old) and how in (flipped, one_bit):
        return False
    new = how(old, place)
    if new == old:
        return False
    status = os.stat(path)
    os.unlink(path)
    if new is not None:
        with open(path, "wb") as file:
            file.write(new)
        # As when the disk did it.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True


def pair(store, key):
    value = store.get(key)
    with value.data as stream:
        return stream.read(), value.metadata


def check_damaged(make, folder, intact):
    """Look in every way: what is not damaged is there, the rest is a StoreError."""
    try:
        store = make(folder)
        store.connect()
    except StoreError:
        # Of a database, or of the file that marks a directory.
        assert not intact
        return
    try:
        for key in intact:
            assert pair(store, key) == VALUES[key]
            assert store.get_metadata(key) == VALUES[key][1]
            assert store.exists(key)
        for key in VALUES:
            for look in (pair, type(store).get_metadata, type(store).exists):
                with contextlib.suppress(KeyError, StoreError):
                    look(store, key)
        for look in (
            lambda: list(store.query_keys()),
            lambda: [key for key, _ in store.query()],
            lambda: list(store.keys()),
            lambda: list(store.glob("*")),
        ):
            try:
                keys = look()
            except StoreError:
                assert not intact
                continue
            assert set(intact) <= set(keys)
            # Damage makes no new keys, but of a database.
            assert not intact or set(keys) <= set(VALUES)
        try:
            for key in [*intact, "new"]:
                store.set(key, (io.BytesIO(b"new data"), {"new": True}))
                assert pair(store, key) == (b"new data", {"new": True})
            for key in VALUES:
                with contextlib.suppress(KeyError):
                    store.delete(key)
        except StoreError:
            assert not intact
    finally:
        with contextlib.suppress(StoreError):
            store.disconnect()


def damage_everything(kind, folder, every):
    count = 0
    for file in files_of(folder):
        with open(os.path.join(folder, file), "rb") as opened:
            data = opened.read()
        for how in DAMAGES:
            spots = places(data, every) if how in (cut, flipped, one_bit, zeros) else [0]
            for place in spots:
                with copied(folder) as target:
                    if not damage(os.path.join(target, file), how, place):
                        continue
                    count += 1
                    key = key_of(file)
                    intact = [other for other in VALUES if other != key]
                    if not kind.separate or file == ".FSStore":
                        intact = []
                    try:
                        check_damaged(kind.make, target, intact)
                    except BaseException as error:
                        raise AssertionError(f"{file}, {how.__name__} at {place}") from error
    return count


@pytest.mark.parametrize("filled", [Sqlite, SqliteInUse, FileSystem], indirect=True)
def test_damage_hides_nothing_else_and_is_a_store_error(filled):
    kind, folder = filled
    assert damage_everything(kind, folder, 1 << 20) >= 16


@pytest.mark.slow
@pytest.mark.parametrize("filled", KINDS, indirect=True)
def test_damage_at_many_places_hides_nothing_else(filled):
    kind, folder = filled
    assert damage_everything(kind, folder, 241 if kind.separate else 997) > 100


@pytest.mark.parametrize("filled", [Sqlite], indirect=True)
def test_damaged_rows_hide_no_others(filled):
    kind, folder = filled
    for column, content in [
        ("metadata", "{"),
        ("metadata", b"\x80\x02no pickle"),
        ("metadata", None),
        ("metadata", 7),
        ("created", "never"),
        ("modified", None),
        ("data", 12345),
        ("data", None),
        ("data", 1.5),
    ]:
        with copied(folder) as target:
            path = os.path.join(target, "x.db")
            with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(f"UPDATE store SET {column} = ? WHERE key = 'a'", (content,))
            check_damaged(kind.make, target, [key for key in VALUES if key != "a"])


# Stores that are broken so that this is found


class Hiding(FileSystemStore):
    """What is damaged ends every list."""

    def query(self, select=None, /, **criteria):
        for key in super().query_keys():
            yield key, self.get_metadata(key)


class Leaking(FileSystemStore):
    """Errors come as they are."""

    def get_metadata(self, key, select=None):
        try:
            return super().get_metadata(key, select)
        except StoreError as error:
            raise ValueError(str(error)) from error


class Believing(FileSystemStore):
    """Anything is taken for data."""

    def get(self, key):
        value = super().get(key)
        if value.size != len(VALUES[key][0]):
            raise UnicodeDecodeError("utf-8", b"", 0, 0, "damaged")
        return value


@pytest.mark.parametrize("broken", [Hiding, Leaking, Believing])
@pytest.mark.parametrize("filled", [FileSystem], indirect=True)
def test_a_broken_store_is_found(filled, broken):
    kind, folder = filled
    kind.make = lambda folder: broken(folder, durability="process")
    with pytest.raises(AssertionError, match="at 0"):
        damage_everything(kind, folder, 1 << 20)
