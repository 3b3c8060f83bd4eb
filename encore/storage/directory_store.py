"""A directory tree as it is, read-only."""

from __future__ import annotations

import errno
import os
import stat
import sys

from ._keys import MAX_KEY_BYTES
from ._metadata import copy_of, digest, matches
from ._streams import source_stream
from .base_store import BaseReadOnlyStore, Head, no_positional_manager
from .errors import StoreError, StoreOSError, from_os_error, os_errors
from .file_value import OpenFile
from .string_value import StringValue
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager

    Metadata = dict[str, Any]

__all__ = ["DirectoryStore", "LeftOut"]

# Files of up to this size are read by get() itself. The same as what a stream reads ahead, so that
# bigger ones gain nothing from it.
_SMALL = 65536

# A file that is written to all the time is read so many times before get() gives up.
_ATTEMPTS = 5

# No waiting for the other end of a FIFO that took the file's place, and no link followed.
_FLAGS = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _name, 0)

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

# What mimetypes gives for the content, without saying so in the type.
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_UNKNOWN = "application/octet-stream"


class LeftOut(tuple[str, str, StoreOSError | None]):
    """What is in a directory tree and yet no key, and why.

    Attributes
    ----------
    path : str
        Below the directory, with a slash at the end for a directory, of which then nothing is
        there. Bytes that are no UTF-8 are lone surrogates, as in ``os.fsdecode()``.
    reason : str
        For people.
    error : StoreOSError or None
        What the system said, where something could not be read.
    """

    # A NamedTuple written out: typing is slow to import.
    __slots__ = ()

    def __new__(cls, path: str, reason: str, error: StoreOSError | None = None) -> LeftOut:
        return super().__new__(cls, (path, reason, error))

    def __getnewargs__(self) -> tuple[str, str, StoreOSError | None]:
        return self.path, self.reason, self.error

    def __repr__(self) -> str:
        return f"LeftOut(path={self.path!r}, reason={self.reason!r}, error={self.error!r})"

    @property
    def path(self) -> str:
        return self[0]

    @property
    def reason(self) -> str:
        return self[1]

    @property
    def error(self) -> StoreOSError | None:
        return self[2]


