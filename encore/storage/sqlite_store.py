"""A store in a table of an SQLite database.

The table is that of EnCore 0.8, five columns; other programs may insert rows by position. Data of
more than 64 KiB stand in a table of chunks beside it, see _sqlite_blobs.py; how they come in and
out is in _sqlite_large.py and _sqlite_kept.py.
Metadata are written as JSON; the pickles of 0.8 are read, see _sqlite_rows.py. An index of them is
kept by triggers, see _metadata_index.py; what it does not find is filtered in SQL, see
_sqlite_filter.py.

Each thread has a connection of its own. The database is in WAL mode where that can be had, so that
readers and the one writer do not wait for each other, and values that are too large to be read at
once are read from a snapshot. Connections and transactions have their home in _sqlite_base.py.

A change goes the long way of BaseStore where there is something to be done on it: a condition,
progress, large data, a strange row. Otherwise it goes the short way, see _sqlite_short_way.py. What
a signal handler does in the middle of a change comes before it, see _sqlite_asides.py.
"""

from __future__ import annotations

import os
import sys
from io import BytesIO

from ._keys import check_key
from ._metadata import dumps, normalise
from ._sqlite_base import PER_CHANGE, PER_NAME, SqliteBase
from ._streams import BUFFER_SIZE, check_bounds, check_buffer_size
from .abstract_store import RepairableStore
from .base_store import Head, no_positional_manager
from .errors import StoreError
from .string_value import StringValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Condition
    from ._progress import progress_wanted
    from ._sqlite_asides import aside
    from ._sqlite_blobs import NUMBER, is_number
    from ._sqlite_connections import Errors, Handle, Use
    from ._sqlite_kept import Keeper, read_large, read_part
    from ._sqlite_large import close_quietly, make_temporary_file, stage
    from ._sqlite_many import set_many
    from ._sqlite_remote import RemoteChanges
    from ._sqlite_rows import as_data, as_key, as_stamp, parse
    from ._sqlite_setup import new_connection, set_up
    from ._sqlite_short_way import delete, write
    from ._streams import Readable
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["SqliteStore"]

_loaded = False


def _load() -> None:
    """Import what only a store needs that is in use; see the _load() of base_store.py."""
    global _loaded  # noqa: PLW0603
    if _loaded:
        return
    global NUMBER, Errors, Handle, Use, aside, as_data, as_key, as_stamp, close_quietly, delete  # noqa: PLW0603
    global Keeper, is_number, make_temporary_file, new_connection, parse, progress_wanted  # noqa: PLW0603
    global read_large, read_part, set_many, set_up, stage, write  # noqa: PLW0603
    from ._progress import progress_wanted
    from ._sqlite_asides import aside
    from ._sqlite_blobs import NUMBER, is_number
    from ._sqlite_connections import Errors, Handle, Use
    from ._sqlite_kept import Keeper, read_large, read_part
    from ._sqlite_large import close_quietly, make_temporary_file, stage
    from ._sqlite_many import set_many
    from ._sqlite_rows import as_data, as_key, as_stamp, parse
    from ._sqlite_setup import new_connection, set_up
    from ._sqlite_short_way import delete, write

    _loaded = True


def _adapt_dict(metadata: dict[str, Any]) -> str:
    return dumps(normalise(metadata))


def _register_adapter() -> None:
    import sqlite3

    sqlite3.register_adapter(dict, _adapt_dict)


if "sqlite3" in sys.modules:
    _register_adapter()


