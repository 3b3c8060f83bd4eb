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
# What the names of the folders of databases in memory begin with.
_MEMORY = "encore-memory-"
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


def new_connection(store: SqliteStore, how: str = "") -> sqlite3.Connection:
    """Open the database: to be used, or only for a look, as a parameter of its URI says."""
    import sqlite3

    path = store._path
    timeout = BUSY_SETUP / 1000 if how else BUSY
    if store._immutable:
        how = "immutable=1"
    elif not how and not store._create:
        how = "mode=rw"
    connection = sqlite3.connect(
        _uri(path, how) if how else path,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        uri=bool(how),
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


def _uri(path: str, how: str) -> str:
    for character in "%?#":
        path = path.replace(character, f"%{ord(character):02x}")
    # What follows two slashes is the name of a host.
    return f"file:{'//' if path.startswith('/') else ''}{path}?{how}"


def look(store: SqliteStore) -> None:
    """Raise StoreError if there is no table and none is to be made, or a table that is no store's.

    That comes before everything else, because the database may be another program's: it stays as
    it is, to the last byte.
    """
    import sqlite3

    path = store._path
    if not os.path.exists(path):
        if not store._create:
            raise StoreOSError(errno.ENOENT, "there is no such database", path)
        return
    # Who can only read makes a WAL and leaves it there; who can write empties one that is there.
    mode = "ro" if os.path.exists(f"{path}-wal") else "rw"
    try:
        handle = store._new_handle(f"mode={mode}")
        handle.users = 1
        try:
            columns = _column_names(store, handle.connection)
        finally:
            handle.close()
    except sqlite3.OperationalError:
        # It is locked, or a journal is to be rolled back, say. Then it is seen later.
        return
    _check_columns(store, columns)


def _check_columns(store: SqliteStore, columns: list[str]) -> None:
    if not columns:
        if not store._create:
            raise StoreError(f"there is no table {store.table!r} in {store.location!r}")
        return
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise StoreError(
            f"table {store.table!r} of {store.location!r} has no column {', '.join(missing)}"
        )


def make_memory_file(store: SqliteStore) -> tuple[str, Callable[[], object]]:
    """Return the path of a database for as long as the store lives, and what removes it before."""
    # SQLite's own databases in memory cannot be read by one connection while another one writes.
    import shutil
    import tempfile
    from weakref import finalize

    with os_errors():
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        if memory is None:
            folder, lock = tempfile.mkdtemp(prefix=_MEMORY), None
        else:
            _sweep(memory)
            folder, lock = _make_locked_folder(memory)
    cleanup = finalize(store, _remove_folder, shutil.rmtree, folder, lock, os.getpid())
    return os.path.join(folder, "memory.db"), cleanup


def _make_locked_folder(memory: str) -> tuple[str, int]:
    import tempfile

    while True:
        folder = tempfile.mkdtemp(prefix=_MEMORY, dir=memory)
        try:
            lock = _lock_folder(folder)
        except (BlockingIOError, FileNotFoundError):
            # It was swept before it had its lock.
            continue
        except OSError:
            os.rmdir(folder)
            raise
        if os.path.exists(folder):
            return folder, lock
        os.close(lock)


def _lock_folder(folder: str) -> int:
    """Lock a folder for as long as this process lives, or its children do; return its descriptor.

    A process id would say nothing: containers may share a /dev/shm.
    """
    from fcntl import LOCK_EX, LOCK_NB, flock

    lock = os.open(folder, os.O_RDONLY)
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _sweep(memory: str) -> None:
    """Remove the databases of processes that were killed."""
    import shutil

    with os.scandir(memory) as entries:
        folders = [each.path for each in entries if each.name.startswith(_MEMORY)]
    for folder in folders:
        try:
            lock = _lock_folder(folder)
        except OSError:
            # It is in use, or somebody else's.
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_folder(rmtree: Any, folder: str, lock: int | None, process: int) -> None:
    # A child process does not remove what belongs to its parent.
    if os.getpid() == process:
        rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


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

    # Again: meanwhile another one may have made it.
    columns = _column_names(store, connection)
    _check_columns(store, columns)
    with Waiting(connection, BUSY_SETUP):
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            # A database that is being read in another mode, or cannot be written.
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if not columns:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {store._sql_table} ({_COLUMNS})")
        _check_columns(store, _column_names(store, connection))
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
