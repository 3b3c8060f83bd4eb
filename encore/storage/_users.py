"""The users of a SimpleAuthStore: tokens in a store, each under a prefix and the user's name."""

from __future__ import annotations

import io

from ._keys import check_key
from ._nesting import renamed, renamings, ways, within
from ._passwords import is_token, make_token, password_bytes, sha1_hasher, verify
from ._places import is_same_place
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import PreconditionError, StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._nesting import Rename, Way

    Encoder = Callable[[bytes], bytes]

__all__ = ["Login", "TokenKeys", "Users"]

# A token of any encoder is shorter.
_LONGEST_TOKEN = 2**16


class Login:
    """Who has logged in, and the token that was stored then."""

    __slots__ = ("key", "same", "token", "username")

    def __init__(self, username: str, key: str, token: bytes) -> None:
        from hmac import compare_digest

        self.username = username
        self.key = key
        self.token = token
        self.same = compare_digest


class Users:
    """The tokens in a store.

    Parameters
    ----------
    store : AbstractReadOnlyStore
    path : str
        What their keys begin with.
    encoder : callable or None
    upgrade : bool or None
    """

    def __init__(
        self, store: AbstractReadOnlyStore, path: str, encoder: Encoder | None, upgrade: bool | None
    ) -> None:
        if not isinstance(store, AbstractReadOnlyStore):
            raise TypeError(f"the users are in a store, not in {shown(store)}")
        if not isinstance(path, str):
            raise TypeError(f"user_key_path is a str, not {shown(path)}")
        if encoder is not None and not callable(encoder):
            raise TypeError(f"an encoder is a callable or None, not {shown(encoder)}")
        self.store = store
        self.path = check_key(path) if path else ""
        self.encoder = encoder
        self.upgrade = upgrade

    def __repr__(self) -> str:
        return f"Users({self.store!r}, {self.path!r})"

    def key(self, name: str) -> str:
        """Return the key of a user's token; TypeError or ValueError if there can be none."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a user is a str, not {shown(name)}")
        if not name:
            raise ValueError("the name of a user is not empty")
        return check_key(self.path + str.__str__(name))

    # Changing them

    def writable(self) -> AbstractStore:
        if not isinstance(self.store, AbstractStore):
            raise StoreError(f"{self.store!r} can only be read")
        return self.store

    def names(self) -> list[str]:
        """Return the names of those who have a token."""
        start = len(self.path)
        found = (key for key in self.store.keys(self.path) if len(key) > start)
        return sorted(key[start:] for key in found if self.token(key) is not None)

    def add(self, name: str, password: str | bytes) -> None:
        key = self.key(name)
        token = self._new_token(_given(password))
        store = self.writable()
        only: dict[str, Any] = {"if_none_match": "*"} if _conditional(store) else {}
        taken = not only and store.exists(key)
        if not taken:
            try:
                store.set_data(key, io.BytesIO(token), **only)
            except PreconditionError:
                taken = True
        if taken:
            raise ValueError(f"there is a user {name!r} already")

    def change(self, name: str, password: str | bytes) -> None:
        key = self.key(name)
        token = self._new_token(_given(password))
        store = self.writable()
        conditional = _conditional(store)
        while True:
            try:
                value = store.get(key)
            except KeyError:
                break
            # Conditional: the user may be removed at this moment.
            only: dict[str, Any] = {"if_match": value.etag} if conditional else {}
            try:
                return store.set_data(key, io.BytesIO(token), **only)
            except PreconditionError:
                continue
        raise KeyError(name)

    def remove(self, name: str) -> None:
        key = self.key(name)
        try:
            return self.writable().delete(key)
        except KeyError:
            pass
        raise KeyError(name)

    # Telling whether somebody is one

    def authenticate(self, username: str, password: bytes) -> Login | None:
        """Return a login, None if name or password are wrong; both take equally long."""
        try:
            key = self.key(username)
        except ValueError:
            self._is_right(None, password)
            return None
        while self._is_right(token := self.token(key), password):
            assert token is not None
            if is_token(token) or not self._upgrades():
                return Login(username, key, token)
            new = make_token(password)
            try:
                return Login(username, key, new if self._replace(key, token, new) else token)
            except (KeyError, PreconditionError):
                # Somebody else has changed it, perhaps for the same reason.
                continue
            except StoreError:
                # It can wait.
                return Login(username, key, token)
        return None

    def token(self, key: str) -> bytes | None:
        """Return a stored token, None if there is none."""
        try:
            # Not to_bytes(), which would tell its progress.
            with self.store.get_data(key) as stream:
                token = stream.read(_LONGEST_TOKEN)
        except KeyError:
            return None
        return token if 0 < len(token) < _LONGEST_TOKEN else None

    def _is_right(self, token: bytes | None, password: bytes) -> bool:
        if token is not None and is_token(token):
            return verify(token, password)
        if self.encoder is not None:
            from hmac import compare_digest

            encoded = self._encoded(password)
            if token is not None and compare_digest(encoded, token):
                return True
        if self.encoder is None or self._upgrades():
            make_token(password)
        return False

    def _replace(self, key: str, old: bytes, new: bytes) -> bool:
        if not isinstance(self.store, AbstractStore):
            return False
        only: dict[str, Any] = {}
        if _conditional(self.store):
            only["if_match"] = self.store.get(key).etag
            if self.token(key) != old:
                raise PreconditionError("there is another token now", key=key)
        self.store.set_data(key, io.BytesIO(new), **only)
        return True

    # Tokens

    def _upgrades(self) -> bool:
        if self.upgrade is None:
            return getattr(self.encoder, "hasher", None) is sha1_hasher
        return self.upgrade

    def _new_token(self, password: bytes) -> bytes:
        if self.encoder is None or self._upgrades():
            return make_token(password)
        return self._encoded(password)

    def _encoded(self, password: bytes) -> bytes:
        assert self.encoder is not None
        token = self.encoder(password)
        if not isinstance(token, bytes):
            raise TypeError(f"an encoder returns bytes, not {type(token).__name__}")
        return token


def _given(password: str | bytes) -> bytes:
    """Return a new password; ValueError if there is none."""
    if not (given := password_bytes(password)):
        raise ValueError("a password is not empty")
    return given


def _conditional(store: AbstractStore) -> bool:
    return bool(store.info().get("conditional"))


class TokenKeys:
    """Which keys of a store are those of tokens, by whatever names they can be reached.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Whose keys it is asked about.
    users : Users

    Attributes
    ----------
    prefix : str or None
        What makes a key one of them, if that is how it begins.
    """

    def __init__(self, store: AbstractReadOnlyStore, users: Users) -> None:
        self.prefix: str | None = None
        self._path = path = users.path
        # What makes of a key its name among those of the users, and what a name there holds then.
        self._renamings: list[tuple[list[Rename], bool]] = []
        for way, end in ways(store):
            for way_of_users, end_of_users in ways(users.store):
                if is_same_place(end, end_of_users):
                    self._add_way(way, way_of_users)
                elif within(end) & within(end_of_users):
                    # One is a store of several, of a kind that adds something to their keys perhaps.
                    self._renamings.append((renamings(way), False))
        simple = self.prefix is not None and not self._renamings
        self._is_one = self._begins if simple else self._is_reached
        if not path and (self.prefix is not None or ([], False) in self._renamings):
            raise ValueError("without a store of their own the users need a user_key_path")

    def _add_way(self, way: Way, way_of_users: Way) -> None:
        if list(map(id, way)) == list(map(id, way_of_users)):
            self.prefix = self._path
            return
        self._renamings.append((renamings(way, way_of_users), True))

    def __contains__(self, key: str) -> bool:
        return self._is_one(key)

    def _begins(self, key: str) -> bool:
        return key.startswith(self._path)

    def _is_reached(self, key: str) -> bool:
        path = self._path
        if self.prefix is not None and key.startswith(path):
            return True
        for renames, is_whole in self._renamings:
            name = renamed(key, renames)
            if name is not None and (name.startswith(path) if is_whole else path in name):
                return True
        return False
