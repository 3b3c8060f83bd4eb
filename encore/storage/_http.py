"""Requests to a server, with all that belongs to a call: retries, redirects, a deadline, errors."""

from __future__ import annotations

from ._http_errors import StaleConnectionError, error_of, shown_url, timed_out
from ._http_origins import origin_of
from ._http_requests import Source
from ._http_response import Headers, Response
from .errors import StoreError, TemporaryError, shown
from .retry_policy import Attempts, RetryPolicy, is_temporary, may_have_happened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, Protocol

    class Transport(Protocol):
        """One attempt at a request."""

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
            """Send a request and return the answer, whatever its status; follow no redirect.

            The body is None, bytes or a Source, whose size stands in the headers, if anywhere.
            `foreign` says that this is another server than that which was asked for: none of its
            credentials are for it. Where a connection breaks it is a TemporaryError, which says
            that nothing has happened if that is certain.
            """
            ...

        def close(self) -> None: ...


__all__ = ["Client", "Headers", "Response", "quote_key"]

# What need not be escaped in a key, apart from letters, digits and "_.-"; as EnCore 0.8.
_SAFE = "/~!$&'()*+,;=:@"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_IDEMPOTENT_METHODS = frozenset({"DELETE", "PUT"})
_CONDITIONS = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5

# What another server is not told.
_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization"})


def quote_key(key: str) -> str:
    """Return a key as it stands in the path of a URL.

    What a server or a proxy might take out of a path is escaped: segments that are empty, ``.`` or
    ``..``, with all slashes of such a key.
    """
    if key.isalnum() and key.isascii():
        return key
    from urllib.parse import quote

    if key.startswith("/") or key.endswith("/") or "//" in key or _has_dots(key):
        return "%2F".join(
            segment.replace(".", "%2E") if segment in (".", "..") else quote(segment, _SAFE)
            for segment in key.split("/")
        )
    return quote(key, _SAFE)


def _has_dots(key: str) -> bool:
    return "." in key and any(segment in (".", "..") for segment in key.split("/"))


