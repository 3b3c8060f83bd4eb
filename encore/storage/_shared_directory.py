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
from .errors import StoreError, os_errors
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
        #: How often it was acquired by the thread that has it: a signal handler may come while it is let go.
        self._again = 0
        #: Whether what others have left was removed, who were killed while they asked for the lock.
        self._has_swept = False
        #: What could not be removed when it was let go.
        self._left: list[str] = []

    def acquire(self, deadline: float) -> None:
        file_lock = self.file_lock
        if self._is_held():
            # Whoever is about to let it go does that afterwards.
            self._again += 1
            return
        self._again = 0
        for path in self._left:
            file_lock._give_up(path)
        self._left = []
        taken: list[str] = []
        try:
            if not file_lock._acquire(max(0.0, deadline - time.monotonic()), taken):
                raise StoreError(f"{os.path.dirname(self.path)!r} is locked by another process")
            if not self._has_swept:
                file_lock._sweep()
                self._has_swept = True
            try:
                super().acquire(deadline)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
        except BaseException:
            file_lock._undo(taken)
            raise

    def check(self) -> None:
        """Raise StoreError if the lock was lost to somebody who took this process for dead."""
        if not self._is_held():
            raise StoreError(f"the lock of {os.path.dirname(self.path)!r} was broken")

    def _is_held(self) -> bool:
        """Whether this lock is held, also where it is about to be let go."""
        lock = self.file_lock
        with os_errors():
            return any(lock._is_there(path) for path in lock._mine())

    def release(self) -> None:
        if self._again:
            self._again -= 1
            return
        # flock() last: who comes while this one is let go finds that it has both, or neither.
        held = self.file_lock._mine()
        try:
            self.file_lock._undo(held)
        except OSError as error:
            # What was to be changed has been changed. Nobody keeps the lock alive any more.
            from logging import getLogger

            self._left += held
            getLogger(__name__).warning("the lock %r stays: %s", self.file_lock, error)
        finally:
            try:
                super().release()
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise

    def close(self) -> None:
        self._again = 0
        super().close()
        self.file_lock._undo(self.file_lock._mine())

    def forget(self) -> None:
        self._again = 0
        self._left = []
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
