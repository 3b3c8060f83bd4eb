"""The lock that lets one writer at a time into a directory."""

from __future__ import annotations

import os
import time

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import fcntl

# Links lead elsewhere, and a FIFO that somebody has put there must not wait.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class WriterLock:
    """Keeps writers of other handles and processes out by flock(): it ends with its owner, whatever ends that.

    Threads that share one must keep each other out of it.

    Parameters
    ----------
    path : str
        The lock file, in a directory that exists by the time it is acquired.
    """

    def __init__(self, path: str) -> None:
        # For all methods, but only where there is such a lock.
        global fcntl  # noqa: PLW0603
        import fcntl

        self.path = path
        self._fd: int | None = None
        #: Which file it is, by device and inode: another one may have been put in its place. And how
        #: often one was opened: the inode of one that is gone is used again.
        self.identity: tuple[int, int, int] | None = None
        self._opened = 0

    def acquire(self, deadline: float) -> None:
        """Take the lock; StoreError if another one has it until `deadline`, by time.monotonic()."""
        while True:
            fd = self._fd
            if fd is None:
                # Open from now on: opening it costs more than taking it.
                fd = self._fd = os.open(self.path, _OPEN, 0o666)
                status = os.fstat(fd)
                self._opened += 1
                self.identity = status.st_dev, status.st_ino, self._opened
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait(fd, deadline)
            # Whoever finds no lock file makes one: what is locked must be what others find.
            try:
                status = os.stat(self.path)
                if (status.st_dev, status.st_ino, self._opened) == self.identity:
                    return
            except FileNotFoundError:
                pass
            WriterLock.close(self)

    def _wait(self, fd: int, deadline: float) -> None:
        # flock() cannot wait for a limited time.
        pause = 0.0002
        while True:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{os.path.dirname(self.path)!r} is locked by another process"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return

    def release(self) -> None:
        """Let other writers in; harmless if it is not held."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release it, and what it needs."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def forget(self) -> None:
        """Drop it without releasing it: in the child of a fork it is the parent's."""
        # The parent has the same open file, which keeps the lock.
        self.close()
