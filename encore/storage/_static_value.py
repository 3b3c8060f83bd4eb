"""The values of a StaticURLStore."""

from __future__ import annotations

import errno

from ._metadata import digest
from .errors import StoreError, StoreOSError
from .url_value import URLValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from ._http_response import Response
    from ._static_session import StaticSession

__all__ = ["StaticValue"]

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class StaticValue(URLValue):
    """A value of which the index has the metadata.

    Parameters
    ----------
    session : StaticSession
    key, url : str
    metadata : dict
        Normalised.
    """

    def __init__(
        self, session: StaticSession, key: str, url: str, metadata: dict[str, Any]
    ) -> None:
        # They need be neither checked nor copied.
        self.url = url
        self.timeout = session.timeout
        self._key = key
        self._metadata = metadata
        self._session = session
        self._client = session.client

    @property
    def created(self) -> float | None:  # type: ignore[override]
        facts = self._known()
        # Most servers know of one date: it was there by then.
        return facts.modified if facts.created is None else facts.created

    @property
    def etag(self) -> str | None:  # type: ignore[override]
        version = self._known().version
        # The server's is that of the data.
        return None if version is None else digest(version, self._metadata)

    def _request(
        self,
        method: str,
        headers: Mapping[str, str] | None = None,
        expect: Collection[int] = (),
    ) -> Response:
        if self._session.is_closed:
            raise StoreError(f"the store of {self._key!r} is not connected", key=self._key)
        try:
            return super()._request(method, headers, expect)
        except StoreOSError as error:
            if error.errno in _NOT_THERE:
                raise KeyError(self._key) from error
            raise
