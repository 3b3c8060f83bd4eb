"""Every public name of the package, imported when it is first used."""

from __future__ import annotations

from .._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .abstract_store import (
        AbstractAuthorizingStore,
        AbstractReadOnlyStore,
        AbstractStore,
        RepairableStore,
    )
    from .base_store import BaseReadOnlyStore, BaseStore
    from .caching_store import CachingStore
    from .checked_store import CheckedStore
    from .copying import CopyReport, copy_store, sync_store
    from .dict_memory_store import DictMemoryStore
    from .directory_store import DirectoryStore, LeftOut
    from .dynamic_url_store import DynamicURLStore
    from .errors import (
        AuthenticationError,
        AuthorizationError,
        HiddenKeyError,
        IntegrityError,
        PreconditionError,
        StoreError,
        StoreFullError,
        StoreOSError,
        TemporaryError,
    )
    from .events import (
        StoreDeleteEvent,
        StoreEvent,
        StoreKeyEvent,
        StoreModificationEvent,
        StorePollFailedEvent,
        StoreProgressEndEvent,
        StoreProgressEvent,
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreSetEvent,
        StoreTransactionEndEvent,
        StoreTransactionEvent,
        StoreTransactionStartEvent,
        StoreUpdateEvent,
        StoreUploadFailedEvent,
    )
    from .file_lock import FileLock, LockError, SharedFileLock
    from .file_value import FileValue
    from .filesystem_store import (
        FileSystemStore,
        FileSystemStoreError,
        init_shared_store,
    )
    from .hash_prefix_store import HashPrefixStore
    from .joined_store import JoinedStore
    from .locking_filesystem_store import LockingFileSystemStore
    from .maintenance import Finding
    from .mapping import ReadOnlyStoreMapping, StoreMapping
    from .metadata_caching_store import MetadataCachingStore
    from .mounted_store import MountedStore
    from .opener import open_store
    from .overlay_store import OverlayStore
    from .prefix_store import PrefixStore
    from .read_only_store import ReadOnlyStore
    from .renaming_store import RenamingStore
    from .retry_policy import RetryPolicy
    from .retry_store import RetryStore
    from .server import StoreApplication, UsersFile, serve
    from .simple_auth_store import SimpleAuthStore, make_encoder, sha1_hasher
    from .sqlite_store import SqliteStore
    from .static_url_store import StaticURLStore
    from .string_value import StringValue
    from .url_value import URLValue
    from .value import Value
    from .wrapper_store import WrapperStore

__all__ = [
    "AbstractAuthorizingStore",
    "AbstractReadOnlyStore",
    "AbstractStore",
    "AuthenticationError",
    "AuthorizationError",
    "BaseReadOnlyStore",
    "BaseStore",
    "CachingStore",
    "CheckedStore",
    "CopyReport",
    "DictMemoryStore",
    "DirectoryStore",
    "DynamicURLStore",
    "FileLock",
    "FileSystemStore",
    "FileSystemStoreError",
    "FileValue",
    "Finding",
    "HashPrefixStore",
    "HiddenKeyError",
    "IntegrityError",
    "JoinedStore",
    "LeftOut",
    "LockError",
    "LockingFileSystemStore",
    "MetadataCachingStore",
    "MountedStore",
    "OverlayStore",
    "PreconditionError",
    "PrefixStore",
    "ReadOnlyStore",
    "ReadOnlyStoreMapping",
    "RenamingStore",
    "RepairableStore",
    "RetryPolicy",
    "RetryStore",
    "SharedFileLock",
    "SimpleAuthStore",
    "SqliteStore",
    "StaticURLStore",
    "StoreApplication",
    "StoreDeleteEvent",
    "StoreError",
    "StoreEvent",
    "StoreFullError",
    "StoreKeyEvent",
    "StoreMapping",
    "StoreModificationEvent",
    "StoreOSError",
    "StorePollFailedEvent",
    "StoreProgressEndEvent",
    "StoreProgressEvent",
    "StoreProgressStartEvent",
    "StoreProgressStepEvent",
    "StoreSetEvent",
    "StoreTransactionEndEvent",
    "StoreTransactionEvent",
    "StoreTransactionStartEvent",
    "StoreUpdateEvent",
    "StoreUploadFailedEvent",
    "StringValue",
    "TemporaryError",
    "URLValue",
    "UsersFile",
    "Value",
    "WrapperStore",
    "copy_store",
    "init_shared_store",
    "make_encoder",
    "open_store",
    "serve",
    "sha1_hasher",
    "sync_store",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "abstract_store": "AbstractAuthorizingStore AbstractReadOnlyStore AbstractStore RepairableStore",
        "base_store": "BaseReadOnlyStore BaseStore",
        "caching_store": "CachingStore",
        "checked_store": "CheckedStore",
        "copying": "CopyReport copy_store sync_store",
        "dict_memory_store": "DictMemoryStore",
        "directory_store": "DirectoryStore LeftOut",
        "dynamic_url_store": "DynamicURLStore",
        "errors": (
            "AuthenticationError AuthorizationError HiddenKeyError IntegrityError "
            "PreconditionError StoreError StoreFullError StoreOSError TemporaryError"
        ),
        "events": (
            "StoreDeleteEvent StoreEvent StoreKeyEvent StoreModificationEvent "
            "StorePollFailedEvent StoreProgressEndEvent StoreProgressEvent StoreProgressStartEvent "
            "StoreProgressStepEvent StoreSetEvent StoreTransactionEndEvent "
            "StoreTransactionEvent StoreTransactionStartEvent StoreUpdateEvent "
            "StoreUploadFailedEvent"
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
        "joined_store": "JoinedStore",
        "locking_filesystem_store": "LockingFileSystemStore",
        "mapping": "ReadOnlyStoreMapping StoreMapping",
        "metadata_caching_store": "MetadataCachingStore",
        "mounted_store": "MountedStore",
        "opener": "open_store",
        "retry_policy": "RetryPolicy",
        "retry_store": "RetryStore",
        "server": "StoreApplication UsersFile serve",
        "simple_auth_store": "SimpleAuthStore make_encoder sha1_hasher",
        "sqlite_store": "SqliteStore",
        "static_url_store": "StaticURLStore",
        "string_value": "StringValue",
        "url_value": "URLValue",
        "value": "Value",
        "wrapper_store": "WrapperStore",
    },
)
