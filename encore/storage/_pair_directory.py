"""Pairs of files, ``<name>.data`` and ``<name>.metadata``, that change together.

How a pair is replaced
----------------------
1. The new data are written to a temporary file in ``.FStmp``, outside all locks, and given a time of modification
   that no other data of this name had: their *stamp*.
2. Under the writer lock the new metadata are written to ``.FStmp/p-<name>``, the pending file. Metadata files end
   in a trailer of white space, which JSON permits, that holds the stamp of the data they belong to
   (and the times of creation and modification, which no file system keeps for us).
3. The data are renamed to ``<name>.data``. This is the moment at which the pair changes, for readers and for crashes:
4. the pending file is renamed to ``<name>.metadata``. A reader that comes in between, or after a crash in between, finds
   data and metadata whose stamps differ, looks for a pending file that has the stamp of the data,
   and takes that. The next writer finishes what was begun.

A reader opens data, then metadata. Equal stamps prove that they belong together, without any lock.
Where stamps differ and nothing is pending, another program has put the files there: they are taken
as they are once neither has changed meanwhile. A pair of which one half is missing does not exist.

A change of the metadata alone is one rename. A pair is deleted by renaming its metadata to
``.FStmp/g-<name>``, then removing the data, then that file.

How many pairs are replaced
---------------------------
All new files are written to ``.FStmp``; then a list of what is to be renamed and removed is
written there and renamed to ``.FSjournal``: the moment of the commit. Then the list is carried
out, and removed. Readers look for the journal first, and where there is one they see what it says;
a writer that finds one carries it out.

With `durable`, each step is on the disk before the next one that relies on it: the new files and
the names they have in ``.FStmp`` before step 3, the directory before the method returns.

Temporary files bear the name of a session, whose lock file is locked (flock) while the session
lives, so that those of dead writers can be told and swept.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from ._metadata import dumps, loads
from .errors import StoreError
from .file_value import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DATA, METADATA = ".data", ".metadata"
FOLDER, JOURNAL = ".FStmp", ".FSjournal"

_STAMPS = 3
_TRAILER = 64 * _STAMPS
_TO_BLANK = {ord("0"): " ", ord("1"): "\t"}
_FROM_BLANK = bytes.maketrans(b" \t", b"01")
_READ_SIZE = 1 << 16

# After so many turns a journal is not being carried out but was left.
_LEFT = 100

# O_NONBLOCK: opening a FIFO that somebody has put there must not wait for a writer.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class Stamps(NamedTuple):
    """What the trailer of a metadata file says."""

    created: int  # microseconds since the Unix epoch
    modified: int  # microseconds
    data: int  # nanoseconds: the mtime of the data


class Pair(NamedTuple):
    """A pair as it was found."""

    metadata: dict[str, Any] | None  # None if damaged
    created: float
    modified: float
    size: int
    stamp: int
    status: os.stat_result


class Staged:
    """New data in a temporary file."""

    __slots__ = ("path", "size", "stamp", "taken")

    def __init__(self, path: str, size: int, stamp: int) -> None:
        self.path: str | None = path
        self.size = size
        self.stamp = stamp
        #: Whether a unit of work has taken it over.
        self.taken = False

    def remove(self) -> None:
        if self.path is not None:
            _unlink(self.path)
            self.path = None


class Replacement(NamedTuple):
    """What a pair is to become."""

    name: str
    #: None: the data stay.
    staged: Staged | None
    metadata: dict[str, Any]
    stamps: Stamps


class PairDirectory:
    """The pairs in one directory.

    Writing methods need the writer lock, which is the caller's business, except stage().

    Parameters
    ----------
    root : str
        An absolute path.
    durable : bool
        Whether changes survive power loss.
    """

    def __init__(self, root: str, durable: bool) -> None:
        self.root = root
        self.durable = durable
        self.folder = os.path.join(root, FOLDER)
        self._journal = os.path.join(root, JOURNAL)
        self._session: str | None = None
        self._alive: int | None = None
        self._numbers = count()

    # Reading

    def look(self, name: str) -> Pair | None:
        """Return a pair, None if there is none."""
        return self._find(name, False)[0]

    def open(self, name: str) -> tuple[Pair, OpenFile] | None:
        """Return a pair and its open data, None if there is none."""
        pair, file = self._find(name, True)
        if pair is None:
            return None
        assert file is not None
        return pair, file

    def holds(self, name: str) -> bool:
        """Whether there is a pair."""
        if not os.path.lexists(self._journal):
            try:
                if stat.S_ISREG(os.stat(self._path(name, DATA)).st_mode) and stat.S_ISREG(
                    os.stat(self._path(name, METADATA)).st_mode
                ):
                    return True
            except OSError as error:
                _only_missing(error)
        return self.look(name) is not None

    def _path(self, name: str, suffix: str) -> str:
        return f"{self.root}/{name}{suffix}"

    def _pending(self, name: str) -> str:
        return f"{self.folder}/p-{name}"

    def _find(self, name: str, keep: bool) -> tuple[Pair | None, OpenFile | None]:
        # Every turn that does not come to an end was overtaken by a writer that got something done.
        for turn in range(1000):
            entry = self.read_journal().get(name)
            if entry is not None and entry[2]:
                return None, None
            data_path = self._path(name, DATA)
            file = _open(f"{self.folder}/{entry[0]}") if entry and entry[0] else None
            file = file or _open(data_path)
            if file is None:
                return None, None
            status = os.fstat(file.fd)
            text = _read(f"{self.folder}/{entry[1]}") if entry and entry[1] else None
            if text is None:
                text = _read(self._path(name, METADATA))
            if text is not None:
                stamps = _stamps(text)
                if stamps is not None and stamps.data == status.st_mtime_ns:
                    return _pair(text, stamps, status), file if keep else None
            pending = _read(self._pending(name))
            if pending is not None:
                stamps = _stamps(pending)
                if stamps is not None and stamps.data == status.st_mtime_ns:
                    return _pair(pending, stamps, status), file if keep else None
            # Not ours, or overtaken: both halves must still be what they were, and nothing be
            # carried out; or a journal has been left that somebody meddled with.
            again = _read(self._path(name, METADATA))
            if (
                again == text
                and _same(data_path, status)
                and (turn > _LEFT or not self.has_journal())
            ):
                if text is None:
                    return None, None
                return self._foreign(name, text, status), file if keep else None
        raise StoreError(f"{self._path(name, DATA)!r} changes faster than it can be read")

    def _foreign(self, name: str, text: bytes, status: os.stat_result) -> Pair:
        try:
            written = os.stat(self._path(name, METADATA)).st_mtime
        except FileNotFoundError:
            written = status.st_mtime
        stamps = _stamps(text)
        # Whole microseconds, as in the trailer that the pair will have when it is written.
        created = (
            round(min(status.st_mtime, written) * 1e6) / 1e6
            if stamps is None
            else stamps.created / 1e6
        )
        modified = round(max(status.st_mtime, written) * 1e6) / 1e6
        return Pair(_parse(text), created, modified, status.st_size, status.st_mtime_ns, status)

    def names(self) -> Iterator[str]:
        """Return the names of all pairs there are now."""
        journal = self.read_journal()
        found: dict[str, set[str]] = {DATA: set(), METADATA: set()}
        for file in os.listdir(self.root):
            name, _, suffix = file.rpartition(".")
            if name and f".{suffix}" in found and not file.startswith(".FS"):
                found[f".{suffix}"].add(name)
        both = found[DATA] & found[METADATA]
        # Data without metadata may be in the middle of step 4.
        both.update(
            name
            for name in found[DATA] - both
            if os.path.lexists(self._pending(name)) and self.look(name)
        )
        both.update(name for name, entry in journal.items() if not entry[2])
        both.difference_update(name for name, entry in journal.items() if entry[2])
        return iter(both)

    def read_journal(self) -> dict[str, tuple[str | None, str | None, bool]]:
        """Return what is being carried out: name -> temporary data, temporary metadata, whether it is deleted."""
        text = _read(self._journal)
        if text is None:
            return {}
        import json

        return {name: (data, metadata, gone) for name, data, metadata, gone in json.loads(text)}

    # Writing

    def start(self) -> None:
        """Make a session for temporary files, if there is none."""
        if self._session is not None:
            return
        import fcntl

        try:
            os.mkdir(self.folder)
            self._sync(self.root)
        except FileExistsError:
            pass
        while True:
            session = os.urandom(6).hex()
            path = f"{self.folder}/{session}.alive"
            fd = os.open(path, _WRITE | os.O_EXCL, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Somebody who sweeps may have taken it for dead before it was locked.
            if os.path.lexists(path):
                break
            os.close(fd)
        self._session, self._alive = session, fd

    def close(self) -> None:
        """End the session."""
        if self._alive is not None:
            _unlink(f"{self.folder}/{self._session}.alive")
        self.forget()

    def forget(self) -> None:
        """Drop the session without ending it: in the child of a fork it is the parent's."""
        if self._alive is not None:
            os.close(self._alive)
        self._session = self._alive = None

    def stage(self, chunks: Iterable[bytes]) -> Staged:
        """Write new data to a temporary file."""
        self.start()
        path = f"{self.folder}/{self._session}-{next(self._numbers)}"
        fd = os.open(path, _WRITE | os.O_EXCL, 0o666)
        try:
            size = 0
            for chunk in chunks:
                _write_all(fd, chunk)
                size += len(chunk)
            stamp = time.time_ns()
            os.utime(fd, ns=(stamp, stamp))
            if self.durable:
                os.fsync(fd)
            # File systems keep times more or less finely; what counts is what they say.
            return Staged(path, size, os.fstat(fd).st_mtime_ns)
        except BaseException:
            _unlink(path)
            raise
        finally:
            os.close(fd)

    def replace(self, new: Replacement) -> None:
        """Replace one pair, or only its metadata."""
        pending = self._pending(new.name)
        staged = new.staged
        temporary = None if staged is None else staged.path
        if os.path.lexists(pending):
            self.finish(new.name)
        try:
            self._write_file(pending, dumps(new.metadata), new.stamps)
            if temporary is not None:
                if self.durable:
                    self._sync(self.folder)
                os.rename(temporary, self._path(new.name, DATA))
        except BaseException:
            # An interrupt may come right after the rename, when the pending file is all that holds
            # the metadata.
            if temporary is None or os.path.lexists(temporary):
                _unlink(pending)
            raise
        if staged is not None:
            staged.path = None
        try:
            os.rename(pending, self._path(new.name, METADATA))
        except OSError:
            if staged is None:
                _unlink(pending)
                raise
            # The pair has changed already, and readers see it.
        self._sync(self.root)

    def remove(self, name: str) -> None:
        """Delete a pair."""
        if os.path.lexists(self._pending(name)):
            self.finish(name)
        gone = f"{self.folder}/g-{name}"
        os.rename(self._path(name, METADATA), gone)
        _unlink(self._path(name, DATA), gone)
        self._sync(self.root)

    def commit(self, replacements: Iterable[Replacement], removals: Iterable[str]) -> None:
        """Replace and delete many pairs at once."""
        import json

        replacements, removals = list(replacements), list(removals)
        for name in [*(new.name for new in replacements), *removals]:
            if os.path.lexists(self._pending(name)):
                self.finish(name)
        entries: list[tuple[str, str | None, str | None, bool]] = []
        made = []
        try:
            for new in replacements:
                path = f"{self.folder}/{self._session}-{next(self._numbers)}"
                made.append(path)
                self._write_file(path, dumps(new.metadata), new.stamps)
                data = None if new.staged is None else os.path.basename(str(new.staged.path))
                entries.append((new.name, data, os.path.basename(path), False))
            entries.extend((name, None, None, True) for name in removals)
            path = f"{self.folder}/{self._session}-{next(self._numbers)}"
            made.append(path)
            self._write_file(path, json.dumps(entries), None)
            if self.durable:
                self._sync(self.folder)
            os.rename(path, self._journal)
        except BaseException:
            # An interrupt may come right after the rename, when the journal relies on these files.
            if not self.has_journal():
                _unlink(*made)
            raise
        for new in replacements:
            if new.staged is not None:
                new.staged.path = None
        try:
            self._sync(self.root)
            self._carry_out(entries)
        except OSError:
            # Committed: readers see what the journal says, and the next writer carries it out.
            return

    def _carry_out(self, entries: Iterable[tuple[str, str | None, str | None, bool]]) -> None:
        for name, data, metadata, gone in entries:
            if gone:
                _unlink(self._path(name, METADATA), self._path(name, DATA))
            # What is not there any more was renamed before a crash.
            if data is not None:
                _rename(f"{self.folder}/{data}", self._path(name, DATA))
            if metadata is not None:
                _rename(f"{self.folder}/{metadata}", self._path(name, METADATA))
        self._sync(self.root)
        os.unlink(self._journal)

    def finish(self, name: str) -> None:
        """Do step 4 of a pair whose writer could not."""
        data, pending = self._path(name, DATA), self._pending(name)
        try:
            stamp = os.stat(data).st_mtime_ns
        except FileNotFoundError:
            stamp = None
        belongs, done = (
            stamps is not None and stamps.data == stamp
            for stamps in (
                _stamps(_read(path) or b"") for path in (pending, self._path(name, METADATA))
            )
        )
        if belongs and not done:
            os.rename(pending, self._path(name, METADATA))
            self._sync(self.root)
        else:
            _unlink(pending)

    def has_journal(self) -> bool:
        """Whether a commit was not carried out to its end."""
        return os.path.lexists(self._journal)

    def recover(self) -> None:
        """Carry out a journal that was left."""
        entries = [(name, *entry) for name, entry in self.read_journal().items()]
        if entries or self.has_journal():
            self._carry_out(entries)

    def sweep(self) -> None:
        """Finish what dead writers began, and remove their temporary files."""
        import fcntl

        self.recover()
        alive: set[str] = set()
        files = os.listdir(self.folder)
        for file in files:
            if file.startswith("p-"):
                self.finish(file[2:])
            elif file.startswith("g-"):
                if not os.path.lexists(self._path(file[2:], METADATA)):
                    _unlink(self._path(file[2:], DATA))
                _unlink(f"{self.folder}/{file}")
            elif file.endswith(".alive"):
                session = file[: -len(".alive")]
                if session == self._session:
                    alive.add(session)
                    continue
                try:
                    fd = os.open(f"{self.folder}/{file}", os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _unlink(f"{self.folder}/{file}")
                except OSError:
                    alive.add(session)
                finally:
                    os.close(fd)
        for file in files:
            session, _, number = file.rpartition("-")
            # A session makes its lock file first: what has a number and no lock file is left from
            # one that ended.
            if (
                number.isdecimal()
                and session not in alive
                and not os.path.lexists(f"{self.folder}/{session}.alive")
            ):
                _unlink(f"{self.folder}/{file}")

    def _write_file(self, path: str, text: str, stamps: Stamps | None) -> None:
        fd = os.open(path, _WRITE | os.O_TRUNC, 0o666)
        try:
            _write_all(fd, text.encode() + (b"" if stamps is None else _trailer(stamps)))
            if self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def write_new(self, name: str, content: bytes) -> None:
        """Write a small file that never changes, and is there whole or not at all."""
        self.start()
        path = f"{self.folder}/{self._session}-{next(self._numbers)}"
        try:
            self._write_file(path, content.decode(), None)
            os.rename(path, f"{self.root}/{name}")
        except BaseException:
            _unlink(path)
            raise

    def _sync(self, path: str) -> None:
        if self.durable:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _trailer(stamps: Stamps) -> bytes:
    bits = "".join(format(stamp & (1 << 64) - 1, "064b") for stamp in stamps)
    return b"\n" + bits.translate(_TO_BLANK).encode()


def _stamps(text: bytes) -> Stamps | None:
    tail = text[-_TRAILER - 1 :]
    if len(tail) != _TRAILER + 1 or tail[:1] != b"\n" or tail.strip(b" \t\n"):
        return None
    bits = int(tail[1:].translate(_FROM_BLANK), 2)
    return Stamps(*(bits >> shift & (1 << 64) - 1 for shift in (128, 64, 0)))


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        return loads(text)
    except ValueError:
        return None


def _pair(text: bytes, stamps: Stamps, status: os.stat_result) -> Pair:
    return Pair(
        _parse(text),
        stamps.created / 1e6,
        stamps.modified / 1e6,
        status.st_size,
        stamps.data,
        status,
    )


def _only_missing(error: OSError) -> None:
    # ELOOP, ENOTDIR and the rest mean that what is there is no file of ours.
    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        raise error


def _open(path: str) -> OpenFile | None:
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        _only_missing(error)
        return None
    status = os.fstat(fd)
    file = OpenFile(fd, status.st_size)
    return file if stat.S_ISREG(status.st_mode) else None


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        _only_missing(error)
        return None
    try:
        text = os.read(fd, _READ_SIZE)
        if len(text) < _READ_SIZE:
            return text
        pieces = [text]
        while piece := os.read(fd, _READ_SIZE):
            pieces.append(piece)
        return b"".join(pieces)
    except IsADirectoryError:
        return None
    finally:
        os.close(fd)


def _same(path: str, status: os.stat_result) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_mtime_ns, now.st_size) == (
        status.st_ino,
        status.st_mtime_ns,
        status.st_size,
    )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        pass


def _unlink(*paths: str) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            pass
