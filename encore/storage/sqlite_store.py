"""A store in a table of an SQLite database.

The table is that of EnCore 0.8, five columns; other programs may insert rows by position. Data of
more than 64 KiB stand in a table of chunks beside it, see _sqlite_blobs.py and _sqlite_large.py.
Metadata are written as JSON; the pickles of 0.8 are read, see _sqlite_rows.py. An index of them is
kept by triggers, see _metadata_index.py; what it does not find is filtered in SQL, see
_sqlite_filter.py.

Each thread has a connection of its own. The database is in WAL mode where that can be had, so that
readers and the one writer do not wait for each other, and a value that is too large to be read at
once is read from a snapshot. How connections come and go is said in _sqlite_connections.py.

A change goes the long way of BaseStore where there is something to be done on it: a condition,
progress, large data, a strange row. Otherwise it is one statement, which SQLite does wholly or not
at all, and which tells by the number of rows it has changed what it was.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock, get_ident
from io import BytesIO

from ._changes import Change, has_listeners
from ._keys import check_key
from ._metadata import dumps, normalise
from ._streams import BUFFER_SIZE, check_bounds, check_buffer_size, slice_bounds
from .base_store import BaseStore, Head, no_positional_manager
from .errors import StoreError, os_errors
from .string_value import StringValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO
    from weakref import WeakSet

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Condition, Observer, Unit
    from ._metadata_index import MetadataIndex, has_json
    from ._progress import progress_wanted
    from ._sqlite_blobs import NUMBER, chunk_rows, is_number, new_number
    from ._sqlite_connections import (
        BUSY,
        SPILL,
        Connections,
        Errors,
        Handle,
        Use,
        failure,
        inherit,
        watch,
    )
    from ._sqlite_large import (
        close_quietly,
        is_tame,
        make_temporary_file,
        read_large,
        stage,
        stage_tame,
    )
    from ._sqlite_many import set_many
    from ._sqlite_queries import Queries
    from ._sqlite_remote import RemoteChanges
    from ._sqlite_rows import as_data, as_key, as_stamp, encode, parse
    from ._sqlite_setup import install_index, is_immutable, new_connection, set_up
    from ._streams import Readable, buffers_of
    from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["SqliteStore"]

# What is read at once of a large value.
_SMALL_PART = 1 << 20

# What a change dirties, in bytes: some pages.
_PER_CHANGE = 1 << 14
_PER_NAME = 1 << 13

# What is not there, is strange or is large goes the long way. "It moves whatever the clock did", as
# in BaseStore._modify().
_REPLACE = (
    "UPDATE {} SET metadata = ?, modified = max(?, round(modified * 1e6 + 1) / 1e6), data = ?"
    " WHERE key = ? AND typeof(data) = 'blob' AND typeof(modified) = 'real' AND modified < 1e11"
)
_INSERT = "INSERT OR IGNORE INTO {} (metadata, created, modified, data, key) VALUES (?, ?, ?, ?, ?)"

_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global BUSY, NUMBER, SPILL, Connections, Errors, Handle, MetadataIndex  # noqa: PLW0603
    global StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent, Use  # noqa: PLW0603
    global Queries, as_data, as_key, as_stamp, buffers_of, chunk_rows, close_quietly  # noqa: PLW0603
    global failure, has_json, inherit, install_index, is_immutable, is_number, is_tame  # noqa: PLW0603
    global make_temporary_file, new_connection, new_number, parse, progress_wanted, read_large, set_up  # noqa: PLW0603
    global encode, set_many, sqlite3, stage, stage_tame, watch  # noqa: PLW0603
    import sqlite3

    from ._metadata_index import MetadataIndex, has_json
    from ._progress import progress_wanted
    from ._sqlite_blobs import NUMBER, chunk_rows, is_number, new_number
    from ._sqlite_connections import (
        BUSY,
        SPILL,
        Connections,
        Errors,
        Handle,
        Use,
        failure,
        inherit,
        watch,
    )
    from ._sqlite_large import (
        close_quietly,
        is_tame,
        make_temporary_file,
        read_large,
        stage,
        stage_tame,
    )
    from ._sqlite_many import set_many
    from ._sqlite_queries import Queries
    from ._sqlite_rows import as_data, as_key, as_stamp, encode, parse
    from ._sqlite_setup import install_index, is_immutable, new_connection, set_up
    from ._streams import buffers_of
    from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

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
        Which names of the metadata are fast to query: all, those in `index_columns`, or none but
        those that the table has an index of already. The answers are the same.
    index_columns : iterable of str, optional
        Names for index='static'.
    event_manager : BaseEventManager, optional
    durability : {'power', 'process'}
        Whether changes survive power loss when a method returns, or only the end of the process.
    poll : float, optional
        Seconds between two looks for changes by other handles, processes and programs, from
        connect() on. Each is told by exactly one event, with `remote` True. By default, and for 0,
        nobody looks.
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
        "_immutable",
        "_path",
        "_cleanup",
        "_has_json",
        "_has_index",
        "_may_fill",
        "_mostly_new",
        "_remote",
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
        poll: float | None = None,
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
        if poll is not None:
            from ._sqlite_remote import check_interval

            check_interval(poll)
        self.poll = poll
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
        self._immutable = False
        self._utf8 = True
        self._owner: object | None = None
        self._has_json = self._has_index = self._may_fill = False
        # Whether the last key that was set was a new one, as the next one may be.
        self._mostly_new = True
        self._remote: RemoteChanges | None = None
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
        if self._remote is not None:
            self._remote.renew()
        self._handles = Connections()

    def _forked(self) -> None:
        super()._forked()
        inherited, writer = list(self._snapshots), self._writer
        if writer is not None:
            inherited.append(writer[1])
        self._fresh()
        for handle in inherited:
            if handle.users == 0 and handle.dirtied <= (SPILL if self._wal else 0):
                handle.close()
            else:
                # Undoing what is in the WAL would undo it for the parent, and a rollback journal
                # would be deleted; and a call that another thread was in holds locks for ever.
                inherit(handle)
                self._stranded = True
        if self._remote is not None:
            self._remote.forked()

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
        self._make_statements()
        self._immutable = is_immutable(self._path)
        self._owner = object()
        watch(self)
        try:
            with Use(self) as handle:
                self._wal = set_up(self, handle.connection)
                # In UTF-16 the order of keys is another one.
                encoding = handle.connection.execute("PRAGMA encoding").fetchone()[0]
                self._utf8 = encoding == "UTF-8"
                self._has_json = has_json(handle.connection)
                self._has_index = install_index(self, handle.connection)
                self._may_fill = self.index is not None
                if self.poll:
                    from ._sqlite_remote import RemoteChanges

                    self._remote = RemoteChanges(self, handle.connection, self.poll)
        except BaseException:
            self._close()
            raise

    def _make_statements(self) -> None:
        # The connection keeps those that it has prepared, by their text.
        table = self._sql_table
        self._index = MetadataIndex(self.table)
        self._queries = Queries(self)
        self._read_sql = f"SELECT metadata, created, modified, data FROM {table} WHERE key = ?"
        self._head_sql = (
            "SELECT metadata, created, modified, CASE typeof(data) WHEN 'blob' THEN length(data)"
            f" ELSE length(CAST(data AS BLOB)) END, {NUMBER} FROM {table} WHERE key = ?"
        )
        self._holds_sql = f"SELECT 1 FROM {table} WHERE key = ?"
        self._number_sql = f"SELECT {NUMBER} FROM {table} WHERE key = ?"
        self._replace_sql = _REPLACE.format(table)
        self._insert_sql = _INSERT.format(table)
        self._delete_sql = f"DELETE FROM {table} WHERE key = ? AND typeof(data) = 'blob'"

    def _close(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.end(self)
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

    def sqlite_errors(self) -> Errors:
        """Return a context manager that turns what sqlite3 raises into StoreErrors."""
        return Errors(self._path)

    def _new_handle(self) -> Handle:
        owner = self._owner
        if owner is None:
            raise StoreError(f"{self!r} is not connected")
        if self._stranded:
            raise StoreError(
                f"{self!r} cannot be used in this process: it was forked in the middle of a large change"
            )
        handle = Handle(new_connection(self), self._sql_chunks, owner)
        if self._remote is not None:
            self._remote.adopt(self, handle.connection)
        return handle

    def _poll(self) -> None:
        """Tell what others have changed since the last time."""
        if self._remote is not None:
            self._remote.poll(self)

    # Maintenance

    def check(self) -> list[Finding]:
        from ._sqlite_maintenance import check

        self._check_connected()
        return check(self)

    def repair(self) -> list[Finding]:
        """Mend what check() finds.

        What is fine is not touched. If the file itself is damaged, all that can be read in it
        is copied to a new one, which then takes its place; other processes may have it open.

        Returns
        -------
        list of Finding
            What was wrong, with its outcome.
        """
        from ._sqlite_maintenance import repair

        self._check_connected()
        return repair(self)

    def compact(self) -> None:
        """Give space that is not used back to the file system.

        It takes as much space again for a while. A StoreError says that the database is in use.
        """
        from ._sqlite_maintenance import compact

        self._check_connected()
        compact(self)

    def upgrade(self) -> int:
        """Rewrite the metadata that EnCore 0.8 has pickled as JSON.

        It is done in small steps, so that others can write meanwhile, and can be interrupted and
        begun again. Metadata that cannot be read are left as they are; check() tells of them.

        Returns
        -------
        int
            How many were rewritten.
        """
        from ._sqlite_maintenance import upgrade

        self._check_connected()
        return upgrade(self)

    def _handle(self) -> Handle:
        handle = self._handles.mine
        if handle is None or handle.owner is not self._owner:
            with Errors(self._path):
                writer = self._writer
                if (
                    writer is not None
                    and writer[0] == get_ident()
                    and writer[1].owner is self._owner
                ):
                    handle = writer[1]
                else:
                    handle = self._new_handle()
            self._handles.mine = handle
        return handle

    # Reading

    def _fetch(self, sql: str, key: str) -> Any:
        """Return the row of a key, None if there is none."""
        handle = self._handle()
        handle.users += 1
        try:
            return handle.row(sql, key)
        except sqlite3.Error as error:
            raise failure(error, self._path) from error
        finally:
            handle.users -= 1

    def _read(self, key: str) -> Value:
        row = self._fetch(self._read_sql, key)
        if row is None:
            raise KeyError(key)
        if is_number(row[3]):
            with Use(self) as handle:
                return read_large(self, handle, key, row)
        return self._small_value(key, row)

    def _small_value(self, key: str, row: Any) -> Value:
        metadata, created, modified, data = row
        return StringValue.of_normalised(
            data if type(data) is bytes else as_data(data),
            self._metadata(key, metadata),
            as_stamp(created),
            as_stamp(modified),
        )

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        # A small part of a large value is read at once: a snapshot would take ten times as long.
        key = check_key(key)
        check_bounds(start, end)
        self._check_connected()
        with Use(self) as handle:
            row = handle.row(self._number_sql, key)
            number = row and row[0]
            size = number and handle.blobs.size(number)
            if size:
                begin, stop = slice_bounds(start, end, size)
                if stop - begin <= _SMALL_PART:
                    part = handle.blobs.read(number, stop - begin, begin) if begin < stop else b""
                    # Or it has been changed in between.
                    if len(part) == stop - begin:
                        return BytesIO(part)
        return super().get_data_range(key, start, end)

    def read_blob(self, number: int, size: int, position: int) -> bytes:
        """Return a part of a blob as it is now, nothing if it is gone."""
        with Use(self) as handle:
            return handle.blobs.read(number, size, position)

    def temporary_file(self) -> Any:
        """Return an unnamed file on the disk of the database, or elsewhere if that cannot be written."""
        return make_temporary_file(os.path.dirname(self._path))

    def _metadata(self, key: str, stored: Any) -> Metadata:
        metadata = parse(stored)
        if metadata is None:
            self._damaged(key)
        return metadata

    def _head(self, key: str) -> Head | None:
        row = self._fetch(self._head_sql, key)
        if row is None:
            return None
        metadata, created, modified, size, number = row
        if number is not None:
            with Use(self) as handle:
                size = handle.blobs.size(number)
        return Head(parse(metadata), as_stamp(created), as_stamp(modified), size or 0)

    def _holds(self, key: str) -> bool:
        return self._fetch(self._holds_sql, key) is not None

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        return self._queries.scan(criteria)

    def _list(self, prefix: str = "") -> Iterable[str]:
        return self._keys(prefix if self._utf8 else "", None, None)

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        if not self._utf8:
            return super()._page(prefix, start_after, limit)
        return self._keys(prefix, start_after, limit)

    def _keys(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        for (key,) in self._queries.walk("key", prefix, start_after, limit):
            name = key if type(key) is str else as_key(key)
            if name is not None:
                yield name

    # Writing

    def _write(
        self,
        key: str,
        stream: Readable,
        metadata: Metadata | None,
        size: int | None,
        buffer_size: int,
        condition: Condition | None,
    ) -> None:
        if condition is not None or not self._is_plain() or progress_wanted(self.event_manager):
            super()._write(key, stream, metadata, size, buffer_size, condition)
            return
        state = self._state
        # What the stream does meanwhile is its own doing.
        observer, state.observer = state.observer, None
        try:
            staged = self._stage_silently(stream, buffer_size)
            changes = None
            if type(staged) is bytes and metadata is not None:
                changes = self._put(key, staged, metadata, observer)
            if changes is None:
                try:
                    changes = self._perform(
                        lambda: self._modify(key, staged, metadata, False, None, observer)
                    )
                except StoreError:
                    error = getattr(staged, "error", None)
                    if error is not None:
                        raise error from None
                    raise
                finally:
                    self._discard(staged)
        finally:
            state.observer = observer
        for change in changes:
            self._tell(change)

    def _is_plain(self) -> bool:
        # What somebody has put in place of ours may be any step of the long way.
        return type(self) is SqliteStore and "_commit" not in self.__dict__

    def _stage_silently(self, stream: Readable, buffer_size: int) -> Any:
        if is_tame(stream):
            return stage_tame(stream, buffer_size)
        return self._stage(buffers_of(stream, buffer_size, None), None)

    def _put(
        self, key: str, data: bytes, metadata: Metadata, observer: Observer | None
    ) -> list[Change] | None:
        """Set a key the short way; return what is to be told now, or None if it takes the long one."""
        text = encode(metadata)
        now = round(self._clock() * 1e6) / 1e6
        replace = (self._replace_sql, (text, now, data, key), StoreUpdateEvent)
        insert = (self._insert_sql, (text, now, now, data, key), StoreSetEvent)
        unit = self._state.unit
        for sql, values, kind in (insert, replace) if self._mostly_new else (replace, insert):
            if self._execute(sql, values, unit):
                self._mostly_new = kind is StoreSetEvent
                change = Change(kind, key, metadata, observer)
                if unit is None:
                    return [change]
                unit.changes.append(change)
                return []
        return None

    def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | tuple[Readable, Metadata]],
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        plain = type(keys) in (list, tuple) and type(values) in (list, tuple)
        if plain and self._is_plain() and not progress_wanted(self.event_manager):
            check_buffer_size(buffer_size)
            with self.transaction("multiset"):
                set_many(self, keys, values, buffer_size)
        else:
            super().multiset(keys, values, buffer_size)

    def _execute(self, sql: str, values: tuple[Any, ...], unit: Unit | None) -> int:
        """Execute a statement by itself, or in the unit of work; return how many rows it has changed."""
        handle = self._handle()
        handle.users += 1
        try:
            if unit is not None:
                handle.dirtied += _PER_CHANGE
                return self._in_transaction(handle).execute(sql, values).rowcount
            if not self._mutex.acquire(timeout=BUSY):
                raise StoreError(f"{self!r} is locked by another thread")
            # For a fork in another thread.
            self._writer = get_ident(), handle
            return handle.connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise failure(error, self._path) from error
        finally:
            handle.users -= 1
            if unit is None:
                self._writer = None
                self._end()

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Any:
        return stage(chunks, self.temporary_file)

    def _discard(self, staged: Any) -> None:
        if not isinstance(staged, bytes):
            close_quietly(staged)

    def _begin(self) -> None:
        if not self._mutex.acquire(timeout=BUSY):
            raise StoreError(f"{self!r} is locked by another thread")
        with Use(self) as handle:
            handle.dirtied = 0
            self._writer = get_ident(), handle
            handle.connection.execute("BEGIN IMMEDIATE")

    def _begin_at_once(self, handle: Handle) -> bool:
        """Keep other writers out if there are none now; return whether it is done."""
        if not self._mutex.acquire(blocking=False):
            return False
        connection = handle.connection
        connection.execute("PRAGMA busy_timeout=0")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            self._end()
            return False
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(BUSY * 1000)}")
        handle.dirtied = SPILL + 1
        self._writer = get_ident(), handle
        return True

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
        text = encode(head.metadata)
        values: dict[str, Any] = {
            "metadata": text,
            "created": head.created,
            "modified": head.modified,
        }
        with Use(self) as handle:
            self._in_transaction(handle)
            handle.dirtied += _PER_CHANGE + _PER_NAME * len(head.metadata) + len(text)
            old = handle.row(self._number_sql, key)
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
                sets = ", ".join(f"{name} = ?" for name in values)
                sql = f"UPDATE {self._sql_table} SET {sets} WHERE key = ?"
            handle.connection.execute(sql, (*values.values(), key))

    def _save_blob(self, handle: Handle, file: Any) -> int:
        connection = handle.connection
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._sql_chunks} (id integer primary key, bytes blob)"
        )
        number = new_number()
        connection.executemany(
            f"INSERT INTO {self._sql_chunks} VALUES (?, ?)", chunk_rows(number, file, handle)
        )
        return number

    def _remove_blob(self, handle: Handle, number: int) -> None:
        handle.dirtied += handle.blobs.size(number) or 0
        handle.blobs.delete(number)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        state = self._state
        if (
            if_match is None
            and if_none_match is None
            and state.unit is None
            and state.observer is None
            and self._connected
            and self._is_plain()
            and not has_listeners(self.event_manager, StoreDeleteEvent)
            and self._execute(self._delete_sql, (check_key(key),), None)
        ):
            return
        super().delete(key, if_match=if_match, if_none_match=if_none_match)

    def _remove(self, key: str) -> None:
        with Use(self) as handle:
            connection = self._in_transaction(handle)
            handle.dirtied += _PER_CHANGE
            if connection.execute(self._delete_sql, (key,)).rowcount:
                return
            old = handle.row(self._number_sql, key)
            if old is not None and old[0] is not None:
                self._remove_blob(handle, old[0])
            connection.execute(f"DELETE FROM {self._sql_table} WHERE key = ?", (key,))


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


def _remove_folder(rmtree: Any, folder: str, process: int) -> None:
    # A child process does not remove what belongs to its parent.
    if os.getpid() == process:
        rmtree(folder, ignore_errors=True)
