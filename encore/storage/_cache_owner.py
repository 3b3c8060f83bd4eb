"""Who writes to a cache: a record in it, as of a caching store with write_back, so that there is one at a time.

The record is written by conditional writes, so that of two that come at once one is refused. It is
of no value any more when its process has died, which is found at once on the same computer; elsewhere,
when it has not been renewed for a minute. Whoever writes renews it. The child of a fork shares that of
its parent.
"""

from __future__ import annotations

import io
import os

from ._nesting import within
from ._owner import Owner, host_name, this_process
from .errors import PreconditionError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
    from weakref import ReferenceType

    from .abstract_store import AbstractStore

__all__ = ["OWNER_KEY", "CacheOwner", "OwnedCacheError", "check_unowned"]

#: The key of the record. A value of the store under the same key is not cached.
OWNER_KEY = ".encore-cache-owner"

_STATE = "owner"

# Seconds after which a record of another computer counts for nothing, and is renewed.
_LEASE = 60.0
_RENEWAL = 20.0

# Those of this process, by what tells them apart.
_owners: dict[str, ReferenceType[CacheOwner]] = {}


class OwnedCacheError(StoreError):
    """Somebody else writes to a cache."""


class CacheOwner:
    """One that writes to a cache.

    Parameters
    ----------
    cache : AbstractStore
        With conditional writes.
    clock, monotonic : callable
    """

    def __init__(
        self, cache: AbstractStore, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self.cache = cache
        self._clock = clock
        self._monotonic = monotonic
        self._id = os.urandom(9).hex()
        self._etag: str | None = None
        self._renewed = 0.0
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<CacheOwner of {self.cache!r}>"

    def take(self) -> None:
        """Become the owner; StoreError if somebody else is."""
        from weakref import ref

        while True:
            etag = check_unowned(self.cache, self._clock)
            try:
                self._write({"if_none_match": "*"} if etag is None else {"if_match": etag})
            except PreconditionError:
                continue
            break
        for id, other in list(_owners.items()):
            if other() is None:
                _owners.pop(id, None)
        _owners[self._id] = ref(self)

    def _write(self, condition: dict[str, Any]) -> None:
        text = {"id": self._id, "process": str(this_process()), "host": host_name()}
        record = {"state": _STATE, **text, "pid": self._pid, "renewed": self._clock()}
        now = self._monotonic()
        self.cache.set(OWNER_KEY, (io.BytesIO(), record), **condition)
        value = self.cache.get(OWNER_KEY)
        # If it is somebody else's by now, the next renewal will find out.
        self._etag = value.etag if value.metadata.get("id") == self._id else "another"
        self._renewed = now

    def renew(self) -> None:
        """See to it that the record is not old; StoreError if it is somebody else's."""
        if self._etag is None or self._monotonic() - self._renewed < _RENEWAL:
            return
        if self._pid != os.getpid():
            # It is the parent's, which may have ended.
            return
        try:
            self._write({"if_match": self._etag})
        except PreconditionError:
            pass
        except KeyError:
            pass
        else:
            return
        try:
            record = self.cache.get_metadata(OWNER_KEY)
        except KeyError:
            record = {}
        if record.get("id", self._id) == self._id:
            # Another thread was faster; or somebody has emptied the cache.
            self._renewed = self._monotonic()
            return
        raise StoreError(f"{self.cache!r} has been taken over by {_name(record)}")

    def release(self) -> None:
        """Be the owner no more."""
        etag, self._etag = self._etag, None
        _owners.pop(self._id, None)
        if etag is None or self._pid != os.getpid():
            return
        try:
            self.cache.delete(OWNER_KEY, if_match=etag)
        except (KeyError, StoreError):
            # Whoever comes next sees that this process has died, or has no such owner.
            pass


def check_unowned(cache: AbstractStore, clock: Callable[[], float]) -> str | None:
    """Return the etag of a record that counts for nothing, None if there is none; StoreError if there is an owner."""
    try:
        value = cache.get(OWNER_KEY)
    except KeyError:
        return None
    if _is_at_work(value.metadata, cache, clock):
        raise OwnedCacheError(
            f"{cache!r} is the cache of another CachingStore that writes to it, of "
            f"{_name(value.metadata)}; disconnect that first, or give each a cache of its own"
        )
    return value.etag


def _is_at_work(record: dict[str, Any], cache: AbstractStore, clock: Callable[[], float]) -> bool:
    text, renewed = record.get("process"), record.get("renewed")
    owner = Owner.parse(text) if isinstance(text, str) else None
    if owner is None or not isinstance(renewed, int | float):
        return False
    in_memory = cache.info().get("durable", "none") == "none"
    if owner == this_process():
        reference = _owners.get(str(record.get("id")))
        other = None if reference is None else reference()
        # What is in memory may be a copy, with the record of the original.
        return other is not None and (not in_memory or bool(within(other.cache) & within(cache)))
    if in_memory:
        return False
    died = owner.has_died()
    if died is None:
        return abs(clock() - renewed) < _LEASE
    return not died


def _name(record: dict[str, Any]) -> str:
    return f"process {record.get('pid')} on {record.get('host')}"
