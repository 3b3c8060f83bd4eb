"""Who asks a server: what connect() was given, and what stands in a URL."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ssl import SSLContext
    from typing import Any

    Login = tuple[str, str]

__all__ = ["transport_of", "without_login"]


def transport_of(
    credentials: Any, login: Login | None, urls: Sequence[str], ssl_context: SSLContext | None
) -> tuple[str, Any]:
    """Return the tag that stands for the user, and what sends requests.

    Parameters
    ----------
    credentials
        As ``DynamicURLStore.connect()`` takes them.
    login : (user name, password) or None
        What the first URL has, for its host and port alone; used if there are no credentials.
    urls : sequence of str
        Where requests will go.
    ssl_context : ssl.SSLContext or None
    """
    session = None
    tag = "" if login is None else login[0]
    if isinstance(credentials, dict):
        login = _login_of(credentials)
        tag = login[0]
    elif credentials is not None:
        # What they are instead is not told: there are secrets in there.
        if not isinstance(credentials, tuple) or len(credentials) != 2:
            raise TypeError(
                "credentials are None, a dict with 'username' and 'password', or a tuple (user tag, session)"
            )
        tag, session = credentials
        if not isinstance(tag, str):
            raise TypeError("a user tag is a str")
    if session is not None:
        from ._http_session import SessionTransport

        return tag, SessionTransport(session)
    from ._http_connections import HTTPTransport

    for url in urls:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError("a URL is http://... or https://..., unless a session knows better")
    auth = None
    if login is not None:
        auth = _Handler(*login, None if isinstance(credentials, dict) else urls[0])
    return tag, HTTPTransport(auth, ssl_context=ssl_context)


def without_login(url: str) -> tuple[str, Login | None]:
    """Return a URL without user name and password, and these."""
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))


class _Handler:
    """User name and password for whatever a server asks for, as a handler of urllib gives them.

    Parameters
    ----------
    name, password : str
    url : str or None
        If they are only for the server of this URL.
    """

    def __init__(self, name: str, password: str, url: str | None) -> None:
        self._login = name, password
        self._url = url
        self.passwd = self

    def __repr__(self) -> str:
        return "<_Handler>"

    def find_user_password(self, realm: str | None, url: str) -> Login | tuple[None, None]:
        from ._http_origins import origin_of

        if self._url is not None and origin_of(url).key != origin_of(self._url).key:
            return None, None
        return self._login


def _login_of(credentials: dict[str, Any]) -> Login:
    name, password = credentials.get("username"), credentials.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        # Which is what, nobody sees here: there is a password among them.
        raise TypeError("credentials have a 'username' and a 'password', each a str")
    return name, password
