"""The connections of an SqliteStore: one for each thread, and what they raise.

No connection is closed by another thread than the one that uses it (that crashes the interpreter).

=========  =======================================================================================
idle       ``users`` is 0; referred to by its thread alone (`Connections`), so that it is closed when
           the thread ends
in use     a method of the store is at it, or the transaction of its thread
dropped    by disconnect(), or before a fork. Who uses it still refers to it; then it is closed.
           Its ``owner`` tells a thread that is late that it is of an earlier connect()
snapshot   it has a read transaction, and belongs to large values (`Snapshot`) instead of a thread
dying      its handle is gone, and it is about to be closed, or is being closed
inherited  see below: never closed
=========  =======================================================================================

SQLite keeps its locks in tables of the process, which a child inherits without the locks ("How To
Corrupt An SQLite Database File", 2.6: carrying an open connection across a fork). As long as one of
them is there, a new connection of the child would take the parent's locks for its own, and lock
nothing. So none may be there when the child begins:

- A fork waits until no other thread is inside SQLite, closing a connection included, and drops idle
  connections before it.
- Of those that cannot be dropped, the child closes at once what has changed nothing that it shares
  with its parent. To close unlocks nothing of the parent's, whose locks are those of another process
  (fcntl(2)); and to roll back undoes only what is in the memory of the child: a transaction puts
  nothing into the WAL before its commit, unless `Handle.dirtied()` has allowed that. Without a WAL
  there is the journal, from the first change on, which the child would delete.
- But to roll back clears, in the index of the WAL, which is shared memory, whatever comes after the last
  commit. So the transaction must not go on before the child has closed its connection: whoever
  forks waits until the child tells that it has, and keeps the gate shut so long.
- If there is one that it may not close, it keeps it for ever, and does not use the store.
"""

from __future__ import annotations

import errno
import os
import sys
from _thread import RLock, _local, get_ident, interrupt_main, start_new_thread
from time import monotonic, sleep

from ._sqlite_blobs import CHUNK, Blobs, new_number
from .errors import StoreError, StoreOSError, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from typing import Any
    from weakref import WeakSet

    from ._sqlite_base import SqliteBase

# Seconds to wait for another writer; milliseconds to wait for readers when WAL mode is asked for.
BUSY = 30.0
BUSY_SETUP = 1000

# A transaction that has dirtied more bytes than this, as far as we can tell, may put pages into the
# WAL before its commit: they are in memory until then.
SPILL = 1 << 20

# In pages. The first byte must not be zero, which SQLite takes for a switch that acts later only.
NEVER_SPILL = f"PRAGMA cache_spill={(1 << 30) + 1}"
_SPILL = "PRAGMA cache_spill=1"

# Seconds that a fork waits for what other threads are at.
_STILL = 0.5

# What SQLite says when the operating system refused. The codes are no attributes before Python
# 3.11.
_REFUSALS = {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.ENOENT,
    "disk I/O error": errno.EIO,
    "access permission denied": errno.EACCES,
}


