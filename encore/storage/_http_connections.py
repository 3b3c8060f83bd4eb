"""HTTP and HTTPS over connections that are kept alive, one per thread and server.

A connection belongs to whoever has taken it: a request, then the body of its answer, and then, if
another request may follow, the thread that has read that body to its end. Nothing is locked: to take
one is to pop it from a dict, which only one can do.
"""

from __future__ import annotations

from _thread import _local
from time import monotonic

from .. import __version__
from ._http_auth import Logins, basic
from ._http_exchange import exchange, response_of
from ._http_head import BadAnswerError
from ._http_origins import origin_of, proxy_of, target_of
from ._http_requests import Request
from .errors import AuthorizationError, StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any
    from weakref import ref

    from ._http_origins import Origin
    from ._http_response import Response
    from ._http_socket import Connection

# One that is idle for longer may have been forgotten by what is between.
_IDLE = 60.0

# To so many servers a thread keeps connections; who is redirected meets others.
_MOST_KEPT = 8
_MOST_ORIGINS = 256

# A larger body is announced, and sent when the server wants it.
_LARGE = 1 << 20

# How often a request is sent for one answer: twice for a password, again if the number of a Digest
# was too old, and the same for a proxy.
_TURNS = 5

_AGENT = f"User-Agent: encore/{__version__}\r\n"
_NOT_COMPRESSED = "Accept-Encoding: identity\r\n"


class Kept:
    """The idle connections of one thread, closed when it ends."""

    __slots__ = ("__weakref__", "connections")

    def __init__(self) -> None:
        self.connections: dict[tuple[object, ...], Connection] = {}

    def close(self) -> None:
        while self.connections:
            try:
                _, connection = self.connections.popitem()
            except KeyError:
                return
            connection.close()

    __del__ = close


