"""Which names in a directory have changed: inotify, where there is such a thing (Linux).

The kernel tells of each change made on this computer: names that are made, renamed, removed, written
in place, or given other permissions. It does not tell of what is written through a second name of a
file in another directory, nor through a memory map.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# <sys/inotify.h>; the same on all architectures.
_MODIFY, _ATTRIB = 0x2, 0x4
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_ONLYDIR = 0x0100_0000
_MASK = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLYDIR
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000

# struct inotify_event: int wd; uint32_t mask, cookie, len; then the name.
_HEADER = 16
_SIZE = 65536


class DirectoryWatch:
    """Collects the names that change in a directory from now on; OSError where that cannot be had.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._is_over = False
        status = os.stat(path)
        self._directory = status.st_dev, status.st_ino
        self._path = path
        start, add = _functions()
        self._fd = start(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or add(self._fd, os.fsencode(path), _MASK) < 0:
            self.close()
            raise OSError("the directory cannot be watched")
        if not self._is_there():
            self.close()
            raise OSError("the directory was replaced just now")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def __del__(self) -> None:
        self.close()

    def changes(self) -> set[bytes] | None:
        """Return the names that have changed since the last call, None if they are not known."""
        names: set[bytes] = set()
        if not self._is_there():
            self._is_over = True
        while not self._is_over:
            try:
                events = os.read(self._fd, _SIZE)
            except BlockingIOError:
                return names
            except BaseException:
                # Some may have been read that now nobody knows of.
                self._is_over = True
                raise
            start = 0
            while start < len(events):
                mask = int.from_bytes(events[start + 4 : start + 8], sys.byteorder)
                length = int.from_bytes(events[start + 12 : start + 16], sys.byteorder)
                end = start + _HEADER + length
                if mask & (_UNMOUNT | _OVERFLOW | _IGNORED):
                    self._is_over = True
                names.add(events[start + _HEADER : end].rstrip(b"\0"))
                start = end
        return None

    def _is_there(self) -> bool:
        """Whether the path still names the directory that is watched."""
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._directory

    def close(self) -> None:
        """Watch no longer. In the child of a fork that does not end the watch of the parent."""
        fd, self._fd = self._fd, -1
        self._is_over = True
        if fd >= 0:
            os.close(fd)


def _functions() -> tuple[Callable[[int], int], Callable[[int, bytes, int], int]]:
    if not sys.platform.startswith("linux"):
        raise OSError("there is no inotify")
    try:
        from ctypes import CDLL, c_char_p, c_int, c_uint32

        library = CDLL(None)
        start, add = library.inotify_init1, library.inotify_add_watch
    except (ImportError, AttributeError) as error:
        raise OSError("there is no inotify") from error
    start.argtypes, add.argtypes = [c_int], [c_int, c_char_p, c_uint32]
    return start, add
