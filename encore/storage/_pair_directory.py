"""Pairs of files, ``<name>.data`` and ``<name>.metadata``, that change together.

How a pair is replaced
----------------------
1. The new data are written to a temporary file in ``.FStmp``, outside all locks, and given a time of
   modification: their *stamp*.
2. Under the writer lock (_writer_lock.py) the pair that is there is looked at, and what a dead writer
   left of it is finished. If the new data are not stamped later than the old ones they are stamped
   again. The new metadata are written to ``.FStmp/p-<name>``, the pending file. Metadata files end in a
   trailer (_metadata_files.py) that holds the stamp of the data they belong to.
3. The data are renamed to ``<name>.data``. This is the moment at which the pair changes, for readers
   and for crashes:
4. the pending file is renamed to ``<name>.metadata``.

A reader opens data, then metadata. Equal stamps prove that they belong together, without any lock:
data never have the stamp of those they replaced (nor of any that were under that name before, where
the file system keeps times to the nanosecond). Where stamps differ the reader came between steps 3
and 4, or after a crash there: it takes the pending file if that has the stamp of the data. If that
has not either, another program has put the files there: they are taken as they are once neither has
changed meanwhile. A pair of which one half is missing does not exist.

What a crash leaves after step 1 is a temporary file, after step 2 also a pending file whose stamp no
data have, after step 3 a pair that readers see and the next writer finishes. The first two are swept
by the next session (_sessions.py).

A change of the metadata alone is one rename of a temporary file. A pair is deleted by renaming its
metadata to ``.FStmp/g-<name>``, then removing the data, then that file: without metadata it is no
pair, and by that file the half that a crash leaves is found and removed.

How many pairs are replaced
---------------------------
All new files are written to ``.FStmp``; then a list of what is to be renamed and removed is
written there and renamed to ``.FSjournal``: the moment of the commit. Then the list is carried
out, and removed. Readers look for the journal first, and where there is one they see what it says;
a writer that gets the lock and finds one carries it out. What was renamed before a crash is not there
any more, so that carrying it out again does no harm. What the system refuses then is put aside into
``.FSlost``, where check() finds it, so that it does not keep out all writers; a damaged journal is, too.

Power failure
-------------
With `durable`, each step is on the disk before the next one that relies on it: the new files and
the names they have in ``.FStmp`` before step 3 and before the journal, the directory before step 4,
before the journal is removed, and before the method returns. Step 4 itself may be lost, as it is done
again.

What it costs
-------------
System calls for a small pair, without syncing; in brackets what the same takes without any promise:

- set a new key: 14 (8): open, write, utime, close; flock; stat (is that the lock file others find?);
  access (is there a journal?); stat (is there a pair?); open, write, close; rename; rename; flock.
- set a key that is there: 17 (8): as well open, read and close, of the old metadata, which say when
  the pair was created and was last modified.
- set metadata alone: 12 (4): flock; stat; access; stat; open, read, close; open, write, close; rename; flock.
- delete: 11 (2): flock; stat; access; stat; open, read, close; rename; unlink; unlink; flock.
- get: 8 (6): access; open, fstat (the stamp); open, read, close of the metadata; read, close.
- metadata: 5 (3): access; stat; open, read, close. Of a pair that another program has put there get takes
  15 and metadata 12, to see that nobody is changing it.
- query: for each key 3 (3): open, read, close of the metadata. Which pairs are between steps 3 and 4 is
  known from a look at ``.FStmp``, once.
- with `durable`, set takes 8 more: fsync of both files, and open, fsync and close of both directories;
  delete 3: open, fsync and close of the directory, before the last unlink.
"""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISDIR, S_ISVTX

from ._filenames import is_digest
from ._metadata_files import dump, stamps_of
from ._pair_reader import DATA, JOURNAL, METADATA, Pair, PairReader
from ._posix import (
    LARGEST,
    READ,
    WRITE,
    read_file,
    rename_if_there,
    sync_folder,
    unlink,
    unlink_all,
    write_all,
    write_file,
)
from ._sessions import Session
from ._writer_lock import WriterLock
from .base_store import Head
from .errors import StoreError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

    Entry = tuple[str, str | None, str | None, bool]

