"""Stores by name."""

from __future__ import annotations

import os

from .errors import StoreError, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from inspect import Parameter
    from typing import Any, Literal, overload

    from ..events.abstract_event_manager import BaseEventManager
    from ._chain import Link
    from .abstract_store import AbstractReadOnlyStore, AbstractStore
    from .filesystem_store import FileSystemStore

    Options = dict[str, Any]

__all__ = ["open_store"]

# Names that may mean something later; until then a module of the same name must not.
_RESERVED = frozenset(
    ("auth", "cache", "checked", "file", "ftp", "hash", "joined", "locking", "mount", "mounted")
    + ("prefix", "readonly", "retry", "url")
)


if TYPE_CHECKING:

    @overload
    def open_store(
        name: str,
        *,
        create: Literal[True],
        event_manager: BaseEventManager | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> AbstractStore: ...

    @overload
    def open_store(
        name: str,
        *,
        create: bool = False,
        event_manager: BaseEventManager | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> AbstractReadOnlyStore: ...


def open_store(
    name: str,
    *,
    create: bool = False,
    event_manager: BaseEventManager | None = None,
    options: Mapping[str, Any] | None = None,
) -> AbstractReadOnlyStore:
    """Make a store from its name.

    ====================  ==================================================================
    ``memory:``           a new DictMemoryStore
    ``sqlite:PATH``       the SqliteStore in a file
    ``sqlite::memory:``   a new SqliteStore in memory
    ``fs:PATH``           the FileSystemStore in a directory
    ``lockfs:PATH``       the LockingFileSystemStore in a directory
    ``dir:PATH``          the DirectoryStore of any directory
    ``http://HOST/``      the DynamicURLStore of ``http://HOST/keys`` and
                          ``http://HOST/query``; ``https://HOST/PATH/`` likewise
    ``static:URL``        the StaticURLStore of ``URL/data/`` and ``URL/index.json``
    ``module:callable``   what the callable of a module returns, called with
                          ``event_manager=`` if it takes that, else without arguments
    ====================  ==================================================================

    Stores around stores are chains; the last STORE may be a chain itself:

    ============================  ==========================================================
    ``cache:NEAR::STORE``         a CachingStore that keeps in NEAR what it has read;
                                  ``cache=SECONDS:NEAR::STORE``
    ``checked::STORE``            a CheckedStore; ``checked=ALGORITHM::STORE``
    ``hash::STORE``               a HashPrefixStore; ``hash=DIGITS::STORE``
    ``joined:FIRST::STORE``       a JoinedStore; what is written goes to FIRST
    ``metadata-cache::STORE``     a MetadataCachingStore; ``metadata-cache=SECONDS::STORE``
    ``mount=POINT:NEAR::STORE``   a MountedStore; what is written goes to NEAR
    ``prefix=TEXT::STORE``        a PrefixStore
    ``readonly::STORE``           a ReadOnlyStore
    ``retry::STORE``              a RetryStore; ``retry=ATTEMPTS::STORE``
    ============================  ==========================================================

    Paths are made absolute at once. A user name and password may stand in a URL
    (``https://name:password@host/``), though others may see them there.

    Parameters
    ----------
    name : str
    create : bool
        Whether the store is to be written, and what is missing to be made: the database, when the
        store is connected; the directory of a FileSystemStore or LockingFileSystemStore, at once,
        where there is none or an empty one.
    event_manager : BaseEventManager, optional
    options : mapping of str, optional
        Further arguments of the store's constructor, or of the callable, by their names: all but the
        path, or URLs. In a chain they are for the last store. ``open_store('fs:photos', options={'index': True})``

    Returns
    -------
    AbstractReadOnlyStore
        Not connected. With ``create=True`` it is an AbstractStore.

    Raises
    ------
    ValueError
        If the name is no such name, there is no such module or callable, or an option is none of
        that store.
    TypeError, ValueError
        If the store takes no such value of an option.
    StoreError
        If there is nothing at the path, or no store (in a database: when it is connected); if the
        callable fails or returns no store; if the store is to be written and can only be read.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a store is a str, not {type(name).__name__}: {name!r:.80}")
    arguments: Options = {"event_manager": event_manager, **_checked(options)}
    scheme, colon, rest = name.partition(":")
    if name == "sqlite::memory:":
        return _sqlite_in_memory(name, arguments)
    if "::" in name:
        from ._chain import split

        link = split(name)
        if link is not None:
            return _opened_chain(name, link, create, event_manager, options)
    make = _SCHEMES.get(scheme) if colon else None
    if make is not None:
        if "\0" in rest:
            raise ValueError(f"{_shown(name)!r}: a path has no NUL")
        if not rest and make is not _memory:
            raise ValueError(f"{_shown(name)!r}: the path is missing")
        return make(name, rest, create, arguments)
    if scheme in _RESERVED or not (_is_dotted_name(scheme) and _is_dotted_name(rest)):
        raise ValueError(f"{_shown(name)!r} names no store; known are {_KNOWN}")
    store = _called(name, scheme, rest, arguments)
    if create:
        from .abstract_store import AbstractStore

        if not isinstance(store, AbstractStore):
            raise _read_only(name)
    return store


def _opened_chain(
    name: str,
    link: Link,
    create: bool,
    event_manager: BaseEventManager | None,
    options: Mapping[str, Any] | None,
) -> AbstractReadOnlyStore:
    from ._chain import open_chain
    from .abstract_store import AbstractStore

    def open_it(name: str, create: bool, last: bool) -> AbstractReadOnlyStore:
        return open_store(
            name,
            create=create,
            event_manager=event_manager,
            options=options if last else None,
        )

    store = open_chain(name, link, create, event_manager, open_it)
    if create and not isinstance(store, AbstractStore):
        raise _read_only(name)
    return store


def _checked(options: Mapping[str, Any] | None) -> Options:
    if options is None:
        return {}
    from collections.abc import Mapping

    if not isinstance(options, Mapping) or not all(isinstance(each, str) for each in options):
        raise TypeError(f"options are a mapping of str, not {options!r:.80}")
    if "event_manager" in options:
        raise ValueError("'event_manager' is an argument of open_store() itself, and no option")
    if "create" in options:
        raise ValueError("'create' is an argument of open_store() itself, and no option")
    return dict(options)


def _check_options(name: str, kind: type, arguments: Options, *paths: str) -> None:
    """Raise ValueError for an option that the constructor of a store does not take."""
    if len(arguments) == 1:
        # The event manager, as nearly always; looking at the constructor takes a while.
        return
    taken = (*(paths or ("path",)), "event_manager", "create")
    known = [each for each in _parameters(kind) if each not in taken]
    _refuse([each for each in arguments if each not in (*known, "event_manager")], name, known)


def _refuse(unknown: list[str], name: str, known: list[str]) -> None:
    if unknown:
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(f"{_shown(name)!r} has no option {unknown[0]!r}; {there}")


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return what a callable takes by name."""
    from inspect import Parameter, signature

    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):
        # What is written in C need not say what it takes.
        return {}
    return {
        name: each
        for name, each in parameters.items()
        if each.kind not in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
    }


def _shown(name: str) -> str:
    from ._chain import shown_name

    return shown_name(name)


def _read_only(name: str) -> StoreError:
    return StoreError(f"{_shown(name)!r} can only be read")


def _memory(name: str, path: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .dict_memory_store import DictMemoryStore

    if path:
        raise ValueError(f"{name!r}: nothing may follow 'memory:'")
    _check_options(name, DictMemoryStore, arguments)
    return DictMemoryStore(**arguments)


def _sqlite(name: str, path: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .sqlite_store import SqliteStore

    _check_options(name, SqliteStore, arguments, "location")
    # Absolute, so that no path looks like one of the names that SQLite takes for something else
    # (':memory:', 'file:...').
    path = os.path.abspath(path)
    if not create:
        _check_exists(path)
    return SqliteStore(path, create=create, **arguments)


def _sqlite_in_memory(name: str, arguments: Options) -> AbstractReadOnlyStore:
    from .sqlite_store import SqliteStore

    _check_options(name, SqliteStore, arguments, "location")
    return SqliteStore(":memory:", **arguments)


def _fs(name: str, path: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .filesystem_store import FileSystemStore

    return _in_directory(name, FileSystemStore, path, create, arguments)


def _lockfs(name: str, path: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .locking_filesystem_store import LockingFileSystemStore

    return _in_directory(name, LockingFileSystemStore, path, create, arguments)


def _in_directory(
    name: str, kind: Callable[..., FileSystemStore], path: str, create: bool, arguments: Options
) -> FileSystemStore:
    from .filesystem_store import FileSystemStoreError, init_shared_store

    _check_options(name, kind, arguments)  # type: ignore[arg-type]
    path = os.path.abspath(path)
    is_to_be_made = False
    if not create:
        _check_exists(path)
    else:
        with os_errors():
            # A directory that is to hold the new one is not made.
            if not os.path.lexists(path):
                os.stat(os.path.dirname(path))
                is_to_be_made = True
            # Files of the store's own may be there alone where making one was interrupted.
            elif os.path.isdir(path):
                is_to_be_made = all(each.startswith(".FS") for each in os.listdir(path))
    try:
        # First, so that nothing is made for an option with a wrong value.
        return kind(path, **arguments)
    except FileSystemStoreError:
        if not is_to_be_made:
            raise
    init_shared_store(path, *([arguments["magic_fname"]] if "magic_fname" in arguments else []))
    return kind(path, **arguments)


def _dir(name: str, path: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .directory_store import DirectoryStore

    _check_options(name, DirectoryStore, arguments)
    if create:
        raise _read_only(name)
    path = os.path.abspath(path)
    _check_exists(path)
    return DirectoryStore(path, **arguments)


def _http(name: str, rest: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .dynamic_url_store import DynamicURLStore

    url = _folder_url(name)
    _check_options(name, DynamicURLStore, arguments, "base_url", "query_url")
    return DynamicURLStore(f"{url}keys", f"{url}query", **arguments)


def _static(name: str, rest: str, create: bool, arguments: Options) -> AbstractReadOnlyStore:
    from .static_url_store import StaticURLStore

    url = _folder_url(rest, _folder_hint)
    _check_options(name, StaticURLStore, arguments, "root_url", "data_path", "query_path")
    if create:
        raise _read_only(name)
    return StaticURLStore(url, "data/", "index.json", **arguments)


def _folder_url(url: str, hint: Callable[[str], str] = lambda url: "") -> str:
    """Return a URL with a slash at its end; what is wrong is told with a hint."""
    from urllib.parse import urlsplit

    shown = _shown(url)
    for mark in "#?":
        before, found, _ = shown.partition(mark)
        shown = f"{before}{found}..." if found else before
    try:
        parts = urlsplit(url)
        usable = bool(parts.scheme and (parts.hostname or parts.scheme == "file"))
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{shown!r} names no store: the URL has no host{hint(url)}")
    if "?" in url or "#" in url:
        raise ValueError(f"{shown!r} names no store: the URL may have no query and no fragment")
    return url if url.endswith("/") else f"{url}/"


def _folder_hint(url: str) -> str:
    """Say how a path is written that was given instead of a URL."""
    from urllib.parse import quote

    head = url.partition("/")[0]
    if ":" in head or "@" in url or url.startswith("//"):
        return ""
    return f"; a directory of this computer is static:file:{quote(os.path.abspath(url))}"


def _check_exists(path: str) -> None:
    with os_errors():
        os.stat(path)


_SCHEMES: dict[str, Callable[[str, str, bool, Options], AbstractReadOnlyStore]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "fs": _fs,
    "lockfs": _lockfs,
    "dir": _dir,
    "http": _http,
    "https": _http,
    "static": _static,
}
_KNOWN = (
    "memory:, sqlite:PATH, fs:PATH, lockfs:PATH, dir:PATH, http://HOST/, static:URL, module:callable, "
    "WRAPPER::STORE"
)


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _called(name: str, module: str, attribute: str, arguments: Options) -> AbstractReadOnlyStore:
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
    event_manager = arguments["event_manager"]
    arguments = _taken(name, factory, arguments)
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


def _taken(name: str, factory: Callable[..., Any], arguments: Options) -> Options:
    """Return the arguments that a callable takes; it need not take an event manager."""
    from inspect import Parameter

    parameters = _parameters(factory)
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
        return arguments
    known = [each for each in parameters if each != "event_manager"]
    _refuse([each for each in arguments if each not in (*known, "event_manager")], name, known)
    return {each: value for each, value in arguments.items() if each in parameters}
