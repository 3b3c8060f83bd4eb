"""Requests that a page of another site makes a browser send.

A browser sends them with the password that it remembers, or from a computer that needs none.
"""

from __future__ import annotations

from ._server_requests import RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._server_requests import Request

__all__ = ["check_origin", "host_of"]


def check_origin(request: Request) -> None:
    """Raise RequestError if a request that may change something comes from a page of another site."""
    site = request.header("Sec-Fetch-Site")
    if site is not None:
        # No page can set it.
        if site.strip().lower() in ("same-origin", "none"):
            return
    else:
        origin = request.header("Origin")
        if origin is None:
            # No browser, or a very old one.
            return
        # Not the scheme: it may be another between the browser and a proxy.
        if origin.partition("://")[2].lower() == (request.header("Host") or "").lower():
            return
    raise RequestError(403, "not from a page of another site", "AuthorizationError")


def host_of(request: Request) -> str:
    """Return the name, or address, that a request was sent to, without the port."""
    host = (request.header("Host") or "").strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
