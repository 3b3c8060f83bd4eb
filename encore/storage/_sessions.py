"""Sessions: whose temporary files are those of a writer that lives, and whose may be removed.

A temporary file is named ``<session>-<number>``. A session has a file ``<session>.alive`` that is
locked (flock) for as long as its process lives and has not ended it. It is made before the first
temporary file, so what has a number and no such file is left from a session that is over.
"""

from __future__ import annotations

import errno
import os
from _thread import RLock
from itertools import count

from ._posix import READ, WRITE, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ALIVE = ".alive"


class Session:
    """The temporary files of one handle. Any thread may use it.

    A subclass that has another way to tell the living from the dead overrides ``_new_name``,
    ``_announce``, ``_withdraw``, ``_drop`` and ``_is_over``.

    Parameters
    ----------
    folder : str
        Where temporary files are; it exists by the time the session starts.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        #: None before it starts and after it ended.
        self.name: str | None = None
        self._numbers = count()
        # Re-entrant: a finalizer may come in between that writes too.
        self._starting = RLock()
        self._fd: int | None = None

    def start(self) -> str:
        """Begin, if it has not begun; return its name."""
        with self._starting:
            while self.name is None:
                name = self._new_name()
                if self._announce(f"{self.folder}/{name}{ALIVE}"):
                    self.name = name
            return self.name

    def temporary(self) -> str:
        """Return the path of a temporary file to be made."""
        name = self.name
        if name is None:
            name = self.start()
        return f"{self.folder}/{name}-{next(self._numbers)}"

    def renew(self) -> None:
        """Show again that it lives, if somebody has removed its file: what it has staged is to stay."""
        with self._starting:
            path = f"{self.folder}/{self.name}{ALIVE}"
            while self.name is not None and not os.path.lexists(path):
                self._drop()
                self._announce(path)

    def end(self) -> None:
        """End the session."""
        name, self.name = self.name, None
        if name is not None:
            self._withdraw(f"{self.folder}/{name}{ALIVE}")

    def forget(self) -> None:
        """Drop the session without ending it: in the child of a fork it is the parent's."""
        self.name = None
        self._drop()
        self._starting = RLock()

    def sweep(self, files: Iterable[str]) -> bool:
        """Remove temporary files of sessions that are over; `files` are names in the folder.

        Returns whether one was over that had not come to its end.
        """
        files = list(files)
        sessions = [file for file in files if file.endswith(ALIVE)]
        alive = {file[: -len(ALIVE)] for file in sessions if not self._sweep_session(file)}
        for file in files:
            if file[:2] in ("p-", "g-"):
                # What is half done belongs to a key, which may end in digits.
                continue
            session, _, number = file.rpartition("-")
            # Not when the list was made, and not now.
            if (
                number.isdecimal()
                and session not in alive
                and not os.path.lexists(f"{self.folder}/{session}{ALIVE}")
            ):
                unlink(f"{self.folder}/{file}")
        return len(alive) < len(sessions)

    def _sweep_session(self, file: str) -> bool:
        """Whether a session is over; its file is removed then."""
        return file != f"{self.name}{ALIVE}" and self._is_over(f"{self.folder}/{file}")

    # What another kind of session has its own way for

    def _new_name(self) -> str:
        """Return a name that no session had before."""
        return os.urandom(6).hex()

    def _announce(self, path: str) -> bool:
        """Make the file that shows that a new session lives; False if another name must be tried."""
        import fcntl

        fd = os.open(path, WRITE | os.O_EXCL, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Somebody who sweeps may have taken it for dead before it was locked.
            if os.path.lexists(path):
                self._fd = fd
                return True
        except BaseException:
            unlink(path)
            raise
        finally:
            if self._fd != fd:
                os.close(fd)
        return False

    def _withdraw(self, path: str) -> None:
        """Remove that file, and release what keeps it."""
        unlink(path)
        self._drop()

    def _drop(self) -> None:
        """Release what keeps that file, but leave it: it may be the parent's."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _is_over(self, path: str) -> bool:
        """Whether the session that made this file has ended; it is removed then."""
        import fcntl

        try:
            fd = os.open(path, READ | os.O_NOFOLLOW)
        except OSError as error:
            # Another user's may live.
            return error.errno == errno.ENOENT
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            unlink(path)
            return True
        finally:
            os.close(fd)
