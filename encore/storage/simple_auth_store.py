"""A store for those who log in with a name and a password."""

from __future__ import annotations

from _thread import RLock

from ._guarded_store import GuardedState, GuardedStore
from ._keys import check_key
from ._passwords import make_encoder, password_bytes, sha1_hasher
from ._users import Login, TokenKeys, Users
from .abstract_store import AbstractReadOnlyStore
from .base_store import _remember, no_positional_manager
from .errors import AuthenticationError, HiddenKeyError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager

__all__ = [
    "AuthenticationError",
    "HiddenKeyError",
    "SimpleAuthStore",
    "make_encoder",
    "sha1_hasher",
]

_ALL = frozenset({"connect", "exists", "get", "set", "delete"})
_NONE: frozenset[str] = frozenset()


class _State(GuardedState):
    #: Who would be logged in, while it is asked whether they may connect.
    candidate: Login | None = None


class SimpleAuthStore(GuardedStore):
    """A store that works only for those who have logged in.

    They do so by ``connect({'username': ..., 'password': ...})``. A token stands for each
    password: the data of the key ``user_key_path + username``. The keys of tokens can be neither
    seen nor changed through this store; add_user(), change_password() and remove_user() change
    them, and need no login.

    Every call compares the stored token with the one seen at login: when that was removed or
    changed, the login has ended. A call that has begun is finished, and values that were got can
    still be read; but a transaction in whose middle the login ends is rolled back, and a listing
    goes on for a hundred keys at most.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, without credentials, and then disconnected by
        disconnect().
    encoder : callable, optional
        Takes a password as bytes and returns a token as bytes. Without one all tokens are
        ``scrypt$n$r$p$salt$hash``, salt and hash in hex. Those are recognised with one too; all
        others must be the encoder's.
    user_key_path : str
        What the keys of tokens begin with; may be empty if they have a store of their own.
    user_key_store : AbstractReadOnlyStore, optional
        Where the tokens are, by default in `store`; connected and disconnected as it is. Keys of
        `store` by which tokens can be reached because one of the two is a wrapper around the other,
        or both are around the same store (or two on the same file, folder or URL), are keys of
        tokens as well.
    upgrade : bool, optional
        Whether new tokens are made by scrypt although there is an encoder, and a token of the
        encoder is replaced when its user logs in. By default only if the encoder is that of
        make_encoder() with sha1_hasher(). It must be False while programs with EnCore 0.8 share
        the users.
    event_manager : BaseEventManager, optional
    """

    _transient = GuardedStore._transient | {
        "_life_cycle",
        "_login",
        "_opened",
        "_pending",
        "_kept",
        "_hidden",
    }
    _state: _State

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        encoder: Callable[[bytes], bytes] | None = None,
        user_key_path: str = ".user_",
        user_key_store: AbstractReadOnlyStore | None = None,
        *,
        upgrade: bool | None = None,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        no_positional_manager(store, encoder, user_key_path, user_key_store)
        users = store if user_key_store is None else user_key_store
        self._users = Users(users, user_key_path, encoder, upgrade)
        super().__init__(store, event_manager=event_manager)

    def _prepare(self) -> None:
        super()._prepare()
        self._state = _State()
        self._login: Login | None = None
        self._hidden = TokenKeys(self.store, self._users)
        self._life_cycle = RLock()
        # What was connected to log in, and by how many calls of connect() it is needed now; and what
        # was to administrate users: until disconnect(), as a database in memory would be lost.
        self._opened: list[AbstractReadOnlyStore] = []
        self._pending = 0
        self._kept: list[AbstractReadOnlyStore] = []
        _remember(self)  # type: ignore[arg-type]  # it has no more to be than one with _forked()

    def _forked(self) -> None:
        """Make the store usable in the child after a fork."""
        self._life_cycle = RLock()
        self._pending = 0

    # Users

    @property
    def username(self) -> str | None:
        """Who has logged in, None if nobody has."""
        login = self._state.candidate or self._login
        return None if login is None else login.username

    @property
    def encoder(self) -> Callable[[bytes], bytes] | None:
        """What makes tokens that are not made by scrypt; may be set."""
        return self._users.encoder

    @encoder.setter
    def encoder(self, encoder: Callable[[bytes], bytes] | None) -> None:
        users = self._users
        self._users = Users(users.store, users.path, encoder, users.upgrade)

    @property
    def user_key_path(self) -> str:
        """What the keys of tokens begin with."""
        return self._users.path

    @property
    def user_key_store(self) -> AbstractReadOnlyStore:
        """Where the tokens are."""
        return self._users.store

    def add_user(self, name: str, password: str | bytes) -> None:
        """Let somebody log in; ValueError if there is a user of this name, or the password is empty.

        Parameters
        ----------
        name : str
            Any characters; not empty, and with user_key_path no longer than a key.
        password : str or bytes
            A str is encoded as UTF-8.
        """
        self._administrated().add(name, password)

    def change_password(self, name: str, password: str | bytes) -> None:
        """Replace the password of a user, whose logins end; KeyError if there is no such user.

        ValueError if the new one is empty.
        """
        self._administrated().change(name, password)

    def remove_user(self, name: str) -> None:
        """Remove a user, whose logins end; KeyError if there is no such user."""
        self._administrated().remove(name)

    def users(self) -> list[str]:
        """Return the names of all users, sorted."""
        self._open(self._kept, self._users.store)
        return self._users.names()

    def _administrated(self) -> Users:
        if self._depth():
            # A rollback would bring back who was removed.
            raise StoreError("users cannot be changed inside a transaction of the store")
        self._open(self._kept, self._users.store)
        return self._users

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        """Log in.

        Harmless without credentials if somebody is logged in. If it fails, whoever was logged in
        still is.

        Parameters
        ----------
        credentials : dict
            'username' and 'password', a str (encoded as UTF-8) or bytes.

        Raises
        ------
        AuthenticationError
            If these are no credentials, name or password are wrong, or check_permissions() does
            not give 'connect'.
        """
        if credentials is None and self._login is not None:
            self._hold()
            return
        username, password = _taken_apart(credentials)
        if self._depth():
            raise StoreError("nobody can log in inside a transaction of the store")
        login = None
        with self._life_cycle:
            self._pending += 1
        try:
            self._open(self._opened, self._users.store, self.store)
            login = self._admitted(username, password)
        finally:
            with self._life_cycle:
                self._pending -= 1
                if login is not None:
                    self._login = login
                elif self._login is None and not self._pending:
                    _disconnect(self._opened)

    def _admitted(self, username: str, password: bytes) -> Login:
        login = self._users.authenticate(username, password)
        if login is None:
            raise AuthenticationError("not connected: wrong user name or password")
        self._state.candidate = login
        try:
            permitted = "connect" in _as_set(self.check_permissions())
        finally:
            self._state.candidate = None
        if not permitted:
            raise AuthenticationError("not connected: the user may not connect")
        return login

    def disconnect(self) -> None:
        if self._depth():
            raise StoreError("a store cannot be disconnected inside its own transaction")
        with self._life_cycle:
            self._login = None
            _disconnect(self._opened)
            _disconnect(self._kept)

    def _open(self, opened: list[AbstractReadOnlyStore], *stores: AbstractReadOnlyStore) -> None:
        with self._life_cycle:
            for store in stores:
                if not store.is_connected():
                    store.connect()
                    opened.append(store)

    def is_connected(self) -> bool:
        """Whether somebody is logged in, and the login has not ended."""
        try:
            self._hold()
            return self.store.is_connected()
        except StoreError:
            return False

    def info(self) -> dict[str, Any]:
        """Describe the store; before login, only what the contract asks for."""
        info = super().info()
        if self.is_connected():
            return info
        public = {*AbstractReadOnlyStore.info(self), "max_key_bytes"}
        return {name: value for name, value in info.items() if name in public}

    # What is permitted

    def check_permissions(self, key: str | None = None) -> AbstractSet[str]:
        """Return what the user may do: some of 'connect', 'exists', 'get', 'set', 'delete'.

        By default everything. A subclass that overrides it decides key by key. It is asked again by
        each call, for each key that a listing comes to; what it raises is passed on. Keys of tokens
        it is not asked for.

        Parameters
        ----------
        key : str or None
            None stands for the store as a whole, where 'connect' is needed to log in.

        Notes
        -----
        'exists' and 'get' are needed to read a key, 'exists' to list it, and 'exists' besides 'set'
        or 'delete' for whatever tells whether the key is there: delete(), update_metadata(), and
        conditions. Without 'exists' there is no such key for the user: exists() is False, and get()
        raises HiddenKeyError, which is a KeyError. What is merely set tells nothing. Whatever else
        is refused is an AuthenticationError. Both come before it is looked whether there is such a
        key.
        """
        if key is not None and check_key(key) in self._hidden:
            return set()
        if self._state.candidate is None:
            try:
                self._hold()
            except AuthenticationError:
                return set()
        return set(_ALL)

    def _hold(self) -> Login:
        """Return the login; AuthenticationError if there is none, or it has ended."""
        login = self._login
        if login is None:
            raise AuthenticationError(f"{self!r} is not connected: nobody has logged in")
        token = self._users.token(login.key)
        if token is None or not login.same(token, login.token):
            if self._login is login:
                # For good, even if the token comes back.
                self._login = None
            raise AuthenticationError(f"{self!r} is not connected: the login has ended")
        return login

    def _permissions(self, key: str) -> AbstractSet[str]:
        """Return what whoever is logged in may do with a key."""
        if key in self._hidden:
            return _NONE
        return _as_set(self.check_permissions(key)) if self._decides() else _ALL

    def _decides(self) -> bool:
        """Whether check_permissions() is a subclass's, which has to be asked."""
        return (
            type(self).check_permissions is not SimpleAuthStore.check_permissions
            or "check_permissions" in self.__dict__
        )


def _taken_apart(credentials: Any) -> tuple[str, bytes]:
    """Return name and password, or raise AuthenticationError, which shows neither."""
    try:
        username, password = credentials["username"], password_bytes(credentials["password"])
        if isinstance(username, str) and isinstance(credentials, dict):
            return username, password
    except Exception:
        pass
    # Out there: what went wrong might show the password.
    raise AuthenticationError(
        "not connected: credentials are a dict with 'username', a str, and 'password', a str or bytes"
    )


def _disconnect(stores: list[AbstractReadOnlyStore]) -> None:
    while stores:
        stores[-1].disconnect()
        stores.pop()


def _as_set(permissions: Any) -> AbstractSet[str]:
    """Return what check_permissions() has returned, whatever it was: in a str there are others."""
    if isinstance(permissions, set | frozenset):
        return permissions
    return frozenset(permissions or ())
