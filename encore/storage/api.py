"""Every public name of the package, imported when it is first used."""

from __future__ import annotations

from .._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .abstract_store import (
        AbstractAuthorizingStore,
        AbstractReadOnlyStore,
        AbstractStore,
    )
    from .base_store import BaseReadOnlyStore, BaseStore
    from .copying import CopyReport, copy_store, sync_store
    from .dict_memory_store import DictMemoryStore
    from .directory_store import DirectoryStore, LeftOut
    from .errors import AuthorizationError, PreconditionError, StoreError, StoreOSError
    from .events import (
        StoreDeleteEvent,
        StoreEvent,
        StoreKeyEvent,
        StoreModificationEvent,
        StoreProgressEndEvent,
        StoreProgressEvent,
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreSetEvent,
        StoreTransactionEndEvent,
        StoreTransactionEvent,
        StoreTransactionStartEvent,
        StoreUpdateEvent,
    )
    from .file_lock import FileLock, LockError, SharedFileLock
    from .file_value import FileValue
    from .filesystem_store import (
        FileSystemStore,
        FileSystemStoreError,
        init_shared_store,
    )
    from .hash_prefix_store import HashPrefixStore
    from .locking_filesystem_store import LockingFileSystemStore
    from .maintenance import Finding
    from .mapping import ReadOnlyStoreMapping, StoreMapping
    from .opener import open_store
    from .overlay_store import OverlayStore
    from .prefix_store import PrefixStore
    from .read_only_store import ReadOnlyStore
    from .renaming_store import RenamingStore
    from .sqlite_store import SqliteStore
    from .string_value import StringValue
    from .url_value import URLValue
    from .value import Value
    from .wrapper_store import WrapperStore

__all__ = [
    "AbstractAuthorizingStore",
    "AbstractReadOnlyStore",
    "AbstractStore",
    "AuthorizationError",
    "BaseReadOnlyStore",
    "BaseStore",
    "CopyReport",
    "DictMemoryStore",
    "DirectoryStore",
    "FileLock",
    "FileSystemStore",
    "FileSystemStoreError",
    "FileValue",
    "Finding",
    "HashPrefixStore",
    "LeftOut",
    "LockError",
    "LockingFileSystemStore",
    "OverlayStore",
    "PreconditionError",
    "PrefixStore",
    "ReadOnlyStore",
    "ReadOnlyStoreMapping",
    "RenamingStore",
    "SharedFileLock",
    "SqliteStore",
    "StoreDeleteEvent",
    "StoreError",
    "StoreEvent",
    "StoreKeyEvent",
    "StoreMapping",
    "StoreModificationEvent",
    "StoreOSError",
    "StoreProgressEndEvent",
    "StoreProgressEvent",
    "StoreProgressStartEvent",
    "StoreProgressStepEvent",
    "StoreSetEvent",
    "StoreTransactionEndEvent",
    "StoreTransactionEvent",
    "StoreTransactionStartEvent",
    "StoreUpdateEvent",
    "StringValue",
    "URLValue",
    "Value",
    "WrapperStore",
    "copy_store",
    "init_shared_store",
    "open_store",
    "sync_store",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "abstract_store": "AbstractAuthorizingStore AbstractReadOnlyStore AbstractStore",
        "base_store": "BaseReadOnlyStore BaseStore",
        "copying": "CopyReport copy_store sync_store",
        "dict_memory_store": "DictMemoryStore",
        "directory_store": "DirectoryStore LeftOut",
        "errors": "AuthorizationError PreconditionError StoreError StoreOSError",
        "events": (
            "StoreDeleteEvent StoreEvent StoreKeyEvent StoreModificationEvent "
            "StoreProgressEndEvent StoreProgressEvent StoreProgressStartEvent "
            "StoreProgressStepEvent StoreSetEvent StoreTransactionEndEvent "
            "StoreTransactionEvent StoreTransactionStartEvent StoreUpdateEvent"
        ),
        "file_lock": "FileLock LockError SharedFileLock",
        "file_value": "FileValue",
        "filesystem_store": "FileSystemStore FileSystemStoreError init_shared_store",
        "hash_prefix_store": "HashPrefixStore",
        "overlay_store": "OverlayStore",
        "prefix_store": "PrefixStore",
        "read_only_store": "ReadOnlyStore",
        "renaming_store": "RenamingStore",
        "maintenance": "Finding",
        "locking_filesystem_store": "LockingFileSystemStore",
        "mapping": "ReadOnlyStoreMapping StoreMapping",
        "opener": "open_store",
        "sqlite_store": "SqliteStore",
        "string_value": "StringValue",
        "url_value": "URLValue",
        "value": "Value",
        "wrapper_store": "WrapperStore",
    },
)
