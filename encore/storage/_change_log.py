"""The log of the changes of a store that many processes share: ``__log__.txt``.

A line is ``<number> <action> <time, UTC> <JSON>``. Numbers go up by one. Actions are

=========================  ======================================================================
set, update, delete        a change of one key; JSON: key, metadata, `by` (the handle that made it),
                           `modified` (what is to be the key's stamp, null for delete)
commit                     the changes from number `first` to the number of this line were made
abort                      they were not
rotate                     the first line of a file: the older ones are ``__log__.txt.<number>``
                           for each of `kept`, the number being that of its last line
w, u, d                    EnCore 0.8 wrote, updated or deleted a key; it is not JSON but as it is
=========================  ======================================================================

A writer that has the writer lock appends the changes, commits them, then appends ``commit``. So if
it dies in between, the log says what it was about to do, and whoever has the lock next looks at
the stamps of the keys to see whether it was done, and appends ``commit`` or ``abort``. Nothing is
lost, and nothing is there twice. A line that was not written to its end, newline included, is
cancelled by the next writer, and is no line; nor is one that says anything else than these.

A file that has become too long gets a second name, ``__log__.txt.<number>``, and then a
new one is renamed to ``__log__.txt``, which therefore never is missing. The old ones are kept for an
hour at least.
"""

from __future__ import annotations

import os

from ._change_lines import CANCEL, LOG, Line, kept_files, open_file, read, stamp_of, tail_of
from ._posix import sync_folder, unlink, write_all, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    #: Action, key, metadata, stamp to be.
    NewChange = tuple[str, str, dict[str, Any], int | None]

# Bytes after which a file is rotated.
MAX_SIZE = 1 << 22

# Seconds that a rotated file is kept, for those that read it. Twice as long as anybody may poll.
KEPT = 7200.0

# Rotated files at most, so that the first line of a file has a bound.
_MOST = 1000

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class ChangeLog:
    """The log, for writers. All methods but create() need the writer lock.

    Parameters
    ----------
    root : str
        The directory it is in.
    durable : bool
        Whether what it says survives power loss.
    """

    def __init__(self, root: str, durable: bool) -> None:
        self.path = f"{root}/{LOG}"
        self.root = root
        self.durable = durable
        #: While a commit is under way.
        self._fd: int | None = None
        self._first = self._last = 0
        #: What it was when it was written last: inode, size, number.
        self._known: tuple[int, int, int] | None = None

    def create(self) -> None:
        """Make the file, if there is none and it can be made."""
        try:
            os.close(open_file(self.path, _APPEND))
        except OSError:
            # A directory that is only read. Who writes will see.
            pass

    def begin(
        self,
        changes: Iterable[NewChange],
        by: str,
        now: float,
        was_made: Callable[[list[Line]], bool],
        temporary: Callable[[], str],
    ) -> None:
        """Write down what is about to be committed.

        Parameters
        ----------
        changes : iterable
        by : str
            The handle that makes them.
        now : float
            time.time()
        was_made : callable
            Says whether changes were made of which the log does not say it.
        temporary : callable
            Returns the path of a temporary file to be made.
        """
        self.close()
        fd = self._fd = open_file(self.path, _APPEND)
        number = self._settle(fd, now, was_made)
        size = os.fstat(fd).st_size
        if size >= MAX_SIZE:
            self._rotate(fd, number, now, temporary())
            self.close()
            fd = self._fd = open_file(self.path, _APPEND)
        when = stamp_of(now)
        lines = []
        for action, key, metadata, modified in changes:
            number += 1
            payload = {"key": key, "metadata": metadata, "by": by, "modified": modified}
            lines.append(Line(number, action, when, payload).dump())
        self._first, self._last = number - len(lines) + 1, number
        self._known = None
        end = os.fstat(fd).st_size
        try:
            write_all(fd, b"".join(lines))
        except BaseException:
            _cut(fd, end)
            raise
        if self.durable:
            os.fsync(fd)
            if not size:
                sync_folder(self.root)

    def end(self, now: float) -> None:
        """Write down that it was committed."""
        fd = self._fd
        assert fd is not None
        try:
            write_all(fd, self._verdict("commit", self._first, self._last, now))
            status = os.fstat(fd)
            self._known = (status.st_ino, status.st_size, self._last)
        finally:
            self.close()

    def settle(self, now: float, was_made: Callable[[list[Line]], bool]) -> None:
        """Find out about changes of which the log does not say whether they were made."""
        self.close()
        fd = self._fd = open_file(self.path, _APPEND)
        try:
            self._settle(fd, now, was_made)
        finally:
            self.close()

    @property
    def last_number(self) -> int:
        """The number of the last change that was written here, 0 if none was."""
        return self._last

    @property
    def has_begun(self) -> bool:
        """Whether a commit is under way."""
        return self._fd is not None

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _settle(self, fd: int, now: float, was_made: Callable[[list[Line]], bool]) -> int:
        """Settle what is open; return the number of the last line."""
        status = os.fstat(fd)
        if self._known is not None and self._known[:2] == (status.st_ino, status.st_size):
            return self._known[2]
        tail = tail_of(fd)
        if tail.torn:
            write_all(fd, f"{CANCEL}\n".encode())
        if tail.open:
            first, last = tail.open[0], tail.open[-1]
            verdict = "commit" if was_made(tail.open) else "abort"
            write_all(fd, self._verdict(verdict, first.number, last.number, now))
        return tail.number

    @staticmethod
    def _verdict(action: str, first: int, last: int, now: float) -> bytes:
        return Line(last, action, stamp_of(now), {"first": first}).dump()

    def _rotate(self, fd: int, number: int, now: float, temporary: str) -> None:
        kept = [*kept_files(fd, self.path), number]
        line = Line(number, "rotate", stamp_of(now), {})
        try:
            write_file(temporary, b"", False)
            # By the clock of the file server, as the times of the others.
            oldest = os.stat(temporary).st_mtime - KEPT
            gone = [each for each in kept[:-2] if _modified(f"{self.path}.{each}") < oldest]
            gone += kept[:-_MOST]
            line.payload["kept"] = [each for each in kept if each not in gone]
            write_file(temporary, line.dump(), self.durable)
            rotated = f"{self.path}.{number}"
            # Left by one who died here; or by a log that somebody has removed.
            unlink(rotated)
            os.link(self.path, rotated)
            os.rename(temporary, self.path)
        except BaseException:
            unlink(temporary)
            raise
        if self.durable:
            sync_folder(self.root)
        unlink(*(f"{self.path}.{each}" for each in gone))


def _cut(fd: int, start: int) -> None:
    """Remove what is not a whole line behind `start`: it may have taken the last room on the disk."""
    try:
        # Whole lines may have been read already.
        os.ftruncate(fd, start + read(fd, start, os.fstat(fd).st_size).rfind(b"\n") + 1)
    except OSError:
        # The next writer sees it.
        pass


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0
