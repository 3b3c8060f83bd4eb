"""Pairs of files, ``<name>.data`` and ``<name>.metadata``, that change together.

How a pair is replaced
----------------------
1. The new data are written to a temporary file in ``.FStmp``, outside all locks, and given a time of modification
   later than that of the data they replace: their *stamp*.
2. Under the writer lock the new metadata are written to ``.FStmp/p-<name>``, the pending file. Metadata files end
   in a trailer of white space, which JSON permits, that holds the stamp of the data they belong to
   (and the times of creation and modification, which no file system keeps for us).
3. The data are renamed to ``<name>.data``. This is the moment at which the pair changes, for readers and for crashes:
4. the pending file is renamed to ``<name>.metadata``. A reader that comes in between, or after a crash in between,
   finds data and metadata whose stamps differ, looks for a pending file that has the stamp of the
   data, and takes that. The next writer finishes what was begun.

A reader opens data, then metadata. Equal stamps prove that they belong together, without any lock.
Where stamps differ and nothing is pending, another program has put the files there: they are taken
as they are once neither has changed meanwhile. A pair of which one half is missing does not exist.

A change of the metadata alone is one rename of a temporary file. A pair is deleted by renaming its
metadata to ``.FStmp/g-<name>``, then removing the data, then that file.

How many pairs are replaced
---------------------------
All new files are written to ``.FStmp``; then a list of what is to be renamed and removed is
written there and renamed to ``.FSjournal``: the moment of the commit. Then the list is carried
out, and removed. Readers look for the journal first, and where there is one they see what it says;
a writer that finds one carries it out.

With `durable`, each step is on the disk before the next one that relies on it: the new files and
the names they have in ``.FStmp`` before step 3, the directory before step 4 and before the method
returns. Step 4 itself may be lost, as it is done again.

Writers hold ``.FStmp/lock`` (flock), readers never. A writer that begins finishes what dead ones
have left.

Temporary files bear the name of a session, whose lock file is locked (flock) while the session
lives, so that those of dead writers can be told and swept.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from _thread import allocate_lock

from ._metadata import dumps, loads
from .errors import StoreError
from .file_value import OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

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


class Stamps:
    """What the trailer of a metadata file says."""

    __slots__ = ("created", "data", "modified")

    def __init__(self, created: int, modified: int, data: int) -> None:
        #: Microseconds since the Unix epoch.
        self.created = created
        self.modified = modified
        #: Nanoseconds: the mtime of the data.
        self.data = data

    def __iter__(self) -> Iterator[int]:
        return iter((self.created, self.modified, self.data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamps) and [*self] == [*other]

    def __hash__(self) -> int:
        return hash((*self,))


class Pair:
    """A pair as it was found."""

    __slots__ = ("created", "metadata", "modified", "size", "stamp", "status")

    def __init__(
        self,
        metadata: dict[str, Any] | None,
        created: float,
        modified: float,
        size: int,
        stamp: int,
        status: os.stat_result,
    ) -> None:
        #: None if damaged.
        self.metadata = metadata
        self.created = created
        self.modified = modified
        self.size = size
        self.stamp = stamp
        self.status = status


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
            unlink(self.path)
            self.path = None


class Replacement:
    """What a pair is to become."""

    __slots__ = ("metadata", "name", "staged", "stamps")

    def __init__(
        self, name: str, staged: Staged | None, metadata: dict[str, Any], stamps: Stamps
    ) -> None:
        self.name = name
        #: None: the data stay.
        self.staged = staged
        self.metadata = metadata
        self.stamps = stamps


class PairDirectory:
    """The pairs in one directory.

    Writing methods need the writer lock, except stage(). Threads keep each other out of it.

    Parameters
    ----------
    root : str
        An absolute path.
    durable : bool
        Whether changes survive power loss.
    """

    def __init__(self, root: str, durable: bool) -> None:
        from itertools import count

        self.root = root
        self.durable = durable
        self.folder = os.path.join(root, FOLDER)
        self._journal = os.path.join(root, JOURNAL)
        self._session: str | None = None
        self._alive: int | None = None
        self._lock: int | None = None
        self._swept = False
        self._numbers = count()
        self._starting = allocate_lock()

    def __del__(self) -> None:
        self.close()

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
        if not os.access(self._journal, os.F_OK):
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
        data_path, metadata_path = self._path(name, DATA), self._path(name, METADATA)
        # Every turn that does not come to an end was overtaken by a writer that got something done.
        for turn in range(1000):
            entry = self.read_journal().get(name)
            if entry is not None and entry[2]:
                return None, None
            file = status = text = None
            if entry is not None:
                if entry[0] is not None:
                    file, status = self._regular(f"{self.folder}/{entry[0]}", keep)
                text = read_file(f"{self.folder}/{entry[1]}")
            if status is None:
                file, status = self._regular(data_path, keep)
            if status is None:
                if entry is None:
                    return None, None
                # Either it was renamed just now, or somebody has meddled with a journal.
                if turn > _LEFT:
                    return None, None
                continue
            if text is None:
                text = read_file(metadata_path)
            pair = _pair(text, status)
            if pair is None:
                pair = _pair(read_file(self._pending(name)), status)
            if pair is not None:
                return pair, file
            # Not ours, or overtaken: both halves must still be what they were, and nothing be
            # carried out; or a journal has been left that somebody meddled with.
            again = read_file(metadata_path)
            if (
                again == text
                and _same(data_path, status)
                and (turn > _LEFT or not self.has_journal())
            ):
                if text is None:
                    return None, None
                pair = self._foreign(name, text, status)
                return pair, None if pair is None else file
        raise StoreError(f"{data_path!r} changes faster than it can be read")

    @staticmethod
    def _regular(path: str, keep: bool) -> tuple[OpenFile | None, os.stat_result | None]:
        """Return a file, open if it is to be kept, and its status; None and None if there is none."""
        if keep:
            return _open(path)
        try:
            status = os.stat(path)
        except OSError as error:
            _only_missing(error)
            return None, None
        return None, status if stat.S_ISREG(status.st_mode) else None

    def _foreign(self, name: str, text: bytes, status: os.stat_result) -> Pair | None:
        _, metadata_status = self._regular(self._path(name, METADATA), False)
        if metadata_status is None:
            # A FIFO, say; or it was removed just now.
            return None
        written = metadata_status.st_mtime
        stamps = _stamps(text)
        # Whole microseconds, as in the trailer that the pair will have when it is written.
        created = (
            round(min(status.st_mtime, written) * 1e6) / 1e6
            if stamps is None
            else stamps.created / 1e6
        )
        modified = round(max(status.st_mtime, written) * 1e6) / 1e6
        return Pair(_parse(text), created, modified, status.st_size, status.st_mtime_ns, status)

    def names(self) -> list[str]:
        """Return the names of all pairs there are now."""
        for _ in range(100):
            journal = self.read_journal()
            found: dict[str, set[str]] = {"data": set(), "metadata": set()}
            with os.scandir(self.root) as entries:
                for entry in entries:
                    name, _, suffix = entry.name.rpartition(".")
                    names = found.get(suffix)
                    if (
                        names is not None
                        and name
                        and not name.startswith(".FS")
                        and _is_file(entry)
                    ):
                        names.add(name)
            # Part of it may have been carried out, part not, when we came by.
            if journal == self.read_journal():
                break
        both = found["data"] & found["metadata"]
        # Data without metadata may be in the middle of step 4; and some file systems pass over a
        # name that is being renamed.
        both.update(name for name in found["data"] ^ found["metadata"] if self.holds(name))
        for name, what in journal.items():
            if what[2]:
                both.discard(name)
            else:
                both.add(name)
        return list(both)

    def read_journal(self) -> dict[str, tuple[str | None, str | None, bool]]:
        """Return what is being carried out: name -> temporary data, temporary metadata, whether it is deleted."""
        # Nearly always there is none, and this says so without an exception.
        text = read_file(self._journal) if os.access(self._journal, os.F_OK) else None
        if text is None:
            return {}
        import json

        try:
            return {name: (data, metadata, gone) for name, data, metadata, gone in json.loads(text)}
        except (TypeError, ValueError):
            # Renamed into its place whole; so the power failed, and without `durable`.
            return {}

    # Writing

    def lock(self, deadline: float) -> None:
        """Keep writers of other handles out; finish what dead ones have left."""
        import fcntl

        if self._lock is None:
            self.start()
            self._lock = os.open(
                f"{self.folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        pause = 0.0002
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # flock() cannot wait for a limited time.
                if time.monotonic() > deadline:
                    raise StoreError(f"{self.root!r} is locked by another process") from None
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
        if not self._swept:
            self.sweep()
            self._swept = True
        elif self.has_journal():
            self.recover()

    def unlock(self) -> None:
        """Let other writers in; harmless if there is no lock."""
        import fcntl

        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def start(self) -> str:
        """Make a session for temporary files, if there is none; return its name."""
        session = self._session
        if session is not None:
            return session
        import fcntl

        with self._starting:
            if self._session is not None:
                return self._session
            try:
                os.mkdir(self.folder)
                self._sync(self.root)
            except FileExistsError:
                pass
            while True:
                session = os.urandom(6).hex()
                path = f"{self.folder}/{session}.alive"
                fd = os.open(path, _WRITE | os.O_EXCL, 0o666)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                    # Somebody who sweeps may have taken it for dead before it was locked.
                    if os.path.lexists(path):
                        self._alive, self._session = fd, session
                        return session
                except BaseException:
                    unlink(path)
                    raise
                finally:
                    if self._alive != fd:
                        os.close(fd)

    def close(self) -> None:
        """End the session."""
        if self._alive is not None:
            unlink(f"{self.folder}/{self._session}.alive")
        self.forget()

    def forget(self) -> None:
        """Drop the session and the lock without ending them: in the child of a fork they are the parent's."""
        alive, self._alive, self._session = self._alive, None, None
        lock, self._lock = self._lock, None
        for fd in (alive, lock):
            if fd is not None:
                os.close(fd)
        self._starting = allocate_lock()
        self._swept = False

    def _temporary(self) -> str:
        return f"{self.folder}/{self.start()}-{next(self._numbers)}"

    def stage(self, chunks: Iterable[bytes]) -> Staged:
        """Write new data to a temporary file."""
        path = self._temporary()
        try:
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
            finally:
                os.close(fd)
        except BaseException:
            unlink(path)
            raise

    def replace(self, new: Replacement) -> None:
        """Replace one pair, or only its metadata."""
        metadata = self._path(new.name, METADATA)
        self._finish_if_pending(new.name)
        staged = new.staged
        if staged is None:
            temporary = self._temporary()
            try:
                self._write_file(temporary, dumps(new.metadata), new.stamps)
                os.rename(temporary, metadata)
            except BaseException:
                unlink(temporary)
                raise
            self._sync(self.root)
            return
        source, pending = str(staged.path), self._pending(new.name)
        stamps = self._distinct(staged, new)
        try:
            self._write_file(pending, dumps(new.metadata), stamps)
            if self.durable:
                self._sync(self.folder)
            os.rename(source, self._path(new.name, DATA))
        except BaseException:
            # An interrupt may come right after the rename, when the pending file is all that holds
            # the metadata.
            if os.path.lexists(source):
                unlink(pending)
            raise
        staged.path = None
        try:
            self._sync(self.root)
        finally:
            # The pair has changed already, and readers see it.
            _try_rename(pending, metadata)

    def _distinct(self, staged: Staged, new: Replacement) -> Stamps:
        """Return the stamps of a pair to be; that of its data is made later than that of the old."""
        try:
            old = os.stat(self._path(new.name, DATA)).st_mtime_ns
        except OSError:
            old = None
        # File systems keep times in units of up to two seconds.
        for step in (1, 10**3, 10**6, 10**9, 2 * 10**9):
            if old is None or staged.stamp > old:
                break
            os.utime(str(staged.path), ns=(old + step, old + step))
            staged.stamp = os.stat(str(staged.path)).st_mtime_ns
        return Stamps(new.stamps.created, new.stamps.modified, staged.stamp)

    def remove(self, name: str) -> None:
        """Delete a pair."""
        self._finish_if_pending(name)
        gone = f"{self.folder}/g-{name}"
        os.rename(self._path(name, METADATA), gone)
        self._forget_data(name)
        self._sync(self.root)

    def _forget_data(self, name: str) -> None:
        try:
            os.unlink(self._path(name, DATA))
        except FileNotFoundError:
            pass
        except OSError:
            # Without metadata it is no pair. Whoever sweeps next tries again.
            return
        unlink(f"{self.folder}/g-{name}")

    def commit(self, replacements: Iterable[Replacement], removals: Iterable[str]) -> None:
        """Replace and delete many pairs at once."""
        import json

        replacements, removals = list(replacements), list(removals)
        for name in [*(new.name for new in replacements), *removals]:
            self._finish_if_pending(name)
            for suffix in (DATA, METADATA):
                # What cannot be replaced must be found before the commit.
                if os.path.isdir(path := self._path(name, suffix)) and not os.path.islink(path):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        entries: list[tuple[str, str | None, str | None, bool]] = []
        made = []
        try:
            for new in replacements:
                data = stamps = None
                if new.staged is not None:
                    data, stamps = (
                        os.path.basename(str(new.staged.path)),
                        self._distinct(new.staged, new),
                    )
                made.append(path := self._temporary())
                self._write_file(path, dumps(new.metadata), stamps or new.stamps)
                entries.append((new.name, data, os.path.basename(path), False))
            entries.extend((name, None, None, True) for name in removals)
            made.append(path := self._temporary())
            self._write_file(path, json.dumps(entries), None)
            if self.durable:
                self._sync(self.folder)
            os.rename(path, self._journal)
        except BaseException:
            # An interrupt may come right after the rename, when the journal relies on these files.
            if self.has_journal():
                _hand_over(replacements)
            else:
                unlink(*made)
            raise
        _hand_over(replacements)
        try:
            self._sync(self.root)
            self._carry_out(entries)
        except OSError:
            # Committed: readers see what the journal says, and the next writer carries it out.
            return

    def _carry_out(self, entries: Iterable[tuple[str, str | None, str | None, bool]]) -> None:
        for name, data, metadata, gone in entries:
            if gone:
                for suffix in (METADATA, DATA):
                    try:
                        os.unlink(self._path(name, suffix))
                    except FileNotFoundError:
                        pass
            # What is not there any more was renamed before a crash.
            if data is not None:
                _rename(f"{self.folder}/{data}", self._path(name, DATA))
            if metadata is not None:
                _rename(f"{self.folder}/{metadata}", self._path(name, METADATA))
        self._sync(self.root)
        os.unlink(self._journal)

    def _finish_if_pending(self, name: str) -> None:
        if os.path.lexists(self._pending(name)):
            self.finish(name)

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
                _stamps(read_file(path) or b"") for path in (pending, self._path(name, METADATA))
            )
        )
        if belongs and not done:
            os.rename(pending, self._path(name, METADATA))
            self._sync(self.root)
        else:
            unlink(pending)

    def has_journal(self) -> bool:
        """Whether a commit was not carried out to its end."""
        return os.path.lexists(self._journal)

    def recover(self) -> None:
        """Carry out a journal that was left."""
        if self.has_journal():
            self._carry_out([(name, *entry) for name, entry in self.read_journal().items()])

    def sweep(self) -> None:
        """Finish what dead writers began, and remove their temporary files."""
        self.recover()
        files = os.listdir(self.folder)
        for file in files:
            if file.startswith("p-"):
                try:
                    self.finish(file[2:])
                except OSError:
                    # Somebody has put a directory there. Readers see what is pending.
                    continue
        # After those: a pair that was deleted and made anew is one that has its metadata again.
        for file in files:
            if file.startswith("g-"):
                if os.path.lexists(self._path(file[2:], METADATA)):
                    unlink(f"{self.folder}/{file}")
                else:
                    self._forget_data(file[2:])
        alive = {
            file[: -len(".alive")]
            for file in files
            if file.endswith(".alive") and not self._has_died(file)
        }
        for file in files:
            session, _, number = file.rpartition("-")
            # A session makes its lock file first: what has a number and no lock file is left from
            # one that ended.
            if (
                number.isdecimal()
                and session not in alive
                and not os.path.lexists(f"{self.folder}/{session}.alive")
            ):
                unlink(f"{self.folder}/{file}")

    def _has_died(self, file: str) -> bool:
        """Whether a session has ended; its lock file is removed then."""
        import fcntl

        if file == f"{self._session}.alive":
            return False
        path = f"{self.folder}/{file}"
        try:
            fd = os.open(path, _READ)
        except OSError as error:
            # Another user's may live.
            return error.errno == errno.ENOENT
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            unlink(path)
            return True
        finally:
            os.close(fd)

    def _write_file(self, path: str, text: str, stamps: Stamps | None) -> None:
        fd = os.open(path, _WRITE | os.O_TRUNC, 0o666)
        try:
            _write_all(fd, text.encode() + (b"" if stamps is None else _trailer(stamps)))
            if self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def write_new(self, name: str, content: bytes) -> None:
        """Write a small file that is there whole or not at all."""
        path = self._temporary()
        try:
            self._write_file(path, content.decode(), None)
            os.rename(path, f"{self.root}/{name}")
        except BaseException:
            unlink(path)
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


