"""A store in a table of an SQLite database.

The table is that of EnCore 0.8, five columns; other programs may insert rows by position. Data of
more than 64 KiB stand in a table of chunks beside it, see _sqlite_blobs.py. Metadata are written
as JSON; the pickles of
0.8 are read, see _pickles.py.

Each thread has a connection of its own. The database is in WAL mode where that can be had, so that
readers and the one writer do not wait for each other, and a value that is too large to be read at
once is read from a snapshot.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO
from weakref import WeakSet, finalize

from ._keys import prefix_end
from ._metadata import dumps, loads, matches, normalise
from ._sqlite_blobs import CHUNK, Blobs, LateBlobValue, Snapshot, chunk_rows, new_number
from .base_store import BaseStore, Head, no_positional_manager
from .errors import StoreError, StoreOSError, os_errors
from .string_value import StringValue
from .value import SourceValue, Value

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from ..events.abstract_event_manager import BaseEventManager

    Metadata = dict[str, Any]

__all__ = ["SqliteStore"]

_COLUMNS = "key text primary key, metadata dict, created float, modified float, data blob"
_NEEDED = ("key", "metadata", "created", "modified", "data")

# Seconds to wait for another writer.
_BUSY = 30.0

# Rows fetched at a time by what walks over all of them.
_PAGE = 1000

# Read transactions that are kept open for large values; each costs three open files, and keeps the
# WAL from shrinking.
_MAX_SNAPSHOTS = 32

# What SQLite says when the operating system refused. The codes are no attributes before Python
# 3.11.
_REFUSALS = {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.ENOENT,
    "disk I/O error": errno.EIO,
    "access permission denied": errno.EACCES,
}


def _adapt_dict(metadata: dict[str, Any]) -> str:
    return dumps(normalise(metadata))


def _register_adapter() -> None:
    import sqlite3

    sqlite3.register_adapter(dict, _adapt_dict)


if "sqlite3" in sys.modules:
    _register_adapter()


class _Errors:
    """Turns what sqlite3 raises into StoreErrors."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        if error is None or isinstance(error, StoreError):
            return
        import sqlite3

        if isinstance(error, sqlite3.Error):
            text = str(error)
            number = _REFUSALS.get(text)
            if number is None:
                raise StoreError(f"{text}: {self._path!r}") from error
            if number == errno.ENOENT and os.path.exists(self._path):
                number = errno.EISDIR if os.path.isdir(self._path) else errno.EACCES
            raise StoreOSError(number, text, self._path) from error


class _Handle:
    """A connection, closed when nothing refers to it any more."""

    def __init__(self, connection: sqlite3.Connection, chunks: str, owner: object) -> None:
        self.connection = connection
        self.blobs = Blobs(connection, chunks)
        self.owner = owner

    def close(self) -> None:
        self.connection.close()

    __del__ = close


class _Handles(threading.local):
    mine: _Handle | None = None


