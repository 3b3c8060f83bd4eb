"""A wrapper whose every method asks first whether it may.

What each method needs is written here, method by method; what it does is the wrapper's. A subclass
says who is there and what they may, by hooks:

================  ==============================================================================
``_hold``         return the login, or raise AuthenticationError
``_permissions``  what may be done with a key: some of 'exists', 'get', 'set', 'delete'
``_decides``      whether that depends on more than the key being hidden
``_hidden``       the keys with which nothing may be done, as a TokenKeys
================  ==============================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from io import BytesIO

from ._changes import ThreadState
from ._keys import check_key, check_page
from ._progress import unheard
from ._reading_wrapper import _FOLLOWS as _READING
from ._reading_wrapper import derive
from ._streams import BUFFER_SIZE
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import AuthenticationError, HiddenKeyError, StoreError
from .wrapper_store import _FOLLOWS as _WRITING
from .wrapper_store import WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from ._changes import Change
    from ._streams import Readable
    from ._users import Login, TokenKeys
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]

__all__ = ["GuardedState", "GuardedStore"]

# A listing looks at the login again after so many keys.
_EVERY = 100

# What is added to a prefix comes after all keys that begin with it: they have at most 1024 bytes.
_LAST = "\U0010ffff" * 256


class GuardedState(ThreadState):
    """What a store knows of the calling thread."""

    #: Who was logged in when the transaction began.
    began: Login | None = None


class GuardedStore(WrapperStore):
    """A wrapper whose every method asks first.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    event_manager : BaseEventManager, optional
    """

    _state: GuardedState
    _hidden: TokenKeys
    #: Whoever was logged in when that was last looked at.
    _login: Login | None

    # Whether set() may call that of the inner store, where nobody wants to know.
    _has_short_way = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        follows = {**_READING, **_WRITING}
        # It uses get() and keys() anyway.
        del follows["check"]
        derive(cls, GuardedStore, AbstractStore, follows)
        hooks = ("_write", "_call", "_translate")
        cls._has_short_way = all(getattr(cls, n) is getattr(GuardedStore, n) for n in hooks)

    # Hooks

    @abstractmethod
    def _hold(self) -> Login:
        """Return the login; AuthenticationError if there is none, or it has ended."""

    @abstractmethod
    def _permissions(self, key: str) -> AbstractSet[str]:
        """Return what whoever is logged in may do with a key."""

    @abstractmethod
    def _decides(self) -> bool:
        """Whether something else than that a key is hidden has to do with that."""

    # Asking

    def _need(self, permission: str, key: str, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Raise unless the user may do something with a key; bad arguments of the call come first."""
        key = check_key(key)
        try:
            self._hold()
            permissions = self._permissions(key)
            # What tells whether there is such a key: all but what is set whatever there is.
            tells = permission != "set" or method == "update_metadata" or kwargs
            if permission in permissions and (not tells or "exists" in permissions):
                return
            if "exists" not in permissions:
                raise HiddenKeyError(key)
            raise AuthenticationError(f"{permission!r} is not permitted: {key!r}", key=key)
        except Exception:
            _check_arguments(method, args, kwargs)
            raise

    def _need_login(self, method: str, /, *args: Any, **kwargs: Any) -> Login:
        """Return the login, raise if there is none; bad arguments of the call come first."""
        try:
            return self._hold()
        except Exception:
            _check_arguments(method, args, kwargs)
            raise

    def _shown(self, login: Login, *permissions: str) -> Callable[[str], bool]:
        """Return a predicate for the keys that a listing shows, those with these permissions."""
        count, decides, hidden = 0, self._decides(), self._hidden

        def shown(key: str) -> bool:
            nonlocal count
            count += 1
            if (self._login is not login or count % _EVERY == 0) and self._hold() is not login:
                raise AuthenticationError(f"{self!r} is not connected: the login has ended")
            if not decides:
                return key not in hidden
            found = self._permissions(key)
            return all(permission in found for permission in permissions)

        return shown

    def _each(self, keys: Iterable[str], *permissions: str) -> Iterator[str]:
        for key in keys:
            for permission in permissions:
                self._need(permission, key, "exists", key)
            yield key
        self._hold()

    # Reading

    def get(self, key: str) -> Value:
        self._need("get", key, "get", key)
        return super().get(key)

    def get_data(self, key: str) -> BinaryIO:
        self._need("get", key, "get_data", key)
        return super().get_data(key)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        self._need("get", key, "get_data_range", key, start, end)
        return super().get_data_range(key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        self._need("get", key, "get_metadata", key, select)
        return super().get_metadata(key, select)

    def exists(self, key: str) -> bool:
        key = check_key(key)
        self._hold()
        return "exists" in self._permissions(key) and super().exists(key)

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        self._need("get", key, "to_bytes", key, buffer_size)
        return super().to_bytes(key, buffer_size)

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        self._need("get", key, "to_file", key, path, buffer_size)
        super().to_file(key, path, buffer_size)

    # Key by key.
    multiget = AbstractReadOnlyStore.multiget
    multiget_data = AbstractReadOnlyStore.multiget_data
    multiget_metadata = AbstractReadOnlyStore.multiget_metadata

    # Listing

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        login = self._need_login("query", select, where=where, **kwargs)
        shown = self._shown(login, "exists", "get")
        found = super().query(select, where=where, **kwargs)
        return (item for item in found if shown(item[0]))

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        login = self._need_login("query_keys", where=where, **kwargs)
        # Criteria tell what the metadata are.
        asks = where is not None or bool(kwargs)
        shown = self._shown(login, "exists", *(["get"] if asks else []))
        return filter(shown, super().query_keys(where=where, **kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        login = self._need_login("glob", pattern)
        return filter(self._shown(login, "exists"), super().glob(pattern))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        check_page(prefix, start_after, limit)
        login = self._need_login("keys")
        shown = self._shown(login, "exists")
        if limit is None:
            return filter(shown, super().keys(prefix, start_after))
        return self._page(prefix, start_after, limit, shown)

    def _page(
        self, prefix: str, start_after: str | None, limit: int, shown: Callable[[str], bool]
    ) -> Iterator[str]:
        hidden = self._hidden.prefix
        asked, more = limit, 8
        while limit:
            page = list(self.store.keys(prefix, start_after, asked))
            for key in page:
                if shown(key):
                    yield key
                    limit -= 1
                    if not limit:
                        return
            if len(page) < asked:
                return
            start_after = page[-1]
            if hidden is not None and start_after.startswith(hidden):
                # However many users there are.
                start_after = hidden + _LAST
            asked = limit + more
            more = min(2 * more, 1000)

    def mapping(self) -> MutableMapping[str, bytes]:
        self._need_login("mapping")
        return super().mapping()

    def check(self) -> list[Finding]:
        """Look for damage of what the user may read, reading it; a check() of `store` finds more."""
        self._need_login("check")
        findings = AbstractReadOnlyStore.check(self)
        shown = self._shown(self._hold(), "exists", "get")
        # Some of them are mere refusals.
        return [each for each in findings if each.key is not None and shown(each.key)]

    # Writing

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        only = _given(if_match, if_none_match)
        self._need("set", key, "set", key, value, buffer_size, **only)
        state = self._state
        if (
            self._has_short_way
            and not only
            and state.unit is None
            and state.observer is None
            # Nobody else's code runs meanwhile.
            and type(value) is tuple
            and value
            and type(value[0]) is BytesIO
            and unheard(self.event_manager)
            and isinstance(self.store, AbstractStore)
        ):
            self.store.set(key, value, buffer_size)
        else:
            super().set(key, value, buffer_size, **only)

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        only = _given(if_match, if_none_match)
        self._need("set", key, "set_data", key, data, buffer_size, **only)
        super().set_data(key, data, buffer_size, **only)

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        only = _given(if_match, if_none_match)
        self._need("set", key, "set_metadata", key, metadata, **only)
        super().set_metadata(key, metadata, **only)

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        only = _given(if_match, if_none_match)
        self._need("set", key, "update_metadata", key, metadata, **only)
        super().update_metadata(key, metadata, **only)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        only = _given(if_match, if_none_match)
        self._need("delete", key, "delete", key, **only)
        super().delete(key, **only)

    def from_bytes(self, key: str, data: bytes, buffer_size: int = BUFFER_SIZE) -> None:
        self._need("set", key, "from_bytes", key, data, buffer_size)
        super().from_bytes(key, data, buffer_size)

    def from_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        self._need("set", key, "from_file", key, path, buffer_size)
        super().from_file(key, path, buffer_size)

    def multiset(
        self,
        keys: Iterable[str],
        values: Iterable[Value | tuple[Readable, Metadata]],
        buffer_size: int = BUFFER_SIZE,
    ) -> None:
        self._need_login("multiset", keys, values, buffer_size)
        super().multiset(self._each(keys, "set"), values, buffer_size)

    def multiset_data(
        self, keys: Iterable[str], datas: Iterable[Readable], buffer_size: int = BUFFER_SIZE
    ) -> None:
        self._need_login("multiset_data", keys, datas, buffer_size)
        super().multiset_data(self._each(keys, "set"), datas, buffer_size)

    def multiset_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        self._need_login("multiset_metadata", keys, metadatas)
        super().multiset_metadata(self._each(keys, "set"), metadatas)

    def multiupdate_metadata(self, keys: Iterable[str], metadatas: Iterable[Metadata]) -> None:
        self._need_login("multiupdate_metadata", keys, metadatas)
        super().multiupdate_metadata(self._each(keys, "exists", "set"), metadatas)

    def copy(self, source: str, target: str) -> None:
        check_key(target)
        self._need("get", source, "copy", source, target)
        self._need("set", target, "copy", source, target)
        super().copy(source, target)

    def move(self, source: str, target: str) -> None:
        check_key(target)
        self._need("get", source, "move", source, target)
        self._need("delete", source, "move", source, target)
        self._need("set", target, "move", source, target)
        super().move(source, target)

    def _translate(self, change: Change) -> Change | None:
        if change.key in self._hidden:
            return None
        if change.metadata and self._decides() and not self._may_read(change.key):
            return change._replace(metadata={})
        return change

    def _may_read(self, key: str) -> bool:
        try:
            permissions = self._permissions(key)
        except Exception:
            # The change has been made, and is to be told.
            return False
        return "exists" in permissions and "get" in permissions

    # Transactions

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        self._need_login("transaction", notes)
        return super().transaction(notes)

    def _enter(self, notes: str) -> None:
        login = self._hold()
        super()._enter(notes)
        if self._depth() == 1:
            self._state.began = login

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        if kind is None and self._depth() == 1:
            try:
                if self._hold() is not self._state.began:
                    raise AuthenticationError("the login has ended in the middle of a transaction")
            except BaseException as ended:
                super()._leave(type(ended), ended, ended.__traceback__)
                raise
        super()._leave(kind, error, traceback)


def _given(if_match: str | None, if_none_match: str | None) -> dict[str, Any]:
    if if_match is None and if_none_match is None:
        return {}
    return {"if_match": if_match, "if_none_match": if_none_match}


def _check_arguments(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError or ValueError for arguments that every store would refuse."""
    from ._closed_store import ClosedStore

    try:
        getattr(ClosedStore(), method)(*args, **kwargs)
    except (StoreError, NotImplementedError):
        pass