class SqliteStore(SqliteBase, RepairableStore):
    """A store in a table of an SQLite database, for any number of threads and processes.

    Parameters
    ----------
    location : str or PathLike
        A file, made by connect() if it does not exist. ':memory:' is a database that lives from
        connect() to disconnect(), in a file system in memory where there is one.
    table : str
        Any name that does not begin with ``sqlite_``, has no ``"`` and does not end with
        ``#chunks``, ``#index``, ``#indexed``, ``#changes`` or ``#pollers``, as those of the tables
        beside it do; made if it does not exist.
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
    create : bool
        Whether connect() makes the file and the table where they are missing. If not, it raises a
        StoreError then, and leaves the file as it is. A database in memory is always made.
    """

    _transient = SqliteBase._transient | {
        "_utf8",
        "_immutable",
        "_cleanup",
        "_has_json",
        "_has_index",
        "_may_fill",
        "_mostly_new",
        "_remote",
        "_keeper",
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
        create: bool = True,
    ) -> None:
        from ._sqlite_setup import check_index_columns, check_table

        no_positional_manager(location, table, index, index_columns)
        name = os.fsdecode(os.fspath(location))
        if not name or "\0" in name:
            raise ValueError(f"the location of a database is a path or ':memory:', not {name!r}")
        self.location = name if name == ":memory:" else os.path.abspath(name)
        self.table = check_table(table)
        if index not in ("dynamic", "static", None):
            raise ValueError(f"index is 'dynamic', 'static' or None, not {index!r}")
        self.index = index
        self.index_columns = check_index_columns(index_columns)
        if durability not in ("power", "process"):
            raise ValueError(f"durability is 'power' or 'process', not {durability!r}")
        self._durability = durability
        if poll is not None:
            from ._sqlite_remote import check_interval

            check_interval(poll)
        self.poll = poll
        self._create = bool(create) or self.location == ":memory:"
        self._sql_table = f'"{table}"'
        self._sql_chunks = f'"{table}#chunks"'
        super().__init__(event_manager=event_manager)
        _register_adapter()

    def _prepare(self) -> None:
        _load()
        self._path = self.location
        self._cleanup: Any = None
        self._immutable = False
        self._utf8 = True
        self._has_json = self._has_index = self._may_fill = False
        # Whether the last key that was set was a new one, as the next one may be.
        self._mostly_new = True
        self._remote: RemoteChanges | None = None
        super()._prepare()

    def _fresh(self) -> None:
        super()._fresh()
        self._keeper = Keeper()

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
            "index": self.index,
            "poll": self.poll,
        }

    # Life cycle

    def _open(self, credentials: Any) -> None:
        from ._metadata_index import has_json
        from ._sqlite_connections import watch
        from ._sqlite_setup import install_index, is_immutable, look, make_memory_file

        if self.location == ":memory:":
            self._path, self._cleanup = make_memory_file(self)
        self._make_statements()
        self._immutable = is_immutable(self._path)
        self._owner = object()
        watch(self)
        try:
            if self._cleanup is None:
                with Errors(self._path):
                    look(self)
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
        from ._metadata_index import MetadataIndex
        from ._sqlite_queries import Queries
        from ._sqlite_short_way import DELETE, INSERT, REPLACE

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
        self._replace_sql = REPLACE.format(table)
        self._insert_sql = INSERT.format(table)
        self._delete_sql = DELETE.format(table)

    def _close(self) -> None:
        self._keeper.leave(self)
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.end(self)
        self._owner = None
        mine = self._handles.mine
        self._drop_handles()
        if mine is not None and mine.users == 0:
            # References to it may be kept by the traceback of an error.
            mine.close()
        if self._writer is not None and self._writer[1].users == 0:
            # This closes the connection. One in use is left to its thread to roll back.
            self._writer = None
        if self._cleanup is not None:
            self._cleanup()
            self._cleanup = None
            self._path = self.location

    def _drop_handles(self) -> None:
        if self._remote is not None:
            self._remote.renew()
        super()._drop_handles()

    def _forked(self) -> None:
        super()._forked()
        if self._remote is not None:
            self._remote.forked()

    def _new_handle(self, how: str = "") -> Handle:
        owner = self._owner
        if owner is None:
            raise StoreError(f"{self!r} is not connected")
        if self._stranded:
            raise StoreError(
                f"{self!r} cannot be used in this process, which was forked {self._stranded}"
            )
        handle = Handle(new_connection(self, how), self._sql_chunks, owner, self._opened)
        self._live.add(handle)
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
        """Mend what check() finds; what is fine is not touched.

        If the file itself is damaged, indexes are made again; if that is not enough, all that can
        be read of all tables in it is copied to a temporary database, and from there back in one
        transaction. Other processes may have the file open, and use it.
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

    # Reading

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
        key = check_key(key)
        check_bounds(start, end)
        self._check_connected()
        part = read_part(self, key, start, end)
        return super().get_data_range(key, start, end) if part is None else BytesIO(part)

    def _temporary_file(self) -> Any:
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
        between = aside(self)
        if between is not None:
            with between:
                self._write(key, stream, metadata, size, buffer_size, condition)
        elif condition is None and self._is_plain() and not progress_wanted(self.event_manager):
            write(self, key, stream, metadata, buffer_size)
        else:
            super()._write(key, stream, metadata, size, buffer_size, condition)

    def _is_plain(self) -> bool:
        # What somebody has put in place of ours may be any step of the long way.
        return type(self) is SqliteStore and "_commit" not in self.__dict__

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

    def _stage(self, chunks: Iterator[bytes], size: int | None) -> Any:
        return stage(chunks, self._temporary_file)

    def _discard(self, staged: Any) -> None:
        if not isinstance(staged, bytes):
            close_quietly(staged)

    def _save(self, key: str, staged: Any, head: Head) -> None:
        assert head.metadata is not None
        text = dumps(head.metadata)
        values: dict[str, Any] = {
            "metadata": text,
            "created": head.created,
            "modified": head.modified,
        }
        with Use(self) as handle:
            self._in_transaction(handle)
            handle.dirtied(PER_CHANGE + PER_NAME * len(head.metadata) + len(text))
            old = handle.row(self._number_sql, key)
            if staged is not None or old is None:
                values["data"] = staged or b""
                if isinstance(staged, bytes):
                    handle.dirtied(len(staged))
                elif staged is not None:
                    # It may be done again.
                    staged.seek(0)
                    values["data"] = handle.save_blob(staged)
            names = ", ".join(values)
            if old is None:
                marks = ", ".join("?" * (len(values) + 1))
                sql = f"INSERT INTO {self._sql_table} ({names}, key) VALUES ({marks})"
            else:
                sets = ", ".join(f"{name} = ?" for name in values)
                sql = f"UPDATE {self._sql_table} SET {sets} WHERE key = ?"
            handle.connection.execute(sql, (*values.values(), key))
            # Last, so that a signal handler finds what the row names.
            if "data" in values and old is not None and old[0] is not None:
                handle.remove_blob(old[0])

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        between = aside(self)
        if between is not None:
            with between:
                self.delete(key, if_match=if_match, if_none_match=if_none_match)
            return
        if if_match is None and if_none_match is None and self._is_plain() and delete(self, key):
            return
        super().delete(key, if_match=if_match, if_none_match=if_none_match)

    def _remove(self, key: str) -> None:
        with Use(self) as handle:
            connection = self._in_transaction(handle)
            handle.dirtied(PER_CHANGE)
            if connection.execute(self._delete_sql, (key,)).rowcount:
                return
            old = handle.row(self._number_sql, key)
            connection.execute(f"DELETE FROM {self._sql_table} WHERE key = ?", (key,))
            if old is not None and old[0] is not None:
                handle.remove_blob(old[0])
