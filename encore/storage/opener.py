"""Stores by name."""

from __future__ import annotations

import os

from .errors import StoreError, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, overload

    from ..events.abstract_event_manager import BaseEventManager
    from .abstract_store import AbstractReadOnlyStore, AbstractStore

    Manager = BaseEventManager | None

__all__ = ["open_store"]

# Names that may mean something later; until then a module of the same name must not.
_RESERVED = frozenset(
    ("auth", "cache", "checked", "file", "ftp", "hash", "http", "https", "joined", "locking")
    + ("mount", "mounted", "prefix", "readonly", "retry", "static", "url")
)


if TYPE_CHECKING:

    @overload
    def open_store(
        name: str, *, create: Literal[True], event_manager: BaseEventManager | None = None
    ) -> AbstractStore: ...

    @overload
    def open_store(
        name: str, *, create: bool = False, event_manager: BaseEventManager | None = None
    ) -> AbstractReadOnlyStore: ...


def open_store(
    name: str, *, create: bool = False, event_manager: BaseEventManager | None = None
) -> AbstractReadOnlyStore:
    """Make a store from its name.

    ====================  ==================================================================
    ``memory:``           a new DictMemoryStore
    ``sqlite:PATH``       the SqliteStore in a file
    ``sqlite::memory:``   a new SqliteStore in memory
    ``fs:PATH``           the FileSystemStore in a directory
    ``lockfs:PATH``       the LockingFileSystemStore in a directory
    ``dir:PATH``          the DirectoryStore of any directory
    ``module:callable``   what the callable of a module returns, called with
                          ``event_manager=`` if it takes that, else without arguments
    ====================  ==================================================================

    Other names with ``::`` are kept free for stores that wrap others. Paths are made absolute at
    once.

    Parameters
    ----------
    name : str
    create : bool
        Whether the store is to be written, and what is missing to be made: the database, when the
        store is connected; the directory of a FileSystemStore or LockingFileSystemStore, at once,
        where there is none or an empty one.
    event_manager : BaseEventManager, optional

    Returns
    -------
    AbstractReadOnlyStore
        Not connected. With ``create=True`` it is an AbstractStore.

    Raises
    ------
    ValueError
        If the name is no such name, or there is no such module or callable.
    StoreError
        If there is nothing at the path, or no store; if the callable fails or returns no store; if
        the store is to be written and can only be read.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a store is a str, not {type(name).__name__}: {name!r:.80}")
    scheme, colon, rest = name.partition(":")
    if name == "sqlite::memory:":
        return _sqlite_in_memory(event_manager)
    if "::" in name:
        raise ValueError(f"{name!r}: '::' is kept for stores that wrap others, none of which exist")
    make = _SCHEMES.get(scheme) if colon else None
    if make is not None:
        if "\0" in rest:
            raise ValueError(f"{name!r}: a path has no NUL")
        if not rest and make is not _memory:
            raise ValueError(f"{name!r}: the path is missing")
        return make(rest, create, event_manager)
    if scheme in _RESERVED or not (_is_dotted_name(scheme) and _is_dotted_name(rest)):
        raise ValueError(f"{name!r} names no store; known are {_KNOWN}")
    store = _called(name, scheme, rest, event_manager)
    if create:
        from .abstract_store import AbstractStore

        if not isinstance(store, AbstractStore):
            raise _read_only(name)
    return store


def _read_only(name: str) -> StoreError:
    return StoreError(f"{name!r} can only be read")


def _memory(path: str, create: bool, event_manager: Manager) -> AbstractReadOnlyStore:
    from .dict_memory_store import DictMemoryStore

    if path:
        raise ValueError(f"'memory:{path}': nothing may follow 'memory:'")
    return DictMemoryStore(event_manager=event_manager)


def _sqlite(path: str, create: bool, event_manager: Manager) -> AbstractReadOnlyStore:
    from .sqlite_store import SqliteStore

    # Absolute, so that no path looks like one of the names that SQLite takes for something else
    # (':memory:', 'file:...').
    path = os.path.abspath(path)
    if not create:
        _check_exists(path)
    return SqliteStore(path, event_manager=event_manager)


def _sqlite_in_memory(event_manager: Manager) -> AbstractReadOnlyStore:
    from .sqlite_store import SqliteStore

    return SqliteStore(":memory:", event_manager=event_manager)


def _fs(path: str, create: bool, event_manager: Manager) -> AbstractReadOnlyStore:
    from .filesystem_store import FileSystemStore

    return FileSystemStore(_directory(path, create), event_manager=event_manager)


def _lockfs(path: str, create: bool, event_manager: Manager) -> AbstractReadOnlyStore:
    from .locking_filesystem_store import LockingFileSystemStore

    return LockingFileSystemStore(_directory(path, create), event_manager=event_manager)


def _directory(path: str, create: bool) -> str:
    from .filesystem_store import init_shared_store

    path = os.path.abspath(path)
    if not create:
        _check_exists(path)
    else:
        with os_errors():
            # A directory that is to hold the new one is not made.
            if not os.path.lexists(path):
                os.stat(os.path.dirname(path))
                init_shared_store(path)
            # Files of the store's own may be there alone where making one was interrupted.
            elif os.path.isdir(path) and all(name.startswith(".FS") for name in os.listdir(path)):
                init_shared_store(path)
    return path


def _dir(path: str, create: bool, event_manager: Manager) -> AbstractReadOnlyStore:
    from .directory_store import DirectoryStore

    if create:
        raise _read_only(f"dir:{path}")
    path = os.path.abspath(path)
    _check_exists(path)
    return DirectoryStore(path, event_manager=event_manager)


def _check_exists(path: str) -> None:
    with os_errors():
        os.stat(path)


_SCHEMES: dict[str, Callable[[str, bool, Manager], AbstractReadOnlyStore]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "fs": _fs,
    "lockfs": _lockfs,
    "dir": _dir,
}
_KNOWN = "memory:, sqlite:PATH, fs:PATH, lockfs:PATH, dir:PATH, module:callable"


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _called(
    name: str, module: str, attribute: str, event_manager: Manager
) -> AbstractReadOnlyStore:
    from importlib import import_module
    from operator import attrgetter

    from .abstract_store import AbstractReadOnlyStore

    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{name!r} names no store: there is no module {error.name!r}; known are {_KNOWN}"
            ) from error
        raise StoreError(f"{name!r}: the module cannot be imported: {error}") from error
    except Exception as error:
        raise StoreError(f"{name!r}: the module cannot be imported: {error!r}") from error
    try:
        factory = attrgetter(attribute)(found)
    except AttributeError as error:
        raise ValueError(f"{name!r} names no store: {error}") from error
    if not callable(factory):
        raise ValueError(f"{name!r} names no store: {attribute} cannot be called")
    arguments = {"event_manager": event_manager} if _takes_manager(factory) else {}
    try:
        store = factory(**arguments)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{name!r}: the call failed: {error!r}") from error
    if not isinstance(store, AbstractReadOnlyStore):
        raise StoreError(f"{name!r}: the call returned no store but {store!r:.80}")
    if event_manager is not None:
        store.event_manager = event_manager
    return store


def _takes_manager(factory: Callable[..., Any]) -> bool:
    from inspect import Parameter, signature

    try:
        parameters = signature(factory).parameters
    except (TypeError, ValueError):
        # What is written in C need not say what it takes.
        return False
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
        return True
    manager = parameters.get("event_manager")
    return manager is not None and manager.kind is not Parameter.POSITIONAL_ONLY
