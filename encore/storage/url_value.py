"""A value behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ._metadata import copy_of, normalise
from ._streams import add_context_manager_support
from .value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.request import OpenerDirector

__all__ = ["URLValue"]


class URLValue(Value):
    """A value whose data are fetched from a URL whenever they are asked for.

    Parameters
    ----------
    url : str
    metadata : dict, optional
    opener : urllib.request.OpenerDirector, optional
        Opens the URL; urllib's own by default.
    timeout : float, optional
        Seconds to wait for the server.
    """

    def __init__(
        self,
        url: str,
        metadata: Mapping[str, Any] | None = None,
        opener: OpenerDirector | None = None,
        *,
        timeout: float = 30.0,
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._metadata = {} if metadata is None else normalise(metadata)
        self._opener = opener
        self._headers: Any = None

    def __repr__(self) -> str:
        from urllib.parse import urlsplit

        # What stands before the @ may be a password.
        parts = urlsplit(self.url)
        return f"URLValue({parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()!r})"

    def _open(self) -> Any:
        if self._opener is not None:
            response = self._opener.open(self.url, timeout=self.timeout)
        else:
            from urllib.request import urlopen

            response = urlopen(self.url, timeout=self.timeout)
        self._headers = response.headers
        return add_context_manager_support(response)

    def _header(self, name: str) -> str | None:
        if self._headers is None:
            self._open().close()
        return cast("str | None", self._headers.get(name))

    @property
    def size(self) -> int | None:  # type: ignore[override]
        length = self._header("Content-Length")
        return int(length) if length is not None and length.isdecimal() else None

    @property
    def modified(self) -> float | None:  # type: ignore[override]
        text = self._header("Last-Modified")
        if text is None:
            return None
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(text).timestamp()
        except ValueError:
            return None

    @property
    def etag(self) -> str | None:  # type: ignore[override]
        return self._header("ETag")

    @property
    def data(self) -> BinaryIO:
        return cast(BinaryIO, self._open())

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)
