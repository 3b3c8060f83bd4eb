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
any more, so that carrying it out again does no harm.

Power failure
-------------
With `durable`, each step is on the disk before the next one that relies on it: the new files and
the names they have in ``.FStmp`` before step 3 and before the journal, the directory before step 4,
before the journal is removed, and before the method returns. Step 4 itself may be lost, as it is done
again.

What it costs
-------------
System calls for a small pair, without syncing; in brackets what the same takes without any promise:

- set a new key: 13 (8): open, write, utime, close; flock; access (is there a journal?); stat (is
  there a pair?); open, write, close; rename; rename; flock.
- set a key that is there: 16 (8): as well open, read and close, of the old metadata, which say when
  the pair was created and was last modified.
- set metadata alone: 11 (4): flock; access; stat; open, read, close; open, write, close; rename; flock.
- delete: 10 (2): flock; access; stat; open, read, close; rename; unlink; unlink; flock.
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

from ._filenames import is_digest
from ._metadata_files import dump, stamps_of
from ._pair_reader import DATA, METADATA, Pair, PairReader
from ._posix import (
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
from .errors import from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

    Entry = tuple[str, str | None, str | None, bool]


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
        return dump(
            metadata,
            (
                round(created * 1e6) if created > 0 else 0,
                round(modified * 1e6) if modified > 0 else 0,
                stamp,
            ),
        )


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
        self.writer_lock = writer_lock or WriterLock(f"{self.folder}/lock")
        self.session = session or Session(self.folder)
        self._swept = False
        #: Whether files keep the times they are given, to the nanosecond; None: not known yet.
        self._exact: bool | None = None

    def __del__(self) -> None:
        self.close()

    # Life

    def start(self) -> str:
        """Begin the session, if it has not begun; return its name."""
        if self.session.name is None:
            try:
                os.mkdir(self.folder)
                self._sync(self.root)
            except FileExistsError:
                pass
        return self.session.start()

    def close(self) -> None:
        """End the session, and release the lock."""
        self.session.end()
        self.writer_lock.close()
        self._swept = False

    def forget(self) -> None:
        """Drop the session and the lock without ending them: in the child of a fork they are the parent's."""
        self.session.forget()
        self.writer_lock.forget()
        self._swept = False

    # The lock

    def lock(self, deadline: float) -> None:
        """Keep writers of other handles out; finish what dead ones have left."""
        if self.session.name is None:
            self.start()
        self.writer_lock.acquire(deadline)
        if not self._swept:
            self.sweep()
            self._swept = True
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

        for name, draft in drafts.items():
            for suffix in (DATA, METADATA) if draft.new else ():
                # What cannot be replaced must be found before the commit.
                path = f"{self._prefix}{name}{suffix}"
                if os.path.isdir(path) and not os.path.islink(path):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
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

    def _carry_out(self, entries: Iterable[Entry]) -> None:
        for name, data, metadata, gone in entries:
            if gone:
                unlink_all(f"{self._prefix}{name}{suffix}" for suffix in (METADATA, DATA))
            # What is not there any more was renamed before a crash.
            if data is not None:
                rename_if_there(f"{self.folder}/{data}", f"{self._prefix}{name}{DATA}")
            if metadata is not None:
                rename_if_there(f"{self.folder}/{metadata}", f"{self._prefix}{name}{METADATA}")
        self._sync(self.root)
        os.unlink(self._journal)

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


def _hand_over(drafts: Iterable[Draft]) -> None:
    for draft in drafts:
        if draft.staged is not None:
            draft.staged.path = None