# What can be used by nobody is put there; what begins so was to be part of a transaction.
LOST, REFUSED = ".FSlost", "refused-"

# What will be refused at the next attempt, too: the files are another user's, immutable, mounted, or
# directories. The rest may pass.
_REFUSALS = (
    errno.EPERM,
    errno.EACCES,
    errno.EBUSY,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EEXIST,
)

# NAME_MAX.
_LONGEST = 255

# Where the file system has no flock(), there is no lock file to be told from others.
_NO_FILE = (0, 0)


class Staged:
    """New data in a temporary file."""

    __slots__ = ("path", "size", "stamp", "taken")

    def __init__(self, path: str, size: int, stamp: int) -> None:
        self.path: str | None = path
        self.size = size
        #: Its mtime.
        self.stamp = stamp
        #: Whether a unit of work has taken it over.
        self.taken = False

    def remove(self) -> None:
        if self.path is not None:
            unlink(self.path)
            self.path = None


class Draft(Head):
    """What a pair is to become."""

    __slots__ = ("new", "old", "staged")

    def __init__(self, head: Head, staged: Staged | None, old: int | None, new: bool) -> None:
        self.metadata = head.metadata
        self.created = head.created
        self.modified = head.modified
        self.size = head.size if staged is None else staged.size
        #: New data; None: those that are there.
        self.staged = staged
        #: The stamp of the data that are there, None if there is no pair.
        self.old = old
        #: Whether there is no pair yet.
        self.new = new

    def _replace(self, **changes: Any) -> Head:
        return Head(*self)._replace(**changes)

    def content(self, stamp: int) -> bytes:
        """Return what its metadata file is to hold if its data have this stamp."""
        metadata, created, modified = self.metadata, self.created, self.modified
        assert metadata is not None
        # Nothing before the epoch: there is no sign.
        text = dump(
            metadata,
            (
                round(created * 1e6) if created > 0 else 0,
                round(modified * 1e6) if modified > 0 else 0,
                stamp,
            ),
        )
        if len(text) > LARGEST:
            # Nobody would read them.
            raise StoreError(f"the metadata are too large: {len(text)} bytes")
        return text


