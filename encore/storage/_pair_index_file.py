"""The file of an index, ``.FStmp/index``, and the lock of those who change it.

Handles share the file. Who changes it has a lock (flock), and reads the metadata files afterwards, so that
each row says what was true when it was committed, and nobody overwrites a row by an older one. After
the change the status of the index itself is written into the lock file. Where it is another one,
somebody else has changed the index, put an old copy back, or was killed in the middle of a change: it is thrown
away and made anew. So is that of another boot of the computer, since changes are not synced.
"""

from __future__ import annotations

import os
import time

from ._posix import read_file, unlink
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._pair_index import PairIndex

INDEX = "index"
LOCK = "index.lock"

# Seconds that a query waits for another process that changes the index; then reading all metadata
# hardly takes longer.
WAIT = 1.0


class NotNow(Exception):
    """The index cannot be used."""


class IndexLock:
    """Keeps other handles from changing the index; NotNow if one takes long."""

    def __init__(self, index: PairIndex) -> None:
        from ._writer_lock import WriterLock

        self._folder = index._pairs.folder
        if index._file_lock is None:
            index._file_lock = WriterLock(f"{self._folder}/{LOCK}")
        self._lock = index._file_lock

    def __enter__(self) -> IndexLock:
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self._lock.acquire(deadline)
                return self
            except FileNotFoundError:
                os.mkdir(self._folder)
            except StoreError as error:
                raise NotNow from error

    def note(self, path: str) -> None:
        """Write down what has become of the index."""
        assert self._lock._fd is not None
        os.pwrite(self._lock._fd, _note(os.stat(path)), 0)

    def __exit__(self, *details: object) -> None:
        self._lock.release()


def status_of(status: os.stat_result) -> str:
    """Return what is another one after each change of a file."""
    return f"{status.st_ino} {status.st_ctime_ns} {status.st_size}"


def _note(status: os.stat_result) -> bytes:
    # Always as long: it is written over another one.
    return status_of(status).ljust(100).encode()


def is_noted(folder: str, status: os.stat_result) -> bool:
    """Whether an index with this status is as a handle has left it."""
    return read_file(f"{folder}/{LOCK}") == _note(status)


def remove_index(folder: str) -> None:
    """Remove an index; for who has its lock."""
    # First what would be carried out on another file of that name.
    unlink(f"{folder}/{INDEX}-journal", f"{folder}/{INDEX}")


def boot_of_computer() -> str:
    """Return what tells this boot of the computer from others, '' if that is not known."""
    try:
        return str(read_file("/proc/sys/kernel/random/boot_id") or b"", "ascii").strip()
    except (OSError, ValueError):
        return ""
