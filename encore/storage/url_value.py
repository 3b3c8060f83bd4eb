"""A value behind a URL."""

from __future__ import annotations

import io

from ._metadata import copy_of, normalise
from ._streams import as_bytes
from .errors import StoreError, from_os_error, shown
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO
    from urllib.request import OpenerDirector

__all__ = ["URLValue"]


class _url_errors:
    """A context manager that turns what urllib raises in its block into a StoreError."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, StoreError):
            return
        from http.client import HTTPException

        if isinstance(error, OSError | HTTPException):
            close = getattr(error, "close", None)
            if close is not None:  # an HTTPError is a response besides
                close()
            reason = getattr(error, "reason", error)
            if isinstance(reason, OSError) and reason.errno is not None:
                raise from_os_error(reason) from error
            raise StoreError(f"{_shown(self._url)}: {error}") from error


def _shown(url: str) -> str:
    """Return a URL without what may be a secret: what stands before the @, and the query."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid URL"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=parts.query and "...").geturl()


def _length(headers: Any) -> int | None:
    text = None if headers is None else headers.get("Content-Length")
    # A server may say anything; int() refuses thousands of digits.
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else None


class _Body(io.RawIOBase):
    """The data of a response, which must be all of them."""

    def __init__(self, url: str, response: Any, length: int | None) -> None:
        super().__init__()
        self._url = url
        self._response = response
        self._missing = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        with _url_errors(self._url):
            data = as_bytes(self._response.read(len(buffer)), "the response")
        if self._missing is not None:
            if not data and self._missing > 0:
                # http.client does not look when it is asked for a number of bytes.
                raise StoreError(
                    f"{_shown(self._url)}: the data end {self._missing} bytes too early"
                )
            self._missing -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


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
        if not isinstance(url, str):
            raise TypeError(f"url is a str, not {shown(url)}")
        self.url = url
        self.timeout = timeout
        self._metadata = {} if metadata is None else normalise(metadata)
        self._opener = opener
        self._headers: Any = None

    def __repr__(self) -> str:
        return f"URLValue({_shown(self.url)!r})"

    def _known_headers(self) -> Any:
        if self._headers is None:
            self.data.close()
        return self._headers

    def _header(self, name: str) -> str | None:
        value: str | None = self._known_headers().get(name)
        return value

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return _length(self._known_headers())

    @property
    def modified(self) -> float | None:  # type: ignore[override]
        text = self._header("Last-Modified")
        if text is None:
            return None
        from datetime import timezone
        from email.utils import parsedate_to_datetime

        try:
            date = parsedate_to_datetime(text)
            # HTTP knows no local time.
            return date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
        except (ValueError, OverflowError):
            return None

    @property
    def etag(self) -> str | None:  # type: ignore[override]
        return self._header("ETag")

    @property
    def data(self) -> BinaryIO:
        from urllib.request import urlopen

        open_url = urlopen if self._opener is None else self._opener.open
        with _url_errors(self.url):
            response = open_url(self.url, timeout=self.timeout)
        self._headers = response.headers
        return io.BufferedReader(_Body(self.url, response, _length(response.headers)))

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)
