"""What a StaticURLStore has while it is connected: a client, and the newest index.

No lock is held while the index is fetched, so that several threads may be at it at the same time.
Which index takes the place of another is settled by who saw what: whoever has fetched one while
another one was put in its place does not know which of them is newer. If that other request began
after his call did, he is content; otherwise he asks again. So the index never goes back, and a call
never ends with what was there before it began.

What has changed is told by one thread at a time, in the order in which the indexes took each
other's place: by whoever put them there, or by whoever was still telling.
"""

from __future__ import annotations

from _thread import RLock

from ._changes import has_listeners
from ._http_errors import http_date, shown_url
from ._metadata import copy_of
from ._static_index import StaticIndex, differences, parse
from ._static_value import StaticValue
from ._urls import quoted_key
from .errors import StoreError
from .events import StoreDeleteEvent, StoreModificationEvent, StoreSetEvent, StoreUpdateEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ._http import Client
    from ._http_response import Headers

__all__ = ["StaticSession"]

# A file that has not been changed for so many seconds when it was read is told by its date.
_SETTLED = 2.0

_KINDS: dict[str, type[StoreModificationEvent]] = {
    "delete": StoreDeleteEvent,
    "set": StoreSetEvent,
    "update": StoreUpdateEvent,
}


class StaticSession:
    """The client of a store that is connected, and its index, which is fetched at once.

    Parameters
    ----------
    client : Client
    timeout : float
        The client's.
    data_url : str
        What the URLs of all data begin with.
    index_url : str
    max_size : int
        Of the index, in bytes.
    """

    def __init__(
        self, client: Client, timeout: float, data_url: str, index_url: str, max_size: int
    ) -> None:
        self.client = client
        self.timeout = timeout
        self._data_url = data_url
        self._url = index_url
        self._max_size = max_size
        self.is_closed = False
        #: Whether the last poll failed.
        self.is_failing = False
        # How many requests have begun; and which of them the index comes from.
        self._begun = self._source = 0
        self._untold: list[Iterator[tuple[str, str, dict[str, Any]]]] = []
        self.renew()
        self.index = self._fetch(None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {shown_url(self._url)}>"

    def renew(self) -> None:
        """Go on in the child of a fork."""
        # Held for a few assignments; re-entrant, as a signal handler may come in between.
        self._lock = RLock()
        self._is_telling = False
        # Another thread was at it, and tells in the parent what there is to tell.
        self._untold = []

    def close(self) -> None:
        self.is_closed = True
        self._untold = []
        self.client.close()

    def value(self, key: str) -> StaticValue:
        metadata = self.index.metadata.get(key)
        if metadata is None:
            raise KeyError(key)
        return StaticValue(self, key, self._data_url + quoted_key(key), metadata)

    # The index

    def update(self) -> None:
        """Fetch the index if it has changed; StoreError if it cannot be had, and then the old one stays."""
        first = None
        while True:
            with self._lock:
                self._begun += 1
                number, known, source = self._begun, self.index, self._source
            first = first or number
            if source > first:
                return
            found = self._fetch(known)
            with self._lock:
                if self.is_closed:
                    return
                if self.index is known:
                    if found is not known:
                        self.index, self._source = found, number
                        self._untold.append(differences(known, found))
                    return

    def _fetch(self, known: StaticIndex | None) -> StaticIndex:
        """Return the index that the server has; `known` if it is this one."""
        headers = {"Accept-Encoding": "gzip"}
        if known is not None:
            headers.update(known.validators)
        response = self.client.request(
            "GET", self._url, headers=headers, expect=(304,), whole=True, limit=self._max_size
        )
        with response:
            if response.status == 304 and known is not None and len(headers) > 1:
                return known
            if response.status not in (200, 203):
                raise StoreError(f"{shown_url(self._url)}: status {response.status}")
            data = response.read()
            validators = _validators(response.headers)
        from hashlib import blake2b

        digest = blake2b(data, digest_size=32).digest()
        if known is not None and digest == known.digest:
            # It would not have been sent by a server that knows what it has sent.
            known.validators = validators
            return known
        try:
            return StaticIndex(parse(data), validators, digest)
        except ValueError as error:
            why = "it is HTML or XML" if data[:1024].lstrip()[:1] == b"<" else error
            raise StoreError(f"{shown_url(self._url)} is no index: {why}") from error

    # Its changes

    def tell(self, store: Any) -> None:
        """Emit what has changed since it was told the last time."""
        while True:
            with self._lock:
                if self._is_telling or not self._untold:
                    return
                self._is_telling = True
                changes = self._untold[0]
            try:
                # To compare two indexes takes longer than to ask.
                if has_listeners(store.event_manager, *_KINDS.values()):
                    for action, key, metadata in changes:
                        if self.is_closed:
                            return
                        self._emit(store, _KINDS[action], key, metadata)
                with self._lock:
                    # It may have been closed meanwhile.
                    if self._untold[:1] == [changes]:
                        del self._untold[0]
            finally:
                self._is_telling = False

    def _emit(
        self, store: Any, kind: type[StoreModificationEvent], key: str, metadata: dict[str, Any]
    ) -> None:
        manager = store.event_manager
        try:
            if has_listeners(manager, kind):
                manager.emit(kind(store, key=key, metadata=copy_of(metadata), remote=True))
        except Exception:
            import logging

            # The others are to be told too.
            logging.getLogger(__name__).exception("%r could not tell %r", store, key)


def _validators(headers: Headers) -> dict[str, str]:
    """Return the conditions that hold for as long as the index is the one of this answer."""
    etag, date, now = map(headers.get, ("ETag", "Last-Modified", "Date"))
    if date is not None:
        modified, sent = http_date(date), http_date(now)
        # Dates are whole seconds, and etags are made of them: a second change in the same second
        # would not be seen (RFC 9110, 8.8.2.2).
        if modified is None or sent is None or sent - modified < _SETTLED:
            return {}
    found = {"If-None-Match": etag, "If-Modified-Since": date}
    return {name: text for name, text in found.items() if text is not None}
