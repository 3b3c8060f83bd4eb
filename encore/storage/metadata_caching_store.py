"""A store in front of a slow one, which remembers metadata, what is there and what is not."""

from __future__ import annotations

import time
from _thread import RLock
from itertools import islice

from ._keys import check_key, check_page, key_matcher
from ._metadata import check_criteria, check_names, copy_of, matches
from ._watching_wrapper import WatchingWrapper
from .base_store import _remember
from .errors import StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from .abstract_store import AbstractReadOnlyStore
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["MetadataCachingStore"]

#: What is remembered of a key, instead of its metadata.
_ABSENT: Any = None
_THERE: Any = object()
_UNKNOWN: Any = object()

# A listing of which more keys have been written since is made anew.
_MOST_HOLES = 100


class _Listing:
    """All keys and their metadata, at one moment."""

    def __init__(self, metadata: dict[str, Metadata], time: float, holes: set[str]) -> None:
        self.metadata = metadata
        self.time = time
        #: Keys that have been written since, or whose metadata cannot be read.
        self.holes = holes
        self._sorted: list[str] | None = None

    def patch(self, key: str, metadata: Metadata | None) -> None:
        self._sorted = None
        self.holes.discard(key)
        if metadata is None:
            self.metadata.pop(key, None)
        else:
            self.metadata[key] = metadata

    def sorted(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted(self.metadata)
        return self._sorted


class _Kept:
    """What is remembered; used under its lock, which is held while nothing else runs."""

    def __init__(self) -> None:
        self.lock = RLock()
        #: Key -> metadata, _ABSENT or _THERE, and when the store was asked; oldest first.
        self.entries: dict[str, tuple[Any, float]] = {}
        self.listing: _Listing | None = None
        #: When there were too many keys for a listing.
        self.too_many: float | None = None
        #: Key -> how many calls are writing it.
        self.writing: dict[str, int] = {}
        #: Keys of which nothing is remembered.
        self.distrusted: set[str] = set()
        #: For each question that the store has not answered yet, the keys written meanwhile.
        self.questions: list[set[str]] = []
        #: Counts the beginnings and ends of writing.
        self.turns = 0
        #: How often there was an answer, how often the store was asked, how often for all keys.
        self.hits = self.asked = self.listings = 0


class MetadataCachingStore(WatchingWrapper):
    """A store that remembers for `expire` seconds what a slow store says about its keys, but no data.

    That is metadata, which keys are there, and which are not. A listing of all keys is fetched with
    their metadata; then a key that is not in it is known not to be there. What is written through
    this store is seen at once, by all threads; what others write, `expire` seconds later at the
    latest.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    expire : float >= 0, in seconds
        0 asks the store always.
    max_entries : int >= 0
        So many keys are remembered, and no listing of more keys.
    clock : callable
        Seconds that never go back, as time.monotonic().
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        *,
        expire: float = 60.0,
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        for name, number in {"expire": expire, "max_entries": max_entries}.items():
            if not isinstance(number, int | float) or isinstance(number, bool):
                raise TypeError(f"{name} is a number, not {shown(number)}")
            if not number >= 0:
                raise ValueError(f"{name} is not negative: {number}")
        self._expire = expire
        self._max_entries = max_entries
        self._clock = clock
        super().__init__(store, event_manager=event_manager)

    _transient = WatchingWrapper._transient | {"_kept"}

    def _prepare(self) -> None:
        super()._prepare()
        self._kept = _Kept()
        remember: Any = _remember
        remember(self)

    def _forked(self) -> None:
        connected = self._connected_it
        WatchingWrapper._prepare(self)
        self._connected_it = connected
        self._kept = _Kept()

    def disconnect(self) -> None:
        super().disconnect()
        self.forget()

    def forget(self) -> None:
        """Ask the store again for everything."""
        kept = self._kept
        with kept.lock:
            kept.entries.clear()
            kept.listing = kept.too_many = None
            kept.distrusted.clear()
            # What is being asked is not remembered.
            kept.questions = []
            kept.turns += 1

    # What is remembered

    def _uses_kept(self) -> bool:
        return self._expire > 0 and self.store.is_connected() and not self._in_transaction()

    def _known(self, key: str) -> Any:
        """Return metadata, _ABSENT, _THERE or _UNKNOWN."""
        if not self._uses_kept():
            return _UNKNOWN
        # Nothing is remembered of a key that is being written, and it is a hole in a listing.
        kept = self._kept
        with kept.lock:
            listing = kept.listing
            if listing is not None and key not in listing.holes and self._is_fresh(listing.time):
                return listing.metadata.get(key, _ABSENT)
            found, when = kept.entries.get(key, (_UNKNOWN, 0.0))
            return found if self._is_fresh(when) else _UNKNOWN

    def stats(self) -> dict[str, int]:
        """Return counts.

        Returns
        -------
        dict of str to int
            'hits': answered without asking the store; 'asked': questions about one key; 'listings':
            how often all keys were fetched; 'entries': keys of which something is remembered.
        """
        kept = self._kept
        with kept.lock:
            listed = () if kept.listing is None else kept.listing.metadata
            return {
                "hits": kept.hits,
                "asked": kept.asked,
                "listings": kept.listings,
                "entries": len({*kept.entries, *listed}),
            }

    def _hit(self) -> None:
        with self._kept.lock:
            self._kept.hits += 1

    def _is_fresh(self, when: float) -> bool:
        return self._clock() - when < self._expire

    def _ask(self, key: str, ask: Callable[[], Any], what: Callable[[Any], Any]) -> Any:
        """Return what the store answers, and remember what that says about the key."""
        if not self._uses_kept():
            return ask()
        kept, written, now = self._kept, set[str](), self._clock()
        with kept.lock:
            kept.asked += 1
            kept.questions.append(written)
        found = _UNKNOWN
        try:
            try:
                answer = ask()
                found = what(answer)
            except KeyError:
                found = _ABSENT
                raise
        finally:
            with kept.lock:
                if self._end_question(written) and key not in kept.writing and key not in written:
                    self._remember_key(key, found, now)
        return answer

    def _end_question(self, written: set[str]) -> bool:
        """End a question; return whether its answer may be remembered."""
        questions = self._kept.questions
        for position, question in enumerate(questions):
            if question is written:
                del questions[position]
                return True
        return False

    def _remember_key(self, key: str, found: Any, now: float) -> None:
        if found is _UNKNOWN or key in self._kept.distrusted:
            return
        entries = self._kept.entries
        entries.pop(key, None)
        entries[key] = found, now
        if len(entries) > self._max_entries:
            del entries[next(iter(entries))]

    def _begin_keys(self, keys: Set[str]) -> None:
        kept = self._kept
        with kept.lock:
            for key in keys:
                kept.writing[key] = kept.writing.get(key, 0) + 1
            self._change(keys)

    def _end_keys(self, keys: Set[str], lasting: bool) -> None:
        kept = self._kept
        with kept.lock:
            for key in keys:
                count = kept.writing.pop(key, 1) - 1
                if count:
                    kept.writing[key] = count
            if lasting:
                kept.distrusted.update(keys)
            self._change(keys)

    def _change(self, keys: Set[str]) -> None:
        kept = self._kept
        kept.turns += 1
        for key in keys:
            kept.entries.pop(key, None)
        for question in kept.questions:
            question.update(keys)
        if kept.listing is not None:
            kept.listing.holes.update(keys)
            if len(kept.listing.holes) > _MOST_HOLES:
                kept.listing = None

    # Listings

    def _listed(self, pick: Callable[[_Listing], Any], prefetch: bool) -> Any:
        """Return what `pick` takes from a listing of all keys, None if the store has to be asked."""
        if not self._uses_kept():
            return None
        kept = self._kept
        with kept.lock:
            if kept.writing or kept.distrusted:
                return None
            listing, turn = kept.listing, kept.turns
            if listing is not None and not self._is_fresh(listing.time):
                listing = kept.listing = None
            if listing is None and kept.too_many is not None and self._is_fresh(kept.too_many):
                return None
            holes = [] if listing is None else list(listing.holes)
        asks = listing is None or bool(holes)
        if listing is None:
            if not prefetch or not self._prefetch():
                return None
        else:
            try:
                patches = [(key, self._metadata_or_none(key)) for key in holes]
            except StoreError:
                # It can be damaged, and hide no other.
                return None
            with kept.lock:
                # Otherwise it would show a part of what was done meanwhile.
                if kept.turns != turn:
                    return None
                for key, metadata in patches:
                    listing.patch(key, metadata)
        with kept.lock:
            listing = kept.listing
            if listing is None or listing.holes or kept.writing:
                return None
            kept.hits += not asks
            return pick(listing)

    def _metadata_or_none(self, key: str) -> Metadata | None:
        try:
            return self.store.get_metadata(key)
        except KeyError:
            return None

    def _prefetch(self) -> bool:
        """Fetch all keys with their metadata; return whether they are few enough."""
        kept, written, now = self._kept, set[str](), self._clock()
        most, has_answered, are_few = self._max_entries, False, False
        with kept.lock:
            kept.questions.append(written)
        try:
            # First, because what is damaged is there, and no query finds it.
            keys = set(islice(self.store.query_keys(), most + 1))
            metadata = dict(islice(self.store.query(), most + 1)) if len(keys) <= most else {}
            are_few = max(len(keys), len(metadata)) <= most
            has_answered = True
        finally:
            with kept.lock:
                kept.listings += has_answered
                if self._end_question(written) and has_answered:
                    if are_few:
                        holes = written | (keys - metadata.keys())
                        kept.listing = _Listing(metadata, now, holes)
                    else:
                        kept.too_many = now
        return are_few

    # Reading

    def get(self, key: str) -> Value:
        key = check_key(key)
        if self._known(key) is _ABSENT:
            self._hit()
            raise KeyError(key)
        value: Value = self._ask(key, lambda: self.store.get(key), lambda value: _THERE)
        return value

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        key = check_key(key)
        names = check_names(select)
        found = self._known(key)
        if found is _UNKNOWN or found is _THERE:
            if not self._uses_kept():
                return self.store.get_metadata(key, names)
            found = self._ask(key, lambda: self.store.get_metadata(key), copy_of)
        else:
            self._hit()
        if found is _ABSENT:
            raise KeyError(key)
        return copy_of(found, names)

    def exists(self, key: str) -> bool:
        key = check_key(key)
        found = self._known(key)
        if found is _UNKNOWN:
            return bool(
                self._ask(
                    key, lambda: self.store.exists(key), lambda there: _THERE if there else _ABSENT
                )
            )
        self._hit()
        return found is not _ABSENT

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        names = check_names(select)
        criteria = check_criteria(where, kwargs)
        if criteria is not None:
            # Where some are asked for, a store that has an index may be faster than all of them.
            found = self._listed(
                lambda listing: [
                    item for item in listing.metadata.items() if matches(item[1], criteria)
                ],
                not criteria,
            )
            if found is not None:
                return ((key, copy_of(metadata, names)) for key, metadata in found)
        return super().query(names, where=where, **kwargs)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        check_names(kwargs.pop("select", None))
        if where is not None or kwargs:
            return (key for key, _ in self.query((), where=where, **kwargs))
        found = self._listed(lambda listing: list(listing.metadata), True)
        return super().query_keys() if found is None else iter(found)

    def glob(self, pattern: str) -> Iterator[str]:
        match = key_matcher(pattern)
        found = self._listed(lambda listing: list(listing.metadata), False)
        return super().glob(pattern) if found is None else filter(match, found)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        everything = not prefix and start_after is None and limit is None
        found = self._listed(
            lambda listing: _page(listing.sorted(), prefix, start_after, limit), everything
        )
        return super().keys(prefix, start_after, limit) if found is None else iter(found)

    def check(self) -> list[Finding]:
        return self.store.check()


def _page(keys: list[str], prefix: str, start_after: str | None, limit: int | None) -> list[str]:
    from bisect import bisect_left, bisect_right

    begin = bisect_left(keys, prefix)
    if start_after is not None:
        begin = max(begin, bisect_right(keys, start_after))
    page: list[str] = []
    for key in islice(keys, begin, None):
        if not key.startswith(prefix) or len(page) == limit:
            break
        page.append(key)
    return page
