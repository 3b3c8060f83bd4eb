"""A store as a mapping of keys to bytes."""

from __future__ import annotations

# What collections.abc gives, without loading collections.
from _collections_abc import Mapping, MutableMapping

from ._keys import check_key
from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .abstract_store import AbstractReadOnlyStore, AbstractStore

__all__ = ["ReadOnlyStoreMapping", "StoreMapping"]


class ReadOnlyStoreMapping(Mapping[str, bytes]):
    """The keys of a store and their data, looked up in the store at each access.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    """

    def __init__(self, store: AbstractReadOnlyStore) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    def __getitem__(self, key: str) -> bytes:
        return self.store.to_bytes(key)

    def __contains__(self, key: object) -> bool:
        try:
            return self.store.exists(key)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            # What can be no key is in no mapping.
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.query_keys())

    def __len__(self) -> int:
        return sum(1 for _ in self.store.query_keys())


class StoreMapping(ReadOnlyStoreMapping, MutableMapping[str, bytes]):
    """The same, through which data can be set and deleted; metadata of a key stay when its data are set."""

    store: AbstractStore

    def __init__(self, store: AbstractStore) -> None:
        super().__init__(store)

    def __setitem__(self, key: str, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            check_key(key)
            raise TypeError(f"the data of a key are bytes, not {shown(data)}")
        self.store.from_bytes(key, data)

    def __delitem__(self, key: str) -> None:
        self.store.delete(key)

    def clear(self) -> None:
        # The inherited one looks for a first key and reads its data, for each key again.
        for key in self:
            try:
                self.store.delete(key)
            except KeyError:
                pass
