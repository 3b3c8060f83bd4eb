"""Who has a lock, as its files say. What they are is said in file_lock.py."""

from __future__ import annotations

import errno
import os
import stat

from ._owner import Owner, host_name, this_process
from ._posix import WRITE, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: Stands for a holder as long as that has the lock.
    Key = tuple[str, int]

RELEASING, BREAKING = "-", "~"

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# The file is not there, or not any more.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

_FULL = (errno.ENOSPC, errno.EDQUOT)

# Of a lock file of EnCore 0.8.
_LINES = 5


class Holder:
    """Somebody who has a lock, as seen by another one."""

    __slots__ = ("inode", "owner", "path", "shared", "sign", "state")

    def __init__(self, status: os.stat_result, shared: bool) -> None:
        self.inode = status.st_ino
        #: Changes with each sign of life.
        self.sign = status.st_mtime_ns
        self.shared = shared
        #: Who it is, None if that is not known.
        self.owner: Owner | None = None
        #: Its own file; None for an exclusive lock of EnCore 0.8.
        self.path: str | None = None
        #: '', RELEASING or BREAKING.
        self.state = ""

    @property
    def key(self) -> Key:
        # EnCore 0.8 gives no signs of life.
        return (self.path, 0) if self.path is not None else (str(self.inode), self.sign)


def holders_of(lock: str) -> list[Holder]:
    """Return the holders of the lock that is a file or a directory."""
    try:
        # open(), since on NFS stat() may tell what was there seconds ago.
        fd = os.open(lock, _READ)
    except OSError as error:
        if error.errno in GONE:
            return []
        status = status_of(lock)
        if status is None:
            return []
        # It is there, if only another user can read it.
        return [_holder(lock, status, b"")]
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return _members(lock)
        text = os.read(fd, 4096) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(fd)
    return [_holder(lock, status, text)]


def _holder(lock: str, status: os.stat_result, text: bytes) -> Holder:
    holder = Holder(status, False)
    lines = text.decode(errors="replace").replace("\r\n", "\n").split("\n")
    if len(lines) == _LINES and Owner.parse(lines[3]) is not None:
        # What stands in our own locks, if no uid was given, saves looking for the file.
        paths = [f"{lock}.{lines[3]}{state}" for state in ("", RELEASING, BREAKING)]
    else:
        paths = _paths(lock)
    for path in paths:
        if inode_of(path) == status.st_ino:
            holder.path = path
            holder.state = path[-1] if path[-1] in (RELEASING, BREAKING) else ""
            holder.owner = _owner_of(lock, path)
            return holder
    if len(lines) >= _LINES:
        # One of ours that is being released has its owner in it.
        holder.owner = Owner.parse(lines[3]) or _old_owner(*lines[:2])
    return holder


def _paths(lock: str) -> list[str]:
    """Return the files that belong to exclusive holders of this lock, in the past too."""
    folder, base = os.path.split(lock)
    with os.scandir(folder) as entries:
        paths = [entry.path for entry in entries if entry.name.startswith(f"{base}.")]
    return [path for path in paths if _owner_of(lock, path) is not None]


def _owner_of(lock: str, path: str) -> Owner | None:
    return Owner.parse(path[len(lock) + 1 :])


def _members(lock: str) -> list[Holder]:
    try:
        names = os.listdir(lock)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise
    holders = []
    for name in names:
        status = status_of(path := f"{lock}/{name}")
        # .nfs*: a file that was removed while another computer had it open.
        if status is not None and not name.startswith("."):
            holder = Holder(status, True)
            holder.path = path
            # EnCore 0.8 has <host>__<pid>__<user>__<uid>.lock
            holder.owner = Owner.parse(name) or _old_owner(*[*name.split("__"), ""][:2])
            holders.append(holder)
    return holders


def _old_owner(host: str, pid: str) -> Owner | None:
    """Return the owner that EnCore 0.8 wrote down; None if it is not of this computer."""
    if host != host_name() or not pid.isdecimal():
        return None
    return Owner(this_process().place, "0", int(pid), 0)


def status_of(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def inode_of(path: str) -> int | None:
    status = status_of(path)
    return None if status is None else status.st_ino


def unlink_file(path: str) -> bool:
    """Remove a file; return whether it was there."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    return True


def remove_if_empty(path: str) -> bool:
    """Remove a directory if it is one and empty; return whether it is gone."""
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def write_lock(path: str, content: bytes) -> None:
    """Write a file that must not be there."""
    fd = os.open(path, WRITE | os.O_EXCL, 0o666)
    try:
        write_all(fd, content)
    finally:
        os.close(fd)


def write_note(path: str, content: bytes) -> None:
    """As write_lock(), but on a full disk the file is empty: its name says all that must be known."""
    try:
        write_lock(path, content)
    except OSError as error:
        if error.errno not in _FULL:
            raise