class PairDirectory(PairReader):
    """The pairs in one directory.

    Writing methods need the writer lock, except stage(). Threads keep each other out of it. Before
    a pair is replaced or removed it is looked at by settle().

    Parameters
    ----------
    root : str
        An absolute path.
    durable : bool
        Whether changes survive power loss.
    writer_lock : WriterLock, optional
    session : Session, optional
    """

    def __init__(
        self,
        root: str,
        durable: bool,
        writer_lock: WriterLock | None = None,
        session: Session | None = None,
    ) -> None:
        super().__init__(root)
        self.durable = durable
        #: The lock file that was there when what dead writers left was swept.
        self._swept: tuple[int, int] | None = None
        #: Whether files keep the times they are given, to the nanosecond; None: not known yet.
        self._exact: bool | None = None
        self.writer_lock = writer_lock or WriterLock(f"{self.folder}/lock")
        self.session = session or Session(self.folder)

    def __del__(self) -> None:
        # Not if it was interrupted before there was anything to close.
        if hasattr(self, "session"):
            self.close()

    # Life

    def start(self) -> str:
        """Begin the session, if it has not begun; return its name."""
        if self.session.name is None:
            self._make_folder()
        return self.session.start()

    def _make_folder(self) -> None:
        try:
            os.mkdir(self.folder)
            self._sync(self.root)
        except FileExistsError:
            if not S_ISDIR(os.lstat(self.folder).st_mode):
                # Not a link either: it might lead anywhere.
                text = os.strerror(errno.ENOTDIR)
                raise NotADirectoryError(errno.ENOTDIR, text, self.folder) from None

    def _resume(self) -> None:
        """Go on after somebody has removed the folder, or all there is."""
        self._make_folder()
        self.session.renew()

    def close(self) -> None:
        """End the session, and release the lock."""
        self.session.end()
        self.writer_lock.close()
        self._swept = None

    def forget(self) -> None:
        """Drop the session and the lock without ending them: in the child of a fork they are the parent's."""
        self.session.forget()
        self.writer_lock.forget()
        self._swept = None

    # The lock

    def lock(self, deadline: float) -> None:
        """Keep writers of other handles out; finish what dead ones have left."""
        if self.session.name is None:
            self.start()
        try:
            self.writer_lock.acquire(deadline)
        except FileNotFoundError:
            self._resume()
            self.writer_lock.acquire(deadline)
        if self._swept != self.writer_lock.identity or self._swept is None:
            if self._swept is not None:
                # Another lock file: those who have it know nothing of this session.
                self._resume()
            self.sweep()
            self._swept = self.writer_lock.identity or _NO_FILE
        elif os.access(self._journal, os.F_OK):
            self.recover()

    def unlock(self) -> None:
        """Let other writers in; harmless if there is no lock."""
        self.writer_lock.release()

    # New data

    def _temporary(self) -> str:
        if self.session.name is None:
            self.start()
        return self.session.temporary()

    def stage(self, chunks: Iterable[bytes]) -> Staged:
        """Write new data to a temporary file; StoreOSError, but what the iterable raises passes through."""
        path, own = "", True
        try:
            path = self._temporary()
            try:
                fd = os.open(path, WRITE | os.O_EXCL, 0o666)
            except FileNotFoundError:
                self._resume()
                fd = os.open(path, WRITE | os.O_EXCL, 0o666)
            try:
                size, rest = 0, iter(chunks)
                while True:
                    own = False
                    chunk = next(rest, None)
                    own = True
                    if chunk is None:
                        break
                    write_all(fd, chunk)
                    size += len(chunk)
                return Staged(path, size, self._stamp(fd))
            finally:
                os.close(fd)
        except BaseException as error:
            unlink(path)
            if own and isinstance(error, OSError):
                raise from_os_error(error) from error
            raise

    def _stamp(self, fd: int) -> int:
        """Give new data a time of modification; return what the file system makes of it."""
        stamp = time.time_ns()
        if self._exact is None:
            # No multiple of any unit in which a file system might keep times.
            stamp -= stamp % 1000 - 567
        os.utime(fd, ns=(stamp, stamp))
        if self.durable:
            os.fsync(fd)
        if not self._exact:
            kept = os.fstat(fd).st_mtime_ns
            if self._exact is None:
                self._exact = kept == stamp
            return kept
        return stamp

    # One pair

    def settle(self, name: str) -> Pair | None:
        """As look(), for who has the writer lock: steps that a dead writer left undone are done."""
        pair = self._look_directly(name)
        if pair is None or type(pair) is Pair:
            return pair
        if os.path.lexists(f"{self._pending_prefix}{name}"):
            self.finish(name)
        return self.look(name)

    def replace(self, name: str, draft: Draft) -> None:
        """Replace one pair, or only its metadata."""
        staged = draft.staged
        metadata = f"{self._prefix}{name}{METADATA}"
        if staged is None:
            assert draft.old is not None
            temporary = self._temporary()
            try:
                write_file(temporary, draft.content(draft.old), self.durable)
                os.rename(temporary, metadata)
            except BaseException:
                unlink(temporary)
                raise
            self._sync(self.root)
            return
        source, pending = staged.path, f"{self._pending_prefix}{name}"
        assert source is not None
        try:
            write_file(pending, draft.content(self._distinct(name, draft, staged)), self.durable)
            if self.durable:
                self._sync(self.folder)
            os.rename(source, f"{self._prefix}{name}{DATA}")
        except BaseException:
            # An interrupt may come right after the rename, when the pending file is all that holds
            # the metadata.
            if os.path.lexists(source):
                unlink(pending)
            raise
        staged.path = None
        try:
            if self.durable:
                self._sync(self.root)
        finally:
            # The pair has changed already, and readers see it.
            try:
                os.rename(pending, metadata)
            except OSError:
                pass

    def _distinct(self, name: str, draft: Draft, staged: Staged) -> int:
        """Return the stamp of new data; it is made later than that of the old."""
        old = draft.old
        if self._exact:
            if old is None or staged.stamp > old:
                return staged.stamp
        else:
            # Any other data that are there count too: where times are coarse, two are easily equal.
            try:
                old = os.stat(f"{self._prefix}{name}{DATA}").st_mtime_ns
            except OSError:
                old = None
        # File systems keep times in units of up to two seconds.
        for step in (1, 10**3, 10**6, 10**9, 2 * 10**9):
            if old is None or staged.stamp > old:
                break
            staged.stamp = self._stamp_again(staged, old + step)
        return staged.stamp

    def _stamp_again(self, staged: Staged, stamp: int) -> int:
        fd = os.open(str(staged.path), READ)
        try:
            os.utime(fd, ns=(stamp, stamp))
            if self.durable:
                os.fsync(fd)
            return os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Delete a pair."""
        gone = f"{self.folder}/g-{name}"
        os.rename(f"{self._prefix}{name}{METADATA}", gone)
        self._forget_data(name)

    def _forget_data(self, name: str) -> None:
        try:
            os.unlink(f"{self._prefix}{name}{DATA}")
        except FileNotFoundError:
            pass
        except OSError:
            # Without metadata it is no pair. Whoever sweeps next tries again.
            self._sync(self.root)
            return
        # Before what says that the data are to go.
        self._sync(self.root)
        unlink(f"{self.folder}/g-{name}")

    # Many pairs

    def commit(self, drafts: Mapping[str, Draft], removals: Collection[str]) -> None:
        """Replace and delete many pairs at once; names and what they become, names that go."""
        from json import dumps

        self._check_replaceable(drafts, removals)
        entries: list[Entry] = []
        made = []
        try:
            for name, draft in drafts.items():
                staged, data, stamp = draft.staged, None, draft.old
                if staged is not None:
                    data = os.path.basename(str(staged.path))
                    stamp = self._distinct(name, draft, staged)
                assert stamp is not None
                made.append(path := self._temporary())
                write_file(path, draft.content(stamp), self.durable)
                entries.append((name, data, os.path.basename(path), False))
            entries.extend((name, None, None, True) for name in removals)
            made.append(path := self._temporary())
            write_file(path, dumps(entries).encode(), self.durable)
            if self.durable:
                self._sync(self.folder)
            os.rename(path, self._journal)
        except BaseException:
            # An interrupt may come right after the rename, when the journal relies on these files.
            if self.has_journal():
                _hand_over(drafts.values())
            else:
                unlink(*made)
            raise
        _hand_over(drafts.values())
        try:
            self._sync(self.root)
            self._carry_out(entries)
        except OSError:
            # Committed: readers see what the journal says, and the next writer carries it out.
            return

    def _check_replaceable(self, drafts: Mapping[str, Draft], removals: Collection[str]) -> None:
        """Find what cannot be replaced or removed: after the commit it would be too late."""
        status = os.stat(self.root)
        user = os.geteuid()
        # There only the owner may.
        is_sticky = status.st_mode & S_ISVTX and user not in (0, status.st_uid)
        for name in (*drafts, *removals):
            draft = drafts.get(name)
            only_metadata = draft is not None and draft.staged is None
            for suffix in (METADATA,) if only_metadata else (DATA, METADATA):
                path = f"{self._prefix}{name}{suffix}"
                if draft is not None and draft.new:
                    if os.path.isdir(path) and not os.path.islink(path):
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
                elif is_sticky and os.lstat(path).st_uid != user:
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
                elif not os.access(path, os.W_OK):
                    _check_immutable(path)

    def _carry_out(self, entries: Iterable[Entry], put_aside: bool = False) -> None:
        for entry in entries:
            try:
                self._carry_out_one(entry)
            except OSError as error:
                if not put_aside or error.errno not in _REFUSALS:
                    raise
                # It would be refused again, and all writers with it.
                self._put_entry_aside(entry)
        self._sync(self.root)
        os.unlink(self._journal)

    def _carry_out_one(self, entry: Entry) -> None:
        name, data, metadata, gone = entry
        if gone:
            unlink_all(f"{self._prefix}{name}{suffix}" for suffix in (METADATA, DATA))
        # What is not there any more was renamed before a crash.
        if data is not None:
            rename_if_there(f"{self.folder}/{data}", f"{self._prefix}{name}{DATA}")
        if metadata is not None:
            rename_if_there(f"{self.folder}/{metadata}", f"{self._prefix}{name}{METADATA}")

    def _put_entry_aside(self, entry: Entry) -> None:
        name, data, metadata, gone = entry
        if gone:
            write_file(self.lost(f"{REFUSED}{name}{METADATA}"), b"", self.durable)
        for file, suffix in ((data, DATA), (metadata, METADATA)):
            if file is not None and os.path.lexists(f"{self.folder}/{file}"):
                os.rename(f"{self.folder}/{file}", self.lost(f"{REFUSED}{name}{suffix}"))
        self._sync(f"{self.root}/{LOST}")

    def lost(self, file: str) -> str:
        """Return a path where nobody looks for pairs, for what can be used by nobody."""
        folder = f"{self.root}/{LOST}"
        try:
            os.mkdir(folder)
            self._sync(self.root)
        except FileExistsError:
            if not S_ISDIR(os.lstat(folder).st_mode):
                raise
        kept, number = file[:_LONGEST], 0
        while os.path.lexists(f"{folder}/{kept}"):
            number += 1
            # Not longer than a name may be.
            kept = f"{number}-{file}"[:_LONGEST]
        return f"{folder}/{kept}"

    # What dead writers left

    def finish(self, name: str) -> None:
        """Do step 4 of a pair whose writer could not."""
        data, pending = f"{self._prefix}{name}{DATA}", f"{self._pending_prefix}{name}"
        try:
            stamp = os.stat(data).st_mtime_ns
        except FileNotFoundError:
            stamp = None
        belongs, done = (
            stamps is not None and stamps[2] == stamp
            for stamps in (
                stamps_of(read_file(path) or b"")
                for path in (pending, f"{self._prefix}{name}{METADATA}")
            )
        )
        if belongs and not done:
            os.rename(pending, f"{self._prefix}{name}{METADATA}")
            self._sync(self.root)
        else:
            unlink(pending)

    def recover(self) -> None:
        """Carry out a journal that was left, as far as that can be done; put a damaged one aside."""
        if not self.has_journal():
            return
        journal = self._load_journal()
        if journal is not None:
            self._carry_out([(name, *entry) for name, entry in journal.items()], put_aside=True)
            return
        try:
            os.rename(self._journal, self.lost(JOURNAL))
        except OSError:
            # Nobody minds it, and the next commit replaces it.
            pass

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
                if os.path.lexists(f"{self._prefix}{file[2:]}{METADATA}"):
                    unlink(f"{self.folder}/{file}")
                else:
                    self._forget_data(file[2:])
        if self.session.sweep(files):
            self._sweep_names()

    def _sweep_names(self) -> None:
        """Remove the names of long keys that never came to be."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                name, _, suffix = entry.name.rpartition(".")
                if suffix == "key" and is_digest(name) and not self.holds(name):
                    unlink(entry.path)

    def write_new(self, name: str, content: bytes) -> None:
        """Write a small file that is there whole or not at all."""
        path = self._temporary()
        try:
            write_file(path, content, self.durable)
            os.rename(path, f"{self._prefix}{name}")
        except BaseException:
            unlink(path)
            raise

    def _sync(self, path: str) -> None:
        if self.durable:
            sync_folder(path)


def _check_immutable(path: str) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
    except OSError as error:
        # One that merely is read only (EACCES) may be replaced.
        if error.errno == errno.EPERM:
            raise


def _hand_over(drafts: Iterable[Draft]) -> None:
    for draft in drafts:
        if draft.staged is not None:
            draft.staged.path = None
