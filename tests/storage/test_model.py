"""Random sequences on every store, against the model and against each other."""

from __future__ import annotations

import os
import random
import tempfile

import pytest

from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.sqlite_store import SqliteStore
from encore.testing.model import check_store, random_steps, same, transcript

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def factories():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:

        def file_system(event_manager):
            path = tempfile.mkdtemp(dir=folder)
            init_shared_store(path)
            return FileSystemStore(path, event_manager=event_manager, durability="process")

        def sqlite(event_manager):
            path = os.path.join(tempfile.mkdtemp(dir=folder), "store.db")
            return SqliteStore(path, event_manager=event_manager, durability="process")

        def memory(event_manager):
            return DictMemoryStore(event_manager=event_manager)

        yield {"dict": memory, "sqlite": sqlite, "file system": file_system}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["dict", "sqlite", "file system"])
def test_a_store_does_what_the_model_does(factories, kind, seed):
    check_store(factories[kind], seed, 150)


@pytest.mark.parametrize("seed", range(100, 103))
def test_all_stores_have_the_same_transcript(factories, seed):
    steps = random_steps(seed, 150)
    transcripts = [transcript(make, steps) for make in factories.values()]
    assert same(transcripts[0], transcripts[1])
    assert same(transcripts[0], transcripts[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dict", "sqlite", "file system"])
def test_long_sequences(factories, kind):
    for _ in range(100):
        seed = random.randrange(10**9)
        print("seed", seed)
        check_store(factories[kind], seed, 1000)
