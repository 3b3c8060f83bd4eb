"""Keys of an HTTP server that can be read and written."""

from __future__ import annotations

import io

from ._changes import Change, Condition, has_listeners
from ._keys import MAX_KEY_BYTES, check_key, key_matcher
from ._metadata import check_criteria, check_names, copy_of, normalise
from ._permissions import checked_permissions
from ._remote_login import transport_of, without_login
from ._streams import BUFFER_SIZE, check_bounds, check_buffer_size, check_readable
from ._urls import check_text, encoded
from .abstract_store import AbstractAuthorizingStore
from .base_store import BaseReadOnlyStore, Head, no_positional_manager
from .errors import AuthorizationError, StoreError, shown
from .value import Value, check_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from ssl import SSLContext
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from ._remote_server import RemoteServer, Written
    from ._request_body import RequestBody
    from ._streams import Readable
    from .retry_policy import RetryPolicy

    Metadata = dict[str, Any]

__all__ = ["DynamicURLStore"]

_PARTS = {"data": "data", "metadata": "metadata", "permissions": "auth"}


class DynamicURLStore(BaseReadOnlyStore, AbstractAuthorizingStore):
    """A store that an HTTP server holds.

    Each key has URLs of its own, by default ``<base>/<key>/data``, ``<base>/<key>/metadata`` and
    ``<base>/<key>/auth``, and ``<base>/<key>`` to delete it. A server of encore.storage.server can more:
    data and metadata go in one request, conditions and large queries work. Whether it is one is asked when
    the store is connected.

    Parameters
    ----------
    base_url, query_url : str
        http or https. A user name and password in `base_url` are used by connect(), and are no part of the
        attribute.
    url_format : str
        With 'base', 'key' and 'part' in braces.
    url_format_no_part : str
        With 'base' and 'key' in braces.
    parts : mapping of str
        What stands in a URL for 'data', 'metadata' and 'permissions'; for data and metadata together
        'value', unless it says something else.
    event_manager : BaseEventManager, optional
    timeout : float > 0, in seconds
        For a call with all its attempts; for data that are read piece by piece, for each read.
    ssl_context : ssl.SSLContext, optional
        By default certificates are verified against those that the system trusts. Not for sessions.
    policy : RetryPolicy, optional
        When to try again what is safe to repeat; by default twice, after 0.1 and 0.2 seconds.
    """

    # So that what is missing after unpickling is None: they are secret, or cannot be pickled.
    _remote: RemoteServer | None = None
    _user_tag: str | None = None
    _login: tuple[str, str] | None = None
    _ssl_context: SSLContext | None = None
    #: What the server has said when it was asked last.
    _info: Mapping[str, Any] = {}

    _transient = BaseReadOnlyStore._transient | {"_remote", "_user_tag", "_login", "_ssl_context"}

    def __init__(
        self,
        base_url: str,
        query_url: str,
        url_format: str = "{base}/{key}/{part}",
        url_format_no_part: str = "{base}/{key}",
        parts: Mapping[str, str] = _PARTS,
        *,
        event_manager: BaseEventManager | None = None,
        timeout: float = 30.0,
        ssl_context: SSLContext | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        no_positional_manager(base_url, query_url, url_format, url_format_no_part, parts)
        base_url = check_text("base_url", base_url)
        query_url = check_text("query_url", query_url)
        url_format = check_text("url_format", url_format)
        url_format_no_part = check_text("url_format_no_part", url_format_no_part)
        if not isinstance(timeout, int | float) or isinstance(timeout, bool):
            raise TypeError(f"timeout is a number, not {shown(timeout)}")
        if not timeout > 0:
            raise ValueError(f"timeout is positive, not {timeout}")
        if policy is not None:
            from .retry_policy import RetryPolicy

            if not isinstance(policy, RetryPolicy):
                raise TypeError(f"a policy is a RetryPolicy, not {shown(policy)}")
        super().__init__(event_manager=event_manager)
        self.base_url, self._login = without_login(base_url)
        self.query_url, _ = without_login(query_url)
        self.url_format = url_format
        self.url_format_no_part = url_format_no_part
        # A copy: the caller's may change, and does not get ours.
        self.parts = {"value": "value", **parts}
        for part, text in self.parts.items():
            check_text(f"parts[{part!r}]", text)
        missing = _PARTS.keys() - self.parts.keys()
        if missing:
            raise ValueError(f"parts has no {sorted(missing)[0]!r}")
        for part in ("data", ""):
            try:
                self._url("key", part)
            except (LookupError, ValueError, AttributeError) as error:
                raise ValueError(f"no format of a URL: {error!r}") from error
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._policy = policy

    def __repr__(self) -> str:
        from ._http_errors import shown_url

        urls = shown_url(self.base_url), shown_url(self.query_url)
        return f"{type(self).__name__}{urls!r}"

    def _url(self, key: str, part: str = "") -> str:
        """Return the URL of a part of a key, or of the key as a whole."""
        from ._http import quote_key

        form = self.url_format if part else self.url_format_no_part
        base, quoted = self.base_url, quote_key(key)
        if "{base}/" in form:
            base = base.removesuffix("/")
        if "?" in form.partition("{key}")[0]:
            from urllib.parse import quote

            # What is harmless in a path separates parameters there.
            quoted = quote(key, "")
        if part:
            return form.format(base=base, key=quoted, part=self.parts[part])
        return form.format(base=base, key=quoted)

    def _sent_url(self, key: str, part: str) -> str:
        return encoded(self._url(key, part))

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        """Find out what the server can do.

        Parameters
        ----------
        credentials : optional
            None, for whoever may come; a dict with 'username' and 'password', for Basic or Digest
            authentication; or a tuple of the tag that stands for the user and a requests.Session, or what
            looks like one, which sends all requests then. It is never closed. Without one
            (``(tag, None)``) nobody logs in.

        Raises
        ------
        TypeError, ValueError
            If the credentials are nothing of that.
        AuthorizationError
            If the server refuses them.
        StoreError
            If it does not answer, or what it answers is not what a server of a store says.
        """
        super().connect(credentials)

    def _open(self, credentials: Any) -> None:
        from ._http import Client
        from ._remote_finding import find_server
        from ._remote_server import RemoteServer

        tag, transport = self._transport(credentials)
        client = Client(transport, timeout=self._timeout, policy=self._policy)
        query_url = encoded(self.query_url)
        try:
            if getattr(transport, "is_simple", False):
                # It has no method to ask with, and has not been written for our server.
                remote = RemoteServer(client, self._sent_url, query_url, self._connected_remote)
            else:
                # Where keys stand somewhere else in a URL, nothing can be said about its beginning.
                is_plain = self.url_format.startswith("{base}/{key}")
                base_url = encoded(self.base_url) if is_plain else None
                remote = find_server(
                    client, self._sent_url, query_url, self._connected_remote, base_url
                )
        except BaseException:
            client.close()
            raise
        self._remote, self._user_tag, self._info = remote, tag, remote.info

    def _transport(self, credentials: Any) -> tuple[str, Any]:
        """Return the user's tag and what sends requests."""
        urls = self.base_url, self.query_url
        return transport_of(credentials, self._login, urls, self._ssl_context)

    def _close(self) -> None:
        remote, self._remote, self._user_tag = self._remote, None, None
        if remote is not None:
            remote.client.close()

    def _connected_remote(self) -> RemoteServer:
        """Return the server; StoreError if the store is not connected."""
        remote = self._remote
        if remote is None:
            raise StoreError(f"{self!r} is not connected")
        return remote

    def _remote_for(self, key: str) -> RemoteServer:
        """Return the server, for a key that it can have."""
        limit = self._info.get("max_key_bytes", MAX_KEY_BYTES)
        if len(key) * 4 > limit and len(key.encode()) > limit:
            raise ValueError(f"a key has at most {limit} bytes in this store: {key[:40]!r}...")
        return self._connected_remote()

    def info(self) -> dict[str, Any]:
        """Describe the store, as far as the server has said when it was asked last."""
        info = {**super().info(), "streaming": True, **self._info}
        if info.get("max_key_bytes", 0) >= MAX_KEY_BYTES:
            del info["max_key_bytes"]
        return info

    # Reading

    def _read(self, key: str) -> Value:
        return self._remote_for(key).value(key)

    def _head(self, key: str) -> Head | None:
        try:
            metadata, _ = self._remote_for(key).metadata(key)
        except KeyError:
            return None
        # What is known besides, nobody has asked for.
        return Head(metadata, 0.0, 0.0, 0)

    def _holds(self, key: str) -> bool:
        return self._remote_for(key).holds(key)

    def get_data(self, key: str) -> BinaryIO:
        key = check_key(key)
        return self._remote_for(key).data(key)

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        key = check_key(key)
        start, end = check_bounds(start, end)
        return self._remote_for(key).data_range(key, start, end)

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
        remote = self._connected_remote()
        if criteria is None:
            return iter(())
        return ((key, copy_of(found, names)) for key, found in remote.items(criteria, names))

    def _scan(self, criteria: Metadata) -> Iterator[tuple[str, Metadata]]:
        return self._connected_remote().items(criteria, None)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        check_names(kwargs.pop("select", None))
        criteria = check_criteria(where, kwargs)
        remote = self._connected_remote()
        return iter(()) if criteria is None else remote.keys(criteria)

    def glob(self, pattern: str) -> Iterator[str]:
        match = key_matcher(pattern)
        remote = self._connected_remote()
        return filter(match, remote.glob(pattern) or remote.keys({}))

    def _page(self, prefix: str, start_after: str | None, limit: int | None) -> Iterator[str]:
        page = self._connected_remote().page(prefix, start_after, limit)
        return super()._page(prefix, start_after, limit) if page is None else page

    # Permissions

    @property
    def user_tag(self) -> str:
        tag = self._user_tag
        if tag is None:
            raise StoreError(f"{self!r} is not connected")
        return tag

    def get_permissions(self, key: str) -> dict[str, set[str]]:
        key = check_key(key)
        return self._remote_for(key).permissions(key)

    def set_permissions(self, key: str, permissions: Mapping[str, Iterable[str]]) -> None:
        key = check_key(key)
        checked = checked_permissions(permissions)
        if not checked.get("owned"):
            raise ValueError("permissions have an 'owned' with at least one tag")
        self._writable(key, None).write_permissions("PUT", key, checked)

    def update_permissions(self, key: str, permissions: Mapping[str, Iterable[str]]) -> None:
        key = check_key(key)
        checked = checked_permissions(permissions)
        self._writable(key, None).write_permissions("POST", key, checked)

    # Writing

    def transaction(self, notes: str = "") -> AbstractContextManager[Any]:
        self._connected_remote()
        return super().transaction(notes)

    def _writable(self, key: str, condition: Condition | None) -> RemoteServer:
        """Return the server, if it takes what is to be written."""
        remote = self._remote_for(key)
        if self._info.get("readonly"):
            raise AuthorizationError(f"{self!r} can only be read", key=key)
        if condition is not None and not self._info.get("conditional"):
            raise NotImplementedError(f"{self!r} has no conditional writes")
        return remote

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        key = check_key(key)
        check_buffer_size(buffer_size)
        condition = Condition.of(if_match, if_none_match)
        if isinstance(value, Value):
            given = value
            remote = self._writable(key, condition)
            with given.data as stream:
                self._set(
                    remote,
                    key,
                    normalise(given.metadata),
                    (stream, given.size, buffer_size),
                    condition,
                    lambda: given.data,
                )
            return
        source, metadata = check_value(value)
        metadata = normalise(metadata)
        remote = self._writable(key, condition)
        self._set(remote, key, metadata, (source, None, buffer_size), condition)

    def _set(
        self,
        remote: RemoteServer,
        key: str,
        metadata: Metadata,
        source: tuple[Readable, int | None, int],
        condition: Condition | None,
        reopen: Callable[[], Readable] | None = None,
    ) -> None:
        headers = _conditions(condition)
        self._upload(
            key,
            source,
            lambda: copy_of(metadata),
            lambda body, _: remote.set(key, metadata, body, headers),
            reopen,
        )

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        key = check_key(key)
        check_buffer_size(buffer_size)
        check_readable(data)
        condition = Condition.of(if_match, if_none_match)
        remote = self._writable(key, condition)
        headers = _conditions(condition)
        self._upload(
            key,
            (data, None, buffer_size),
            lambda: self._metadata_or_none(remote, key),
            lambda body, told: remote.set_data(key, body, headers, told),
        )

    @staticmethod
    def _metadata_or_none(remote: RemoteServer, key: str) -> Metadata:
        try:
            return remote.metadata(key)[0]
        except KeyError:
            return {}

    def _upload(
        self,
        key: str,
        source: tuple[Readable, int | None, int],
        metadata: Callable[[], Metadata],
        send: Callable[[RequestBody, bool], Written],
        reopen: Callable[[], Readable] | None = None,
    ) -> None:
        """Send a stream, with progress, and tell the change."""
        from ._progress import progress
        from ._request_body import RequestBody

        stream, size, buffer_size = source
        # While anything else is read, which may take long, somebody may begin to listen.
        told = type(stream) is not io.BytesIO or self._is_heard()
        state = self._state
        # What listeners, and the stream, do meanwhile is their own doing.
        observer, state.observer = state.observer, None
        try:
            with (
                progress(self, "Writing", key, metadata, size) as step,
                RequestBody(stream, size, buffer_size, step, reopen) as body,
            ):
                is_new, written = send(body, told or observer is not None)
        finally:
            state.observer = observer
        self._tell_written(key, is_new, written)

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        key = check_key(key)
        metadata = normalise(metadata)
        condition = Condition.of(if_match, if_none_match)
        remote = self._writable(key, condition)
        told = self._is_heard()
        is_new, written = remote.set_metadata(key, metadata, _conditions(condition), told)
        self._tell_written(key, is_new, written)

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        key = check_key(key)
        metadata = normalise(metadata)
        condition = Condition.of(if_match, if_none_match)
        remote = self._writable(key, condition)
        told = self._is_heard()
        is_new, written = remote.update_metadata(key, metadata, _conditions(condition), told)
        self._tell_written(key, is_new, written)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        from .events import StoreDeleteEvent

        key = check_key(key)
        condition = Condition.of(if_match, if_none_match)
        remote = self._writable(key, condition)
        _, metadata = remote.delete(key, _conditions(condition), self._is_heard())
        self._tell(Change(StoreDeleteEvent, key, metadata, self._state.observer))

    def _is_heard(self) -> bool:
        """Whether anybody wants to know what changes."""
        from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

        return self._state.observer is not None or has_listeners(
            self.event_manager, StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent
        )

    def _tell_written(self, key: str, is_new: bool, metadata: Metadata) -> None:
        from .events import StoreSetEvent, StoreUpdateEvent

        kind = StoreSetEvent if is_new else StoreUpdateEvent
        self._tell(Change(kind, key, metadata, self._state.observer))


def _conditions(condition: Condition | None) -> dict[str, str]:
    """Return a condition as headers."""
    if condition is None:
        return {}
    if condition.etag is None:
        return {"If-None-Match": "*"}
    from ._etags import format_etag

    return {"If-Match": format_etag(condition.etag)}
