"""What keeps the computers apart that write to one directory of pairs: its lock, and their sessions.

flock() is used too, where the file system has it: FileSystemStore relies on it, and may be at work in
the same directory.
"""

from __future__ import annotations

import errno
import os
import time

from ._heartbeat import heartbeat
from ._owner import Owner, this_process
from ._posix import WRITE, unlink
from ._sessions import ALIVE, Session
from ._writer_lock import WriterLock
from .errors import StoreError
from .file_lock import FileLock

# Seconds between two signs of life of a session.
_INTERVAL = 60.0

# Seconds after which a session on another computer is taken for dead. What it has staged could not be
# committed any more, so this is long.
_SILENCE = 3600.0

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


class SharedWriterLock(WriterLock):
    """Keeps writers of all computers out.

    Parameters
    ----------
    path : str
        The lock file of FileSystemStore; that of this one stands beside it.
    stale_timeout : float
        Seconds after which a holder on another computer is taken for dead that gives no sign of life.
    """

    def __init__(self, path: str, stale_timeout: float) -> None:
        super().__init__(path)
        self.file_lock = FileLock(f"{path}-shared", stale_timeout=stale_timeout)

    def acquire(self, deadline: float) -> None:
        taken: list[str] = []
        try:
            if not self.file_lock._acquire(max(0.0, deadline - time.monotonic()), taken):
                raise StoreError(f"{os.path.dirname(self.path)!r} is locked by another process")
            try:
                super().acquire(deadline)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
        except BaseException:
            self.file_lock._undo(taken)
            raise

    def check(self) -> None:
        """Raise StoreError if the lock was lost to somebody who took this process for dead."""
        if not self.file_lock.acquired():
            raise StoreError(f"the lock of {os.path.dirname(self.path)!r} was broken")

    def release(self) -> None:
        try:
            super().release()
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
        finally:
            try:
                self.file_lock._undo(self.file_lock._mine())
            except OSError as error:
                # What was to be changed has been changed. Nobody keeps the lock alive any more.
                from logging import getLogger

                getLogger(__name__).warning("the lock %r stays: %s", self.file_lock, error)

    def close(self) -> None:
        super().close()
        self.file_lock._undo(self.file_lock._mine())

    def forget(self) -> None:
        WriterLock.close(self)


class SharedSession(Session):
    """The temporary files of one handle, in a directory that computers share."""

    def _new_name(self) -> str:
        return f"{this_process()}-{super()._new_name()}"

    def _announce(self, path: str) -> bool:
        try:
            made = super()._announce(path)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            os.close(os.open(path, WRITE | os.O_EXCL, 0o666))
            made = True
        if made:
            heartbeat.add(path, _INTERVAL)
        return made

    def _withdraw(self, path: str) -> None:
        heartbeat.discard(path, wait=True)
        super()._withdraw(path)

    def _is_over(self, path: str) -> bool:
        owner = Owner.parse(os.path.basename(path))
        if owner is None:
            # One of FileSystemStore.
            return super()._is_over(path)
        died = owner.has_died()
        if died is None:
            died = self._is_silent(path)
        if died:
            unlink(path)
        return died

    def _is_silent(self, path: str) -> bool:
        mine = f"{self.folder}/{self.name}{ALIVE}"
        try:
            # Both times are those of the file server: clocks of computers differ.
            os.utime(mine)
            return os.stat(mine).st_mtime - os.stat(path).st_mtime > _SILENCE
        except OSError:
            return False