class DirectoryStore(BaseReadOnlyStore):
    """A read-only view of a directory tree.

    Every regular file is a value, hidden ones too. Its key is the path below the directory with
    ``/`` between the parts; its metadata are 'name', 'size' in bytes, 'mtime' in seconds since the
    Unix epoch, and 'type', a MIME type guessed from the name, 'application/octet-stream' if that
    says nothing.

    A key is there if all its directories are real ones and its last part is a regular file, or a
    symbolic link to a regular file in the tree. Other links, devices, pipes and sockets are not
    there, nor is any second spelling of a path (``a//b``, ``./a``). Left out are names that are no
    UTF-8 and keys of more than 1024 bytes. What lies in directories that cannot be read is not
    listed. `left_out()` tells of all these.

    Parameters
    ----------
    path : str or PathLike
        A directory when connect() is called. Where a relative path leads is decided at once.
    event_manager : BaseEventManager, optional

    Attributes
    ----------
    path : str
        The absolute path.

    Notes
    -----
    Other programs change files in place, so a value cannot keep showing what was there. Files of up
    to 64 KiB are read by get(). Larger ones are opened anew by each stream, which raises StoreError
    if number (inode), size or modification time of the file are no longer those that get() saw.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, event_manager: BaseEventManager | None = None
    ) -> None:
        no_positional_manager(path)
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"path is a str or a PathLike of str, not {name!r}")
        if not name or "\0" in name:
            raise ValueError(f"no path of a directory: {name!r}")
        super().__init__(event_manager=event_manager)
        self.path = os.path.abspath(name)

    def __repr__(self) -> str:
        return f"DirectoryStore({self.path!r})"

    def info(self) -> dict[str, Any]:
        return {**super().info(), "streaming": True, "durable": "process"}

    def _open(self, credentials: Any) -> None:
        with os_errors(), os.scandir(self.path):
            pass

    # One key

    def _find(self, key: str) -> tuple[str, os.stat_result] | None:
        """Return path and status of the regular file that a key names, None if there is none."""
        parts = key.split("/")
        if "\0" in key or not {"", ".", ".."}.isdisjoint(parts):
            return None
        path = self.path
        try:
            for part in parts[:-1]:
                path = _entry(path, part)
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    return None
            path = _entry(path, parts[-1])
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = os.path.realpath(path)
                root = os.path.join(os.path.realpath(self.path), "")
                if not path.startswith(root):
                    return None
                status = os.lstat(path)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise from_os_error(error, key) from error
        return (path, status) if stat.S_ISREG(status.st_mode) else None

    def _read(self, key: str) -> Value:
        for _ in range(_ATTEMPTS):
            found = self._find(key)
            if found is None:
                raise KeyError(key)
            path, seen = found
            try:
                file = _SteadyFile(os.open(path, _FLAGS), key, seen)
                if seen.st_size > _SMALL:
                    return _LargeFile(key, path, seen)
                return _SmallFile(key, file.pread(seen.st_size, 0), seen)
            except _ChangedError:
                continue
            except OSError as error:
                if error.errno in _NOT_THERE:
                    # Gone, or a link by now: look again.
                    continue
                raise from_os_error(error, key) from error
        raise StoreError(f"{key!r} in {self!r} changes too fast to be read", key=key)

    def _head(self, key: str) -> Head | None:
        found = self._find(key)
        if found is None:
            return None
        status = found[1]
        return Head(_metadata(key, status), _created(status), status.st_mtime, status.st_size)

    # All keys

    def left_out(self) -> Iterator[LeftOut]:
        """Walk over the tree and tell what is there and yet no key.

        Returns
        -------
        iterator of LeftOut
            Directories that cannot be read; names that are no UTF-8; keys that would be too long;
            devices, pipes and sockets; symbolic links that do not lead to a regular file in the
            tree.

        Raises
        ------
        StoreError
            If the store is not connected, or the directory itself cannot be read.
        """
        self._check_connected()
        return self._leave_out()

    def _leave_out(self) -> Iterator[LeftOut]:
        left: list[LeftOut] = []
        for key, entry in self._walk(left=left):
            if entry.is_symlink():
                self._note_link(key, left)
            yield from left
            left.clear()
        yield from left

    def _note_link(self, key: str, left: list[LeftOut]) -> None:
        try:
            if self._find(key) is not None:
                return
            target = os.path.realpath(os.path.join(self.path, _path(key)))
            root = os.path.join(os.path.realpath(self.path), "")
            if not os.path.join(target, "").startswith(root):
                left.append(LeftOut(key, "a link that leads out of the tree"))
            elif not os.path.exists(target):
                left.append(LeftOut(key, "a link that leads nowhere"))
            else:
                left.append(LeftOut(key, "a link to what is no regular file"))
        except StoreOSError as error:
            left.append(_unreadable(key, error))

    def _walk(
        self,
        prefix: str = "",
        start_after: str | None = None,
        left: list[LeftOut] | None = None,
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Walk over keys in code point order, reading a directory when it is its turn.

        What is no key is added to `left`.
        """
        # The next one is the last; directories end in a slash, which is also what puts their keys
        # in order.
        pending = self._entries("", prefix, start_after, left)
        while pending:
            key, entry = pending.pop()
            if key.endswith("/"):
                pending += self._entries(key, prefix, start_after, left)
            else:
                yield key, entry

    def _entries(
        self, folder: str, prefix: str, start_after: str | None, left: list[LeftOut] | None
    ) -> list[tuple[str, os.DirEntry[str]]]:
        path = os.path.join(self.path, _path(folder), "")
        try:
            # Names may be listed to one who may not reach what they name: then they are not there.
            os.stat(path + ".")
            with os.scandir(path) as entries:
                listed = [(_key(folder, entry), entry) for entry in entries]
        except OSError as error:
            # A part that cannot be read, or is gone by now, hides nothing else.
            if not folder:
                raise from_os_error(error) from error
            if left is not None and error.errno not in _NOT_THERE:
                left.append(_unreadable(folder, from_os_error(error)))
            return []
        found = []
        for key, entry in listed:
            if key is None:
                if left is not None:
                    left += _why_no_key(folder, entry)
                continue
            inside = key.endswith("/")
            # What is in a directory may begin with the prefix, or come behind, though it does not.
            wanted = key.startswith(prefix) or (inside and prefix.startswith(key))
            if wanted and start_after is not None:
                wanted = key > start_after or (inside and start_after.startswith(key))
            if wanted:
                found.append((key, entry))
        return sorted(found, key=lambda item: item[0], reverse=True)

    def _files(self, prefix: str = "", start_after: str | None = None) -> Iterator[str]:
        for key, entry in self._walk(prefix, start_after):
            if not entry.is_symlink() or self._find_quietly(key):
                yield key

    def _find_quietly(self, key: str) -> tuple[str, os.stat_result] | None:
        try:
            return self._find(key)
        except StoreError:
            return None

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        for key, entry in self._walk():
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                found = self._find_quietly(key)
                if found is None:
                    continue
                status = found[1]
            metadata = _metadata(key, status)
            if matches(metadata, criteria):
                yield key, metadata

    def _list(self, prefix: str = "") -> Iterable[str]:
        return self._files(prefix)

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        from itertools import islice

        return islice(self._files(prefix, start_after), limit)


