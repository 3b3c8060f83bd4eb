"""A store at a place among the keys of another one."""

from __future__ import annotations

import os

from ._changes import Change, ChangeTeller
from ._keys import MAX_KEY_BYTES, check_key, check_page, key_matcher
from ._layer_changes import NOBODY
from ._layers import LayeredStore
from ._metadata import equal
from ._signatures import without_misplaced
from ._streams import hashing_file
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import PreconditionError, StoreError, shown
from .events import StoreDeleteEvent, StoreEvent, StoreUpdateEvent
from .read_only_store import ReadOnlyStore
from .renaming_store import RenamingStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from ..events.abstract_event_manager import BaseEventManager
    from .value import Value
    from .wrapper_store import Changing

    Metadata = dict[str, Any]

__all__ = ["MountedStore"]

# How often push() begins again because the key was changed meanwhile.
_ATTEMPTS = 10


class MountedStore(LayeredStore):
    """A store whose keys that begin with the mount point are first looked for in another one.

    Only what is under the mount point can be written, and it is written into the mount store, under
    the rest of its key. The backing store stays as it is: a key that shows through from it can be
    covered by another value, but not be deleted. Only push() writes there. discard() drops what
    covers it.

    Parameters
    ----------
    mount_point : str
        Of less than 1024 bytes in UTF-8, '' for all keys. Nothing is added to it, no slash either.
    mount_store : AbstractReadOnlyStore
    backing_store : AbstractReadOnlyStore
        Either is connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional

    Notes
    -----
    What is written is as atomic and as durable as in the mount store, and transaction() is the
    mount store's. Nothing is promised across the two stores.
    """

    _sinks = True
    _transient = LayeredStore._transient | {"store", "_lower", "_pushing"}

    @without_misplaced
    def __init__(
        self,
        mount_point: str,
        mount_store: AbstractReadOnlyStore,
        backing_store: AbstractReadOnlyStore,
        *misplaced: NoReturn,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        if misplaced or not isinstance(mount_point, str):
            from .base_store import no_positional_manager

            no_positional_manager(mount_point, mount_store, backing_store, *misplaced)
            if misplaced:
                raise TypeError("MountedStore() takes three positional arguments")
            raise TypeError(f"a mount point is a str, not {shown(mount_point)}")
        try:
            size = len(mount_point.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"a mount point must encode to UTF-8: {mount_point!a}") from error
        if size >= MAX_KEY_BYTES:
            raise ValueError(f"a mount point of {size} bytes leaves no room for keys")
        for store in (mount_store, backing_store):
            if not isinstance(store, AbstractReadOnlyStore):
                raise TypeError(f"MountedStore() takes two stores, not {shown(store)}")
        if mount_store is backing_store:
            raise ValueError("a store cannot be mounted on itself")
        self.mount_point = str.__str__(mount_point)
        self.mount_store = mount_store
        self.backing_store = backing_store
        super().__init__(self._faces(), (mount_store, backing_store), event_manager=event_manager)

    def _faces(self) -> tuple[AbstractReadOnlyStore, AbstractReadOnlyStore]:
        """Return the layers: what can be seen of the two stores."""
        from ..events.event_manager import EventManager

        # They tell nothing: what happens in the stores is told by these, or by this one.
        silent = EventManager()
        top = self.mount_store
        if self.mount_point:
            top = _Moved(top, self.mount_point, event_manager=silent)
        return top, ReadOnlyStore(self.backing_store, event_manager=silent)

    def _prepare(self) -> None:
        super()._prepare()
        # Process and key: a fork may come in the middle of one.
        self._pushing: set[tuple[int, str]] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.store, *lower = self._faces()
        self._lower = tuple(lower)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.mount_point!r}, {self.mount_store!r}, "
            f"{self.backing_store!r})"
        )

    def _is_mounted(self, key: str) -> bool:
        """Whether a key is under the mount point; the mount point itself is not."""
        return key.startswith(self.mount_point) and len(key) > len(self.mount_point)

    def _set_first(
        self, call: Changing, key: str, created: float | None, *args: Any, **conditions: Any
    ) -> None:
        self._check_mounted(key)
        super()._set_first(call, key, created, *args, **conditions)

    def _write_above(
        self, call: Changing, method: str, key: str, *args: Any, **kwargs: Any
    ) -> None:
        if self._is_mounted(key) or method != "update_metadata" or self.exists(key):
            self._check_mounted(key)
        super()._write_above(call, method, key, *args, **kwargs)

    def _check_mounted(self, key: str) -> None:
        if not self._is_mounted(check_key(key)):
            raise StoreError(
                f"{key!r} cannot be written: it is not under the mount point {self.mount_point!r}",
                key=key,
            )

    def _check_deletable(self, key: str, holders: list[AbstractReadOnlyStore]) -> None:
        if holders[-1] is not self.store or (os.getpid(), key) in self._pushing:
            where = (
                ""
                if self._is_mounted(key)
                else f", and is not under the mount point {self.mount_point!r}"
            )
            # Of a draft, whoever deletes it may mean no more than that.
            draft = (
                "; discard() would drop what covers it"
                if self.store in holders and not where
                else ""
            )
            raise StoreError(
                f"{key!r} cannot be deleted: it shows through from the backing store{where}{draft}",
                key=key,
            )
        super()._check_deletable(key, holders)

    # Discarding

    def discard(self, key: str) -> None:
        """Delete a key from the mount store alone, so that what the backing store has of it shows through.

        It is told as an update if the backing store holds the key, and as a delete if not.

        Parameters
        ----------
        key : str

        Raises
        ------
        KeyError
            If the mount store does not hold it.
        StoreError
            If the mount store can only be read, or the key is being pushed.
        """
        key = check_key(key)
        mount = self.mount_store
        if not isinstance(mount, AbstractStore) or mount.info().get("readonly", False):
            raise StoreError(f"{mount!r} can only be read", key=key)
        with self._changing(key) as call, self._alone("discard"):
            draft = _held_by(self.store, key, self.backing_store)
            if (os.getpid(), key) in self._pushing:
                raise StoreError(f"{key!r} is being pushed", key=key)
            self._call(NOBODY, self.store, "delete", key)  # type: ignore[arg-type]
            try:
                change = Change(StoreUpdateEvent, key, self.backing_store.get_metadata(key))
            except KeyError:
                change = Change(StoreDeleteEvent, key, draft.metadata)
            call.add(change)

    # Pushing

    def push(self, key: str) -> None:
        """Move a key from the mount store into the backing store.

        It is copied, read again and compared, and then deleted from the mount store, unless it was
        changed meanwhile: then the new value is copied. All that changes to be seen is its stamps
        and its etag, and this store tells nothing.

        Parameters
        ----------
        key : str

        Raises
        ------
        KeyError
            If the mount store does not hold it; it says so where the backing store does.
        StoreError
            If the backing store cannot be written, or does not hold afterwards what it was given;
            inside a transaction; or while the same key is being pushed. The mount store keeps it.
        """
        key = check_key(key)
        mount, backing = self.mount_store, self.backing_store
        if not isinstance(mount, AbstractStore) or mount.info().get("readonly", False):
            raise StoreError(f"{mount!r} can only be read", key=key)
        if not self._is_mounted(key):
            _held_by(self.store, key, backing)
        if not isinstance(backing, AbstractStore) or backing.info().get("readonly", False):
            _held_by(self.store, key, backing)
            raise StoreError(f"{key!r} cannot be pushed: {backing!r} can only be read", key=key)
        if self._depth() or (isinstance(mount, ChangeTeller) and mount._depth()):
            raise StoreError("what is inside a transaction cannot be pushed", key=key)
        entry = os.getpid(), key
        before = len(self._pushing)
        self._pushing.add(entry)
        if len(self._pushing) == before:
            raise StoreError(f"{key!r} is being pushed", key=key)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    if self._push(key, mount, backing):
                        return
                except KeyError:
                    if not attempt:
                        _held_by(self.store, key, backing)
                        raise
                    # Somebody else has pushed it.
                    return
        finally:
            self._pushing.discard(entry)
        raise StoreError(f"{key!r} is changed faster than it can be pushed", key=key)

    def _push(self, key: str, mount: AbstractStore, backing: AbstractStore) -> bool:
        """Push a key once; False if it was changed meanwhile."""
        inner = key[len(self.mount_point) :]
        # Whoever is deleting it now comes first; whoever wants to later will see that it is pushed.
        with backing.event_manager.held(StoreEvent), self._alone("push"):
            value = _get(mount, inner, key)
            beneath = backing.get(key).etag if backing.exists(key) else None
            if not backing.info().get("conditional"):
                # Nobody else may push it, or what has become of it, at the same time.
                if not _copy(value, key, mount, inner, backing, {}):
                    return False
                mount.delete(inner)
                return True
        condition: dict[str, Any] = (
            {"if_none_match": "*"} if beneath is None else {"if_match": beneath}
        )
        try:
            return _copy(value, key, mount, inner, backing, condition) and _remove(
                mount, inner, value
            )
        except PreconditionError:
            # Another push came in between, and what it brought may be newer.
            return False