def _pair(text: bytes | None, status: os.stat_result) -> Pair | None:
    """Return the pair of metadata and data that belong together, None if they do not."""
    stamps = None if text is None else _stamps(text)
    if text is None or stamps is None or stamps.data != status.st_mtime_ns:
        return None
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


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # A link to itself, say.
        return False


def _open(path: str) -> tuple[OpenFile | None, os.stat_result | None]:
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        _only_missing(error)
        return None, None
    status = os.fstat(fd)
    file = OpenFile(fd, status.st_size)
    return (file, status) if stat.S_ISREG(status.st_mode) else (None, None)


def read_file(path: str) -> bytes | None:
    """Return what is in a file, None if there is no file, whatever else there is."""
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
    except (IsADirectoryError, BlockingIOError):
        # A FIFO that somebody writes to would block.
        return None
    finally:
        os.close(fd)


def _same(path: str, status: os.stat_result) -> bool:
    try:
        now = os.stat(path)
    except OSError as error:
        _only_missing(error)
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


def _hand_over(replacements: Iterable[Replacement]) -> None:
    for new in replacements:
        if new.staged is not None:
            new.staged.path = None


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        pass


def _try_rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except OSError:
        pass


def unlink(*paths: str) -> None:
    """Remove files, as far as that can be done."""
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            pass
