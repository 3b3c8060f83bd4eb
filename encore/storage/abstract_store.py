"""The contract of every store: the names, what they promise, and all that follows from a few of them.

What cannot be derived is abstract: ``get`` and ``query`` for reading, ``set`` and ``delete`` for
writing. Everything else is written here in terms of those, so that a store is complete as soon as
it has them; a store overrides the rest only to be faster. Methods are documented here and nowhere
else.

Derived methods call the abstract ones as code written for EnCore 0.8 defines them: positional
`buffer_size`, and none of the newer keyword arguments unless the caller gave them.

What holds for all methods
--------------------------
A key is a non-empty str of at most 1024 bytes in UTF-8; anything else is a TypeError or a
ValueError. Keys are opaque: ``a``, ``./a`` and ``A`` are three keys. A key that is not there is a
KeyError from the call itself. Metadata is a JSON object: a dict with str keys; tuples become
lists; NaN is refused. It is copied in and out. A stream to be stored is anything with ``read(n)``;
it is read from where it stands and left open, and what it raises passes through unchanged. A
reader sees the old data and metadata or the new, never a mix; whatever fails leaves the old.
Errors are found in this order: bad argument, not connected, missing key. Other trouble is a
StoreError, and what the operating system refused is a StoreOSError besides.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod

from ._keys import check_key, check_page, key_matcher
from ._metadata import check_criteria, check_names, copy_of, matches, normalise
from ._streams import BUFFER_SIZE, as_bytes, check_bounds, check_buffer_size
from .errors import AuthorizationError, PreconditionError, StoreError
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, MutableMapping
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO, TypeVar

    from ..events.abstract_event_manager import BaseEventManager
    from ..events.package_globals import get_event_manager
    from ._progress import store_progress
    from ._streams import Readable
    from .maintenance import Finding

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]
    _Self = TypeVar("_Self", bound="AbstractReadOnlyStore")
else:
    # What has to do with events is imported when it is first needed: each of these functions puts
    # the real one in its own place, which is called without a detour from then on.

    def get_event_manager():
        global get_event_manager  # noqa: PLW0603
        from ..events.package_globals import get_event_manager

        return get_event_manager()

    def store_progress(*args):
        global store_progress  # noqa: PLW0603
        from ._progress import store_progress

        return store_progress(*args)


__all__ = [
    "AbstractAuthorizingStore",
    "AbstractReadOnlyStore",
    "AbstractStore",
    "AuthorizationError",
    "PreconditionError",
    "RepairableStore",
    "StoreError",
    "Value",
]


class AbstractReadOnlyStore(ABC):
    """A store that can be read.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
        Where the store's events go; by default the manager of the process, looked up now.

    Attributes
    ----------
    event_manager : BaseEventManager
        May be assigned later.
    """

    event_manager: BaseEventManager
    _connected = False

    def __init__(self, *, event_manager: BaseEventManager | None = None) -> None:
        self.event_manager = get_event_manager() if event_manager is None else event_manager

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        """Open what the store needs; harmless if it is connected.

        Parameters
        ----------
        credentials : optional
            What proves who you are, in a form that depends on the store.

        Raises
        ------
        AuthorizationError
            If the credentials are not valid.
        StoreError
            If what holds the data cannot be opened.
        """
        self._connected = True

    def disconnect(self) -> None:
        """Close what connect() opened; harmless if the store is not connected.

        A store that holds a resource raises StoreError until it is connected again, and finds
        everything then.
        """
        self._connected = False

    def is_connected(self) -> bool:
        """Whether connect() was called and disconnect() was not since."""
        return self._connected

    def __enter__(self: _Self) -> _Self:
        if not self.is_connected():
            self.connect()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'connected' if self.is_connected() else 'not connected'}>"

    def info(self) -> dict[str, Any]:
        """Describe the store.

        Returns
        -------
        dict
            At least 'type', 'readonly', 'authorizing'; 'transactional' (transaction() is one);
            'conditional' (if_match and if_none_match work); 'streaming' (values may be larger than
            memory); 'durable': 'none', 'process' (survives the end of the process) or 'power'
            (survives power loss). Also 'max_key_bytes' where that is less than 1024.
        """
        return {
            "type": type(self).__name__,
            "readonly": not isinstance(self, AbstractStore),
            "authorizing": isinstance(self, AbstractAuthorizingStore),
            "transactional": False,
            "conditional": False,
            "streaming": False,
            "durable": "none",
        }

    # Reading one key

    @abstractmethod
    def get(self, key: str) -> Value:
        """Return the value of a key.

        Parameters
        ----------
        key : str

        Raises
        ------
        KeyError
            If there is no such key.
        """

    def get_data(self, key: str) -> BinaryIO:
        """Return a fresh readable binary stream of the data of a key; KeyError if there is none."""
        return self.get(key).data

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        """Return a stream of ``data[start:end]``; KeyError if there is no such key.

        Parameters
        ----------
        key : str
        start, end : int or None, in bytes
            As in a slice: half open, negative numbers count from the end, clipped, never out of
            range.
        """
        check_bounds(start, end)
        return self.get(key).range(start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        """Return a copy of the metadata of a key; KeyError if there is no such key.

        Parameters
        ----------
        key : str
        select : iterable of str, optional
            Return only these names; those that the metadata do not have are left out.
        """
        names = check_names(select)
        return copy_of(self.get(key).metadata, names)

    def exists(self, key: str) -> bool:
        """Whether there is such a key."""
        try:
            self.get(key)
        except KeyError:
            return False
        return True

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        """Return the data of a key; KeyError if there is none.

        Parameters
        ----------
        key : str
        buffer_size : int > 0, in bytes
            The most that is read at once.

        Events
        ------
        StoreProgressStartEvent, StoreProgressStepEvent after each buffer, StoreProgressEndEvent
        """
        check_buffer_size(buffer_size)
        value = self.get(key)
        with store_progress(self, "Reading", key, value) as progress:
            return b"".join(value.iterdata(buffer_size, progress))

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        """Write the data of a key to a file; KeyError if there is no such key.

        Parameters
        ----------
        key : str
        path : str, PathLike or binary file
            A path gets the whole data or keeps what it had. An open file is written to where it
            stands, and left open.
        buffer_size : int > 0, in bytes
            The most that is read at once.

        Raises
        ------
        StoreOSError
            If the path cannot be written.

        Events
        ------
        StoreProgressStartEvent, StoreProgressStepEvent after each buffer, StoreProgressEndEvent
        """
        from ._files import writing

        check_buffer_size(buffer_size)
        target = writing(path)
        value = self.get(key)
        with store_progress(self, "Reading", key, value) as progress, target as write:
            for buffer in value.iterdata(buffer_size, progress):
                write(buffer)

    # Reading many keys

    def multiget(self, keys: Iterable[str]) -> Iterator[Value]:
        """Return an iterator over the values of `keys`; KeyError when it reaches a key that is not there."""
        return map(self.get, keys)

    def multiget_data(self, keys: Iterable[str]) -> Iterator[BinaryIO]:
        """Return an iterator over the data streams of `keys`; KeyError when it reaches one that is not there."""
        return map(self.get_data, keys)

    def multiget_metadata(
        self, keys: Iterable[str], select: Iterable[str] | None = None
    ) -> Iterator[Metadata]:
        """Return an iterator over the metadata of `keys`; KeyError when it reaches one that is not there.

        Parameters
        ----------
        keys : iterable of str
        select : iterable of str, optional
            As for get_metadata().
        """
        names = check_names(select)
        return (self.get_metadata(key, names) for key in keys)

    @abstractmethod
    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        """Find keys by their metadata.

        Parameters
        ----------
        select : iterable of str, optional
            Return only these names of the metadata.
        where : mapping, optional
            Criteria whose names may be anything, 'select' and 'where' included.
        **kwargs
            Criteria by name. All of them must be there and equal, as JSON values: 1 equals 1.0 but
            not True, None equals a stored null only.

        Returns
        -------
        iterator of (key, metadata)
            In no particular order; all keys if there are no criteria. The store may be used, and
            changed, while the iterator is; a key that was there all the time appears exactly once.
        """

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        """Return the keys that query() would find for the same arguments."""
        if where is None:
            return (key for key, _ in self.query(**kwargs))
        # The query() of a store written for 0.8 takes no where.
        kwargs.pop("select", None)
        criteria = check_criteria(where, kwargs)
        if criteria is None:
            return iter(())
        return (key for key, metadata in self.query() if matches(metadata, criteria))

    def glob(self, pattern: str) -> Iterator[str]:
        """Return the keys that match a glob-style pattern.

        Parameters
        ----------
        pattern : str
            ``*`` any text, ``?`` one character, ``[a-b]`` one of these, ``[!a]`` none of these.
            Case counts, and no character is special in a key, ``/`` neither.
        """
        match = key_matcher(pattern)
        return (key for key in self.query_keys() if match(key))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        """List keys in code point order, page by page.

        Parameters
        ----------
        prefix : str
            Only keys that begin with this.
        start_after : str, optional
            Only keys behind this one, which need not exist: the last key of the page before.
        limit : int >= 0, optional
            At most so many.
        """
        check_page(prefix, start_after, limit)
        found = (
            key
            for key in self.query_keys()
            if key.startswith(prefix) and (start_after is None or key > start_after)
        )
        if limit is None:
            return iter(sorted(found))
        from heapq import nsmallest

        return iter(nsmallest(limit, found))

    def mapping(self) -> Mapping[str, bytes]:
        """Return a view of the store as a mapping of keys to bytes; mutable if the store is."""
        from .mapping import ReadOnlyStoreMapping

        return ReadOnlyStoreMapping(self)

    def check(self) -> list[Finding]:
        """Look for damage, reading everything there is.

        Returns
        -------
        list of Finding
            What is wrong; empty if all is well. What others change meanwhile is no damage.
        """
        from .maintenance import Finding

        findings = []
        for key in self.keys():
            try:
                value = self.get(key)
                found = sum(map(len, value.iterdata()))
            except KeyError:
                continue
            except StoreError as error:
                findings.append(Finding(key, str(error)))
                continue
            if value.size not in (None, found):
                findings.append(Finding(key, f"{found} bytes of data instead of {value.size}"))
        return findings


class AbstractStore(AbstractReadOnlyStore):
    """A store that can be read and written.

    Conditions: ``set``, ``set_data``, ``set_metadata``, ``update_metadata`` and ``delete`` take
    ``if_match=etag`` (only if the key is there with this etag) and ``if_none_match='*'`` (only if
    the key is not there). Where that does not hold they raise PreconditionError and change
    nothing; of several writers with the same condition one wins. A store that cannot do this
    atomically raises NotImplementedError.
    """

    @abstractmethod
    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        """Store data and metadata.

        Parameters
        ----------
        key : str
        value : Value or tuple (binary stream, metadata dict)
            A value may come from any store, this one and this key included.
        buffer_size : int > 0, in bytes
            The most that is read at once.
        if_match, if_none_match : str, optional
            See AbstractStore.

        Events
        ------
        StoreProgressStartEvent, StoreProgressStepEvent after each buffer, StoreProgressEndEvent;
        then StoreSetEvent for a new key, StoreUpdateEvent for one that existed
        """

    @abstractmethod
    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        """Delete a key; KeyError if there is no such key.

        Parameters
        ----------
        key : str
        if_match, if_none_match : str, optional
            See AbstractStore.

        Events
        ------
        StoreDeleteEvent
        """

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        """Store data; the metadata stay as they are, those of a new key are empty.

        Parameters and events are those of set(), with a binary stream for the value.
        """
        conditions = self._conditions(if_match, if_none_match)
        try:
            metadata = self.get_metadata(key)
        except KeyError:
            metadata = {}
        self.set(key, (data, metadata), buffer_size, **conditions)

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        """Replace the metadata; the data stay as they are, those of a new key are empty.

        Parameters
        ----------
        key : str
        metadata : dict
            A JSON object.
        if_match, if_none_match : str, optional
            See AbstractStore.

        Events
        ------
        StoreSetEvent for a new key, StoreUpdateEvent for one that existed
        """
        metadata = normalise(metadata)
        try:
            data: BinaryIO = self.get_data(key)
        except KeyError:
            data = io.BytesIO()
        with data:
            self.set(key, (data, metadata), **self._conditions(if_match, if_none_match))

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        """Merge `metadata` into the metadata of a key as dict.update does; KeyError if there is no such key.

        Parameters and events are those of set_metadata().
        """
        metadata = normalise(metadata)
        merged = {**self.get_metadata(key), **metadata}
        self.set_metadata(key, merged, **self._conditions(if_match, if_none_match))

    def from_bytes(self, key: str, data: bytes, buffer_size: int = BUFFER_SIZE) -> None:
        """Store bytes as set_data() does.

        Parameters
        ----------
        key : str
        data : bytes, bytearray or memoryview
        buffer_size : int > 0, in bytes
        """
        self.set_data(key, io.BytesIO(as_bytes(data, "from_bytes() takes")), buffer_size)

    def from_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        """Store the content of a file as set_data() does.

        Parameters
        ----------
        key : str
        path : str, PathLike or binary file
            An open file is read from where it stands, and left open.
        buffer_size : int > 0, in bytes

        Raises
        ------
        StoreOSError
            If the path cannot be read.
        """
        from ._files import reading

        with reading(path) as stream:
            self.set_data(key, stream, buffer_size)

    def _conditions(self, if_match: str | None, if_none_match: str | None) -> dict[str, Any]:
        # Stores written for 0.8 do not take these arguments.
        both = {"if_match": if_match, "if_none_match": if_none_match}
        given = {name: value for name, value in both.items() if value is not None}
        if given and not self.info().get("conditional"):
            raise NotImplementedError(f"{self!r} has no conditional writes")
        return given

    # Writing many keys: one transaction where the store has them.
    # The shorter of two iterables decides, as in zip().

    def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | tuple[Readable, Metadata]],
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        """Call set() for each key and value, in one transaction where there are any."""
        with self.transaction("multiset"):
            for key, value in zip(keys, values, strict=False):
                self.set(key, value, buffer_size)

    def multiset_data(
        self, keys: Iterable[str], datas: Iterable[Readable], buffer_size: int = BUFFER_SIZE
    ) -> None:
        """Call set_data() for each key and stream, in one transaction where there are any."""
        with self.transaction("multiset_data"):
            for key, data in zip(keys, datas, strict=False):
                self.set_data(key, data, buffer_size)

    def multiset_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        """Call set_metadata() for each key and dict, in one transaction where there are any."""
        with self.transaction("multiset_metadata"):
            for key, metadata in zip(keys, metadatas, strict=False):
                self.set_metadata(key, metadata)

    def multiupdate_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        """Call update_metadata() for each key and dict, in one transaction where there are any."""
        with self.transaction("multiupdate_metadata"):
            for key, metadata in zip(keys, metadatas, strict=False):
                self.update_metadata(key, metadata)

    def copy(self, source: str, target: str) -> None:
        """Store data and metadata of `source` under `target` too; KeyError if there is no `source`."""
        check_key(target)
        self.set(target, self.get(source))

    def move(self, source: str, target: str) -> None:
        """Give the value of `source` the key `target`; KeyError if there is no `source`."""
        check_key(target)
        with self.transaction("move"):
            value = self.get(source)
            if source != target:
                self.set(target, value)
                self.delete(source)

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        """Return a context manager that makes its block one change.

        Per thread. The block sees what it wrote, all others see nothing before it ends and
        everything after. It keeps other writers out from its start on. Blocks nest: an inner one
        that raises undoes its own part. Whatever leaves the block as an exception rolls everything
        back, metadata and stamps included. A store whose ``info()['transactional']`` is False
        returns a context manager that does nothing.

        Parameters
        ----------
        notes : str
            What it is for.

        Events
        ------
        StoreTransactionStartEvent, StoreTransactionEndEvent; then, after a commit only, the events
        of the changes in their order
        """
        from ._transactions import DummyTransactionContext

        return DummyTransactionContext(self)

    def mapping(self) -> MutableMapping[str, bytes]:
        from .mapping import StoreMapping

        return StoreMapping(self)


class RepairableStore(AbstractStore):
    """A store that can mend itself."""

    @abstractmethod
    def repair(self) -> list[Finding]:
        """Mend what check() finds; what is fine is not touched.

        Returns
        -------
        list of Finding
            What was wrong, with its outcome.
        """


class AbstractAuthorizingStore(AbstractStore):
    """A store whose keys have owners.

    A permission is a name, and the tags (users, groups, roles) that hold it; what they mean
    depends on the store. Every key has at least the permission 'owned' with at least one tag.
    Owners only may see and change permissions.
    """

    @property
    @abstractmethod
    def user_tag(self) -> str:
        """The tag that stands for the user."""

    @abstractmethod
    def get_permissions(self, key: str) -> dict[str, set[str]]:
        """Return the tags that hold each permission.

        Raises
        ------
        KeyError
            If there is no such key, or none that the user may see.
        AuthorizationError
            If the user may see the key but does not own it.
        """

    @abstractmethod
    def set_permissions(self, key: str, permissions: Mapping[str, Iterable[str]]) -> None:
        """Replace all permissions.

        Parameters
        ----------
        key : str
        permissions : mapping of str to iterable of str
            'owned' must be there with at least one tag, else ValueError.

        Raises
        ------
        KeyError, AuthorizationError
            As get_permissions().
        """

    @abstractmethod
    def update_permissions(self, key: str, permissions: Mapping[str, Iterable[str]]) -> None:
        """Add tags to permissions; parameters and errors are those of set_permissions(), 'owned' may be left out."""