def _held_by(store: AbstractReadOnlyStore, key: str, backing: AbstractReadOnlyStore) -> Value:
    """Return a value of the mount; KeyError, which says where it is, if it is not there."""
    try:
        return store.get(key)
    except KeyError:
        pass
    error = KeyError(key)
    if backing.exists(key):
        error = _NotMountedError(key)
    raise error


class _NotMountedError(KeyError):
    """A key that only the backing store holds: a KeyError with the key, that says so."""

    def __str__(self) -> str:
        return f"{self.args[0]!r} is in the backing store only, not in the mount store"


def _get(store: AbstractStore, inner: str, key: str) -> Value:
    try:
        return store.get(inner)
    except KeyError:
        raise KeyError(key) from None


def _copy(
    value: Value,
    key: str,
    mount: AbstractStore,
    inner: str,
    backing: AbstractStore,
    condition: dict[str, Any],
) -> bool:
    """Copy a value, and read it again; False if it is no longer there then, for a good reason.

    Raises
    ------
    StoreError
        If there is another value for no reason.
    """
    from hashlib import sha256

    metadata, given, taken = value.metadata, sha256(), sha256()
    with value.data as stream:
        source = hashing_file(stream, given)
        backing.set(key, (source, metadata), **condition)
    size = 0
    try:
        copy = backing.get(key)
        for chunk in copy.iterdata():
            taken.update(chunk)
            size += len(chunk)
        if (
            (size, taken.digest()) == (source.len, given.digest())
            and copy.size in (None, size)
            and equal(copy.metadata, metadata)
        ):
            return True
    except KeyError:
        pass
    try:
        if _facts(mount.get(inner)) != _facts(value):
            return False
    except KeyError:
        return False
    raise StoreError(f"{backing!r} does not hold of {key!r} what it was given", key=key)


