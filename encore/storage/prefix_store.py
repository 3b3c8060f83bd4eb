"""A namespace inside a store."""

from __future__ import annotations

from ._keys import MAX_KEY_BYTES, check_page, key_matcher
from .errors import shown
from .renaming_store import RenamingStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from .abstract_store import AbstractReadOnlyStore

__all__ = ["PrefixStore"]


def check_prefix(prefix: str) -> int:
    """Return how many bytes in UTF-8 the beginning of keys has; TypeError or ValueError if it can be none."""
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a str, not {shown(prefix)}")
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"a prefix must encode to UTF-8: {prefix!a}") from error
    if size >= MAX_KEY_BYTES:
        raise ValueError(f"a prefix of {size} bytes leaves no room for keys")
    return size


class PrefixStore(RenamingStore):
    """The keys of another store that begin with a prefix, without it.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    prefix : str
        Of less than 1024 bytes in UTF-8, which the keys here have less. Nothing is added to it, no
        slash either.
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        prefix: str,
        *,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        self._added_bytes = check_prefix(prefix)
        self.prefix = prefix
        super().__init__(store, event_manager=event_manager)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r}, {self.prefix!r})"

    def _inner(self, key: str) -> str:
        return self.prefix + key

    def _outer(self, key: str) -> str | None:
        # The prefix alone would be the empty key.
        return (key.startswith(self.prefix) and key[len(self.prefix) :]) or None

    # The inner store finds the beginning of keys faster than one by one.

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        if where is None and not kwargs:
            return self.keys()
        return super().query_keys(where=where, **kwargs)

    def glob(self, pattern: str) -> Iterator[str]:
        key_matcher(pattern)
        # Not glob.escape(), which leaves what looks like a drive as it is.
        prefix = "".join(f"[{each}]" if each in "*?[" else each for each in self.prefix)
        return self._names(self.store.glob(prefix + pattern))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        # Not the prefix alone.
        after = self.prefix + (start_after or "")
        return self._names(self.store.keys(self.prefix + prefix, after or None, limit))
