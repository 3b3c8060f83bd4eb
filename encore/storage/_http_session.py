"""Requests through a session of the caller's: a requests.Session, or what looks like one.

Three kinds, taken by what their class has: ``prepare_request`` and ``send``, so that the URL can be put back,
of which requests takes apart what is to stay (``%2E`` becomes a dot, and dot segments may go); ``request``;
or only ``get``, ``put``, ``post``, ``head`` and ``delete``, which are called as EnCore 0.8 did.

The session is never closed here. What it raises is told apart without importing requests.
"""

from __future__ import annotations

import errno
import os
from io import UnsupportedOperation
from time import monotonic

from ._http_errors import broken, shown_url, timed_out
from ._http_response import Headers, Response
from .errors import StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from ._http_requests import Source

__all__ = ["SessionTransport"]

_FOLLOWED = frozenset(("GET", "HEAD", "OPTIONS"))

# What requests and urllib3 raise for connections that could not be made, so that nothing was sent, and
# for those that broke.
_NOT_SENT = frozenset(("ConnectTimeout", "ConnectTimeoutError", "NewConnectionError", "ProxyError"))
_BROKEN = frozenset(
    ("ChunkedEncodingError", "ConnectionError", "IncompleteRead", "ProtocolError", "Timeout")
    + ("TimeoutError", "HTTPException")
)
# It will not be better next time, though requests takes it for a ConnectionError.
_LASTING = frozenset(("SSLError", "SSLCertVerificationError", "TooManyRedirects", "InvalidURL"))

# Where the errors come from that say why, and have no URL in them.
_SYSTEM = frozenset(("builtins", "http", "socket", "ssl"))

# What is compressed has no length that can be checked.
_PLAIN = {"Accept-Encoding": "identity"}

# So much is read to keep a connection whose answer nobody wants to the end.
_DRAINED = 1 << 16


class SessionTransport:
    """One attempt at a request, by a session.

    Parameters
    ----------
    session : requests.Session or the like
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._pid = os.getpid()
        self._send = self._way(type(session))

    def _way(self, kind: type) -> Callable[..., Any]:
        """Return how to send; of an object that has every attribute, as a mock, only the class tells."""
        definers = {
            name: next((each for each in kind.__mro__ if name in vars(each)), None)
            for name in ("prepare_request", "send", "request")
        }
        request, prepare = definers["request"], definers["prepare_request"]
        # A subclass that has a request() of its own adds something there: a token, a header.
        if prepare and definers["send"] and (request is None or not _is_below(request, prepare)):
            return self._send_prepared
        return self._send_request if request else self._send_as_08

    @property
    def is_simple(self) -> bool:
        """Whether the session has only the methods that 0.8 called."""
        return self._send == self._send_as_08

    def __repr__(self) -> str:
        return f"SessionTransport({type(self._session).__name__})"

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
        if foreign:
            # The session would send what it knows to anybody.
            raise StoreError(f"{shown_url(url)}: redirected to another host")
        if os.getpid() != self._pid:
            self._after_fork()
        size = headers.get("Content-Length")
        if body is not None and not isinstance(body, bytes):
            body = _Stream(body) if size is None else _Sized(body, int(size))
        # A length that is given twice would be sent twice.
        given = {name: text for name, text in headers.items() if name != "Content-Length"}
        try:
            answer = self._send(method, url, given, body, timeout)
            return _response(answer, method, url)
        except StoreError:
            raise
        except Exception as error:
            raise error_of(error, url) from error

    def close(self) -> None:
        pass

    def _send_prepared(
        self, method: str, url: str, headers: dict[str, str], body: Any, timeout: float
    ) -> Any:
        from types import SimpleNamespace

        session = self._session
        prepared = session.prepare_request(
            # All that it asks of a requests.Request.
            SimpleNamespace(
                method=method,
                url=url,
                headers={**_PLAIN, **headers},
                files=None,
                data=body,
                json=None,
                params={},
                auth=None,
                cookies=None,
                hooks={},
            )
        )
        prepared.url = _with_path_of(url, prepared.url)
        settings: Mapping[str, Any] = {}
        if hasattr(session, "merge_environment_settings"):
            settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
        options = {**settings, "stream": True, "timeout": timeout}
        return session.send(prepared, allow_redirects=method in _FOLLOWED, **options)

    def _send_request(
        self, method: str, url: str, headers: dict[str, str], body: Any, timeout: float
    ) -> Any:
        return self._session.request(
            method,
            url,
            data=body,
            headers={**_PLAIN, **headers},
            stream=True,
            timeout=timeout,
            allow_redirects=method in _FOLLOWED,
        )

    def _send_as_08(
        self, method: str, url: str, headers: dict[str, str], body: Any, timeout: float
    ) -> Any:
        from io import BytesIO
        from urllib.parse import parse_qsl

        call = getattr(self._session, method.lower(), None)
        if call is None:
            raise StoreError(f"{type(self._session).__name__} has no {method.lower()}()")
        arguments: list[Any] = []
        options: dict[str, Any] = {}
        kind = headers.pop("Content-Type", None)
        if method == "GET":
            url, question, query = url.partition("?")
            if question:
                options["params"] = dict(parse_qsl(query, keep_blank_values=True))
            # Of data: the rest is read whole.
            if "Accept-Encoding" in headers:
                options["stream"] = True
        if body is not None and kind == "application/json":
            arguments.append(body.decode("ascii"))
        elif body is not None:
            options["data"] = BytesIO(body) if isinstance(body, bytes) else body
        if headers:
            options["headers"] = headers
        return call(url, *arguments, **options)

    def _after_fork(self) -> None:
        """Let the session make connections of its own: those that it has are the parent's."""
        self._pid = os.getpid()
        for adapter in getattr(self._session, "adapters", {}).values():
            # As if it had been pickled, which leaves the connections, and their locks, behind.
            if hasattr(adapter, "__setstate__"):
                adapter.__setstate__(adapter.__getstate__())


