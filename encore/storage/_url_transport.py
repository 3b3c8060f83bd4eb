"""URLs that urllib opens: ftp, and http where a handler decides what only urllib lets it decide."""

from __future__ import annotations

import urllib.request
from http.client import HTTPException, IncompleteRead
from urllib.error import HTTPError, URLError

from ._ftp_handler import FTPHandler
from ._http_errors import broken, shown_url
from ._http_response import Headers, Response
from ._streams import as_bytes
from .errors import StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["URLTransport", "opener_for"]


class URLTransport:
    """Sends requests by an opener of urllib; see `Transport`.

    Parameters
    ----------
    opener : urllib.request.OpenerDirector, optional
        By default urllib's own, at each request.
    foreign : urllib.request.OpenerDirector, optional
        For other origins than that of the first request; by default `opener`.
    """

    def __init__(self, opener: Any = None, foreign: Any = None) -> None:
        self._opener = opener
        self._foreign = opener if foreign is None else foreign

    def __repr__(self) -> str:
        return "<URLTransport>"

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        timeout: float,
        *,
        foreign: bool = False,
    ) -> Response:
        opener = self._foreign if foreign else self._opener
        open_url = urllib.request.urlopen if opener is None else opener.open
        request: Any = url
        if method != "GET" or headers:
            request = urllib.request.Request(url, body, dict(headers), method=method)
        try:
            answer = open_url(request, timeout=timeout)
        except HTTPError as error:
            # An answer like any other.
            answer = error
        except StoreError:
            raise
        except (OSError, HTTPException) as error:
            raise _error_of(error, url) from error
        status = getattr(answer, "status", None) or 200
        pairs = [] if answer.headers is None else answer.headers.items()
        found = Headers((name, str(text)) for name, text in pairs)
        size = _length(found)
        if method == "HEAD" or status in (204, 304):
            answer.close()
            return Response(status, url, found, None, size)
        return Response(status, url, found, _Body(url, answer), size)

    def close(self) -> None:
        pass


class _Body:
    def __init__(self, url: str, answer: Any) -> None:
        self._url = url
        self._answer = answer

    def read(self, size: int, /) -> bytes:
        try:
            data = self._answer.read(size)
        except StoreError:
            raise
        except (OSError, HTTPException) as error:
            raise _error_of(error, self._url) from error
        return as_bytes(data, "the response must give")

    def close(self) -> None:
        try:
            self._answer.close()
        except (OSError, HTTPException):
            # All that was wanted of it has come.
            pass


def _length(headers: Headers) -> int | None:
    text = headers.get("Content-Length")
    if text is None or headers.get("Transfer-Encoding") is not None:
        return None
    # A server may say anything; int() refuses thousands of digits.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _error_of(error: Exception, url: str) -> StoreError:
    """Return the StoreError that stands for what urllib raised."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    if isinstance(cause, OSError) and not isinstance(cause, URLError):
        return broken(cause, shown_url(url))
    kind = TemporaryError if isinstance(cause, IncompleteRead) else StoreError
    return kind(f"{shown_url(url)}: {reason or cause}")


# Openers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to who has sent the request: he knows where credentials may go."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def opener_for(
    proxy_handler: Any = None,
    auth_handler: Any = None,
    login: tuple[str, str] | None = None,
    ssl_context: Any = None,
) -> Any:
    """Return an opener that leaves redirects to others.

    Parameters
    ----------
    proxy_handler, auth_handler : handlers of urllib, optional
    login : (user name, password), optional
        For FTP.
    ssl_context : ssl.SSLContext, optional
    """
    handlers: list[Any] = [_NoRedirect(), FTPHandler(login)]
    handlers += filter(None, (proxy_handler, auth_handler))
    if ssl_context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=ssl_context))
    return urllib.request.build_opener(*handlers)
