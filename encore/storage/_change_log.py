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

import errno
import os
import stat
import time

from ._posix import READ, sync_folder, unlink, write_all, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    #: Action, key, metadata, stamp to be.
    NewChange = tuple[str, str, dict[str, Any], int | None]

LOG = "__log__.txt"

# Bytes after which a file is rotated.
MAX_SIZE = 1 << 22

# Seconds that a rotated file is kept, for those that read it. Twice as long as anybody may poll.
KEPT = 7200.0

# Rotated files at most, so that the first line of a file has a bound.
_MOST = 1000

_CHANGES = frozenset(["set", "update", "delete"])
_OLD = frozenset(["w", "u", "d"])
_SETTLED = frozenset(["commit", "abort", "rotate", *_OLD])
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK

# At the end of a line: it is none. The control character CANCEL is in no JSON.
_CANCEL = "\x18"


class Line:
    """A line of the log."""

    __slots__ = ("action", "number", "payload", "time")

    def __init__(self, number: int, action: str, time: str, payload: dict[str, Any]) -> None:
        self.number = number
        self.action = action
        self.time = time
        self.payload = payload

    @classmethod
    def parse(cls, text: bytes) -> Line | None:
        """Return what a line says, None if it is none of ours."""
        parts = text.split(b" ", 4)
        if len(parts) < 5 or not parts[0].isdigit():
            return None
        try:
            number, action, rest = int(parts[0]), parts[1].decode(), parts[4].decode()
            when = f"{parts[2].decode()} {parts[3].decode()}"
            if action in _OLD:
                return None if rest.endswith(_CANCEL) else cls(number, action, when, {"key": rest})
            if action not in _CHANGES and action not in _SETTLED:
                return None
            from json import loads

            payload = loads(rest)
        except (ValueError, RecursionError):
            return None
        return cls(number, action, when, payload) if _is_right(action, payload) else None

    def dump(self) -> bytes:
        from json import dumps

        payload = dumps(self.payload, separators=(",", ":"))
        return f"{self.number} {self.action} {self.time} {payload}\n".encode("ascii")

    @property
    def key(self) -> str:
        return str(self.payload.get("key", ""))

    @property
    def is_change(self) -> bool:
        return self.action in _CHANGES

    @property
    def is_old(self) -> bool:
        return self.action in _OLD


def _is_right(action: str, payload: Any) -> bool:
    """Whether the JSON of a line is what others rely on."""
    if not isinstance(payload, dict):
        return False
    if action == "commit":
        return isinstance(payload.get("first", 0), int)
    if action == "rotate":
        kept = payload.get("kept", [])
        return isinstance(kept, list) and all(isinstance(number, int) for number in kept)
    return action not in _CHANGES or (
        isinstance(payload.get("key"), str)
        and isinstance(payload.get("metadata"), dict)
        and isinstance(payload.get("modified"), int | None)
    )


class _Tail:
    """How a log ends."""

    __slots__ = ("number", "open", "settled", "size", "torn")

    def __init__(self, number: int, size: int, settled: int, torn: bool, open: list[Line]) -> None:
        #: That of the last line.
        self.number = number
        self.size = size
        #: Size without what follows.
        self.settled = settled
        #: Whether the last line was not written to its end.
        self.torn = torn
        #: Changes of which it is not said whether they were made.
        self.open = open


def _tail(fd: int) -> _Tail:
    size = os.fstat(fd).st_size
    length = 512
    while True:
        start = max(0, size - length)
        text = _read(fd, start, size)
        begin = text.find(b"\n") + 1 if start else 0
        number = 0
        open_lines: list[Line] = []
        end = text.rfind(b"\n") + 1
        stop = end
        while stop > begin:
            head = text.rfind(b"\n", begin, stop - 1) + 1 or begin
            line = Line.parse(text[head : stop - 1])
            if line is not None:
                number = max(number, line.number)
                if not line.is_change:
                    break
                open_lines.insert(0, line)
            stop = head
        if stop > begin or not start:
            return _Tail(number, size, start + max(stop, 0), end < len(text), open_lines)
        length *= 8


def _open(path: str, flags: int = READ) -> int:
    fd = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def _read(fd: int, start: int, end: int) -> bytes:
    pieces = []
    while start < end and (piece := os.pread(fd, end - start, start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


def stamp_of(seconds: float) -> str:
    """Return a time as the log has it: later ones are greater."""
    whole, fraction = divmod(round(seconds * 1e6), 10**6)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(whole))}.{fraction:06}"


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
            os.close(_open(self.path, _APPEND))
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
        fd = self._fd = _open(self.path, _APPEND)
        number = self._settle(fd, now, was_made)
        size = os.fstat(fd).st_size
        if size >= MAX_SIZE:
            self._rotate(fd, number, now, temporary())
            self.close()
            fd = self._fd = _open(self.path, _APPEND)
        when = stamp_of(now)
        lines = []
        for action, key, metadata, modified in changes:
            number += 1
            payload = {"key": key, "metadata": metadata, "by": by, "modified": modified}
            lines.append(Line(number, action, when, payload).dump())
        self._first, self._last = number - len(lines) + 1, number
        self._known = None
        write_all(fd, b"".join(lines))
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
        fd = self._fd = _open(self.path, _APPEND)
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
        tail = _tail(fd)
        if tail.torn:
            write_all(fd, f"{_CANCEL}\n".encode())
        if tail.open:
            first, last = tail.open[0], tail.open[-1]
            verdict = "commit" if was_made(tail.open) else "abort"
            write_all(fd, self._verdict(verdict, first.number, last.number, now))
        return tail.number

    @staticmethod
    def _verdict(action: str, first: int, last: int, now: float) -> bytes:
        return Line(last, action, stamp_of(now), {"first": first}).dump()

    def _rotate(self, fd: int, number: int, now: float, temporary: str) -> None:
        kept = [*_kept(fd, self.path), number]
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


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _header(fd: int) -> Line | None:
    text = os.pread(fd, 1 << 16, 0)
    line = Line.parse(text[: text.find(b"\n")])
    return line if line is not None and line.action == "rotate" else None


