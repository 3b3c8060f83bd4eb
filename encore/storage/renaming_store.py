"""The base of wrappers whose keys have other names in the store within."""

from __future__ import annotations

from abc import abstractmethod

from ._keys import MAX_KEY_BYTES, check_key
from ._progress import progress_wanted
from ._streams import BUFFER_SIZE
from .abstract_store import AbstractReadOnlyStore
from .errors import StoreError
from .maintenance import Finding
from .wrapper_store import WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, BinaryIO, TypeVar

    from ._changes import Change
    from .value import Value
    from .wrapper_store import Changing

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]
    T = TypeVar("T")

__all__ = ["RenamingStore"]


class RenamingStore(WrapperStore):
    """A store whose keys have other names in the store that it wraps.

    A subclass says which, by ``_inner`` and ``_outer``, each of which undoes the other. Keys of the
    inner store that have no name here are not seen.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """

    #: How many bytes longer the inner name of a key is.
    _added_bytes = 0

    @abstractmethod
    def _inner(self, key: str) -> str | None:
        """Return the name that a key has in the inner store, None if there can be none."""

    @abstractmethod
    def _outer(self, key: str) -> str | None:
        """Return the name here of a key of the inner store, None if it has none."""

    def info(self) -> dict[str, Any]:
        info = super().info()
        limit = info.get("max_key_bytes", MAX_KEY_BYTES) - self._added_bytes
        if limit < MAX_KEY_BYTES:
            info["max_key_bytes"] = limit
        return info

    def _at(self, key: str, method: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a method of the inner store with its name of a key; errors speak of the key as given."""
        key = check_key(key)
        inner = self._inner(key)
        if inner is None:
            # For its other errors: a store that is not connected holds nothing either.
            self.store.exists(key)
            raise KeyError(key)
        try:
            return method(inner, *args, **kwargs)
        except KeyError as error:
            # But what a caller's stream raises is the caller's.
            if error.args != (inner,):
                raise
            raise KeyError(key) from error
        except StoreError as error:
            if error.key == inner:
                error.key = key
            raise

    # Reading

    def get(self, key: str) -> Value:
        return self._at(key, self.store.get)

    def get_data(self, key: str) -> BinaryIO:
        return self._at(key, self.store.get_data)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        return self._at(key, self.store.get_data_range, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self._at(key, self.store.get_metadata, select)

    def exists(self, key: str) -> bool:
        try:
            return self._at(key, self.store.exists)
        except KeyError:
            return False

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        if progress_wanted(self.event_manager):
            return AbstractReadOnlyStore.to_bytes(self, key, buffer_size)
        return self._at(key, self.store.to_bytes, buffer_size)

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        if progress_wanted(self.event_manager):
            AbstractReadOnlyStore.to_file(self, key, path, buffer_size)
        else:
            self._at(key, self.store.to_file, path, buffer_size)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        found = super().query(select, where=where, **kwargs)
        outer = self._outer
        return ((name, metadata) for key, metadata in found if (name := outer(key)) is not None)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        return self._names(super().query_keys(where=where, **kwargs))

    def _names(self, keys: Iterable[str]) -> Iterator[str]:
        """Return the names here of keys of the inner store, of those that have one."""
        return (name for name in map(self._outer, keys) if name is not None)

    def check(self) -> list[Finding]:
        findings = []
        for finding in self.store.check():
            key = finding.key
            if key is not None:
                key = self._outer(key)
                if key is None:
                    continue
            findings.append(Finding(key, finding.problem, finding.outcome))
        return findings

    # Writing

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        def change(inner: str) -> None:
            call(method, inner, *args, **conditions)

        self._at(key, change)

    def _translate(self, change: Change) -> Change | None:
        key = self._outer(change.key)
        return None if key is None else change._replace(key=key)