class Client:
    """Requests to a server, which are tried again where that may help. Any thread may use it.

    Parameters
    ----------
    transport : Transport
    timeout : float, in seconds
        Bounds a call with all its attempts, and then each read of a body. What is uploaded in pieces
        counts from the last one that the server has taken.
    policy : RetryPolicy, optional
        By default three attempts; no attempt begins when `timeout` is over, whatever it says.
    """

    def __init__(
        self, transport: Transport, *, timeout: float = 30.0, policy: RetryPolicy | None = None
    ) -> None:
        if not isinstance(timeout, int | float) or isinstance(timeout, bool):
            raise TypeError(f"timeout is a number of seconds, not {shown(timeout)}")
        if not timeout > 0:
            raise ValueError(f"timeout is positive, not {timeout}")
        self._transport = transport
        self._timeout = timeout
        self._policy = _bounded(policy or RetryPolicy(), timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._transport!r}>"

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        key: str | None = None,
        expect: Collection[int] = (),
        safe: bool | None = None,
        whole: bool = False,
        limit: int | None = None,
    ) -> Response:
        """Send a request; return the answer to it if its status is 2xx or one of `expect`.

        Parameters
        ----------
        method, url : str
        headers : dict, optional
            With ``Accept-Encoding: gzip`` the body is decompressed.
        body : bytes-like or binary stream, optional
            A stream is read from where it stands, and left open; its Content-Length may be among the
            headers. What it raises passes through.
        key : str, optional
            Whom a KeyError and other errors are about.
        expect : collection of int, optional
            Further statuses that are no errors.
        safe : bool, optional
            Whether it does no harm to do it twice; by default that of the method: GET, HEAD, OPTIONS,
            and without conditions PUT and DELETE.
        whole : bool
            Read the body before the time is over.
        limit : int, optional
            How many bytes the body may have, decompressed.

        Raises
        ------
        KeyError
            404 or 410, if there is a key. ``error.repeated`` says that an earlier attempt may have
            changed something.
        AuthorizationError, PreconditionError, StoreFullError, TemporaryError, StoreError
            Other statuses; ``error.status`` is it.
        """
        if headers is None:
            headers = {}
        if safe is None:
            safe = method in _SAFE_METHODS or (
                method in _IDEMPOTENT_METHODS
                and not any(name.lower() in _CONDITIONS for name in headers)
            )
        source = None
        if body is not None and not isinstance(body, bytes | bytearray | memoryview):
            body = source = Source(body)
        clock = self._policy.clock
        deadline = clock() + self._timeout
        attempts = Attempts(self._policy, self, _always)
        was_stale = repeated = False
        while True:
            try:
                response = self._follow(method, url, headers, body, expect, deadline)
                if not 200 <= response.status < 300 and response.status not in expect:
                    raise error_of(response, key)
                if source is not None:
                    deadline = clock() + self._timeout
                return self._prepared(response, headers, whole, limit, deadline)
            except Exception as error:
                facts: Any = error
                if source is not None and source.error is not None:
                    # Perhaps the transport has made something else of it.
                    break
                may_repeat = (safe or getattr(error, "happened", None) is False) and (
                    source is None or source.may_repeat
                )
                is_stale = isinstance(error, StaleConnectionError)
                if may_repeat and is_stale and not was_stale:
                    # The next connection is a new one, and nobody has done anything wrong.
                    was_stale = True
                elif attempts.again(error, may_repeat):
                    was_stale = False
                else:
                    facts.repeated = repeated
                    if repeated and is_temporary(error) and not may_have_happened(error):
                        # But that was the last attempt only.
                        raise TemporaryError(str(error), key=key) from error
                    raise
                if source is not None and not source.again():
                    raise
                repeated = repeated or may_have_happened(error)
            finally:
                # Else what is raised would refer to itself.
                facts = None
        assert source is not None
        raise source.taken_error()

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        expect: Collection[int],
        deadline: float,
    ) -> Response:
        """Send a request; return the answer of whoever we are sent to."""
        here, sent, foreign = url, headers, False
        seen = [url]
        while True:
            left = deadline - self._policy.clock()
            if left <= 0:
                raise timed_out(shown_url(here), happened=False)
            response = self._transport.send(method, here, sent, body, left, foreign=foreign)
            if response.status not in _REDIRECTS or response.status in expect:
                return response
            location = response.headers.get("Location")
            if location is None:
                return response
            response.finish()
            here = self._redirected(method, here, location, response.status, body, seen)
            foreign = not _same_origin(url, here)
            sent = headers
            if foreign:
                sent = {
                    name: value for name, value in headers.items() if name.lower() not in _SECRETS
                }

    def _redirected(
        self, method: str, here: str, location: str, status: int, body: Any, seen: list[str]
    ) -> str:
        """Return where an answer sends us, if we go there."""
        name = shown_url(here)
        if method not in _SAFE_METHODS and status not in (307, 308):
            raise StoreError(f"{name}: what is to be written is redirected: status {status}")
        there = _joined(here, location)
        if there is None:
            raise StoreError(f"{name}: redirected to what is no URL of http or https")
        if there in seen:
            raise StoreError(f"{name}: redirected in a circle")
        if len(seen) > _MOST_REDIRECTS:
            raise StoreError(f"{name}: redirected more than {_MOST_REDIRECTS} times")
        seen.append(there)
        if isinstance(body, Source) and not body.again():
            raise StoreError(f"{name}: redirected, and the stream cannot be read again")
        return there

    def _prepared(
        self,
        response: Response,
        headers: Mapping[str, str],
        whole: bool,
        limit: int | None,
        deadline: float,
    ) -> Response:
        """Make an answer ready to be read."""
        clock = self._policy.clock

        def in_time() -> None:
            if clock() > deadline:
                raise timed_out(shown_url(response.url))

        try:
            if headers:
                _decompress(response, headers)
            if limit is not None:
                response.limit(limit)
            if whole:
                response.load(in_time)
            else:
                response.each_read(self._timeout)
        except BaseException as error:
            response.close()
            if isinstance(error, TemporaryError) and response.status < 300:
                # It has been done; only the answer is not whole.
                error.happened = True
            raise
        return response

    def close(self) -> None:
        """Close what is idle."""
        self._transport.close()


def _always() -> bool:
    return True


def _bounded(policy: RetryPolicy, timeout: float) -> RetryPolicy:
    """Return a policy that begins no attempt after the timeout."""
    from copy import copy

    policy = copy(policy)
    if policy.deadline is None or policy.deadline > timeout:
        policy.deadline = timeout
    return policy


def _decompress(response: Response, headers: Mapping[str, str]) -> None:
    """Decompress a body that was to be compressed."""
    for name, value in headers.items():
        if name.lower() == "accept-encoding" and "gzip" in value:
            break
    else:
        return
    coding = (response.headers.get("Content-Encoding") or "identity").lower()
    if coding in ("gzip", "x-gzip"):
        response.inflate()
    elif coding != "identity":
        raise StoreError(f"{shown_url(response.url)}: unknown Content-Encoding")


def _joined(here: str, location: str) -> str | None:
    """Return the URL that a Location stands for; None if it is none of http or https."""
    from urllib.parse import quote, urljoin, urlsplit

    # Some servers send UTF-8 as it is, or spaces.
    location = quote(location.encode("latin-1", "replace"), safe="".join(map(chr, range(33, 127))))
    try:
        parts = urlsplit(urljoin(here, location))
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        origin_of(url)
    except ValueError:
        return None
    return url


def _same_origin(one: str, other: str) -> bool:
    return origin_of(one).key == origin_of(other).key