def _is_below(one: type, other: type) -> bool:
    return one is not other and issubclass(one, other)


def _with_path_of(url: str, prepared: str) -> str:
    """Return a prepared URL with the path of the one that was asked for; its query may have grown."""
    from urllib.parse import unquote, urlsplit, urlunsplit

    wanted, made = urlsplit(url), urlsplit(prepared)
    if made.path == wanted.path:
        return prepared
    if made.netloc.lower() == wanted.netloc.lower():
        return urlunsplit(made._replace(path=wanted.path))
    # A session may have a beginning of its own for all URLs.
    if unquote(made.path).endswith(unquote(wanted.path)):
        return prepared
    raise StoreError(f"{shown_url(url)}: the session makes another path of it")


class _Stream:
    """A body as requests takes it, of a size that is not known: it is sent in chunks."""

    def __init__(self, body: Source) -> None:
        self._body = body
        self._done = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._body.read(size)
        self._done += len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_DRAINED), b"")

    def tell(self) -> int:
        return self._done

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go back to the beginning, as urllib3 does before it sends something again by itself."""
        if offset or whence or not self._body.again():
            raise UnsupportedOperation("these data cannot be sent again")
        self._done = 0
        return 0


class _Sized(_Stream):
    """A body of a size that is known."""

    def __init__(self, body: Source, size: int) -> None:
        super().__init__(body)
        self._size = size

    def __len__(self) -> int:
        return self._size


def _response(answer: Any, method: str, url: str) -> Response:
    pairs = getattr(answer, "headers", None) or {}
    headers = Headers((str(name), str(text)) for name, text in pairs.items())
    status = int(answer.status_code)
    url = str(getattr(answer, "url", None) or url)
    coding = headers.get("Content-Encoding")
    coded = coding is not None and coding.strip().lower() not in ("", "identity")
    text = headers.get("Content-Length")
    size = None
    if not coded and text is not None and text.isascii() and text.isdigit() and len(text) < 20:
        size = int(text)
    if method == "HEAD" or status in (204, 304):
        _Body(answer, url, False).finish()
        return Response(status, url, headers, None, size)
    return Response(status, url, headers, _Body(answer, url, coded), size)


class _Body:
    """The body of an answer of a session."""

    def __init__(self, answer: Any, url: str, coded: bool) -> None:
        self._answer = answer
        self._url = url
        self._done = False
        self._end = float("inf")
        #: Whether a read returns what has come.
        self._is_prompt = False
        raw = getattr(answer, "raw", None)
        self._read: Callable[[int], bytes]
        if raw is not None and hasattr(raw, "read") and not coded:
            self._is_prompt = hasattr(raw, "read1")
            # Else a drip is awaited until all is there.
            self._read = raw.read1 if self._is_prompt else raw.read
        elif hasattr(answer, "iter_content"):
            # It takes the coding off.
            from ._streams import BufferIteratorIO

            self._read = BufferIteratorIO(answer.iter_content(_DRAINED)).read
        else:
            from io import BytesIO

            self._read = BytesIO(answer.content).read

    def renew(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def read(self, size: int, /) -> bytes:
        try:
            data = self._read(size)
        except StoreError:
            raise
        except Exception as error:
            raise error_of(error, self._url) from error
        if not data:
            self._done = True
        elif self._is_prompt and monotonic() > self._end:
            # The session knows how long one wait may be, not all of them together.
            raise timed_out(shown_url(self._url))
        return data

    def finish(self) -> None:
        """Read what little may be left, so that the session keeps the connection."""
        try:
            left = getattr(self._answer.raw, "length_remaining", None)
            while not self._done and isinstance(left, int) and left <= _DRAINED:
                self.read(_DRAINED)
        except Exception:  # it is not kept then
            pass
        self.close()

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close is not None:
            try:
                close()
            except Exception:  # nobody waits for anything any more
                pass


def error_of(error: Exception, url: str) -> StoreError:
    """Return the StoreError for what a session has raised, told apart by the names of its classes."""
    names: set[str] = set()
    codes: set[Any] = set()
    for each in _causes(error):
        names.update(kind.__name__ for kind in type(each).__mro__)
        codes.add(getattr(each, "errno", None))
    # The message of a session has the URL, and with that perhaps a password.
    where = shown_url(url)
    text = f"{where}: {type(error).__name__}{_reason(error, where)}"
    if names & _LASTING:
        return StoreError(text)
    if names & _NOT_SENT or errno.ECONNREFUSED in codes:
        return TemporaryError(text, happened=False)
    if names & _BROKEN:
        return TemporaryError(text)
    return StoreError(text)


def _reason(error: Exception, where: str) -> str:
    """Return what the operating system, or TLS, has said, if anything."""
    for each in reversed(_causes(error)):
        # The errors of requests are OSErrors too.
        if isinstance(each, OSError) and type(each).__module__.split(".")[0] in _SYSTEM:
            found = broken(each, where)
            text = getattr(found, "strerror", None) or str(found).removeprefix(f"{where}: ")
            return f": {text}" if text and text != "None" else ""
    innermost = _causes(error)[-1]
    return "" if innermost is error else f": {type(innermost).__name__}"


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that it came of, as requests and urllib3 keep them."""
    found: list[BaseException] = []
    todo: list[Any] = [error]
    while todo and len(found) < 20:
        each = todo.pop()
        if isinstance(each, BaseException) and not any(each is other for other in found):
            found.append(each)
            # Not what it came in the middle of, which may be anything.
            todo += [getattr(each, "reason", None), each.__cause__, *each.args]
    return found