class HTTPTransport:
    """Requests to servers of HTTP and HTTPS. Any thread may use it.

    How long the system looks for the address of a host, no timeout bounds.

    Parameters
    ----------
    auth : handler of urllib, or several, optional
        Anything with ``passwd``, as HTTPBasicAuthHandler, HTTPDigestAuthHandler and those of proxies.
    proxy_handler : urllib.request.ProxyHandler, optional
        By default the proxies are those of the environment.
    ssl_context : ssl.SSLContext, optional
        By default ``ssl.create_default_context()``.
    continue_wait : float, in seconds
        How long a server may take to say that it wants a large body, before it gets it unasked.
    clock : callable, optional
        Instead of ``time.monotonic``.
    """

    def __init__(
        self,
        auth: Any = None,
        proxy_handler: Any = None,
        *,
        ssl_context: Any = None,
        continue_wait: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        handlers = auth if isinstance(auth, list | tuple) else () if auth is None else (auth,)
        proxies = [each for each in handlers if _is_for_proxies(each)]
        self._logins = Logins(each for each in handlers if each not in proxies)
        self._proxy_logins = Logins(proxies)
        self._proxy_handler = proxy_handler
        self._ssl_context = ssl_context
        self._continue_wait = continue_wait
        self._clock = clock
        self._start()

    def _start(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._local = _local()
        #: Of all threads.
        self._kept: set[ref[Kept]] = set()
        #: Another one after each close().
        self._generation = object()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_origins", "_local", "_kept", "_generation"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

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
        """As Transport says."""
        request = Request(method, headers, body)
        origin, target = self._resolve(url)
        proxy = origin.proxy
        is_ours = not foreign and "authorization" not in request.names
        deadline = self._clock() + timeout
        more = _AGENT if "user-agent" not in request.names else ""
        if "accept-encoding" not in request.names:
            more += _NOT_COMPRESSED
        asks = self._asks_first(request, origin)
        line = target
        if proxy is not None and not origin.is_secure:
            line = f"{origin.url}{target}"
        is_told = is_told_by_proxy = False
        for turn in range(_TURNS):
            login = proxy_login = None
            head = more
            if is_ours:
                login = self._logins.header(origin, url, method, target)
                if login is not None:
                    head += f"Authorization: {login}\r\n"
            if line is not target and proxy is not None:
                proxy_login = self._proxy_login(proxy, method, target)
                if proxy_login is not None:
                    head += f"Proxy-Authorization: {proxy_login}\r\n"
            if asks:
                head += "Expect: 100-continue\r\n"
            connection = self._take(origin, deadline)
            try:
                answer, was_asked = exchange(
                    connection,
                    request,
                    request.head(line, origin.authority, head),
                    timeout,
                    self._continue_wait if asks else None,
                )
                response = response_of(answer, connection, request, url, self._release)
            except BaseException:
                connection.close()
                raise
            if not was_asked:
                # It would not do so the next time.
                origin.asks_for_bodies = False
            if response.status < 400 or turn == _TURNS - 1:
                break
            if response.status == 401 and is_ours:
                challenge = response.headers.get("www-authenticate")
                again = self._logins.learn(origin, url, challenge, login, again=is_told)
                is_told = True
            elif response.status == 407 and proxy is not None and line is not target:
                challenge = response.headers.get("proxy-authenticate")
                again = self._proxy_logins.learn(
                    proxy, proxy.url, challenge, proxy_login, again=is_told_by_proxy
                )
                is_told_by_proxy = True
            else:
                again = asks and response.status == 417
                asks = origin.asks_for_bodies = False
            if not again or not request.again():
                break
            response.finish()
        return response

    def _asks_first(self, request: Request, origin: Origin) -> bool:
        """Whether a server is to say first that it wants the body."""
        if not origin.asks_for_bodies or (request.source is None and request.body is None):
            return False
        if request.size is None or request.size > _LARGE:
            return True
        # A stream is read once, and it may want a password.
        return request.source is not None and self._logins.is_curious(origin)

    def _resolve(self, url: str) -> tuple[Origin, str]:
        """Return whom to ask, and for what; ValueError if a URL cannot be."""
        end = url.find("/", 8)
        origin = self._origins.get(url[:end]) if end > 0 else None
        if origin is not None:
            target = url[end:]
            # Nearly every URL; the rest of this takes ten times as long.
            if target.isascii() and target.isprintable() and not (" " in target or "#" in target):
                return origin, target
        target = target_of(url)
        if origin is None:
            origin = origin_of(url)
            origin.proxy = proxy_of(origin, self._proxy_handler)
            if end > 0:
                if len(self._origins) >= _MOST_ORIGINS:
                    self._origins.clear()
                self._origins[url[:end]] = origin
        return origin, target

    # Connections

    def _take(self, origin: Origin, deadline: float) -> Connection:
        """Return a connection: the one that this thread has kept, or a new one."""
        try:
            connections = self._local.kept.connections
        except AttributeError:
            return self._open(origin, deadline)
        connection: Connection | None = connections.pop(origin.key, None)
        if connection is not None:
            if self._clock() - connection.idle_since < _IDLE and connection.is_usable():
                connection.deadline = deadline
                return connection
            connection.close()
        return self._open(origin, deadline)

    def _release(self, connection: Connection) -> None:
        """Keep a connection whose answer has been read, if another one can follow."""
        if not connection.is_kept:
            connection.close()
            return
        connection.idle_since = self._clock()
        connection.is_used = True
        try:
            kept = self._local.kept
        except AttributeError:
            from weakref import ref

            kept = self._local.kept = Kept()
            self._kept.add(ref(kept, self._kept.discard))
        connections = kept.connections
        if len(connections) >= _MOST_KEPT:
            kept.close()
        if connections.setdefault(connection.key, connection) is not connection:
            # It has one already.
            connection.close()
        elif (
            # The transport has been closed meanwhile, perhaps just now.
            connection.generation is not self._generation
            and connections.pop(connection.key, None) is not None
        ):
            connection.close()

    def close(self) -> None:
        """Close what is idle, and what is in use when it is no more. It may be used again."""
        self._generation = object()
        self._origins = {}
        for each in list(self._kept):
            kept = each()
            if kept is not None:
                kept.close()

    def _open(self, origin: Origin, deadline: float) -> Connection:
        for turn in range(_TURNS):
            connection = self._try_to_open(origin, deadline, turn > 0)
            if connection is not None:
                return connection
        raise AuthorizationError(f"{origin.url}: the proxy wants another password each time")

    def _try_to_open(self, origin: Origin, deadline: float, again: bool) -> Connection | None:
        """Return a new connection; None if a proxy is to be asked again, with a password."""
        from ._http_socket import Connection

        there = origin.proxy or origin
        connection = Connection(there.host, there.port, there.url, self._clock)
        connection.generation = self._generation
        connection.key = origin.key
        connection.deadline = deadline
        try:
            connection.connect()
            if there.is_secure:
                connection.secure(self._context(), there.host)
            if origin.proxy is not None and origin.is_secure:
                if origin.proxy.is_secure:
                    raise StoreError(f"{there.url}: no TLS by way of a proxy that has TLS itself")
                if not self._tunnel(connection, origin, origin.proxy, again):
                    connection.close()
                    return None
                connection.where = origin.url
                connection.secure(self._context(), origin.host)
        except BaseException as error:
            connection.close()
            if isinstance(error, StoreError):
                facts: Any = error
                facts.happened = False
            raise
        return connection

    def _context(self) -> Any:
        if self._ssl_context is None:
            import ssl

            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            self._ssl_context = context
        return self._ssl_context

    def _proxy_login(self, proxy: Origin, method: str, target: str) -> str | None:
        """Return what the proxy wants to know."""
        sent = self._proxy_logins.header(proxy, proxy.url, method, target)
        if sent is None and proxy.login is not None:
            sent = basic(*proxy.login)
        return sent

    def _tunnel(self, connection: Connection, origin: Origin, proxy: Origin, again: bool) -> bool:
        """Have a proxy connect us; False if it refuses, and may not with what we know now."""
        target = f"{origin.host_in_url}:{origin.port}"
        sent = self._proxy_login(proxy, "CONNECT", target)
        more = _AGENT if sent is None else f"{_AGENT}Proxy-Authorization: {sent}\r\n"
        connection.send_bytes(Request("CONNECT", {}, None).head(target, target, more))
        _, status, headers = connection.head()
        if 200 <= status < 300:
            if connection.has_more():
                raise BadAnswerError(f"{connection.where}: the proxy talks into a connection")
            return True
        if status == 407:
            challenge = headers.get("proxy-authenticate")
            if self._proxy_logins.learn(proxy, proxy.url, challenge, sent, again=again):
                return False
        text = f"{connection.where}: the proxy does not connect to {origin.url}: status {status}"
        if status in (401, 403, 407):
            raise AuthorizationError(text)
        raise (TemporaryError if status >= 500 else StoreError)(text)


def _is_for_proxies(handler: Any) -> bool:
    return str(getattr(handler, "auth_header", "")).lower() == "proxy-authorization"
