"""Transactions whose context is shared by threads, or outlives the thread that began it."""

from __future__ import annotations

import gc
import io
import threading
import time

import pytest

from encore.storage import _changes as changes
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.locking_filesystem_store import LockingFileSystemStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.sqlite_store import SqliteStore


@pytest.fixture(params=["dict", "sqlite", "files", "locking", "wrapped"])
def store(request, tmp_path):
    if request.param in ("files", "locking"):
        init_shared_store(tmp_path)
    made = {
        "dict": DictMemoryStore,
        "sqlite": lambda: SqliteStore(tmp_path / "s.db", durability="process"),
        "files": lambda: FileSystemStore(tmp_path, durability="process"),
        "locking": lambda: LockingFileSystemStore(
            tmp_path, remote_event_poll_interval=0, durability="process"
        ),
        "wrapped": lambda: PrefixStore(DictMemoryStore(), "p/"),
    }[request.param]()
    with made:
        yield made


def put(store, key):
    store.set(key, (io.BytesIO(b"data"), {}))


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    thread.join(60)
    assert result
    return result[0]


def test_threads_that_share_a_context_each_have_a_transaction(store):
    context, before = store.transaction(), len(changes._guards)

    def second():
        with context:
            put(store, "second")
            assert store.exists("first")

    thread = threading.Thread(target=second, daemon=True)
    with context:
        put(store, "first")
        thread.start()
        deadline = time.monotonic() + 60
        # Until it is about to enter, where it waits for us. A wrapper has a context within.
        while len(changes._guards) < 2 * (1 + isinstance(store, PrefixStore)) + before:
            assert time.monotonic() < deadline
        assert not in_thread(lambda: store.exists("second"))
    thread.join(60)
    assert not thread.is_alive()
    assert sorted(store.query_keys()) == ["first", "second"]


@pytest.mark.parametrize("first", ["store", "transaction"])
def test_a_thread_that_ends_inside_a_transaction_rolls_it_back(store, first):
    kept = []

    def begin():
        # What a thread knows is lost in the order in which it came to know it.
        if first == "store":
            store.exists("key")
            getattr(store, "store", store).exists("key")
        else:
            with DictMemoryStore().transaction():
                pass
        context = store.transaction()
        context.__enter__()
        kept.append(context)
        put(store, "key")
        return True

    assert in_thread(begin)
    # The next thread may have the same identifier.
    assert in_thread(lambda: put(store, "other") is None)
    put(store, "third")
    assert sorted(store.query_keys()) == ["other", "third"]
    with kept[0]:
        put(store, "fourth")
    assert in_thread(lambda: store.exists("fourth"))


def test_a_generator_that_another_thread_has_begun_keeps_nobody_out(store):
    def generate():
        with store.transaction():
            put(store, "key")
            yield

    generator = generate()
    in_thread(lambda: next(generator) is None)
    with pytest.raises(StoreError, match="has no transaction"):
        generator.close()
    put(store, "other")
    assert in_thread(lambda: sorted(store.query_keys())) == ["other"]


def test_nothing_is_kept_of_transactions_that_are_over(store):
    before = len(changes._guards), len(changes._thread.entered)
    context = store.transaction()
    assert hasattr(context, "__exit__")
    with context, context:
        put(store, "key")
    context.__enter__()
    context.__exit__(None, None, None)
    with pytest.raises(StoreError, match="has no transaction"):
        context.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError), context:
        raise ZeroDivisionError
    in_thread(lambda: context.__enter__() is None)
    gc.collect()
    assert (len(changes._guards), len(changes._thread.entered)) == before
