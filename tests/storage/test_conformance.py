"""The conformance kit on every store, and on a wrapper over each."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import pytest
from store_kits import (
    FAST,
    DictKit,
    FileSystemKit,
    Folder,
    LockingFileSystemKit,
    SqliteKit,
    Wrapped,
)

from encore.events.event_manager import EventManager
from encore.storage.directory_store import DirectoryStore
from encore.storage.filesystem_store import FileSystemStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.wrapper_store import WrapperStore
from encore.testing.conformance import Crash, ReadOnlyStoreConformance, StoreConformance


class TestDictMemoryStore(DictKit, unittest.TestCase):
    pass


class TestSqliteStore(SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestSqliteStoreWithStaticIndex(SqliteKit, unittest.TestCase):
    index = "static"
    kills = 2


class TestSqliteStoreWithoutIndex(SqliteKit, unittest.TestCase):
    index = None
    kills = 2


class TestSqliteStoreInMemory(StoreConformance, unittest.TestCase):
    def make_store(self, event_manager):
        return SqliteStore(":memory:", event_manager=event_manager)

    failing_commit = staticmethod(Folder.failing_commit)


class TestSqliteStoreAgainstPowerLoss(SqliteKit, unittest.TestCase):
    durability = "power"
    kills = 3


class TestFileSystemStore(FileSystemKit, unittest.TestCase):
    pass


class TestFileSystemStoreWithIndex(FileSystemKit, unittest.TestCase):
    kills = 3

    def new_handle(self, path, event_manager=None):
        return FileSystemStore(
            path, durability=self.durability, index=True, event_manager=event_manager
        )


class TestFileSystemStoreAgainstPowerLoss(FileSystemKit, unittest.TestCase):
    durability = "power"
    kills = 3


class TestLockingFileSystemStore(LockingFileSystemKit, unittest.TestCase):
    kills = 3


@pytest.mark.slow
class TestLockingFileSystemStoreAgainstPowerLoss(LockingFileSystemKit, unittest.TestCase):
    durability = "power"


class Plain(Wrapped):
    def wrap(self, store, event_manager=None):
        return WrapperStore(store, event_manager=event_manager)


class TestWrapperOverDictMemoryStore(Plain, DictKit, unittest.TestCase):
    pass


class TestWrapperOverSqliteStore(Plain, SqliteKit, unittest.TestCase):
    kills = 2


@pytest.mark.slow
class TestWrapperOverFileSystemStore(Plain, FileSystemKit, unittest.TestCase):
    kills = 2


class DirectoryKit(ReadOnlyStoreConformance):
    def make_filled_store(self, contents, event_manager):
        folder = tempfile.TemporaryDirectory(dir=FAST)
        self.addCleanup(folder.cleanup)
        for key, (data, _) in contents.items():
            path = Path(folder.name, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return DirectoryStore(folder.name, event_manager=event_manager)

    def expected_metadata(self, key, data, metadata):
        return None


class TestDirectoryStore(DirectoryKit, unittest.TestCase):
    pass


class TestWrapperOverDirectoryStore(DirectoryKit, unittest.TestCase):
    def make_filled_store(self, contents, event_manager):
        inner = super().make_filled_store(contents, EventManager())
        return WrapperStore(inner, event_manager=event_manager)


@pytest.mark.slow
class TestManyKills:
    """Two hundred kills a store."""

    @pytest.mark.parametrize("kit", [SqliteKit, FileSystemKit, LockingFileSystemKit])
    @pytest.mark.parametrize("durability", ["process", "power"])
    def test_kill_tears_nothing_and_loses_nothing(self, kit, durability):
        attributes = {"kills": 200, "durability": durability}
        case = type("Case", (kit, unittest.TestCase), attributes)(
            Crash.test_kill_tears_nothing_and_loses_nothing.__name__
        )
        case.debug()
