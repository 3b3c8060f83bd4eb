"""The half of stores made of layers that reads: a key is what the highest layer says that holds it.

Readers ask from the top to the bottom and need no lock, as a key that goes from one layer into
another is in both for a while. Listings do the same: of a layer nothing is asked before those above
it have been listed.
"""

from __future__ import annotations

from ._changes import ChangeTeller
from ._keys import check_page
from ._metadata import check_criteria, check_names, copy_of, matches
from .abstract_store import AbstractReadOnlyStore
from .errors import StoreError
from .wrapper_store import WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["ReadingLayers"]

# The keys of the first page of a listing; each is twice as long as the one before, up to the other,
# so that a store whose pages cost as much as all its keys is not asked too often.
_PAGE = 1000
_LARGEST_PAGE = 64000

_DURABLE = ("none", "process", "power")


class ReadingLayers(WrapperStore):
    """A store made of layers.

    Parameters
    ----------
    layers : sequence of AbstractReadOnlyStore
        From the top to the bottom.
    members : sequence of AbstractReadOnlyStore
        Those to be connected: the same, or what they are made of.
    event_manager : BaseEventManager, optional
    """

    _transient = WrapperStore._transient | {"_connected_members"}

    def __init__(
        self,
        layers: Sequence[AbstractReadOnlyStore],
        members: Sequence[AbstractReadOnlyStore],
        *,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        super().__init__(layers[0], event_manager=event_manager)
        self._lower = tuple(layers[1:])
        self._members = tuple(members)

    def _prepare(self) -> None:
        super()._prepare()
        self._connected_members: list[AbstractReadOnlyStore] = []

    def _layers(self) -> tuple[AbstractReadOnlyStore, ...]:
        return (self.store, *self._lower)

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        connected: list[AbstractReadOnlyStore] = []
        try:
            for member in self._members:
                if not member.is_connected():
                    member.connect(credentials)
                    connected.append(member)
        except BaseException:
            _disconnect(connected)
            raise
        self._connected_members += connected

    def disconnect(self) -> None:
        if self._depth():
            raise StoreError("a store cannot be disconnected inside its own transaction")
        error = _disconnect(self._connected_members)
        if error is not None:
            raise error

    def is_connected(self) -> bool:
        return all(member.is_connected() for member in self._members)

    def info(self) -> dict[str, Any]:
        infos = [layer.info() for layer in self._layers()]
        return {
            **super().info(),
            "streaming": all(info.get("streaming", False) for info in infos),
            "durable": min((info.get("durable", "none") for info in infos), key=_DURABLE.index),
        }

    # Reading one key

    def get(self, key: str) -> Value:
        try:
            return self.store.get(key)
        except KeyError:
            pass
        value: Value = self._below("get", key)
        return value

    def get_data(self, key: str) -> BinaryIO:
        try:
            return self.store.get_data(key)
        except KeyError:
            pass
        stream: BinaryIO = self._below("get_data", key)
        return stream

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        try:
            return self.store.get_data_range(key, start, end)
        except KeyError:
            pass
        stream: BinaryIO = self._below("get_data_range", key, start, end)
        return stream

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        # It may be an iterator.
        names = check_names(select)
        try:
            return self.store.get_metadata(key, names)
        except KeyError:
            pass
        metadata: Metadata = self._below("get_metadata", key, names)
        return metadata

    def exists(self, key: str) -> bool:
        return self.store.exists(key) or self._lies_below(key)

    def _below(self, method: str, key: str, *args: Any) -> Any:
        """Call a method that reads, of the highest of the lower layers that holds the key."""
        for layer in self._lower:
            try:
                return getattr(layer, method)(key, *args)
            except KeyError:
                pass
        raise KeyError(key)

    def _lies_below(self, key: str) -> bool:
        """Whether one of the lower layers holds a key."""
        return _one_has(self._lower, key)

    # Reading many keys

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
        # What nothing fulfils is asked for its errors.
        found = super().query(names, where=where, **kwargs)
        if criteria is None:
            return found
        self._check_connected()
        return self._items(found, names, criteria)

    def _items(
        self,
        found: Iterator[tuple[str, Metadata]],
        names: list[str] | None,
        criteria: Metadata,
    ) -> Iterator[tuple[str, Metadata]]:
        seen: set[str] = set()
        note = seen.add
        for item in found:
            note(item[0])
            yield item
        above = [self.store]
        for layer in self._lower:
            for item in _matching(layer, names, criteria):
                key = item[0]
                if key in seen:
                    continue
                # Another copy may lie above it, which does not match.
                if criteria and _one_has(above, key):
                    try:
                        metadata = self.get_metadata(key)
                    except (KeyError, StoreError):
                        # It is gone, or it is damaged and matches nothing.
                        continue
                    if not matches(metadata, criteria):
                        continue
                    item = key, copy_of(metadata, names)
                note(key)
                yield item
            above.append(layer)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        check_names(kwargs.pop("select", None))
        if where is None and not kwargs:
            return self._union(lambda layer: layer.query_keys())
        return (key for key, _ in self.query((), where=where, **kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        return self._union(lambda layer: layer.glob(pattern))

    def _union(self, listing: Callable[[AbstractReadOnlyStore], Iterable[str]]) -> Iterator[str]:
        # Errors are raised now.
        found = listing(self.store)
        self._check_connected()
        return self._keys_once(found, listing)

    def _keys_once(
        self,
        found: Iterable[str],
        listing: Callable[[AbstractReadOnlyStore], Iterable[str]],
    ) -> Iterator[str]:
        seen: set[str] = set()
        note = seen.add
        for key in found:
            note(key)
            yield key
        for layer in self._lower:
            for key in listing(layer):
                if key not in seen:
                    note(key)
                    yield key

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        if not self._lower:
            return self.store.keys(prefix, start_after, limit)
        self._check_connected()
        if limit is not None:
            return iter(self._page(prefix, start_after, limit))
        return self._pages(prefix, self._page(prefix, start_after, _PAGE), _PAGE)

    def _pages(self, prefix: str, page: list[str], limit: int) -> Iterator[str]:
        while True:
            yield from page
            if len(page) < limit:
                return
            limit = min(2 * limit, _LARGEST_PAGE)
            page = self._page(prefix, page[-1], limit)

    def _page(self, prefix: str, start_after: str | None, limit: int) -> list[str]:
        found: set[str] = set()
        # One after the other: what goes down while the first is listed is found in the second.
        for layer in self._layers():
            found.update(layer.keys(prefix, start_after, limit))
        return sorted(found)[:limit]

    def _check_connected(self) -> None:
        """Raise StoreError if a lower layer has to be connected first."""
        for layer in self._lower:
            if not layer.is_connected():
                layer.exists("-")

    def check(self) -> list[Finding]:
        return [finding for layer in self._layers() for finding in layer.check()]


def _one_has(layers: Iterable[AbstractReadOnlyStore], key: str) -> bool:
    for layer in layers:  # noqa: SIM110 - any() takes twice as long
        if layer.exists(key):
            return True
    return False


def _matching(
    layer: AbstractReadOnlyStore, names: list[str] | None, criteria: Metadata
) -> Iterable[tuple[str, Metadata]]:
    if not criteria.keys() & {"select", "where", "self"}:
        return layer.query(names, **criteria)
    if isinstance(layer, ChangeTeller):
        return layer.query(names, where=criteria)
    # The query() of a store written for 0.8 takes no where.
    return (
        (key, copy_of(metadata, names))
        for key, metadata in layer.query()
        if matches(metadata, criteria)
    )


def _disconnect(members: list[AbstractReadOnlyStore]) -> BaseException | None:
    """Disconnect all that can be, and take them out of the list; return the first error."""
    failure: BaseException | None = None
    for member in reversed(members.copy()):
        try:
            member.disconnect()
            members.remove(member)
        except BaseException as error:
            failure = failure or error
    return failure
