"""The database of an SqliteStore: where it is, its mode, its table and its index."""

from __future__ import annotations

import errno
import os

from ._sqlite_connections import BUSY, BUSY_SETUP, NEVER_SPILL, Waiting
from .errors import StoreError, StoreOSError, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from typing import Any

    from .sqlite_store import SqliteStore

_COLUMNS = "key text primary key, metadata dict, created float, modified float, data blob"
# What the names of the tables end with that a store has beside its own.
_RESERVED = ("#chunks", "#index", "#indexed", "#changes", "#pollers")
_NEEDED = ("key", "metadata", "created", "modified", "data")


def check_table(table: str) -> str:
    """Return the name of a table, or raise TypeError or ValueError."""
    if not isinstance(table, str):
        raise TypeError(f"table is a str, not {type(table).__name__}: {table!r}")
    if not table or table.lower().startswith("sqlite_") or '"' in table or "\0" in table:
        raise ValueError(f"a table cannot have the name {table!r}")
    table.encode()
    if table.lower().endswith(_RESERVED):
        raise ValueError(f"a table beside that of another store may have the name {table!r}")
    return table


def check_index_columns(columns: Iterable[str] | None) -> tuple[str, ...]:
    """Return names of metadata, or raise TypeError."""
    if isinstance(columns, str):
        raise TypeError(f"index_columns is an iterable of names, not one str: {columns!r}")
    names = tuple(columns or ())
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names in index_columns are str, not {type(name).__name__}: {name!r}")
    return names


def new_connection(store: SqliteStore) -> sqlite3.Connection:
    """Open the database."""
    import sqlite3

    path = store._path
    if store._immutable:
        from urllib.parse import quote

        path = f"file:{quote(path)}?immutable=1"
    connection = sqlite3.connect(
        path,
        timeout=BUSY,
        isolation_level=None,
        check_same_thread=False,
        uri=store._immutable,
    )
    # EXTRA is FULL for a WAL; for a rollback journal it syncs the directory from which the journal
    # has been deleted, without which a commit can be undone by a loss of power.
    level = (
        "OFF"
        if store.location == ":memory:"
        else {"power": "EXTRA", "process": "NORMAL"}[store._durability]
    )
    try:
        connection.execute(f"PRAGMA synchronous={level}")
        connection.execute(NEVER_SPILL)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            _explain(path, error)
        raise
    return connection


def make_memory_file(store: SqliteStore) -> tuple[str, Callable[[], object]]:
    """Return the path of a database for as long as the store lives, and what removes it before."""
    # SQLite's own databases in memory cannot be read by one connection while another one writes.
    import shutil
    import tempfile
    from weakref import finalize

    with os_errors():
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = tempfile.mkdtemp(prefix="encore-sqlite-", dir=memory)
    cleanup = finalize(store, _remove_folder, shutil.rmtree, folder, os.getpid())
    return os.path.join(folder, "memory.db"), cleanup


def _remove_folder(rmtree: Any, folder: str, process: int) -> None:
    # A child process does not remove what belongs to its parent.
    if os.getpid() == process:
        rmtree(folder, ignore_errors=True)


def is_immutable(path: str) -> bool:
    """Whether nobody can write the database: then a WAL mode that left no WAL need not be kept up.

    A folder that only this user may not write is another thing: who may, can write at any moment,
    and would not know of a reader that takes no locks.
    """
    try:
        return (
            not os.access(os.path.dirname(path), os.W_OK)
            and bool(os.statvfs(path).f_flag & os.ST_RDONLY)
            and not any(os.path.exists(path + suffix) for suffix in ("-wal", "-journal"))
        )
    except (OSError, AttributeError):
        # There is no such file, or on Windows no such function.
        return False


def _explain(path: str, error: sqlite3.OperationalError) -> None:
    """Raise an error that helps where SQLite's would not."""
    if (
        "readonly" in str(error)
        and os.path.isfile(path)
        and not os.access(os.path.dirname(path), os.W_OK)
    ):
        raise StoreOSError(
            errno.EACCES,
            "the database is in WAL mode, which needs a directory that can be written; somebody who"
            " may write it can change that with PRAGMA journal_mode=DELETE",
            path,
        ) from error


def set_up(store: SqliteStore, connection: sqlite3.Connection) -> bool:
    """Make the table and the index where they are not there; return whether there is a WAL."""
    import sqlite3

    with Waiting(connection, BUSY_SETUP):
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            # A database that is being read in another mode, or cannot be written.
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    columns = _column_names(store, connection)
    if not columns:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {store._sql_table} ({_COLUMNS})")
        columns = _column_names(store, connection)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise StoreError(
            f"table {store.table!r} of {store.location!r} has no column {', '.join(missing)}"
        )
    return bool(mode == "wal")


def _column_names(store: SqliteStore, connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(f"PRAGMA table_info({store._sql_table})")
    return [row[1].lower() for row in rows]


def install_index(store: SqliteStore, connection: sqlite3.Connection) -> bool:
    """Make the index, or let it be as it is; return whether there is one."""
    import sqlite3

    names = None if store.index == "dynamic" else store.index_columns if store.index else ()
    with Waiting(connection, BUSY_SETUP):
        try:
            return store._index.install(connection, names)
        except sqlite3.OperationalError:
            # The database cannot be written, or is being read or written; so it is kept as it is.
            return store._index.exists(connection)
