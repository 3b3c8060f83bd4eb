"""The lines of a file of the log of changes, how it begins and how it ends; for what they mean see _change_log.py."""

from __future__ import annotations

import errno
import os
import stat
import time

from ._keys import check_key
from ._posix import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG = "__log__.txt"

_CHANGES = frozenset(["set", "update", "delete"])
_OLD = frozenset(["w", "u", "d"])
_SETTLED = frozenset(["commit", "abort", "rotate", *_OLD])

# More has no number that anybody has counted to.
_DIGITS = 18

# At the end of a line: it is none. The control character CANCEL is in no JSON.
CANCEL = "\x18"


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
        if len(parts) < 5 or not parts[0].isdigit() or len(parts[0]) > _DIGITS:
            return None
        try:
            number, action, rest = int(parts[0]), parts[1].decode(), parts[4].decode()
            when = f"{parts[2].decode()} {parts[3].decode()}"
            if action in _OLD:
                return None if rest.endswith(CANCEL) else cls(number, action, when, {"key": rest})
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
        _is_key(payload.get("key"))
        and isinstance(payload.get("metadata"), dict)
        and isinstance(payload.get("modified"), int | None)
    )


def _is_key(key: Any) -> bool:
    try:
        check_key(key)
    except (TypeError, ValueError):
        return False
    return True


class Tail:
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


def tail_of(fd: int) -> Tail:
    size = os.fstat(fd).st_size
    length = 512
    while True:
        start = max(0, size - length)
        text = read(fd, start, size)
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
            return Tail(number, size, start + max(stop, 0), end < len(text), open_lines)
        length *= 8


def open_file(path: str, flags: int = READ) -> int:
    fd = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def read(fd: int, start: int, end: int) -> bytes:
    pieces = []
    while start < end and (piece := os.pread(fd, end - start, start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


def header_of(fd: int) -> Line | None:
    text = os.pread(fd, 1 << 16, 0)
    line = Line.parse(text[: text.find(b"\n")])
    return line if line is not None and line.action == "rotate" else None


def kept_files(fd: int, path: str) -> list[int]:
    """Return the numbers of the rotated files."""
    header = header_of(fd)
    if header is not None:
        return list(header.payload.get("kept", ()))
    # EnCore 0.8 has one, with this number.
    return [1] if os.path.exists(f"{path}.1") else []


def stamp_of(seconds: float) -> str:
    """Return a time as the log has it: later ones are greater."""
    whole, fraction = divmod(round(seconds * 1e6), 10**6)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(whole))}.{fraction:06}"
