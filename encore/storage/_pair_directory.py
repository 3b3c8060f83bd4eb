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
any more, so that carrying it out again does no harm. What the system refuses then a second time is put
aside into ``.FSlost``, where check() finds it, so that it does not keep out all writers; a damaged journal
is, too. Metadata whose data are in place already become a pending file instead: the pair is whole.

Power failure
-------------
With `durable`, each step is on the disk before the next one that relies on it: the new files and
the names they have in ``.FStmp`` before step 3 and before the journal, the directory before step 4,
before the journal is removed, and before the method returns. Step 4 itself may be lost, as it is done
again.

Directories that are synced at every change stay open, as long as they are what is found under their
names. All else goes by path, so that no change is made in a directory that was moved away.

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
- with `durable`, set takes 4 more: fsync of both files and of both directories; delete 1: fsync of the
  directory, before the last unlink.
- query for a text: metadata that do not contain it are not parsed.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISDIR, S_ISVTX

from ._filenames import is_digest
from ._pair_reader import DATA, FOLDER, JOURNAL, METADATA
from ._pair_writer import PairWriter
from ._posix import rename_if_there, unlink, unlink_all, write_file
from ._sessions import Session
from ._writer_lock import WriterLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ._pair_writer import Draft

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
_NO_FILE = (0, 0, 0)


class PairDirectory(PairWriter):
    """The pairs in one directory, to be written by one of many writers at a time, each as many as it likes.

    Writing methods need the writer lock, except stage(). Threads keep each other out of it.

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
        folder = f"{root}/{FOLDER}"
        #: The lock file that was there when what dead writers left was swept.
        self._swept: tuple[int, int, int] | None = None
        #: Directories that are kept open to be synced: descriptor, device and inode.
        self._folders: dict[str, tuple[int, int, int]] = {}
        self.writer_lock = writer_lock or WriterLock(f"{folder}/lock")
        super().__init__(root, durable, session or Session(folder))

    def __del__(self) -> None:
        # Not if it was interrupted before there was anything to close.
        if hasattr(self, "session"):
            self.close()

    # Life

    def close(self) -> None:
        """End the session, and release the lock."""
        self.session.end()
        self.writer_lock.close()
        self._swept = None
        self._close_folders()

    def forget(self) -> None:
        """Drop the session and the lock without ending them: in the child of a fork they are the parent's."""
        self.session.forget()
        self.writer_lock.forget()
        self._swept = None
        self._close_folders()

    def _close_folders(self) -> None:
        while self._folders:
            os.close(self._folders.popitem()[1][0])

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
            self._close_folders()
            self.sweep()
            self._swept = self.writer_lock.identity or _NO_FILE
        elif os.access(self._journal, os.F_OK):
            self.recover()

    def unlock(self) -> None:
        """Let other writers in; harmless if there is no lock."""
        self.writer_lock.release()

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
            _hand_over(drafts.values())
        except BaseException:
            # An interrupt may come right after the rename, when the journal relies on these files.
            if self.has_journal():
                _hand_over(drafts.values())
            else:
                unlink(*made)
            raise
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
        from logging import getLogger

        name, data, metadata, gone = entry
        if data is not None and not os.path.lexists(f"{self.folder}/{data}"):
            # Its data are in place. Readers find the metadata there, and whoever can finish it does.
            rename_if_there(f"{self.folder}/{metadata}", f"{self._pending_prefix}{name}")
            self._sync(self.folder)
            return
        getLogger(__name__).warning(
            "a committed change of %r in %r is refused by the system, and put aside",
            name,
            self.root,
        )
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

    def _sync_locked(self, path: str) -> None:
        status = os.stat(path)
        fd, *known = self._folders.get(path, (-1,))
        if known != [status.st_dev, status.st_ino]:
            # The first time; or there is another one in its place.
            if fd >= 0:
                del self._folders[path]
                os.close(fd)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(fd)
            self._folders[path] = fd, status.st_dev, status.st_ino
        os.fsync(fd)


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
