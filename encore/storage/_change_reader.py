"""Reading the log of changes, without a lock: what was changed since a time, or since it was read last."""

from __future__ import annotations

import os

from ._change_lines import LOG, Line, header_of, kept_files, open_file, read, tail_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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
                tail = tail_of(fd)
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
            return open_file(self.path + suffix)
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
            header = header_of(current)
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
        text = read(fd, self._offset, os.fstat(fd).st_size)
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
            fd = open_file(path)
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
    for number in reversed(kept_files(current, path)):
        if rows[-1] and rows[-1][0].time < limit:
            break
        try:
            fd = open_file(f"{path}.{number}")
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
    text = read(fd, 0, os.fstat(fd).st_size)
    rows = text[: text.rfind(b"\n") + 1].split(b"\n")
    return [line for row in rows if (line := Line.parse(row)) is not None]