def _path(key: str) -> str:
    # File names are bytes; a key is the UTF-8 in them, whatever the locale says.
    return os.fsdecode(key.encode())


def _entry(folder: str, part: str) -> str:
    """Return the path of `part` in a directory; FileNotFoundError if no such name is listed."""
    name = _path(part)
    if not _EXACT and name not in os.listdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return os.path.join(folder, name)


# Elsewhere names that differ in case, form or trailing dots may be one file, and then only the
# listed name counts.
_EXACT = os.name == "posix" and sys.platform != "darwin"


def _key(folder: str, entry: os.DirEntry[str]) -> str | None:
    """Return the key of a file or link, with a slash that of a directory, None for all else."""
    try:
        name = os.fsencode(entry.name).decode()
    except UnicodeDecodeError:
        return None
    try:
        if entry.is_dir(follow_symlinks=False):
            name += "/"
        elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
            return None
    except OSError:
        # Some file systems list names only, and the name may be gone by now.
        return None
    key = folder + name
    return key if len(key.encode()) <= MAX_KEY_BYTES else None


def _why_no_key(folder: str, entry: os.DirEntry[str]) -> list[LeftOut]:
    """Say why _key() gives none; of what is gone by now there is nothing to say."""
    name = os.fsencode(entry.name).decode(errors="surrogateescape")
    path = folder + name
    try:
        if entry.is_dir(follow_symlinks=False):
            path += "/"
        elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
            return [LeftOut(path, "neither a file nor a directory nor a link")]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [_unreadable(path, from_os_error(error))]
    try:
        name.encode()
    except UnicodeEncodeError:
        return [LeftOut(path, "the name is no UTF-8")]
    return [LeftOut(path, f"a key has at most {MAX_KEY_BYTES} bytes")]


def _unreadable(path: str, error: StoreOSError) -> LeftOut:
    return LeftOut(path, f"cannot be read: {error.strerror or error}", error)


_types: Any = None


def _type(name: str) -> str:
    global _types  # noqa: PLW0603 - made on first use: mimetypes is slow to import
    if _types is None:
        import mimetypes

        # Of the machine's own files: none, so that a tree looks the same everywhere.
        _types = mimetypes.MimeTypes()
    # What looks like the scheme of a URL would be taken for one.
    kind, encoding = _types.guess_type("./" + name)
    if encoding:
        return _COMPRESSED.get(encoding, _UNKNOWN)
    return kind or _UNKNOWN


def _metadata(key: str, status: os.stat_result) -> Metadata:
    name = key.rpartition("/")[2]
    return {"name": name, "size": status.st_size, "mtime": status.st_mtime, "type": _type(name)}


def _created(status: os.stat_result) -> float:
    # As FileValue: where no birth time is kept, the change time.
    return getattr(status, "st_birthtime", status.st_ctime)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_mtime_ns, status.st_size)


class _ChangedError(StoreError):
    """A file is not what it was."""


class _SteadyFile(OpenFile):
    """An open file that must stay what it was: a `Source`."""

    def __init__(self, fd: int, key: str, seen: os.stat_result) -> None:
        super().__init__(fd, seen.st_size)
        self.key = key
        self.seen = _identity(seen)
        self.check()

    def check(self) -> None:
        if _identity(os.fstat(self.fd)) != self.seen:
            raise _ChangedError(f"{self.key!r} has changed since it was looked up", key=self.key)

    def pread(self, size: int, position: int, /) -> bytes:
        with os_errors(self.key):
            data = super().pread(size, position)
        self.check()
        if size and not data:
            raise _ChangedError(f"{self.key!r} is shorter than it says", key=self.key)
        return data


class _SmallFile(StringValue):
    def __init__(self, key: str, data: bytes, status: os.stat_result) -> None:
        super().__init__(data, None, _created(status), status.st_mtime)
        self._metadata = _metadata(key, status)
        self._etag = digest(*_identity(status), self._metadata)

    @property
    def etag(self) -> str:  # type: ignore[override]
        return self._etag


class _LargeFile(Value):
    def __init__(self, key: str, path: str, status: os.stat_result) -> None:
        self._key = key
        self._path = path
        self._seen = status
        self._metadata = _metadata(key, status)
        self.size = status.st_size
        self.created = _created(status)
        self.modified = status.st_mtime
        self.etag = digest(*_identity(status), self._metadata)

    @property
    def metadata(self) -> Metadata:
        return copy_of(self._metadata)

    @property
    def data(self) -> BinaryIO:
        return self.range()

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        try:
            file = _SteadyFile(os.open(self._path, _FLAGS), self._key, self._seen)
        except OSError as error:
            if error.errno in _NOT_THERE:
                message = f"{self._key!r} has gone since it was looked up"
                raise _ChangedError(message, key=self._key) from error
            raise from_os_error(error, self._key) from error
        return source_stream(file, start, end)
