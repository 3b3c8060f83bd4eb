"""Files by system calls: read whole, write whole, remove, sync; and which errors only mean that there is none."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# O_NONBLOCK: opening a FIFO that somebody has put there must not wait for a writer.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC

# Most metadata are smaller, and a buffer of this size costs nothing to make.
_READ_SIZE = 4096


def only_missing(error: OSError) -> None:
    """Raise the error if it is another one than that there is no file of ours."""
    # ELOOP, ENOTDIR and ENXIO mean that what is there is something else.
    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        raise error


def read_file(path: str) -> bytes | None:
    """Return what is in a file, None if there is no file, whatever else there is."""
    try:
        fd = os.open(path, READ)
    except OSError as error:
        only_missing(error)
        return None
    try:
        text = os.read(fd, _READ_SIZE)
        if len(text) < _READ_SIZE:
            return text
        pieces = [text]
        while piece := os.read(fd, 16 * _READ_SIZE):
            pieces.append(piece)
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
    """Write a file anew."""
    fd = os.open(path, WRITE | os.O_TRUNC, 0o666)
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
