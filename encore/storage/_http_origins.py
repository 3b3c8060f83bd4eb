"""Where a URL leads to: a server, perhaps by way of a proxy, and what to ask it for."""

from __future__ import annotations

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PORTS = {"http": 80, "https": 443}


class Origin:
    """A server, as requests are sent to it.

    Parameters
    ----------
    scheme, host : str
    port : int
    login : (str, str) or None
        Name and password that stood in the URL.
    """

    __slots__ = (
        "asks_for_bodies",
        "authority",
        "host",
        "host_in_url",
        "is_secure",
        "key",
        "login",
        "port",
        "proxy",
        "url",
    )

    def __init__(self, scheme: str, host: str, port: int, login: tuple[str, str] | None) -> None:
        self.is_secure = scheme == "https"
        self.host = host
        self.port = port
        self.login = login
        self.host_in_url = f"[{host}]" if ":" in host else host
        #: As in the Host header.
        self.authority = (
            self.host_in_url if port == _PORTS[scheme] else f"{self.host_in_url}:{port}"
        )
        #: Without secrets.
        self.url = f"{scheme}://{self.authority}"
        self.key: tuple[object, ...] = (scheme, host, port)
        self.proxy: Origin | None = None
        #: Whether it may answer "Expect: 100-continue".
        self.asks_for_bodies = True

    def __repr__(self) -> str:
        return f"<Origin {self.url}>"


def origin_of(url: str) -> Origin:
    """Return the origin of a URL; ValueError if it is none of http or https."""
    from urllib.parse import unquote, urlsplit

    # urlsplit() drops line breaks and tabs silently.
    check_characters(url)
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"no URL of http or https: {_named(url)}")
    host = parts.hostname
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not host or port == 0 or "%" in host:
        raise ValueError(f"a URL without a host, or with a bad port: {_named(url)}")
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"a URL without a good host: {_named(url)}") from error
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme], login)


def _named(url: str) -> str:
    from ._http_errors import shown_url

    return repr(shown_url(url))[:200]


def check_characters(url: str) -> None:
    """Raise ValueError where a URL has characters that end a line, or part a request."""
    if not url.isprintable() or " " in url:
        raise ValueError(f"spaces or control characters in a URL: {_named(url)}")


def target_of(url: str) -> str:
    """Return what is asked for: path and query."""
    from urllib.parse import quote

    check_characters(url)
    rest = url.partition("://")[2].partition("#")[0]
    start = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    target = rest[start:]
    if not target.startswith("/"):
        target = "/" + target
    return target if target.isascii() else quote(target, safe="".join(map(chr, range(33, 127))))


def proxy_of(origin: Origin, handler: Any) -> Origin | None:
    """Return the proxy by way of which requests go to a server, if any.

    Parameters
    ----------
    origin : Origin
    handler : urllib.request.ProxyHandler or None
        None for what the environment says.
    """
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies() if handler is None else handler.proxies
    url = proxies.get("https" if origin.is_secure else "http")
    # As urllib: the environment says for which hosts there is none, whoever has named the proxy.
    if not url or proxy_bypass(origin.authority):
        return None
    try:
        return origin_of(url if "://" in url else f"http://{url}")
    except ValueError as error:
        # That is not the caller's URL.
        raise StoreError(f"the proxy for {origin.url} is none that can be used: {error}") from None