def _kept(fd: int, path: str) -> list[int]:
    """Return the numbers of the rotated files."""
    header = _header(fd)
    if header is not None:
        return list(header.payload.get("kept", ()))
    # EnCore 0.8 has one, with this number.
    return [1] if os.path.exists(f"{path}.1") else []


class LogReader:
    """Reads the log from where it was when the reader was made. It needs no lock.

    Parameters
    ----------
    root : str
        The directory that the log is in.
    """

    def __init__(self, root: str) -> None:
        self.path = f"{root}/{LOG}"
        self._inode = self._offset = self._number = 0
        #: Changes of which it was not said yet whether they were made.
        self.open: list[Line] = []
        fd = self._open_file()
        if fd is not None:
            try:
                tail = _tail(fd)
                self._inode = os.fstat(fd).st_ino
                self._offset = tail.settled
                self._number = tail.number - len(tail.open)
            finally:
                os.close(fd)

    def read(self) -> list[Line]:
        """Return the changes that were made since, in order."""
        fds = self._open_files()
        try:
            found: list[Line] = []
            for fd in fds:
                inode = os.fstat(fd).st_ino
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                found += self._read_file(fd)
            return found
        finally:
            for fd in fds:
                os.close(fd)

    def _open_file(self, suffix: str = "") -> int | None:
        try:
            return _open(self.path + suffix)
        except FileNotFoundError:
            return None

    def _open_files(self) -> list[int]:
        """Open the file that was read last and all newer ones."""
        current = self._open_file()
        if current is None:
            return []
        fds = [current]
        try:
            status = os.fstat(current)
            if status.st_ino == self._inode:
                if status.st_size < self._offset:
                    self._start_anew()
                return fds
            header = _header(current)
            if header is None or header.number < self._number:
                # Somebody has removed the log.
                self._start_anew()
                return fds
            for number in reversed(header.payload.get("kept", ())):
                fd = self._open_file(f".{number}")
                if fd is None:
                    break
                fds.insert(0, fd)
                if os.fstat(fd).st_ino == self._inode:
                    break
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _start_anew(self) -> None:
        self._inode = self._offset = self._number = 0
        self.open = []

    def _read_file(self, fd: int) -> Iterator[Line]:
        text = _read(fd, self._offset, os.fstat(fd).st_size)
        end = text.rfind(b"\n") + 1
        self._offset += end
        for row in text[:end].split(b"\n"):
            line = Line.parse(row)
            if line is None:
                continue
            if line.is_old:
                self._number = max(self._number, line.number)
                yield line
            elif line.is_change:
                self.open.append(line)
            elif line.action == "commit":
                first = max(line.payload.get("first", 0), self._number + 1)
                made = [each for each in self.open if first <= each.number <= line.number]
                self._number, self.open = max(self._number, line.number), []
                yield from made
            elif line.action == "abort":
                self._number, self.open = max(self._number, line.number), []


def changes_since(root: str, limit: str) -> tuple[list[Line], bool]:
    """Return the changes from a time on that were made, and whether it is not said of some that follow."""
    path = f"{root}/{LOG}"
    rows: list[list[Line]] | None = None
    while rows is None:
        try:
            fd = _open(path)
        except FileNotFoundError:
            return [], False
        try:
            rows = _rows_since(fd, path, limit)
        finally:
            os.close(fd)
    made: list[Line] = []
    waiting: list[Line] = []
    for lines in reversed(rows):
        for line in lines:
            if line.is_old:
                made.append(line)
            elif line.is_change:
                waiting.append(line)
            elif line.action == "commit":
                first = line.payload.get("first", 0)
                made += [each for each in waiting if first <= each.number <= line.number]
                waiting = []
            elif line.action == "abort":
                waiting = []
    for position, line in enumerate(made):
        if line.time >= limit:
            return made[position:], bool(waiting)
    return [], bool(waiting)


def _rows_since(current: int, path: str, limit: str) -> list[list[Line]] | None:
    """Return the lines of the files, newest first; None if one went while the log was rotated."""
    inode = os.fstat(current).st_ino
    seen = {inode}
    rows = [_lines(current)]
    # What is kept is what this file says: the log may be another one by now.
    for number in reversed(_kept(current, path)):
        if rows[-1] and rows[-1][0].time < limit:
            break
        try:
            fd = _open(f"{path}.{number}")
        except FileNotFoundError:
            try:
                if os.stat(path).st_ino != inode:
                    return None
            except FileNotFoundError:
                return None
            # Somebody has removed it.
            continue
        try:
            # It has two names in the middle of being rotated.
            each = os.fstat(fd).st_ino
            if each not in seen:
                seen.add(each)
                rows.append(_lines(fd))
        finally:
            os.close(fd)
    return rows


def _lines(fd: int) -> list[Line]:
    text = _read(fd, 0, os.fstat(fd).st_size)
    rows = text[: text.rfind(b"\n") + 1].split(b"\n")
    return [line for row in rows if (line := Line.parse(row)) is not None]
