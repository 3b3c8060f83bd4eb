"""A store in a table of an SQLite database.

The table is that of EnCore 0.8, five columns; other programs may insert rows by position. Data of
more than 64 KiB stand in a table of chunks beside it, see _sqlite_blobs.py. Metadata are written
as JSON; the pickles of 0.8 are read, see _pickles.py.

Each thread has a connection of its own. The database is in WAL mode where that can be had, so that
readers and the one writer do not wait for each other, and a value that is too large to be read at
once is read from a snapshot. How connections come and go is said in _sqlite_connections.py.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, get_ident
from io import BytesIO

from ._keys import check_key, prefix_end
from ._metadata import dumps, loads, matches, normalise
from ._streams import check_bounds, slice_bounds
from .base_store import BaseStore, Head, no_positional_manager
from .errors import StoreError, os_errors
from .string_value import StringValue
from .value import SourceValue, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO
    from weakref import WeakSet

    from ..events.abstract_event_manager import BaseEventManager
    from ._sqlite_blobs import (
        CHUNK,
        NUMBER,
        LateBlobValue,
        Snapshot,
        chunk_rows,
        is_number,
        new_number,
    )
    from ._sqlite_connections import (
        BUSY,
        BUSY_SETUP,
        Connections,
        Errors,
        Handle,
        Use,
        inherit,
        watch,
    )
    from ._streams import Source
    from .file_value import OpenFile

    Metadata = dict[str, Any]

__all__ = ["SqliteStore"]

_COLUMNS = "key text primary key, metadata dict, created float, modified float, data blob"
_NEEDED = ("key", "metadata", "created", "modified", "data")
_READ = "metadata, created, modified, data"

# Rows fetched at a time by what walks over all of them.
_PAGE = 1000

# Read transactions that are kept open for large values; each costs three open files, and keeps the
# WAL from shrinking.
_MAX_SNAPSHOTS = 32

# What is read at once of a large value.
_SMALL_PART = 1 << 20

# Copies of large values where there are no snapshots; each costs an open file.
_MAX_COPIES = 128

# A transaction that may have dirtied more bytes than this may have put pages into the WAL before
# its commit: the page cache holds 2000 KiB. Every change counts as some pages.
_SPILL = 1 << 20
_PER_CHANGE = 1 << 14


_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global CHUNK, NUMBER, LateBlobValue, Snapshot, chunk_rows, is_number, new_number  # noqa: PLW0603
    global BUSY, BUSY_SETUP, Connections, Errors, Handle, Use, inherit, watch  # noqa: PLW0603
    global OpenFile  # noqa: PLW0603
    from ._sqlite_blobs import (
        CHUNK,
        NUMBER,
        LateBlobValue,
        Snapshot,
        chunk_rows,
        is_number,
        new_number,
    )
    from ._sqlite_connections import (
        BUSY,
        BUSY_SETUP,
        Connections,
        Errors,
        Handle,
        Use,
        inherit,
        watch,
    )
    from .file_value import OpenFile

    _loaded = True


def _adapt_dict(metadata: dict[str, Any]) -> str:
    return dumps(normalise(metadata))


def _register_adapter() -> None:
    import sqlite3

    sqlite3.register_adapter(dict, _adapt_dict)


if "sqlite3" in sys.modules:
    _register_adapter()


class SqliteStore(BaseStore):
    """A store in a table of an SQLite database, for any number of threads and processes.

    Parameters
    ----------
    location : str or PathLike
        A file, made by connect() if it does not exist. ':memory:' is a database that lives from
        connect() to disconnect(), in a file system in memory where there is one.
    table : str
        Any name that does not begin with ``sqlite_`` and has no ``"``; made if it does not exist.
    index : {'dynamic', 'static', None}
        Which names of the metadata are to be fast to query: all, only those in `index_columns`, or
        none. The answers are the same; in this version so is the speed.
    index_columns : iterable of str, optional
        Names for index='static'.
    event_manager : BaseEventManager, optional
    durability : {'power', 'process'}
        Whether changes survive power loss when a method returns, or only the end of the process.
    """

    _transient = BaseStore._transient | {
        "_mutex",
        "_handles",
        "_writer",
        "_snapshots",
        "_stranded",
        "_utf8",
        "_owner",
        "_wal",
        "_path",
        "_cleanup",
    }

    def __init__(
        self,
        location: str | os.PathLike[str] = ":memory:",
        table: str = "store",
        index: str | None = "dynamic",
        index_columns: Iterable[str] | None = None,
        *,
        event_manager: BaseEventManager | None = None,
        durability: str = "power",
    ) -> None:
        no_positional_manager(location, table, index, index_columns)
        name = os.fsdecode(os.fspath(location))
        if not name or "\0" in name:
            raise ValueError(f"the location of a database is a path or ':memory:', not {name!r}")
        self.location = name if name == ":memory:" else os.path.abspath(name)
        self.table = _check_table(table)
        if index not in ("dynamic", "static", None):
            raise ValueError(f"index is 'dynamic', 'static' or None, not {index!r}")
        self.index = index
        self.index_columns = _check_index_columns(index_columns)
        if durability not in ("power", "process"):
            raise ValueError(f"durability is 'power' or 'process', not {durability!r}")
        self._durability = durability
        self._sql_table = f'"{table}"'
        self._sql_chunks = f'"{table}#chunks"'
        super().__init__(event_manager=event_manager)
        _register_adapter()

    def _prepare(self) -> None:
        _load()
        super()._prepare()
        self._path = self.location
        self._cleanup: Any = None
        self._wal = False
        self._utf8 = True
        self._owner: object | None = None
        self._fresh()

    def _fresh(self) -> None:
        from weakref import WeakSet

        # Re-entrant only because such a lock knows whether this thread holds it.
        self._mutex = RLock()
        self._handles = Connections()
        self._writer: tuple[int, Handle] | None = None
        self._snapshots: WeakSet[Handle] = WeakSet()
        self._stranded = False

    def _drop_handles(self) -> None:
        """Forget all connections: those that nobody uses are closed now, the one in a transaction is kept."""
        self._handles = Connections()

    def _forked(self) -> None:
        super()._forked()
        inherited, writer = list(self._snapshots), self._writer
        if writer is not None:
            inherited.append(writer[1])
        self._fresh()
        for handle in inherited:
            if handle.users == 0 and handle.dirtied <= (_SPILL if self._wal else 0):
                handle.close()
            else:
                # Undoing what is in the WAL would undo it for the parent, and a rollback journal
                # would be deleted; and a call that another thread was in holds locks for ever.
                inherit(handle)
                self._stranded = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r}, {self.table!r})"

    def info(self) -> dict[str, Any]:
        durable = "none" if self.location == ":memory:" else self._durability
        return {
            **super().info(),
            "durable": durable,
            "streaming": True,
            "location": self.location,
            "table": self.table,
        }

    # Life cycle

    def _open(self, credentials: Any) -> None:
        if self.location == ":memory:":
            # SQLite's own databases in memory cannot be read by one connection while another one
            # writes.
            import shutil
            import tempfile
            from weakref import finalize

            with os_errors():
                memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
                folder = tempfile.mkdtemp(prefix="encore-sqlite-", dir=memory)
            self._path = os.path.join(folder, "memory.db")
            self._cleanup = finalize(self, _remove_folder, shutil.rmtree, folder, os.getpid())
        self._owner = object()
        watch(self)
        try:
            with Use(self) as handle:
                self._wal = self._set_up(handle.connection)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._owner = None
        mine = self._handles.mine
        self._drop_handles()
        if mine is not None and mine.users == 0:
            # References to it may be kept by the traceback of an error.
            mine.close()
        self._writer = None
        if self._cleanup is not None:
            self._cleanup()
            self._cleanup = None
            self._path = self.location

    def _set_up(self, connection: sqlite3.Connection) -> bool:
        import sqlite3

        connection.execute(f"PRAGMA busy_timeout={BUSY_SETUP}")
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            # A database that is being read in another mode, or cannot be written; whether it can
            # be read is seen next.
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        connection.execute(f"PRAGMA busy_timeout={int(BUSY * 1000)}")
        # In UTF-16 the order of keys is another one.
        self._utf8 = connection.execute("PRAGMA encoding").fetchone()[0] == "UTF-8"
        columns = self._column_names(connection)
        if not columns:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {self._sql_table} ({_COLUMNS})")
            columns = self._column_names(connection)
        missing = [name for name in _NEEDED if name not in columns]
        if missing:
            raise StoreError(
                f"table {self.table!r} of {self.location!r} has no column {', '.join(missing)}"
            )
        return bool(mode == "wal")

    def _column_names(self, connection: sqlite3.Connection) -> list[str]:
        return [
            row[1].lower() for row in connection.execute(f"PRAGMA table_info({self._sql_table})")
        ]

    def sqlite_errors(self) -> Errors:
        """Return a context manager that turns what sqlite3 raises into StoreErrors."""
        return Errors(self._path)

    def _new_handle(self) -> Handle:
        import sqlite3

        owner = self._owner
        if owner is None:
            raise StoreError(f"{self!r} is not connected")
        if self._stranded:
            raise StoreError(
                f"{self!r} cannot be used in this process: it was forked in the middle of a large change"
            )
        connection = sqlite3.connect(
            self._path, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        handle = Handle(connection, self._sql_chunks, owner)
        level = (
            "OFF"
            if self.location == ":memory:"
            else {"power": "FULL", "process": "NORMAL"}[self._durability]
        )
        connection.execute(f"PRAGMA synchronous={level}")
        return handle

    def _handle(self) -> Handle:
        handle = self._handles.mine
        if handle is None or handle.owner is not self._owner:
            writer = self._writer
            if writer is not None and writer[0] == get_ident() and writer[1].owner is self._owner:
                handle = writer[1]
            else:
                handle = self._new_handle()
            self._handles.mine = handle
        return handle

    # Reading

    def _row(self, handle: Handle, columns: str, key: str) -> Any:
        sql = f"SELECT {columns} FROM {self._sql_table} WHERE key = ?"
        for row in handle.rows(sql, (key,)):
            return row
        return None

    def _read(self, key: str) -> Value:
        with Use(self) as handle:
            row = self._row(handle, _READ, key)
            if row is not None and is_number(row[3]):
                return self._read_blob_value(handle, key, row)
        if row is None:
            raise KeyError(key)
        return self._small_value(key, row)

    def _small_value(self, key: str, row: Any) -> Value:
        metadata, created, modified, data = row
        return StringValue.of_normalised(
            _as_data(data), self._metadata(key, metadata), _as_stamp(created), _as_stamp(modified)
        )

    def _read_blob_value(self, handle: Handle, key: str, row: Any) -> Value:
        inside = handle.connection.in_transaction
        snapshots = self._wal and len(Snapshot.live) < _MAX_SNAPSHOTS
        if snapshots:
            other = self._new_handle()
            other.connection.execute("BEGIN")
            if not inside:
                row = self._row(other, _READ, key)
                if row is None:
                    raise KeyError(key)
                if not is_number(row[3]):
                    # It was replaced by a small one since we looked.
                    return self._small_value(key, row)
            size = other.blobs.size(row[3])
            if size is not None or not inside:
                head = self._blob_head(key, row, size)
                self._snapshots.add(other)
                return _source_value(Snapshot(self, other, row[3], head.size), head)
            # Only the transaction of this thread knows it.
        if not inside:
            handle.connection.execute("BEGIN")
        try:
            row = self._row(handle, _READ, key)
            if row is None:
                raise KeyError(key)
            if not is_number(row[3]):
                return self._small_value(key, row)
            head = self._blob_head(key, row, handle.blobs.size(row[3]))
            value = LateBlobValue(self, key, row[3], head)
            if (self._wal and not snapshots) or len(OpenFile.live) >= _MAX_COPIES:
                return value
            return _source_value(value.copied(0, head.size), head)
        finally:
            if not inside:
                handle.connection.execute("COMMIT")

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        # A small part of a large value is read at once: a snapshot would take ten times as long.
        key = check_key(key)
        check_bounds(start, end)
        self._check_connected()
        with Use(self) as handle:
            inside = handle.connection.in_transaction
            if not inside:
                handle.connection.execute("BEGIN")
            try:
                row = self._row(handle, NUMBER, key)
                number = row and row[0]
                size = number and handle.blobs.size(number)
                if size:
                    begin, stop = slice_bounds(start, end, size)
                    if stop - begin <= _SMALL_PART:
                        return BytesIO(
                            handle.blobs.read(number, stop - begin, begin) if begin < stop else b""
                        )
            finally:
                if not inside:
                    handle.connection.execute("COMMIT")
        return super().get_data_range(key, start, end)

    def _blob_head(self, key: str, row: Any, size: int | None) -> Head:
        if size is None:
            raise StoreError(f"the data of {key!r} in {self!r} are damaged", key=key)
        return Head(self._metadata(key, row[0]), _as_stamp(row[1]), _as_stamp(row[2]), size)

    def read_blob(self, number: int, size: int, position: int) -> bytes:
        """Return a part of a blob as it is now, nothing if it is gone."""
        with Use(self) as handle:
            return handle.blobs.read(number, size, position)

    def temporary_file(self) -> Any:
        """Return an unnamed file on the disk of the database, or elsewhere if that cannot be written."""
        import errno
        import tempfile

        with os_errors():
            try:
                return tempfile.TemporaryFile(dir=os.path.dirname(self._path))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOENT):
                    raise
                return tempfile.TemporaryFile()

    def _metadata(self, key: str, stored: Any) -> Metadata:
        metadata = _parse(stored)
        if metadata is None:
            self._damaged(key)
        return metadata

    def _head(self, key: str) -> Head | None:
        with Use(self) as handle:
            row = self._row(
                handle, f"metadata, created, modified, length(CAST(data AS BLOB)), {NUMBER}", key
            )
            if row is None:
                return None
            metadata, created, modified, size, number = row
            if number is not None:
                size = handle.blobs.size(number)
        return Head(_parse(metadata), _as_stamp(created), _as_stamp(modified), size or 0)

    def _holds(self, key: str) -> bool:
        with Use(self) as handle:
            return self._row(handle, "1", key) is not None

    def _walk(
        self,
        columns: str,
        prefix: str = "",
        start_after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """Return rows by key, page by page, so that the store may be changed meanwhile."""
        # Other programs may have put NULL or a blob there: those stand before and behind all text.
        # One bound on each side: SQLite would search by the first and filter by the others.
        lower, low = (">=", _as_bytes(prefix)) if prefix else (">", b"")
        end = prefix_end(prefix)
        upper, high = ("CAST(? AS TEXT)", [_as_bytes(end)]) if end is not None else ("x''", [])
        if start_after is not None and _as_bytes(start_after) >= low:
            lower, low = ">", _as_bytes(start_after)
        while limit is None or limit > 0:
            # A text in UTF-16 may not come back as it was, and would be no bound for a second page.
            count = sys.maxsize if not self._utf8 else _PAGE if limit is None else min(limit, _PAGE)
            with Use(self) as handle:
                rows = handle.rows(
                    f"SELECT {columns} FROM {self._sql_table} WHERE key {lower} CAST(? AS TEXT) AND key < {upper} "
                    f"ORDER BY key LIMIT {count}",
                    (low, *high),
                )
            yield from rows
            if len(rows) < count:
                return
            lower, low = ">", _as_bytes(rows[-1][0])
            if limit is not None:
                limit -= count

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        for key, stored in self._walk("key, metadata"):
            metadata = _parse(stored)
            # A damaged row matches nothing and hides nothing.
            if metadata is not None and (not criteria or matches(metadata, criteria)):
                name = key if type(key) is str else _as_key(key)
                if name is not None:
                    yield name, metadata

    def _list(self, prefix: str = "") -> Iterable[str]:
        return self._keys(prefix if self._utf8 else "", None, None)

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        if not self._utf8:
            return super()._page(prefix, start_after, limit)
        return self._keys(prefix, start_after, limit)

    def _keys(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        for (key,) in self._walk("key", prefix, start_after, limit):
            name = key if type(key) is str else _as_key(key)
            if name is not None:
                yield name

    # Writing

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Any:
        held: list[bytes] = []
        total = 0
        for chunk in chunks:
            held.append(chunk)
            total += len(chunk)
            if total > CHUNK:
                break
        else:
            return b"".join(held)
        file = self.temporary_file()
        try:
            for chunk in held:
                _write(file, chunk)
            held.clear()
            for chunk in chunks:
                _write(file, chunk)
            with os_errors():
                file.flush()
        except BaseException:
            _close_quietly(file)
            raise
        return file

    def _discard(self, staged: Any) -> None:
        if not isinstance(staged, bytes):
            _close_quietly(staged)

    def _begin(self) -> None:
        if not self._mutex.acquire(timeout=BUSY):
            raise StoreError(f"{self!r} is locked by another thread")
        with Use(self) as handle:
            handle.dirtied = 0
            self._writer = get_ident(), handle
            handle.connection.execute("BEGIN IMMEDIATE")

    def _end(self) -> None:
        try:
            # Raises RuntimeError where this thread does not hold it.
            self._mutex.release()
        except RuntimeError:
            pass

    def _commit(self) -> None:
        with Use(self) as handle:
            self._in_transaction(handle).execute("COMMIT")
            self._writer = None
        self._end()

    def _rollback(self) -> None:
        writer = self._writer
        try:
            if writer is not None and writer[0] == get_ident():
                if writer[1].connection.in_transaction:
                    with Errors(self._path):
                        writer[1].connection.execute("ROLLBACK")
                self._writer = None
        finally:
            self._end()

    def _in_transaction(self, handle: Handle) -> sqlite3.Connection:
        if not handle.connection.in_transaction:
            # SQLite rolls back by itself after some errors, a full disk for one.
            raise StoreError(f"the transaction on {self!r} was rolled back after an error")
        return handle.connection

    def _savepoint(self) -> None:
        # Savepoints of one name nest: ROLLBACK TO and RELEASE mean the newest.
        with Use(self) as handle:
            self._in_transaction(handle).execute("SAVEPOINT encore")

    def _rollback_to(self, savepoint: None) -> None:
        with Use(self) as handle:
            if handle.connection.in_transaction:
                handle.connection.execute("ROLLBACK TO encore")
                handle.connection.execute("RELEASE encore")

    def _release(self, savepoint: None) -> None:
        with Use(self) as handle:
            self._in_transaction(handle).execute("RELEASE encore")

    def _save(self, key: str, staged: Any, head: Head) -> None:
        assert head.metadata is not None
        values: dict[str, Any] = {
            "metadata": dumps(head.metadata),
            "created": head.created,
            "modified": head.modified,
        }
        with Use(self) as handle:
            self._in_transaction(handle)
            old = self._row(handle, NUMBER, key)
            handle.dirtied += _PER_CHANGE + len(values["metadata"])
            if staged is not None or old is None:
                if old is not None and old[0] is not None:
                    self._remove_blob(handle, old[0])
                values["data"] = staged or b""
                if isinstance(staged, bytes):
                    handle.dirtied += len(staged)
                elif staged is not None:
                    values["data"] = self._save_blob(handle, staged)
            names = ", ".join(values)
            if old is None:
                marks = ", ".join("?" * (len(values) + 1))
                sql = f"INSERT INTO {self._sql_table} ({names}, key) VALUES ({marks})"
            else:
                sql = f"UPDATE {self._sql_table} SET {', '.join(f'{name} = ?' for name in values)} WHERE key = ?"
            handle.connection.execute(sql, (*values.values(), key))

    def _save_blob(self, handle: Handle, file: BinaryIO) -> int:
        connection = handle.connection
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._sql_chunks} (id integer primary key, bytes blob)"
        )
        number = new_number()
        handle.dirtied += file.seek(0, os.SEEK_END)
        file.seek(0)
        connection.executemany(
            f"INSERT INTO {self._sql_chunks} VALUES (?, ?)", chunk_rows(number, file)
        )
        return number

    def _remove_blob(self, handle: Handle, number: int) -> None:
        handle.dirtied += handle.blobs.size(number) or 0
        handle.blobs.delete(number)

    def _remove(self, key: str) -> None:
        with Use(self) as handle:
            self._in_transaction(handle)
            handle.dirtied += _PER_CHANGE
            old = self._row(handle, NUMBER, key)
            if old is not None and old[0] is not None:
                self._remove_blob(handle, old[0])
            handle.connection.execute(f"DELETE FROM {self._sql_table} WHERE key = ?", (key,))


def _source_value(source: Source, head: Head) -> SourceValue:
    return SourceValue(source, head.metadata or {}, head.created, head.modified, head.etag)


def _check_table(table: str) -> str:
    if not isinstance(table, str):
        raise TypeError(f"table is a str, not {type(table).__name__}: {table!r}")
    if not table or table.lower().startswith("sqlite_") or '"' in table or "\0" in table:
        raise ValueError(f"a table cannot have the name {table!r}")
    table.encode()
    return table


def _check_index_columns(columns: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise TypeError(f"index_columns is an iterable of names, not one str: {columns!r}")
    names = tuple(columns or ())
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names in index_columns are str, not {type(name).__name__}: {name!r}")
    return names


def _parse(stored: Any) -> Metadata | None:
    """Read what stands in the metadata column, None if it is damaged."""
    try:
        if isinstance(stored, str):
            if not stored.startswith("\x80"):
                return loads(stored)
            stored = stored.encode("latin-1")
        if isinstance(stored, bytes):
            if stored.lstrip().startswith(b"{"):
                return loads(stored)
            from ._pickles import load_plain

            return normalise(load_plain(stored))
    except (TypeError, ValueError):
        pass
    return None


def _as_bytes(key: str | bytes) -> bytes:
    # In this form surrogates stand where their code points do; no key has any.
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")


def _as_key(key: Any) -> str | None:
    try:
        return str(key, "utf-8")
    except UnicodeDecodeError:
        return None


def _as_data(data: Any) -> bytes:
    # Other programs may have put text there, or nothing.
    if isinstance(data, bytes):
        return data
    return b"" if data is None else str(data).encode()


def _as_stamp(stamp: Any) -> float:
    # The difference of an infinity or NaN is none: math.isfinite() without loading the module.
    return float(stamp) if isinstance(stamp, int | float) and stamp - stamp == 0 else 0.0


def _write(file: Any, chunk: bytes) -> None:
    with os_errors():
        file.write(chunk)


def _close_quietly(file: Any) -> None:
    # On a full disk closing fails once more for what is still buffered.
    try:
        file.close()
    except OSError:
        pass


def _remove_folder(rmtree: Any, folder: str, process: int) -> None:
    # A child process does not remove what belongs to its parent.
    if os.getpid() == process:
        rmtree(folder, ignore_errors=True)
