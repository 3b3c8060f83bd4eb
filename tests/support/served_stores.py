"""Stores that a server may be given: one written for EnCore 0.8, one that fails, one with permissions."""

from __future__ import annotations

import io

from encore.events.event_manager import EventManager
from encore.storage._metadata import matches
from encore.storage.abstract_store import AbstractAuthorizingStore, AbstractStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import AuthorizationError
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore


def memory(**contents):
    """Return a connected store in memory; each value is bytes, or a tuple of bytes and metadata."""
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    fill(store, contents)
    return store


def fill(store, contents):
    for key, value in contents.items():
        data, metadata = value if isinstance(value, tuple) else (value, {})
        store.set(key, (io.BytesIO(data), metadata))


class OldValue(Value):
    """A value of EnCore 0.8: no etag, no size, no stamps."""

    def __init__(self, data, metadata):
        self._data, self._metadata = data, metadata

    @property
    def data(self):
        return io.BytesIO(self._data)

    @property
    def metadata(self):
        return dict(self._metadata)


class OldStore(AbstractStore):
    """A store written for EnCore 0.8: it takes none of the newer arguments, and tells no changes."""

    def __init__(self, **contents):
        super().__init__(event_manager=EventManager())
        self.contents = {}
        fill(self, contents)

    def get(self, key):
        return OldValue(*self.contents[key])

    def set(self, key, value, buffer_size=1048576):
        if isinstance(value, Value):
            value = value.data, value.metadata
        stream, metadata = value
        self.contents[key] = stream.read(), dict(metadata)

    def delete(self, key):
        del self.contents[key]

    def query(self, select=None, **kwargs):
        for key, (_, metadata) in list(self.contents.items()):
            if matches(metadata, kwargs):
                yield (
                    key,
                    dict(metadata)
                    if select is None
                    else {name: metadata[name] for name in select if name in metadata},
                )


class FailingStore(WrapperStore):
    """A store that raises `error` whenever it is asked for anything, if there is one."""

    def __init__(self, error=None, store=None):
        super().__init__(store or memory(k=b"data"), event_manager=EventManager())
        self.error = error

    def _fail(self):
        if self.error is not None:
            raise self.error

    def get(self, key):
        self._fail()
        return super().get(key)

    def query(self, /, select=None, *, where=None, **kwargs):
        self._fail()
        return super().query(select, where=where, **kwargs)

    def _write(self, call, method, key, /, *args, **conditions):
        self._fail()
        super()._write(call, method, key, *args, **conditions)


class BrokenValue(Value):
    """A value that has less data than its size says, or raises when they have been read."""

    def __init__(self, there, size, error=None):
        self.there, self.size, self.error = there, size, error
        self.streams = []

    @property
    def metadata(self):
        return {}

    @property
    def data(self):
        self.streams.append(BrokenStream(self))
        return self.streams[-1]

    def range(self, start=None, end=None):
        return self.data


class BrokenStream(io.RawIOBase):
    def __init__(self, value):
        self.value, self.left = value, value.there

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.left:
            if self.value.error is not None:
                raise self.value.error
            return 0
        size = min(len(buffer), self.left)
        buffer[:size] = bytes(size)
        self.left -= size
        return size


class BrokenStore(FailingStore):
    """A store of one value."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def get(self, key):
        return self.value


class OwnedStore(WrapperStore, AbstractAuthorizingStore):
    """A store whose keys belong to 'me', but for those that say whose they are."""

    def __init__(self, **contents):
        super().__init__(memory(**contents), event_manager=EventManager())
        self.owners = {}

    @property
    def user_tag(self):
        return "me"

    def get_permissions(self, key):
        if not self.exists(key):
            raise KeyError(key)
        permissions = self.owners.setdefault(key, {"owned": {"me"}})
        if "me" not in permissions["owned"]:
            raise AuthorizationError("not yours", key=key)
        return {name: set(tags) for name, tags in permissions.items()}

    def set_permissions(self, key, permissions):
        self.get_permissions(key)
        self.owners[key] = {name: set(tags) for name, tags in permissions.items()}

    def update_permissions(self, key, permissions):
        known = self.get_permissions(key)
        for name, tags in permissions.items():
            known.setdefault(name, set()).update(tags)
        self.owners[key] = known


def read_only(**contents):
    return ReadOnlyStore(memory(**contents), event_manager=EventManager())
