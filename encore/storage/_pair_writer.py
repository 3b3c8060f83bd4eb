"""Writing pairs of files, ``<name>.data`` and ``<name>.metadata``, one at a time.

Why the steps are in this order is said in _pair_directory.py.
"""

from __future__ import annotations

import errno
import os
import time
from stat import S_ISDIR

from ._metadata_files import dump, stamps_of
from ._pair_reader import DATA, METADATA, Pair, PairReader
from ._posix import LARGEST, READ, WRITE, read_file, sync_folder, unlink, write_all, write_file
from .base_store import Head
from .errors import StoreError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._sessions import Session


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


class PairWriter(PairReader):
    """The pairs in one directory, to be written one at a time.

    Writing methods need the writer lock, except stage(). Before a pair is replaced or removed it is
    looked at by settle().

    Parameters
    ----------
    root : str
        An absolute path.
    durable : bool
        Whether changes survive power loss.
    session : Session
    """

    def __init__(self, root: str, durable: bool, session: Session) -> None:
        super().__init__(root)
        self.durable = durable
        self.session = session
        #: Whether files keep the times they are given, to the nanosecond; None: not known yet.
        self._exact: bool | None = None

    # The folder for temporary files

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
            if self.durable:
                self._sync_locked(self.root)
            return
        source, pending = staged.path, f"{self._pending_prefix}{name}"
        assert source is not None
        try:
            write_file(pending, draft.content(self._distinct(name, draft, staged)), self.durable)
            if self.durable:
                self._sync_locked(self.folder)
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
                self._sync_locked(self.root)
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
        if self.durable:
            self._sync_locked(self.root)
        unlink(f"{self.folder}/g-{name}")

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

    def _sync_locked(self, path: str) -> None:
        """Put the names in a directory on the disk, for who has the lock."""
        sync_folder(path)
