"""The conformance kit set up for the local stores; tests/ has it on its path."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path
from unittest import mock

from encore.events.event_manager import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.sqlite_store import SqliteStore
from encore.testing.conformance import StoreConformance

# What need not survive the end of the process need not wait for a disk either.
FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Folder:
    """A kit whose stores live in a temporary directory each."""

    durability = "process"

    def new_folder(self):
        where = FAST if self.durability == "process" else None
        folder = tempfile.TemporaryDirectory(dir=where, ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def leftovers(self, store):
        return sum(len(files) for _, _, files in os.walk(self.folder))

    @staticmethod
    def failing_commit(store):
        name = "_apply" if hasattr(store, "_apply") else "_commit"
        return mock.patch.object(store, name, side_effect=StoreError("the commit failed"))


class FullDict(dict):
    """A dict that takes nothing more."""

    def refuse(self, *args):
        raise StoreError("the commit failed")

    __setitem__ = update = pop = refuse


class DictKit(StoreConformance):
    def make_store(self, event_manager):
        return DictMemoryStore(event_manager=event_manager)

    @staticmethod
    def failing_commit(store):
        return mock.patch.object(store, "_store", FullDict(store._store))


class SqliteKit(Folder, StoreConformance):
    index = "dynamic"
    own_names = ("store", "sqlite_sequence", "sqlite_stat1", "store-wal", "store-shm")

    def new_handle(self, location, event_manager=None):
        return SqliteStore(
            location,
            index=self.index,
            index_columns=("a", "n") if self.index == "static" else None,
            durability=self.durability,
            event_manager=event_manager,
        )

    def make_store(self, event_manager):
        self.folder = self.new_folder()
        return self.new_handle(self.folder / "store.db", event_manager)

    def make_handle(self, store):
        return self.new_handle(self.folder / "store.db")

    def make_relative_store(self, event_manager):
        return self.new_handle("relative.db", event_manager)

    def damage(self, store, key):
        with (
            contextlib.closing(sqlite3.connect(self.folder / "store.db")) as connection,
            connection,
        ):
            connection.execute("update store set metadata = x'80ff' where key = ?", (key,))
        return True


class FileSystemKit(Folder, StoreConformance):
    own_names = (
        ".FSStore",
        ".FSkeys",
        ".FStmp",
        ".FSlock",
        ".FSjournal",
        "key0.data",
        "key0.metadata",
        ".FS",
        "k" * 246,
        "k" * 247,
        "k" * 250,
        "k" * 255,
        "k" * 256,
    )

    def new_handle(self, path, event_manager=None):
        return FileSystemStore(path, durability=self.durability, event_manager=event_manager)

    def make_store(self, event_manager):
        self.folder = self.new_folder()
        init_shared_store(self.folder)
        return self.new_handle(self.folder, event_manager)

    def make_handle(self, store):
        return self.new_handle(self.folder)

    def make_relative_store(self, event_manager):
        os.mkdir("relative")
        init_shared_store("relative")
        return self.new_handle("relative", event_manager)

    def damage(self, store, key):
        (self.folder / f"{key}.metadata").write_bytes(b"{\xff")
        return True


class LockingFileSystemKit(FileSystemKit):
    own_names = (
        *FileSystemKit.own_names,
        "__log__.txt",
        "__log__.txt.1",
        ".FStmp/lock-shared.lock",
    )

    def new_handle(self, path, event_manager=None):
        return LockingFileSystemStore(path, durability=self.durability, event_manager=event_manager)


class Wrapped:
    """The kit of a store on a wrapper over it; mixed in before the kit."""

    def wrap(self, store, event_manager=None):
        """Return the wrapper."""
        raise NotImplementedError

    def make_store(self, event_manager):
        # The inner store has a manager of its own: it tells its own changes, with itself as source.
        return self.wrap(super().make_store(EventManager()), event_manager)

    def make_handle(self, store):
        inner = super().make_handle(store.store)
        return None if inner is None else self.wrap(inner)

    def make_relative_store(self, event_manager):
        inner = super().make_relative_store(EventManager())
        return None if inner is None else self.wrap(inner, event_manager)

    def failing_commit(self, store):
        return super().failing_commit(store.store)
