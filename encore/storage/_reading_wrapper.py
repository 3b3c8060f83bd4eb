"""The half of a wrapper that reads: every method asks the inner store, so that what is fast there stays fast.

ReadOnlyStore is no more than this; WrapperStore adds the half that writes.
"""

from __future__ import annotations

from ..events.package_globals import get_event_manager
from ._changes import ChangeTeller, ThreadState
from ._metadata import check_criteria, check_names, copy_of, matches
from ._progress import progress_wanted
from ._streams import BUFFER_SIZE
from .abstract_store import AbstractAuthorizingStore, AbstractReadOnlyStore, AbstractStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]

__all__ = ["ReadingWrapper"]


_FOLLOWS = {
    "get_data": ("get",),
    "get_data_range": ("get",),
    "get_metadata": ("get",),
    "exists": ("get",),
    "to_bytes": ("get",),
    "to_file": ("get",),
    "multiget": ("get",),
    "multiget_data": ("get_data",),
    "multiget_metadata": ("get_metadata",),
    "query_keys": ("query",),
    "glob": ("query_keys",),
    "keys": ("query_keys",),
    "check": ("get", "keys"),
}


def derive(
    cls: type, forwarding: type, contract: type, follows: dict[str, tuple[str, ...]]
) -> None:
    """Give a class what the contract derives, for methods that follow from one that it overrides.

    Parameters
    ----------
    cls : type
        A subclass of `forwarding`.
    forwarding : type
        The class whose methods only forward.
    contract : type
        The class whose methods derive.
    follows : dict of str to tuple of str
        Each method and those it derives from, which stand before it where they derive themselves.
    """
    for name, basis in follows.items():
        if getattr(cls, name) is getattr(forwarding, name) and any(
            getattr(cls, other) is not getattr(forwarding, other) for other in basis
        ):
            setattr(cls, name, getattr(contract, name))


class ReadingWrapper(ChangeTeller, AbstractReadOnlyStore):
    """A store that reads what another one holds.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self, store: AbstractReadOnlyStore, *, event_manager: BaseEventManager | None = None
    ) -> None:
        if not isinstance(store, AbstractReadOnlyStore):
            raise TypeError(
                f"{type(self).__name__} wraps a store, not {type(store).__name__}: {store!r:.80}"
            )
        super().__init__(event_manager=event_manager)
        self.store = store
        self._prepare()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        derive(cls, ReadingWrapper, AbstractReadOnlyStore, _FOLLOWS)

    def _prepare(self) -> None:
        self._state = ThreadState()
        self._connected_it = False

    #: What is not pickled.
    _transient = frozenset(("event_manager", "_state", "_connected_it"))

    def __getstate__(self) -> dict[str, Any]:
        transient = self._transient
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.event_manager = get_event_manager()
        self._prepare()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        if not self.store.is_connected():
            self.store.connect(credentials)
            self._connected_it = True

    def disconnect(self) -> None:
        if self._connected_it:
            self.store.disconnect()
            self._connected_it = False

    def is_connected(self) -> bool:
        return self.store.is_connected()

    def info(self) -> dict[str, Any]:
        own = super().info()
        inner = self.store.info()
        readonly = own["readonly"] or inner.get(
            "readonly", not isinstance(self.store, AbstractStore)
        )
        return {
            **own,
            **inner,
            "type": own["type"],
            "readonly": readonly,
            # The inner store's permissions cannot be reached through here.
            "authorizing": isinstance(self, AbstractAuthorizingStore),
            "transactional": not readonly and inner.get("transactional", False),
            "conditional": not readonly and inner.get("conditional", False),
        }

    # Reading

    def get(self, key: str) -> Value:
        return self.store.get(key)

    def get_data(self, key: str) -> BinaryIO:
        return self.store.get_data(key)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        return self.store.get_data_range(key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self.store.get_metadata(key, select)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        data: bytes = self._unless_watched().to_bytes(key, buffer_size)
        return data

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        self._unless_watched().to_file(key, path, buffer_size)

    def _unless_watched(self) -> Any:
        """Return the inner store, or what the contract derives where somebody wants to see this store's progress."""
        return super() if progress_wanted(self.event_manager) else self.store

    def multiget(self, keys: Iterable[str]) -> Iterator[Value]:
        return self.store.multiget(keys)

    def multiget_data(self, keys: Iterable[str]) -> Iterator[BinaryIO]:
        return self.store.multiget_data(keys)

    def multiget_metadata(
        self, keys: Iterable[str], select: Iterable[str] | None = None
    ) -> Iterator[Metadata]:
        return self.store.multiget_metadata(keys, select)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        if where is None:
            return self.store.query(select, **kwargs)
        if isinstance(self.store, ChangeTeller):
            return self.store.query(select, where=where, **kwargs)
        names = check_names(select)
        criteria = check_criteria(where, kwargs)
        if criteria is None:
            return iter(())
        return (
            (key, copy_of(metadata, names))
            for key, metadata in self.store.query()
            if matches(metadata, criteria)
        )

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        if where is None:
            return self.store.query_keys(**kwargs)
        if isinstance(self.store, ChangeTeller):
            return self.store.query_keys(where=where, **kwargs)
        return (key for key, _ in self.query(where=where, **kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        return self.store.glob(pattern)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        return self.store.keys(prefix, start_after, limit)

    def check(self) -> list[Finding]:
        return self.store.check()
