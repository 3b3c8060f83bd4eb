"""An index of the metadata files in a directory of pairs: a file of SQLite beside them, ``.FStmp/index``.

The metadata files are the truth, and anybody may change them. The index only proposes names; who asks
reads the pairs that it names, so that nothing false is found. That nothing is missed is for this
module to see to:

- There is a row for each metadata file: its content, and its *status* (inode, ctime, size) from
  before it was read. Whose status is what it was has not been written to, renamed or replaced, as no
  program can set a ctime. But two changes in one tick of the clock have one ctime. Therefore a file that
  had been changed shortly before it was read gets a row without a status, and is read again next time.
- The first query of a handle looks at the status of every metadata file and reads those that have
  changed. Whatever has happened before, to the files or to the index, does not matter then.
- From before that first look on, the handle has the directory watched (_directory_watch.py). A query
  asks which names have changed, and reads those, and only those, again. Changes that are made while
  it does are told by the next one. Where the kernel tells of none, or of too many, or the
  directory is another one, every query begins as the first one does.
- What a watch would not tell of is proposed always: files with a second name, links, files that cannot
  be read, data whose metadata were not seen. So are the names of all pairs whose metadata file may not be
  what counts, because a change of it was not carried out to its end (PairReader.unsettled).

The directory's own mtime would prove less: EnCore 0.8 writes metadata in place, which does not change
it; and of two changes in the middle of which a writer of ours has noted it one would be overlooked.

How handles share the file is said in _pair_index_file.py. If it cannot be had, for whatever reason, find()
returns None, and all metadata are read.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from stat import S_ISREG

from ._metadata import dumps
from ._metadata_files import parse
from ._pair_index_file import (
    INDEX,
    WAIT,
    IndexLock,
    NotNow,
    boot_of_computer,
    is_noted,
    remove_index,
    status_of,
)
from ._pair_reader import DATA, METADATA
from ._posix import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ._directory_watch import DirectoryWatch
    from ._metadata_index import MetadataIndex
    from ._pair_directory import PairDirectory
    from ._writer_lock import WriterLock

    # A name, and the status of its metadata file.
    Found = tuple[str, str]

TABLE = "pairs"

# Changes when what is written below is no more what an older version expects.
_FORMAT = 1

# Seconds after which a file system gives a change another time than the one before. FAT, the
# coarsest, needs two.
_TICK = 2.5

# Seconds for which the index is left alone after it could not be written.
_PAUSE = 60.0

# Where more than this part of all pairs may match, to read all is faster than to look up each.
_PART = 3

# Rows that are indexed at a time when the index is made.
_AT_ONCE = 100_000

_PUT = (
    f"INSERT INTO {TABLE} VALUES (?, ?, ?) ON CONFLICT (key)"
    " DO UPDATE SET metadata = excluded.metadata, status = excluded.status"
)

# After a fork in the middle of a change by another thread, SQLite believes that this process has the
# locks of the parent.
_is_unusable = False
_abandoned: list[object] = []


class PairIndex:
    """The index of one handle. Any thread may use it.

    Parameters
    ----------
    pairs : PairDirectory
    """

    def __init__(self, pairs: PairDirectory) -> None:
        self._pairs = pairs
        self.path = f"{pairs.folder}/{INDEX}"
        self._closed = False
        self._not_before = 0.0
        self._lock = RLock()
        self._is_busy = False
        self._file_lock: WriterLock | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = -1
        self._metadata_index: MetadataIndex = _metadata_index()
        self._watch: DirectoryWatch | None = None
        #: Whether the rows were right, but for the changes that a watch has told of since.
        self._is_right = False
        #: The names that the watch has told of since.
        self._pending: set[str] = set()
        #: Whether it has been since it was opened.
        self._was_right = False
        self._count = 0
        #: Names that are proposed always.
        self._always: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __del__(self) -> None:
        self.close()

    def find(self, criteria: dict[str, Any]) -> set[str] | None:
        """Return the names of all pairs that may match, None if the index cannot tell."""
        import sqlite3

        # First: a pair whose change is carried out in between is told by the watch.
        names = self._pairs.unsettled()
        with self._lock:
            # A finalizer may come in the middle of all this.
            if self._is_busy or self._closed or _is_unusable or time.monotonic() < self._not_before:
                return None
            self._is_busy = True
            try:
                self._update()
                return self._look_up(criteria, names)
            except NotNow:
                return None
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                return None
            finally:
                if self._closed:
                    self._drop()
                self._is_busy = False

    def _look_up(self, criteria: dict[str, Any], names: set[str]) -> set[str] | None:
        assert self._connection is not None
        limit = self._count // _PART + 100
        rows = self._metadata_index.find(self._connection, criteria, limit, keys_only=True)
        if rows is None or len(rows) > limit:
            return None
        names.update(name for (name,) in rows)
        names |= self._always
        return names

    def _failed(self, error: Exception) -> None:
        """Leave the index alone for a while, unless it is damaged: that one is removed."""
        import sqlite3

        if "locked" in str(error):
            return
        is_damaged = type(error) is sqlite3.DatabaseError
        was_right = self._was_right
        self._drop()
        # Its subclasses say that it cannot be opened or written.
        if not (is_damaged and self._remove() and was_right):
            self._not_before = time.monotonic() + _PAUSE

    def _remove(self) -> bool:
        try:
            with IndexLock(self):
                remove_index(self._pairs.folder)
        except (NotNow, OSError):
            return False
        return True

    # Life

    def close(self) -> None:
        """Use it no longer."""
        self._closed = True
        # Otherwise another thread is in the middle of it, and does it at the end.
        if self._lock.acquire(blocking=False):
            try:
                if not self._is_busy:
                    self._drop()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """Begin anew in the child of a fork: what there is is the parent's."""
        global _is_unusable  # noqa: PLW0603
        _is_unusable = _is_unusable or self._is_busy
        if self._is_busy and self._connection is not None:
            from ._sqlite_connections import inherit

            # To close it would roll back what the parent is about to commit.
            inherit(self._connection)
        # Closing it would do no harm to the parent, but using SQLite in the middle of a change may.
        _abandoned.append(self._connection)
        self._connection = None
        if self._file_lock is not None:
            self._file_lock.forget()
            self._file_lock = None
        self._lock = RLock()
        self._is_busy = False
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        watch, self._watch = self._watch, None
        file_lock, self._file_lock = self._file_lock, None
        self._is_right = False
        self._pending = set()
        self._was_right = False
        if connection is not None:
            connection.close()
        if watch is not None:
            watch.close()
        if file_lock is not None:
            file_lock.close()

    # Bringing it up to date

    def _update(self) -> None:
        """Let the index know of all changes made before now."""
        # False in between: an interrupt may come anywhere.
        is_right, self._is_right = self._is_right, False
        changes = None if self._watch is None else self._watch.changes()
        if changes:
            self._pending.update(_names(changes))
        self._is_right = is_right = is_right and changes is not None
        if is_right and not self._pending and self._is_ours():
            return
        with IndexLock(self) as lock:
            if not self._is_ours() and not self._open():
                self._is_right = is_right = False
            if not is_right:
                self._begin_watch()
                self._change(None)
            elif self._pending:
                self._change(self._pending)
            lock.note(self.path)
        self._pending = set()
        self._is_right = True

    def _is_ours(self) -> bool:
        """Whether the file is open, and as a handle has left it; while one is at work it is not."""
        if self._connection is None:
            return False
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return status.st_ino == self._inode and is_noted(self._pairs.folder, status)

    def _open(self) -> bool:
        """Open the file; return whether it was there, or had to be made anew."""
        import sqlite3

        boot = boot_of_computer()
        try:
            if is_noted(self._pairs.folder, os.stat(self.path)):
                connection = self._connect(boot)
                ((number,),) = connection.execute("PRAGMA user_version").fetchall()
                if number == _FORMAT and connection.execute(
                    "SELECT boot FROM about"
                ).fetchone() == (boot,):
                    return True
        except FileNotFoundError:
            pass
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise
        # Removed, not emptied: what is damaged is not to be trusted with that.
        remove_index(self._pairs.folder)
        self._make(self._connect(boot), boot)
        return False

    def _connect(self, boot: str) -> sqlite3.Connection:
        import sqlite3

        old, self._connection = self._connection, None
        if old is not None:
            old.close()
        self._connection = connection = sqlite3.connect(
            self.path, timeout=WAIT, isolation_level=None, check_same_thread=False
        )
        self._inode = os.stat(self.path).st_ino
        # No WAL: it could be taken for that of another file of the same name.
        for setting in (
            "journal_mode=TRUNCATE",
            f"synchronous={'OFF' if boot else 'FULL'}",
            "cache_size=-20000",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        return connection

    @staticmethod
    def _make(connection: sqlite3.Connection, boot: str) -> None:
        with _Transaction(connection):
            connection.execute(f"PRAGMA user_version={_FORMAT}").fetchall()
            connection.execute("CREATE TABLE about (boot)")
            connection.execute("INSERT INTO about VALUES (?)", (boot,))
            connection.execute(
                f"CREATE TABLE {TABLE} (key TEXT PRIMARY KEY, metadata, status) WITHOUT ROWID"
            )

    def _begin_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        from ._directory_watch import DirectoryWatch

        try:
            self._watch = DirectoryWatch(self._pairs.root)
        except OSError:
            # Too many are in use on this computer, say.
            pass

    def _change(self, names: set[str] | None) -> None:
        """Have the rows of these names say what is true now, or all rows."""
        connection = self._connection
        assert connection is not None
        with _Transaction(connection):
            changed, gone = self._compare(connection) if names is None else self._look_at(names)
            connection.executemany(
                f"DELETE FROM {TABLE} WHERE key = ?", [(name,) for name in sorted(gone)]
            )
            connection.executemany(_PUT, self._rows(sorted(changed)))
            if not self._metadata_index.exists(connection):
                # Reading many rows at once is much faster than to index each as it comes.
                if not self._metadata_index.install(connection, None):
                    # This library of SQLite knows no JSON.
                    self._not_before = float("inf")
                    raise NotNow
                while not self._metadata_index.fill(connection, _AT_ONCE):
                    pass
        self._was_right = True

    def _compare(self, connection: sqlite3.Connection) -> tuple[list[Found], Iterable[str]]:
        """Return all names whose metadata file may not be what its row says, and those that have none."""
        known = dict(connection.execute(f"SELECT key, status FROM {TABLE}"))
        look = _Look(self._pairs.root).at
        always, data, have = set(), set(), set()
        changed = []
        with os.scandir(self._pairs.root) as entries:
            for entry in entries:
                file = entry.name
                if file[-9:] != METADATA:
                    if file[-5:] == DATA:
                        data.add(file[:-5])
                    continue
                name = file[:-9]
                have.add(name)
                try:
                    status = look(entry.stat(follow_symlinks=False))
                except OSError:
                    status = None
                if status is None:
                    always.add(name)
                # A row may have no status either.
                elif known.pop(name, None) != status or not status:
                    changed.append((name, status))
        # Those of files that are not indexed any more, and links.
        gone = known
        # Some file systems pass over a name that is being renamed.
        always.update(data.difference(have))
        self._always = set(filter(_may_be_pair, always))
        self._count = len(have)
        return [each for each in changed if _may_be_pair(each[0])], gone

    def _look_at(self, names: set[str]) -> tuple[list[Found], Iterable[str]]:
        look = _Look(self._pairs.root)
        changed, gone = [], []
        for name in names:
            self._always.discard(name)
            try:
                status = look.at(os.lstat(f"{self._pairs.root}/{name}{METADATA}"))
            except FileNotFoundError:
                gone.append(name)
                continue
            except OSError:
                status = None
            if status is None:
                self._always.add(name)
                gone.append(name)
            else:
                changed.append((name, status))
        # Those that were there before too: more does no harm.
        self._count += len(changed)
        return changed, gone

    def _rows(self, found: Iterable[Found]) -> Iterator[tuple[str, str | None, str]]:
        for name, status in found:
            try:
                text = read_file(f"{self._pairs.root}/{name}{METADATA}")
            except OSError:
                text = None
            if text is None:
                self._always.add(name)
            else:
                yield name, content(text), status


class _Look:
    """Takes the status of files, now.

    Parameters
    ----------
    root : str
        The directory in which they are.
    """

    def __init__(self, root: str) -> None:
        self._device = os.stat(root).st_dev
        self._settled = time.time_ns() - int(_TICK * 1e9)

    def at(self, status: os.stat_result) -> str | None:
        """Return a status; it is empty if another change may get the same, None if a watch may not see it."""
        if not S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_dev != self._device:
            return None
        return "" if status.st_ctime_ns > self._settled else status_of(status)


class _Transaction:
    """A write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *details: object) -> None:
        # SQLite may have rolled back everything by itself.
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def content(text: bytes) -> str | None:
    """Return what the index keeps of a metadata file; it proposes those always of which that is None."""
    if text.isascii() and b"\\" not in text:
        # SQLite reads it as we do, or finds that it is damaged, and proposes it always.
        return text.decode().rstrip(" \t\r\n")
    metadata = parse(text)
    if metadata is None:
        # A damaged one matches nothing.
        return "{}"
    try:
        return dumps(metadata)
    except (ValueError, RecursionError):
        # NaN, say, in one that we have not written.
        return None


def _names(changes: set[bytes]) -> set[str]:
    """Return the names of pairs whose metadata file is among these files."""
    files = map(os.fsdecode, changes)
    return {name for file in files if file[-9:] == METADATA and _may_be_pair(name := file[:-9])}


def _may_be_pair(name: str) -> bool:
    if not name or name[:3] == ".FS":
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metadata_index() -> MetadataIndex:
    from ._metadata_index import MetadataIndex

    return MetadataIndex(TABLE)
