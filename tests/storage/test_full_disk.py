"""A disk that is full at any moment of any way to write."""

from __future__ import annotations

import errno
import io
import os
import subprocess

import pytest

from encore.storage.errors import StoreError, StoreOSError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore
from encore.testing._history import contents

PAGE = os.sysconf("SC_PAGE_SIZE")
LARGE = 30 * PAGE + 17


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """A small file system; None where it may not be mounted."""
    folder = str(tmp_path_factory.mktemp("small"))
    # A log of changes keeps what was begun and not done, up to 4 MiB, before it is rotated.
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class Disk:
    """Room for some pages more."""

    def __init__(self, folder):
        self.folder = folder
        self._ballast = os.path.join(folder, "ballast")
        self.empty()

    def leave(self, pages):
        free = os.statvfs(self.folder).f_bavail - pages
        if free > 0:
            with open(self._ballast, "ab") as file:
                os.posix_fallocate(file.fileno(), 0, free * PAGE)

    def empty(self):
        with open(self._ballast, "wb"):
            pass


class Limit:
    """Where nothing can be mounted: no file grows beyond some pages."""

    def __init__(self, folder):
        import resource

        self.folder = folder
        self._resource = resource
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(self, pages):
        largest = max(
            (
                os.path.getsize(os.path.join(place, name))
                for place, _, names in os.walk(self.folder)
                for name in names
            ),
            default=0,
        )
        # What SQLite maps into memory has 32 KiB.
        self._set(max(largest, 1 << 15) // PAGE * PAGE + pages * PAGE)

    def empty(self):
        self._set(self._soft)

    def _set(self, size):
        self._resource.setrlimit(self._resource.RLIMIT_FSIZE, (size, self._hard))


@pytest.fixture
def disk(mounted, tmp_path):
    if mounted is None:
        disk = Limit(str(tmp_path))
    else:
        for place, folders, names in os.walk(mounted, topdown=False):
            for name in names:
                os.unlink(os.path.join(place, name))
            for name in folders:
                os.rmdir(os.path.join(place, name))
        disk = Disk(mounted)
    yield disk
    disk.empty()


@pytest.fixture
def limit(tmp_path):
    limit = Limit(str(tmp_path))
    yield limit
    limit.empty()


def sqlite(folder):
    return SqliteStore(os.path.join(folder, "x.db"), durability="process")


def filesystem(folder):
    init_shared_store(os.path.join(folder, "files"))
    return FileSystemStore(os.path.join(folder, "files"), durability="process")


def locking(folder):
    init_shared_store(os.path.join(folder, "files"))
    return LockingFileSystemStore(
        os.path.join(folder, "files"), remote_event_poll_interval=0, durability="process"
    )


STORES = [sqlite, filesystem, locking]


def put(store, key, data, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def set_new(store):
    put(store, "new", b"n" * LARGE, n=2)


def set_small(store):
    put(store, "new", b"new", n=2)


def set_old(store):
    put(store, "small", b"n" * LARGE, n=2)


def set_huge(store):
    put(store, "small", b"n" * (8 * LARGE), n=2)


def set_shorter(store):
    put(store, "large", b"shorter", n=2)


def set_data(store):
    store.set_data("small", io.BytesIO(b"n" * LARGE))


def set_metadata(store):
    store.set_metadata("small", {"n": 2, "text": "x" * LARGE})


def update_metadata(store):
    store.update_metadata("large", {"text": "x" * LARGE})


def from_bytes(store):
    store.from_bytes("large", b"n" * LARGE)


def from_file(store):
    store.from_file("small", io.BytesIO(b"n" * LARGE))


def multiset(store):
    values = [(io.BytesIO(b"n" * (LARGE // 2)), {"n": n}) for n in range(3)]
    store.multiset(["small", "new", "large"], values)


def multiset_metadata(store):
    store.multiset_metadata(["small", "new"], [{"text": "x" * LARGE}, {"n": 2}])


def copy(store):
    store.copy("large", "new")


def move(store):
    store.move("large", "new")


def delete(store):
    store.delete("large")


def transaction(store):
    with store.transaction("many"):
        put(store, "new", b"n" * (LARGE // 2), n=2)
        store.delete("large")
        store.set_metadata("small", {"n": 3})
        put(store, "newer", b"n" * (LARGE // 2), n=2)


OPERATIONS = [
    *(set_new, set_small, set_old, set_shorter, set_data, set_metadata, update_metadata),
    *(from_bytes, from_file, multiset, multiset_metadata, copy, move, delete, transaction),
]

# So many pages, and any number in the long run.
ROOM = (0, 1, 3, 8, 17, 33, 48)


def filled(make, folder):
    with make(folder) as store:
        put(store, "small", b"small", n=1)
        put(store, "large", b"l" * LARGE, n=1)


def run_out_of_room(disk, make, operation, rooms):
    """Try an operation with ever more room, until it succeeds; return how often it failed."""
    failures = 0
    for room in rooms:
        with make(disk.folder) as store:
            old = contents(store)
            disk.leave(room)
            try:
                operation(store)
                failed = None
            except StoreError as error:
                failed = error
            found = contents(store)
            if failed is not None:
                failures += 1
                assert isinstance(failed, StoreOSError)
                assert failed.errno in (errno.ENOSPC, errno.EFBIG, errno.EIO)
                assert found == old, f"{room} pages"
            disk.empty()
            assert contents(store) == found
        with make(disk.folder) as store:
            assert contents(store) == found, f"{room} pages, reopened"
            if failed is None:
                assert found != old
                return failures
            # What was in its way is gone, and it leaves the store usable.
            put(store, "other", b"other", n=1)
            store.delete("other")
            assert contents(store) == old
    with make(disk.folder) as store:
        operation(store)
    return failures


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("make", STORES)
def test_a_full_disk_keeps_what_is_there(disk, make, operation):
    filled(make, disk.folder)
    failures = run_out_of_room(disk, make, operation, ROOM)
    needs_room = operation not in (set_small, set_shorter, delete, move)
    if isinstance(disk, Disk) and needs_room:
        assert failures >= 2


@pytest.mark.parametrize("make", STORES)
def test_a_limit_of_the_size_of_files_keeps_what_is_there(limit, make):
    filled(make, limit.folder)
    assert run_out_of_room(limit, make, set_huge, ROOM) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("make", STORES)
def test_any_lack_of_room_keeps_what_is_there(disk, make, operation):
    filled(make, disk.folder)
    run_out_of_room(disk, make, operation, range(200))


# The same with stores that are broken


def test_a_value_that_is_overwritten_in_place_is_found(disk, monkeypatch):
    def rename(source, target):
        with open(source, "rb") as old, open(target, "wb") as new:
            new.write(old.read())
        status = os.stat(source)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.unlink(source)

    if not isinstance(disk, Disk):
        pytest.skip("a limit of the size of files does not find this")
    filled(filesystem, disk.folder)
    monkeypatch.setattr("os.rename", rename)
    monkeypatch.setattr("os.replace", rename)
    with pytest.raises((AssertionError, KeyError, StoreError)):
        run_out_of_room(disk, filesystem, set_old, range(200))


def test_an_error_that_is_swallowed_is_found(disk, monkeypatch):
    if not isinstance(disk, Disk):
        pytest.skip("these values are not larger than the files there are")

    def write(fd, data, real=os.write):
        try:
            return real(fd, data)
        except OSError:
            return len(data)

    filled(filesystem, disk.folder)
    monkeypatch.setattr("os.write", write)
    disk.leave(3)
    with filesystem(disk.folder) as store:
        multiset(store)
    disk.empty()
    with pytest.raises((AssertionError, KeyError, StoreError)), filesystem(disk.folder) as store:
        assert contents(store)["new"] == (b"n" * (LARGE // 2), {"n": 1})