# Connections that a child process inherited: closing them there might disturb what the parent does.
_inherited: list[object] = []


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
        Which names of the metadata are fast to query: all, only those in `index_columns`, or none.
        The answers are the same.
    index_columns : iterable of str, optional
        Names for index='static'.
    event_manager : BaseEventManager, optional
    durability : {'power', 'process'}
        Whether changes survive power loss when a method returns, or only the end of the process.
    """

    _transient = BaseStore._transient | {
        "_mutex",
        "_handles",
        "_all_handles",
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
        super()._prepare()
        self._path = self.location
        self._cleanup: Any = None
        self._wal = False
        self._owner: object | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._mutex = threading.Lock()
        self._handles = _Handles()
        self._all_handles: WeakSet[_Handle] = WeakSet()

    def _forked(self) -> None:
        super()._forked()
        _inherited.extend((self._handles, *self._all_handles))
        self._fresh()

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

            with os_errors():
                memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
                folder = tempfile.mkdtemp(prefix="encore-sqlite-", dir=memory)
            self._path = os.path.join(folder, "memory.db")
            self._cleanup = finalize(self, _remove_folder, shutil.rmtree, folder, os.getpid())
        self._owner = object()
        try:
            with self.sqlite_errors():
                connection = self._handle().connection
                self._wal = self._set_up(connection)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._owner = None
        self._handles = _Handles()
        for handle in list(self._all_handles):
            handle.close()
        if self._cleanup is not None:
            self._cleanup()
            self._cleanup = None
            self._path = self.location

    def _set_up(self, connection: sqlite3.Connection) -> bool:
        import sqlite3

        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            # A database that cannot be written; whether it can be read is seen next.
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
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

    def sqlite_errors(self) -> _Errors:
        """Return a context manager that turns what sqlite3 raises into StoreErrors."""
        return _Errors(self._path)

    def _new_handle(self) -> _Handle:
        import sqlite3

        owner = self._owner
        if owner is None:
            raise StoreError(f"{self!r} is not connected")
        connection = sqlite3.connect(
            self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        handle = _Handle(connection, self._sql_chunks, owner)
        level = (
            "OFF"
            if self.location == ":memory:"
            else {"power": "FULL", "process": "NORMAL"}[self._durability]
        )
        connection.execute(f"PRAGMA synchronous={level}")
        return handle

    def _handle(self) -> _Handle:
        handle = self._handles.mine
        if handle is None or handle.owner is not self._owner:
            handle = self._new_handle()
            self._handles.mine = handle
            self._all_handles.add(handle)
        return handle

    # Reading

    def _row(self, handle: _Handle, columns: str, key: str) -> Any:
        return handle.connection.execute(
            f"SELECT {columns} FROM {self._sql_table} WHERE key = ?", (key,)
        ).fetchone()

    def _read(self, key: str) -> Value:
        with self.sqlite_errors():
            handle = self._handle()
            row = self._row(handle, "metadata, created, modified, data", key)
            if row is not None and isinstance(row[3], int):
                return self._read_blob_value(handle, key)
        if row is None:
            raise KeyError(key)
        metadata, created, modified, data = row
        return StringValue.of_normalised(
            _as_data(data), self._metadata(key, metadata), _as_stamp(created), _as_stamp(modified)
        )

    def _read_blob_value(self, handle: _Handle, key: str) -> Value:
        keep = (
            self._wal and not handle.connection.in_transaction and Snapshot.count < _MAX_SNAPSHOTS
        )
        if keep:
            handle = self._new_handle()
        began = not handle.connection.in_transaction
        if began:
            handle.connection.execute("BEGIN")
        try:
            row = self._row(handle, "metadata, created, modified, data", key)
            if row is None:
                raise KeyError(key)
            metadata, created, modified, number = row
            if not isinstance(number, int):
                # It was replaced by a small one since we looked.
                return StringValue.of_normalised(
                    _as_data(number),
                    self._metadata(key, metadata),
                    _as_stamp(created),
                    _as_stamp(modified),
                )
            size = handle.blobs.size(number)
            if size is None:
                raise StoreError(f"the data of {key!r} in {self!r} are damaged", key=key)
            head = Head(
                self._metadata(key, metadata), _as_stamp(created), _as_stamp(modified), size
            )
            if not keep:
                return LateBlobValue(self, key, number, head)
            snapshot = Snapshot(self, handle, number, size)
            return SourceValue(
                snapshot, head.metadata or {}, head.created, head.modified, head.etag
            )
        finally:
            if began and not keep:
                handle.connection.execute("COMMIT")

    def read_blob(self, number: int, size: int, position: int) -> bytes:
        """Return a part of a blob as it is now, nothing if it is gone."""
        with self.sqlite_errors():
            return self._handle().blobs.read(number, size, position)

    def temporary_file(self) -> Any:
        """Return an unnamed file on the disk of the database."""
        import tempfile

        with os_errors():
            return tempfile.TemporaryFile(dir=os.path.dirname(self._path))

    def _metadata(self, key: str, stored: Any) -> Metadata:
        metadata = _parse(stored)
        if metadata is None:
            self._damaged(key)
        return metadata

    def _head(self, key: str) -> Head | None:
        with self.sqlite_errors():
            handle = self._handle()
            row = self._row(
                handle,
                "metadata, created, modified, typeof(data), "
                "CASE typeof(data) WHEN 'integer' THEN data ELSE length(CAST(data AS BLOB)) END",
                key,
            )
            if row is None:
                return None
            metadata, created, modified, kind, size = row
            if kind == "integer":
                size = handle.blobs.size(size)
        return Head(_parse(metadata), _as_stamp(created), _as_stamp(modified), size or 0)

    def _holds(self, key: str) -> bool:
        with self.sqlite_errors():
            return self._row(self._handle(), "1", key) is not None

    def _walk(
        self,
        columns: str,
        prefix: str = "",
        start_after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """Return rows by key, page by page, so that the store may be changed meanwhile."""
        conditions, bounds = [], []
        if prefix:
            conditions.append("key >= ?")
            bounds.append(prefix)
            end = prefix_end(prefix)
            if end is not None:
                conditions.append("key < ?")
                bounds.append(end)
        last = start_after
        while limit is None or limit > 0:
            count = _PAGE if limit is None else min(limit, _PAGE)
            where = conditions if last is None else [*conditions, "key > ?"]
            values = bounds if last is None else [*bounds, last]
            with self.sqlite_errors():
                rows = (
                    self._handle()
                    .connection.execute(
                        f"SELECT {columns} FROM {self._sql_table}{' WHERE ' if where else ''}{' AND '.join(where)} "
                        f"ORDER BY key LIMIT {count}",
                        values,
                    )
                    .fetchall()
                )
            yield from rows
            if len(rows) < count:
                return
            last = rows[-1][0]
            if limit is not None:
                limit -= count

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        for key, stored in self._walk("key, metadata"):
            metadata = _parse(stored)
            # A damaged row matches nothing and hides nothing.
            if (
                metadata is not None
                and isinstance(key, str)
                and (not criteria or matches(metadata, criteria))
            ):
                yield key, metadata

    def _list(self, prefix: str = "") -> Iterable[str]:
        return self._page(prefix, None, None)

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        return (row[0] for row in self._walk("key", prefix, start_after, limit))

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
        if not self._mutex.acquire(timeout=_BUSY):
            raise StoreError(f"{self!r} is locked by another thread")
        self._state.__dict__["locked"] = True
        with self.sqlite_errors():
            self._handle().connection.execute("BEGIN IMMEDIATE")

    def _end(self) -> None:
        if self._state.__dict__.pop("locked", False):
            self._mutex.release()

    def _commit(self) -> None:
        with self.sqlite_errors():
            self._in_transaction().execute("COMMIT")
        self._end()

    def _rollback(self) -> None:
        try:
            handle = self._handles.mine
            if handle is not None and handle.connection.in_transaction:
                with self.sqlite_errors():
                    handle.connection.execute("ROLLBACK")
        finally:
            self._end()

    def _in_transaction(self) -> sqlite3.Connection:
        connection = self._handle().connection
        if not connection.in_transaction:
            # SQLite rolls back by itself after some errors, a full disk for one.
            raise StoreError(f"the transaction on {self!r} was rolled back after an error")
        return connection

    def _savepoint(self) -> None:
        # Savepoints of one name nest: ROLLBACK TO and RELEASE mean the newest.
        with self.sqlite_errors():
            self._in_transaction().execute("SAVEPOINT encore")

    def _rollback_to(self, savepoint: None) -> None:
        with self.sqlite_errors():
            connection = self._handle().connection
            if connection.in_transaction:
                connection.execute("ROLLBACK TO encore")
                connection.execute("RELEASE encore")

    def _release(self, savepoint: None) -> None:
        with self.sqlite_errors():
            self._in_transaction().execute("RELEASE encore")

    def _save(self, key: str, staged: Any, head: Head) -> None:
        assert head.metadata is not None
        values: dict[str, Any] = {
            "metadata": dumps(head.metadata),
            "created": head.created,
            "modified": head.modified,
        }
        with self.sqlite_errors():
            handle = self._handle()
            old = self._row(handle, "CASE typeof(data) WHEN 'integer' THEN data END", key)
            if staged is not None or old is None:
                if old is not None and old[0] is not None:
                    handle.blobs.delete(old[0])
                values["data"] = staged or b""
                if staged is not None and not isinstance(staged, bytes):
                    values["data"] = self._save_blob(handle, staged)
            names = ", ".join(values)
            if old is None:
                marks = ", ".join("?" * (len(values) + 1))
                sql = f"INSERT INTO {self._sql_table} ({names}, key) VALUES ({marks})"
            else:
                sql = f"UPDATE {self._sql_table} SET {', '.join(f'{name} = ?' for name in values)} WHERE key = ?"
            handle.connection.execute(sql, (*values.values(), key))

    def _save_blob(self, handle: _Handle, file: BinaryIO) -> int:
        connection = handle.connection
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._sql_chunks} (id integer primary key, bytes blob)"
        )
        number = new_number()
        file.seek(0)
        connection.executemany(
            f"INSERT INTO {self._sql_chunks} VALUES (?, ?)", chunk_rows(number, file)
        )
        return number

    def _remove(self, key: str) -> None:
        with self.sqlite_errors():
            handle = self._handle()
            old = self._row(handle, "CASE typeof(data) WHEN 'integer' THEN data END", key)
            if old is not None and old[0] is not None:
                handle.blobs.delete(old[0])
            handle.connection.execute(f"DELETE FROM {self._sql_table} WHERE key = ?", (key,))


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
        if isinstance(stored, str) and not stored.startswith("\x80"):
            return loads(stored)
        if isinstance(stored, str):
            stored = stored.encode("latin-1")
        if isinstance(stored, bytes):
            if not stored.startswith(b"\x80"):
                return loads(stored)
            from ._pickles import load_plain

            return normalise(load_plain(stored))
    except (TypeError, ValueError):
        pass
    return None


def _as_data(data: Any) -> bytes:
    # Other programs may have put text there, or nothing.
    if isinstance(data, bytes):
        return data
    return b"" if data is None else str(data).encode()


def _as_stamp(stamp: Any) -> float:
    return float(stamp) if isinstance(stamp, int | float) else 0.0


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
