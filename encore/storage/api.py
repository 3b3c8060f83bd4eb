"""Every public name of the package, imported when it is first used."""

from __future__ import annotations

from typing import Any

_HOME = {
    "abstract_store": ["AbstractAuthorizingStore", "AbstractReadOnlyStore", "AbstractStore"],
    "base_store": ["BaseReadOnlyStore", "BaseStore"],
    "copying": ["CopyReport", "copy_store"],
    "dict_memory_store": ["DictMemoryStore"],
    "directory_store": ["DirectoryStore"],
    "errors": ["AuthorizationError", "PreconditionError", "StoreError", "StoreOSError"],
    "events": [
        "StoreDeleteEvent",
        "StoreEvent",
        "StoreKeyEvent",
        "StoreModificationEvent",
        "StoreProgressEndEvent",
        "StoreProgressEvent",
        "StoreProgressStartEvent",
        "StoreProgressStepEvent",
        "StoreSetEvent",
        "StoreTransactionEndEvent",
        "StoreTransactionEvent",
        "StoreTransactionStartEvent",
        "StoreUpdateEvent",
    ],
    "file_value": ["FileValue"],
    "filesystem_store": ["FileSystemStore", "FileSystemStoreError", "init_shared_store"],
    "mapping": ["ReadOnlyStoreMapping", "StoreMapping"],
    "opener": ["open_store"],
    "sqlite_store": ["SqliteStore"],
    "string_value": ["StringValue"],
    "url_value": ["URLValue"],
    "value": ["Value"],
    "wrapper_store": ["WrapperStore"],
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - derived, so that a name stands once


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__package__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