def _remove(store: AbstractStore, key: str, value: Value) -> bool:
    """Delete a key if it still has this value; False if it has another one."""
    try:
        if value.etag is not None and store.info().get("conditional"):
            store.delete(key, if_match=value.etag)
            return True
        with store.transaction("push"):
            if _facts(store.get(key)) != _facts(value):
                return False
            store.delete(key)
    except PreconditionError:
        return not store.exists(key)
    except KeyError:
        # Somebody else has pushed it, or deleted it from the mount store.
        pass
    return True


def _facts(value: Value) -> tuple[Any, ...]:
    return value.etag, value.created, value.modified, value.size, value.metadata


class _Moved(RenamingStore):
    """The keys of a store, with a prefix before each."""

    def __init__(
        self, store: AbstractReadOnlyStore, prefix: str, *, event_manager: BaseEventManager
    ) -> None:
        self.prefix = prefix
        self._added_bytes = -len(prefix.encode())
        super().__init__(store, event_manager=event_manager)

    def __repr__(self) -> str:
        # In errors, where it stands for the store.
        return repr(self.store)

    def _inner(self, key: str) -> str | None:
        return (key.startswith(self.prefix) and key[len(self.prefix) :]) or None

    def _outer(self, key: str) -> str | None:
        name = self.prefix + key
        # Four bytes are the most that a character takes.
        if len(name) * 4 > MAX_KEY_BYTES and len(name.encode()) > MAX_KEY_BYTES:
            return None
        return name

    def exists(self, key: str) -> bool:
        # Asked for each key that shows through in a query.
        inner = self._inner(check_key(key))
        return inner is not None and self.store.exists(inner)

    def glob(self, pattern: str) -> Iterator[str]:
        match = key_matcher(pattern)
        rest = pattern[len(self.prefix) :]
        if rest and pattern.startswith(self.prefix) and not set(self.prefix) & set("*?["):
            return self._names(self.store.glob(rest))
        return (key for key in self.query_keys() if match(key))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        own = self.prefix
        if prefix.startswith(own):
            prefix = prefix[len(own) :]
        elif own.startswith(prefix):
            prefix = ""
        else:
            limit = 0
        if start_after is not None:
            if start_after.startswith(own):
                start_after = start_after[len(own) :] or None
            elif start_after < own:
                start_after = None
            else:
                limit = 0
        if limit is None:
            return self._names(self.store.keys(prefix, start_after))
        return iter(self._page(prefix, start_after, limit))

    def _page(self, prefix: str, start_after: str | None, limit: int) -> list[str]:
        found: list[str] = []
        while True:
            wanted = limit - len(found)
            keys = list(self.store.keys(prefix, start_after, wanted))
            found += self._names(keys)
            # Keys that are too long here leave room for others.
            if len(found) >= limit or len(keys) < wanted:
                return found
            start_after = keys[-1]
