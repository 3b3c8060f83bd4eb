"""A store whose reader sees what is asked of it, and clocks that stand still."""

from __future__ import annotations

from collections import Counter

from encore.events.event_manager import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore

# What a test that waits for another thread waits at most.
PATIENCE = 20.0


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


class SpyValue(Value):
    """A value that counts how many bytes are read of it."""

    def __init__(self, spy, key, value):
        self.spy, self.key, self.value = spy, key, value
        self.size, self.created, self.modified = value.size, value.created, value.modified
        self.etag = value.etag if spy.has_etags else None

    @property
    def metadata(self):
        return self.value.metadata

    @property
    def data(self):
        return self.range()

    def range(self, start=None, end=None):
        self.spy.called("read", self.key)
        stream = self.value.range(start, end)
        self.spy.bytes += len(stream.getvalue())
        return stream


class SpyStore(WrapperStore):
    """A store that counts calls, and calls hooks before them.

    ``hooks[method]`` is called with the key, before; ``after[method]`` likewise, after it was done.
    """

    def __init__(self, store=None, **info):
        manager = EventManager()
        super().__init__(
            DictMemoryStore(event_manager=EventManager()) if store is None else store,
            event_manager=manager,
        )
        self.calls = Counter()
        self.bytes = 0
        self.hooks = {}
        self.after = {}
        self.has_etags = True
        self.facts = info

    def called(self, method, key):
        self.calls[method] += 1
        if method in self.hooks:
            self.hooks[method](key)

    def info(self):
        return {**super().info(), **self.facts}

    def get(self, key):
        self.called("get", key)
        return SpyValue(self, key, super().get(key))

    def get_metadata(self, key, select=None):
        self.called("get_metadata", key)
        return super().get_metadata(key, select)

    def exists(self, key):
        self.called("exists", key)
        return super().exists(key)

    def query(self, /, select=None, *, where=None, **kwargs):
        self.called("query", None)
        return super().query(select, where=where, **kwargs)

    def query_keys(self, /, *, where=None, **kwargs):
        self.called("query_keys", None)
        return super().query_keys(where=where, **kwargs)

    def glob(self, pattern):
        self.called("glob", None)
        return super().glob(pattern)

    def keys(self, prefix="", start_after=None, limit=None):
        self.called("keys", None)
        return super().keys(prefix, start_after, limit)

    def _write(self, call, method, key, /, *args, **conditions):
        self.called(method, key)
        super()._write(call, method, key, *args, **conditions)
        if method in self.after:
            self.after[method](key)
