"""Keys spread by a hash, for stores that keep keys with the same beginning in one place."""

from __future__ import annotations

from .renaming_store import RenamingStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..events.abstract_event_manager import BaseEventManager
    from .abstract_store import AbstractReadOnlyStore

__all__ = ["HashPrefixStore", "add_prefix", "remove_prefix"]

_MD5_DIGITS = 32


def add_prefix(key: str, length: int) -> str:
    """Put the first hexadecimal digits of the MD5 digest of a key before it.

    Parameters
    ----------
    key : str
    length : int, 0 to 32
        How many digits.

    Returns
    -------
    str
        ``'912easdf'`` for ``'asdf'`` and 4.
    """
    from hashlib import md5

    return md5(key.encode(), usedforsecurity=False).hexdigest()[: check_length(length)] + key


def remove_prefix(key: str, length: int) -> str | None:
    """Undo add_prefix().

    Parameters
    ----------
    key : str
    length : int, 0 to 32
        How many digits.

    Returns
    -------
    str or None
        None if the digits are not those of the rest.
    """
    rest = key[check_length(length) :]
    return rest if rest and add_prefix(rest, length) == key else None


def check_length(length: int) -> int:
    """Return a number of hexadecimal digits of an MD5 digest; TypeError or ValueError if it is none."""
    if not isinstance(length, int) or isinstance(length, bool):
        raise TypeError(f"the length of a prefix is an int, not {length!r:.80}")
    if not 0 <= length <= _MD5_DIGITS:
        raise ValueError(f"an MD5 digest has 0 to {_MD5_DIGITS} digits, not {length}")
    return length


class HashPrefixStore(RenamingStore):
    """A store whose keys have digits of their MD5 digest before them in the store that it wraps.

    So keys that begin alike are spread evenly, as object stores want it that keep ranges of keys
    together. Keys of the inner store that do not begin with their own digits are not seen.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    length : int, 0 to 32
        How many hexadecimal digits; the keys here have as many bytes less than the 1024.
    event_manager : BaseEventManager, optional
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        length: int = 4,
        *,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        self.length = self._added_bytes = check_length(length)
        super().__init__(store, event_manager=event_manager)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r}, {self.length})"

    def _inner(self, key: str) -> str:
        return add_prefix(key, self.length)

    def _outer(self, key: str) -> str | None:
        return remove_prefix(key, self.length)
