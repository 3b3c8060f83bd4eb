"""A store behind a server of plain files: an index that has all metadata, and a URL for each value."""

from __future__ import annotations

from ._changes import has_listeners
from ._signatures import not_there
from .base_store import BaseReadOnlyStore, Head, no_positional_manager
from .errors import StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn

    from ..events.abstract_event_manager import BaseEventManager
    from ._poller import Poller
    from ._static_session import StaticSession
    from .maintenance import Finding
    from .value import Value

    Metadata = dict[str, Any]

__all__ = ["StaticURLStore", "basic_auth_factory"]


def basic_auth_factory(**kwargs: Any) -> Any:
    """Return a handler for HTTP Basic, with a password if there are arguments.

    Parameters
    ----------
    **kwargs
        For ``add_password()``: 'uri', 'realm', 'username' (or 'user') and 'password' (or 'passwd').
        Without a realm it is for any.

    Returns
    -------
    urllib.request.HTTPBasicAuthHandler
    """
    from ._url_access import auth_handler

    return auth_handler(**kwargs)


class StaticURLStore(BaseReadOnlyStore):
    """A read-only store behind a server of plain files.

    The index is a JSON object at ``root_url + query_path``, which has the metadata of each key. The
    data of a key are at ``root_url + data_path + key``, the latter two percent-encoded. So below
    ``http://www.example.com/``, with 'data/' and 'index.json', there may be::

        index.json
        data/
            key1
            key2

    All that is asked of metadata is answered from the index, which is fetched by connect(),
    every `poll` seconds, and by update_index(). An index that is not in order is a StoreError, and
    the one before is kept. The data are fetched when they are asked for.

    Parameters
    ----------
    root_url : str
        Begins with ``http:``, ``https:``, ``ftp:`` or ``file:``. A user name and a password in it
        are used by connect() if it is given none.
    data_path : str
        Stands before each key, as it is: no slash is added.
    query_path : str
    poll : float >= 0, in seconds
        How often to look for changes; 0 for never.
    event_manager : BaseEventManager, optional
    timeout : float > 0, in seconds
        Bounds each request with all its repetitions; then each read of data.
    max_index_size : int > 0, in bytes
        A larger index is refused.
    ssl_context : ssl.SSLContext, optional
        By default certificates are verified as the system does.

    Events
    ------
    StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent for what is different in a new index: data that
    change while their metadata do not are not noticed. StorePollFailedEvent

    Notes
    -----
    The data of a value are those that the server has when they are first asked for; if they are
    replaced after that, its next stream is a StoreError. Data that are not there although the index
    has the key are a KeyError.

    In the child of a fork the store stays connected; polling begins again when the store is used.
    """

    _transient = BaseReadOnlyStore._transient | {"_session", "_poller", "_is_orphan", "_login"}

    #: What root_url had: it does not go into pickles.
    _login: tuple[str, str] | None

    def __init__(
        self,
        root_url: str,
        data_path: str,
        query_path: str,
        poll: float = 300,
        *misplaced: NoReturn,
        event_manager: BaseEventManager | None = None,
        timeout: float = 30.0,
        max_index_size: int = 256 << 20,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        from ._urls import absolute, check_root, check_text, encoded, quoted

        no_positional_manager(root_url, data_path, query_path, poll, *misplaced)
        if misplaced:
            raise TypeError("StaticURLStore() takes at most 4 positional arguments")
        root, login = check_root(root_url)
        data_path = check_text("data_path", data_path)
        query_path = check_text("query_path", query_path)
        if "#" in query_path:
            raise ValueError("query_path has a fragment (#), which no server sees")
        super().__init__(event_manager=event_manager)
        self.root_url = root
        self.data_path = data_path
        self.query_path = query_path
        self.poll = _seconds("poll", poll)
        self.timeout = _seconds("timeout", timeout, least=0.001)
        self.max_index_size = _size(max_index_size)
        self.ssl_context = ssl_context
        absolute(root, "data_path", data_path)
        self._root = encoded(root)
        self._data_url = self._root + quoted(data_path)
        self._index_url = encoded(absolute(root, "query_path", query_path))
        self._login = login

    def _prepare(self) -> None:
        super()._prepare()
        self._session: StaticSession | None = None
        self._poller: Poller | None = None
        #: Whether the thread was left behind by a fork.
        self._is_orphan = False
        self._login = None

    def _forked(self) -> None:
        super()._forked()
        if self._session is not None:
            self._session.renew()
        if self._poller is not None:
            # No thread can be started yet. _check_connected() does it, which is called by whatever
            # finds the store not connected.
            self._poller = None
            self._is_orphan = True
            self._connected = False

    def __getstate__(self) -> dict[str, Any]:
        # It may have a private key, and cannot be copied.
        return {**super().__getstate__(), "ssl_context": None}

    def __repr__(self) -> str:
        from ._http_errors import shown_url

        query, mark, _ = self.query_path.partition("?")
        return (
            f"{type(self).__name__}({shown_url(self.root_url)!r}, {self.data_path!r}, "
            f"{query + (mark and '?...')!r})"
        )

    if not TYPE_CHECKING:  # for a type checker, any attribute would be there

        def __getattr__(self, name: str) -> Any:
            raise not_there(self, name)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "streaming": True, "durable": "process"}

    # Life cycle

    def is_connected(self) -> bool:
        return self._connected or self._is_orphan

    def connect(
        self,
        credentials: Any = None,
        proxy_handler: Any = None,
        auth_handler_factory: Callable[[], Any] | None = None,
    ) -> None:
        """Fetch the index, and begin to poll; harmless if the store is connected.

        Parameters
        ----------
        credentials : mapping, optional
            'username' and 'password'; 'uri', the URL below which they are for, by default root_url;
            'realm', by default any. They are sent to the host and port in root_url alone.
        proxy_handler : urllib.request.ProxyHandler, optional
            By default the proxies are those of the environment.
        auth_handler_factory : callable, optional
            Makes a handler of urllib, whose ``add_password()`` is given the credentials: by default
            one for HTTP Basic and Digest.

        Raises
        ------
        AuthorizationError
            If the server refuses.
        StoreError
            If the index cannot be had, or is not in order.
        """
        self._adopt()
        if self._connected:
            return
        from ._http import Client
        from ._static_session import StaticSession
        from ._url_access import transport_for

        if credentials is None and self._login is not None:
            credentials = dict(zip(("username", "password"), self._login, strict=True))
        transport = transport_for(
            self._root, credentials, proxy_handler, auth_handler_factory, self.ssl_context
        )
        client = Client(transport, timeout=self.timeout)
        # No lock is held: it may take long.
        try:
            session = StaticSession(
                client,
                self.timeout,
                self._data_url,
                self._index_url,
                self.max_index_size,
            )
        except BaseException as error:
            client.close()
            if getattr(error, "status", None) in (404, 410) and self._lacks_slash():
                raise StoreError(f"{error}: root_url has no slash at its end") from error
            raise
        with self._life_cycle:
            if not self._connected:
                self._session = session
                self._start_polling()
                self._connected = True
                return
        # Another thread was faster.
        session.close()

    def _lacks_slash(self) -> bool:
        """Whether root_url and query_path make one name of two."""
        return not self.root_url.endswith(("/", "=")) and self.query_path[:1] not in ("/", "?")

    def disconnect(self) -> None:
        self._adopt()
        super().disconnect()

    def _close(self) -> None:
        session, self._session = self._session, None
        poller, self._poller = self._poller, None
        if session is not None:
            session.close()
        if poller is not None:
            poller.end()

    def _check_connected(self) -> None:
        self._adopt()
        super()._check_connected()

    def _adopt(self) -> None:
        """Go on in the child of a fork."""
        if self._is_orphan:
            with self._life_cycle:
                if self._is_orphan:
                    self._is_orphan = False
                    self._connected = True
                    self._start_polling()

    def _connection(self) -> StaticSession:
        session = self._session
        if session is None:
            # Disconnected since that was looked at.
            raise StoreError(f"{self!r} is not connected")
        return session

    # Reading

    def _read(self, key: str) -> Value:
        return self._connection().value(key)

    def _head(self, key: str) -> Head | None:
        metadata = self._connection().index.metadata.get(key)
        # The rest is not in the index.
        return None if metadata is None else Head(metadata, 0.0, 0.0, 0)

    def _holds(self, key: str) -> bool:
        return key in self._connection().index.metadata

    # An index is never changed: to walk over it is safe.

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        return iter(self._connection().index.find(criteria))

    def _list(self, prefix: str = "") -> Iterable[str]:
        index = self._connection().index
        return index.page(prefix) if prefix else index.metadata

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        return iter(self._connection().index.page(prefix, start_after, limit))

    def check(self) -> list[Finding]:
        from .maintenance import Finding

        findings = super().check()
        # What is not there is no damage elsewhere; but the index says that it is.
        for key in self.keys():
            try:
                self.get(key).size  # noqa: B018 - it asks
            except KeyError:
                if self.exists(key):
                    findings.append(Finding(key, "the index has it, but there are no data"))
            except StoreError:
                # It was found before.
                pass
        return findings

    # Changes

    def update_index(self) -> None:
        """Fetch the index if it has changed, and tell what is different.

        If another thread is telling what is different in an index before, it goes on with this one.

        Raises
        ------
        StoreError
            If the index cannot be had, or is not in order; the one before is kept.
        """
        self._check_connected()
        session = self._connection()
        session.update()
        session.tell(self)

    def _start_polling(self) -> None:
        from ._poller import Poller

        if self.poll:
            self._poller = Poller(self, "_poll", self.poll)

    def _poll(self) -> None:
        session = self._session
        try:
            if session is not None:
                self._poll_in(session)
        except BaseException:
            from logging import getLogger

            # Even if a listener calls sys.exit().
            getLogger(__name__).exception("%r could not tell what is new", self)

    def _poll_in(self, session: StaticSession) -> None:
        try:
            session.update()
        except BaseException as error:
            if not session.is_closed:
                self._tell_failure(session, error)
            return
        if session.is_failing:
            from logging import getLogger

            session.is_failing = False
            getLogger(__name__).info("%r: the index can be fetched again", self)
        session.tell(self)

    def _tell_failure(self, session: StaticSession, error: BaseException) -> None:
        from .events import StorePollFailedEvent

        if not session.is_failing:
            from logging import getLogger

            session.is_failing = True
            getLogger(__name__).warning("%r: the index cannot be fetched: %s", self, error)
        if has_listeners(self.event_manager, StorePollFailedEvent):
            self.event_manager.emit(StorePollFailedEvent(self, error=error))


def _seconds(name: str, value: float, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {shown(value)}")
    # Written so that NaN is none.
    if not value >= least:
        raise ValueError(f"{name} is at least {least:g} seconds, not {value!r}")
    return value


def _size(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_index_size is an int, not {shown(value)}")
    if value <= 0:
        raise ValueError(f"max_index_size is positive, not {value!r}")
    return value
