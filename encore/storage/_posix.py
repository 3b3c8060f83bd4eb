"""Files by system calls: read whole, write whole, remove, sync; and which errors only mean that there is none."""

from __future__ import annotations

import errno
import os
from stat import S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# O_NONBLOCK: opening a FIFO that somebody has put there must not wait for a writer.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC

# Most metadata are smaller, and a buffer of this size costs nothing to make.
_READ_SIZE = 4096

# No more than this is read at once: no metadata that we write are larger.
LARGEST = 64 << 20


def only_missing(error: OSError) -> None:
    """Raise the error if it is another one than that there is no file of ours."""
    # ELOOP, ENOTDIR and ENXIO mean that what is there is something else.
    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        raise error


def read_file(path: str, largest: int = LARGEST) -> bytes | None:
    """Return what is in a file, None if there is no file, whatever else there is.

    Of a larger one nothing is returned, as if it were empty.
    """
    try:
        fd = os.open(path, READ)
    except OSError as error:
        only_missing(error)
        return None
    try:
        text = os.read(fd, _READ_SIZE)
        if len(text) < _READ_SIZE:
            return text
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            # A device may have no end.
            return None
        if status.st_size > largest:
            return b""
        pieces, rest = [text], largest - len(text)
        while piece := os.read(fd, 16 * _READ_SIZE):
            pieces.append(piece)
            rest -= len(piece)
            if rest < 0:
                return b""
        return b"".join(pieces)
    except (IsADirectoryError, BlockingIOError):
        # A FIFO that somebody writes to would block.
        return None
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however little the system takes at once."""
    done = os.write(fd, data)
    if done < len(data):
        view = memoryview(data)[done:]
        while view:
            view = view[os.write(fd, view) :]


def write_file(path: str, data: bytes, durable: bool) -> None:
    """Write a file anew; what is there under its name is removed."""
    try:
        fd = os.open(path, WRITE | os.O_EXCL, 0o666)
    except FileExistsError:
        # Not what a link leads to.
        os.unlink(path)
        fd = os.open(path, WRITE | os.O_EXCL, 0o666)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Put the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_if_there(source: str, target: str) -> None:
    """Rename a file, if it was not renamed before."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        pass


def unlink(*paths: str) -> None:
    """Remove files, as far as that can be done."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            pass


def unlink_all(paths: Iterable[str]) -> None:
    """Remove files, those that are there; OSError if one cannot be removed."""
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