class Errors:
    """Turns what sqlite3 raises into StoreErrors."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Any:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        if error is None or isinstance(error, StoreError):
            return
        if isinstance(error, OSError):
            raise from_os_error(error) from error
        import sqlite3

        if isinstance(error, sqlite3.Error):
            raise failure(error, self._path) from error
        if isinstance(error, UnicodeDecodeError):
            # SQLite quotes what is damaged, and the module sqlite3 cannot read it.
            raise StoreError(f"the database is damaged: {self._path!r}") from error


def failure(error: sqlite3.Error, path: str) -> StoreError:
    """Make the StoreError that stands for `error`."""
    text = str(error)
    number = _REFUSALS.get(text)
    if number is None:
        return StoreError(f"{text}: {path!r}")
    if number == errno.ENOENT:
        number = _why_not_opened(path)
        if number == errno.EISDIR:
            text = os.strerror(number)
    return StoreOSError(number, text, path)


class Use(Errors):
    """Gives the connection of the calling thread for as long as it is used."""

    __slots__ = ("_handle", "_store")

    def __init__(self, store: SqliteBase) -> None:
        self._path = store._path
        self._store = store
        self._handle: Handle | None = None

    def __enter__(self) -> Handle:
        try:
            self._handle = handle = self._store._handle()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        handle.users += 1
        return handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        handle = self._handle
        if handle is not None:
            handle.users -= 1
            self._handle = None
        if error is not None:
            super().__exit__(kind, error, traceback)


def _why_not_opened(path: str) -> int:
    # The file itself must not be opened to find out: closing it would end the locks that SQLite
    # holds on it in this process (fcntl(2)).
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno or errno.EMFILE
    if not os.path.exists(path):
        folder = os.path.dirname(path)
        return errno.EACCES if os.path.isdir(folder) else errno.ENOENT
    return errno.EISDIR if os.path.isdir(path) else errno.EACCES


class Waiting:
    """Has a connection wait for others for so many milliseconds, rather than for BUSY."""

    def __init__(self, connection: sqlite3.Connection, milliseconds: int) -> None:
        self._connection = connection
        self._milliseconds = milliseconds

    def __enter__(self) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={self._milliseconds}")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={int(BUSY * 1000)}")


# Connections that are being closed; who begins to comes through the doorway.
_closing: dict[int, object] = {}
_doorway = RLock()


def _close(connection: sqlite3.Connection, opened: dict[int, sqlite3.Connection]) -> None:
    number = id(connection)
    try:
        try:
            with _doorway:
                _closing[number] = connection
        finally:
            # An interrupt may have come before.
            try:
                connection.close()
            finally:
                _closing.pop(number, None)
                opened.pop(number, None)
    except KeyboardInterrupt:
        if not _interrupt_again():
            raise


def _interrupt_again() -> bool:
    """Have this thread interrupted soon, if it is the main one: what a finalizer raises is lost.

    The last connection waits for the disk when it is closed, so that is where an interrupt comes.
    """
    from threading import current_thread, main_thread

    if current_thread() is not main_thread():
        return False
    try:
        start_new_thread(_interrupt_after_finalizer, ())
    except RuntimeError:
        # At the end of the interpreter.
        return False
    return True


def _interrupt_after_finalizer() -> None:
    """Interrupt the main thread when it is in no finalizer any more."""
    from threading import main_thread
    from weakref import finalize

    number: Any = main_thread().ident
    finalizer = finalize.__call__.__code__
    frame = sys._current_frames().get(number)
    while frame is not None:
        if frame.f_code is finalizer:
            sleep(0.001)
            frame = sys._current_frames().get(number)
        else:
            frame = frame.f_back
    interrupt_main()


class Handle:
    """A connection, closed when nothing refers to it any more.

    Parameters
    ----------
    connection : sqlite3.Connection
    chunks : str
        The name of the table of chunks, quoted.
    owner : object
    opened : dict
        Has the connection for as long as it is open.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        chunks: str,
        owner: object,
        opened: dict[int, sqlite3.Connection],
    ) -> None:
        from weakref import finalize

        self.connection = connection
        self.blobs = Blobs(connection, chunks)
        self.owner = owner
        #: Calls that use it now; more than one only where a finalizer runs inside a call.
        self.users = 0
        #: Whether it has the transaction of a unit of work, unless SQLite has undone that.
        self.is_begun = False
        #: How many savepoints its transaction has, at least.
        self.savepoints = 0
        #: About how many bytes its transaction has changed.
        self.dirty = 0
        #: Whether its transaction may put pages into the WAL before its commit.
        self.spills = False
        opened[id(connection)] = connection
        # No __del__(): where an exception has made a cycle, the connection may be finalised first,
        # and that is a ResourceWarning.
        self.close = finalize(self, _close, connection, opened)
        # By the main thread, while a daemon may be inside SQLite with it; see _at_exit().
        self.close.atexit = False

    def begin(self) -> None:
        """Keep other writers out."""
        self.dirty = self.savepoints = 0
        if self.spills:
            self.connection.execute(NEVER_SPILL)
            self.spills = False
        self.connection.execute("BEGIN IMMEDIATE")
        self.is_begun = True

    def dirtied(self, size: int) -> None:
        """Tell that the transaction is about to change so many bytes."""
        self.dirty += size
        if self.dirty > SPILL and not self.spills:
            self.spills = True
            self.connection.execute(_SPILL)

    def save_blob(self, file: Any) -> int:
        """Save what can be read from a file; return the number of the blob."""
        self.blobs.make_table()
        number = new_number()
        self.blobs.insert(number, self._chunks(file))
        return number

    def _chunks(self, file: Any) -> Iterator[bytes]:
        while chunk := file.read(CHUNK):
            self.dirtied(len(chunk))
            yield chunk

    def remove_blob(self, number: int) -> None:
        """Delete a blob."""
        self.dirtied(self.blobs.size(number) or 0)
        self.blobs.delete(number)

    def row(self, sql: str, key: str) -> Any:
        """Return the row of a key, as rows() does; None if there is none."""
        try:
            return self.connection.execute(sql, (key,)).fetchone()
        except Exception as error:
            if not _is_no_text(error):
                raise
        return next(iter(self.rows(sql, (key,))), None)

    def rows(self, sql: str, values: Iterable[Any]) -> list[Any]:
        """Return rows; with text as bytes where some of it is no UTF-8."""
        try:
            return self.connection.execute(sql, tuple(values)).fetchall()
        except Exception as error:
            if not _is_no_text(error):
                raise
        self.connection.text_factory = bytes
        try:
            return self.connection.execute(sql, tuple(values)).fetchall()
        finally:
            self.connection.text_factory = str


