"""By which transport a store reaches its URLs, and who it says it is."""

from __future__ import annotations

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ._http import Transport

__all__ = ["auth_handler", "transport_for"]

# The names that urllib has for two of them are taken too.
_NAMES = {"username": "user", "password": "passwd"}


def transport_for(
    url: str,
    credentials: Any = None,
    proxy_handler: Any = None,
    auth_handler_factory: Callable[[], Any] | None = None,
    ssl_context: Any = None,
) -> Transport:
    """Return what sends requests to a URL and those below it.

    Parameters
    ----------
    url : str
    credentials : mapping, optional
        'username' and 'password', and 'uri' and 'realm' if they are not for all below the URL. What
        a handler wants that knows no passwords is its own affair.
    proxy_handler : urllib.request.ProxyHandler, optional
    auth_handler_factory : callable, optional
        Makes the handler of urllib that is given the credentials.
    ssl_context : ssl.SSLContext, optional
    """
    from collections.abc import Mapping

    if not isinstance(credentials, Mapping | None):
        raise TypeError(
            "credentials are a mapping with 'username' and 'password', "
            f"not {type(credentials).__name__}"
        )
    scheme = url.partition(":")[0]
    if scheme == "file":
        from ._file_transport import FileTransport

        return FileTransport()
    if scheme == "ftp":
        from ._url_transport import URLTransport, opener_for

        login = None
        if credentials is not None:
            given = _checked(credentials)
            login = (given["username"], given["password"])
        return URLTransport(opener_for(proxy_handler, login=login))
    handler = _handler(url, credentials, auth_handler_factory)
    if handler is None or _is_plain(handler):
        from ._http_connections import HTTPTransport

        return HTTPTransport(handler, proxy_handler, ssl_context=ssl_context)
    from ._url_transport import URLTransport, opener_for

    # What it does only urllib lets it do.
    return URLTransport(
        opener_for(proxy_handler, handler, ssl_context=ssl_context),
        opener_for(proxy_handler, ssl_context=ssl_context),
    )


def auth_handler(**credentials: Any) -> Any:
    """Return a handler of urllib for HTTP Basic."""
    from urllib.request import HTTPBasicAuthHandler

    handler = HTTPBasicAuthHandler()
    if credentials:
        _give(handler, credentials)
    return handler


def _checked(credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Return credentials under the names that they have here; no message may show any of them."""
    given = dict(credentials)
    for name, other in _NAMES.items():
        if other in given:
            given.setdefault(name, given.pop(other))
        if not isinstance(given.get(name), str):
            raise (ValueError if name not in given else TypeError)(
                f"credentials have a str for {name!r}"
            )
    for name in ("uri", "realm"):
        if not isinstance(given.get(name), str | None):
            raise TypeError(f"credentials have a str for {name!r}, or nothing")
    unknown = given.keys() - {"uri", "realm", *_NAMES}
    if unknown:
        raise TypeError(f"credentials have no {', '.join(sorted(map(repr, unknown)))}")
    return given


def _handler(
    url: str, credentials: Mapping[str, Any] | None, factory: Callable[[], Any] | None
) -> Any:
    if factory is None:
        if credentials is None:
            return None
        handler = auth_handler()
    else:
        handler = factory()
        if handler is None:
            raise TypeError(f"auth_handler_factory made no handler: {shown(factory)}")
        if credentials is None:
            # It may have been given some before.
            return handler
    _give(handler, {"uri": url, **credentials})
    return handler


def _give(handler: Any, credentials: dict[str, Any]) -> None:
    """Call add_password() of a handler."""
    before = getattr(handler, "passwd", None)
    if not hasattr(before, "find_user_password"):
        # What they are called is between whoever made it and whoever gives them.
        handler.add_password(**{"realm": "encore.storage", **credentials})
        return
    from urllib.request import HTTPPasswordMgr, HTTPPasswordMgrWithDefaultRealm

    given = _checked(credentials)
    if given.get("realm") is None and type(before) is HTTPPasswordMgr:
        # This one knows of no password for any realm.
        manager: Any = HTTPPasswordMgrWithDefaultRealm()
        manager.passwd.update(vars(before)["passwd"])
        handler.passwd = manager
        handler.add_password = manager.add_password
    handler.add_password(given.get("realm"), given.get("uri"), given["username"], given["password"])


def _is_plain(handler: Any) -> bool:
    """Whether all that a handler is needed for is to know passwords."""
    from urllib.request import HTTPBasicAuthHandler, HTTPDigestAuthHandler

    if not isinstance(handler, HTTPBasicAuthHandler | HTTPDigestAuthHandler):
        return False
    # A subclass that has a say in requests and answers is to have it.
    own = [kind for kind in type(handler).__mro__ if kind.__module__ != "urllib.request"]
    return not any(
        name.startswith(("http_", "https_", "retry_http_", "get_"))
        for kind in own
        for name in vars(kind)
    )