def _is_no_text(error: Exception) -> bool:
    import sqlite3

    return isinstance(error, sqlite3.OperationalError) and "decode" in str(error)


class Connections(_local):
    mine: Handle | None = None


# Connections that a child process inherited and may not close.
_inherited: list[object] = []


def inherit(connection: object) -> None:
    """Keep a connection that a child process inherited from ever being closed."""
    _inherited.append(connection)
    try:
        from ctypes import py_object, pythonapi
    except ImportError:
        return
    # Not at the end of the interpreter either, which is that of all that is referred to in Python.
    pythonapi.Py_IncRef(py_object(connection))


def is_being_closed(connection: object) -> bool:
    return id(connection) in _closing


_connected: WeakSet[SqliteBase] | None = None

# The locks of stores that a thread holds which is about to fork.
_held: dict[int, list[Any]] = {}

# A pipe whose end it sees when the child has closed what it inherited; if that can do harm before.
_pipes: dict[int, tuple[int, int]] = {}


def watch(store: SqliteBase) -> None:
    global _connected  # noqa: PLW0603 - made on first use, so that importing has no effect
    if _connected is None:
        from weakref import WeakSet

        stores: WeakSet[SqliteBase] = WeakSet()
        # Asked again: meanwhile another thread, or a finalizer, may have come by.
        if _connected is None:
            _connected = stores
            import atexit

            atexit.register(_at_exit)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(
                    before=_before_fork,
                    after_in_parent=_after_fork,
                    after_in_child=_after_fork_in_child,
                )
    _connected.add(store)


def _at_exit() -> None:
    """Close what this thread has; the threads that are left are daemons, which may be using what they have."""
    for store in list(_connected or ()):
        handle = store._handles.mine
        if handle is not None and not handle.users:
            _close(handle.connection, store._opened)


def _before_fork() -> None:
    stores: list[SqliteBase] = []
    for _ in range(1000):
        try:
            stores = list(_connected or ())
            break
        except RuntimeError:
            # Another thread has just connected one.
            continue
    deadline = monotonic() + _STILL
    held = _held[get_ident()] = []
    # All who fork take the locks in one order.
    for store in sorted(stores, key=id):
        store._stand_still(deadline, held)
    if any(store._writer is not None for store in stores):
        try:
            _pipes[get_ident()] = os.pipe()
        except OSError:
            # Then the child does not close it.
            pass
    # Last, as it keeps up whoever drops a connection, inside a method of another store maybe.
    while True:
        if _doorway.acquire(timeout=max(0.0, deadline - monotonic())):
            if not _closing:
                held.append(_doorway)
                return
            _doorway.release()
        if monotonic() >= deadline:
            return
        sleep(0.0005)


def _after_fork() -> None:
    pipe, held = _pipes.pop(get_ident(), None), _held.pop(get_ident(), [])
    try:
        if pipe is not None:
            _wait_for_child(*pipe)
    finally:
        for lock in reversed(held):
            lock.release()


def _wait_for_child(reading: int, writing: int) -> None:
    from select import POLLIN, poll

    try:
        os.close(writing)
        # Its end is also that of the child, or that there is none.
        end = poll()
        end.register(reading, POLLIN)
        end.poll(BUSY * 1000)
    finally:
        os.close(reading)


def is_waited_for() -> bool:
    """Whether the parent of this child process lets nobody go on with a transaction yet."""
    return get_ident() in _pipes


def _after_fork_in_child() -> None:
    global _doorway  # noqa: PLW0603
    # The stores have made their locks anew, and closed what they inherited.
    # Other threads may have been about to fork, too.
    for pipe in _pipes.values():
        for end in pipe:
            os.close(end)
    _pipes.clear()
    _held.clear()
    _closing.clear()
    _doorway = RLock()
