"""What answers at the URL of a query: a server of ours, one of the kind that EnCore 0.8 talked to, or neither."""

from __future__ import annotations

from ._http_errors import line_of, shown_url
from ._remote_encore import EncoreServer
from ._remote_server import RemoteServer, is_page
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._http import Client
    from ._http_response import Response

__all__ = ["find_server"]

# What a server answers that knows no OPTIONS, or has nothing there. Others may be another answer in a
# moment, or are about who is asking.
_ANSWERS = (frozenset(range(400, 500)) - {401, 403, 407, 408, 425, 429}) | {501}

# A server of 0.8's kind may want to know the names of criteria.
_REFUSED_CRITERIA = (400, 422)

# Longer descriptions are not ours.
_LONGEST = 1 << 16

# So many folders above are looked at.
_MOST_ABOVE = 4

# What no key has in its metadata.
_NOBODY = "encore.storage.nobody=%22nobody%22"


def find_server(
    client: Client,
    url: Callable[[str, str], str],
    query_url: str,
    current: Callable[[], RemoteServer],
    base_url: str | None = None,
) -> RemoteServer:
    """Ask a server what it is; StoreError if it is none of a store.

    Parameters
    ----------
    client, url, query_url, current
        See RemoteServer.
    base_url : str, optional
        What the URLs of all keys begin with, and a slash.
    """
    with client.request("OPTIONS", query_url, expect=_ANSWERS) as response:
        said = _said(response)
    if said is not None and response.status == 200 and said.get("encore") == 1:
        _check_urls(client, said, query_url, base_url)
        info = said.get("info")
        found = {**(info if isinstance(info, dict) else {}), "repeats": said.get("repeats")}
        return EncoreServer(client, url, query_url, current, found)
    _check_no_refusal(client, query_url, response, said)
    if response.status != 405 or is_page(response):
        # It may answer anything with that, and know nothing of a store.
        _check_classic(client, query_url)
    return RemoteServer(client, url, query_url, current)


def _said(response: Response) -> dict[str, Any] | None:
    """Return the JSON object that an answer is; None if it is none, or a long one."""
    return _object(_text(response)) if _is_json(response) else None


def _is_json(response: Response) -> bool:
    return (response.headers.get("Content-Type") or "").lower().startswith("application/json")


def _text(response: Response) -> bytes:
    """Return the beginning of an answer, which is the whole of any that is ours."""
    response.paced(_LONGEST)
    text = response.read(_LONGEST)
    while piece := response.read(_LONGEST):
        text += piece
        if len(text) > _LONGEST:
            break
    return text


def _object(text: bytes) -> dict[str, Any] | None:
    import json

    if len(text) > _LONGEST:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _check_no_refusal(
    client: Client, query_url: str, response: Response, said: dict[str, Any] | None
) -> None:
    """Raise a StoreError if it is one of ours that refuses: nothing is there, or it speaks HTTPS."""
    if said is None or response.status < 400 or not isinstance(said.get("kind"), str):
        return
    text = f"{shown_url(query_url)}: {line_of(said.get('error')) or f'status {response.status}'}"
    if response.status in (404, 405):
        root = _root_above(client, query_url)
        if root is not None:
            text += f"; the root of this server is {root}, its keys are at {root}keys, the query is at {root}query"
    raise StoreError(text)


def _root_above(client: Client, url: str) -> str | None:
    """Return the folder above a URL that a server of ours has as its root."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    folders = parts.path.split("/")[1:-1]
    for count in range(len(folders), max(-1, len(folders) - _MOST_ABOVE), -1):
        path = "/".join(["", *folders[:count], ""])
        root = parts._replace(path=path, query="", fragment="").geturl()
        try:
            with client.request("GET", f"{root}about", expect=_ANSWERS) as response:
                said = _said(response)
        except StoreError:
            return None
        if response.status == 200 and said is not None and said.get("encore") == 1:
            # It knows itself what it has instead of keys.
            return None if said.get("static") else shown_url(root)
    return None


def _check_classic(client: Client, query_url: str) -> None:
    """Ask for what no key has; StoreError if the answer is none to a query."""
    url = f"{query_url}{'&' if '?' in query_url else '?'}{_NOBODY}"
    with client.request("GET", url, expect=_ANSWERS) as response:
        status = response.status
        is_json = _is_json(response)
        text = _text(response).strip() if is_json or is_page(response) else b""
        said = _object(text) if is_json else None
    _check_no_refusal(client, query_url, response, said)
    why = None
    if not 200 <= status < 300 and status not in _REFUSED_CRITERIA:
        why = f"status {status}"
    elif text and status < 300:
        why = f"a query is answered with {'JSON' if is_json else 'HTML'}"
    if why is not None:
        raise StoreError(f"{shown_url(query_url)}: this is no server of a store: {why}")


def _check_urls(client: Client, said: dict[str, Any], query_url: str, base_url: str | None) -> None:
    """Raise a StoreError if one of ours has its query, or the keys, somewhere else."""
    from urllib.parse import urljoin

    # As the server sees it: a proxy may have given it another one.
    path = said.get("path")
    if not isinstance(path, str):
        return
    if path != "/query":
        there = shown_url(urljoin(query_url, "query"))
        raise StoreError(f"{shown_url(query_url)}: query_url of this server is {there}")
    keys = urljoin(query_url, "keys")
    if base_url is None or base_url.removesuffix("/") == keys:
        return
    base_url = base_url.removesuffix("/")
    with client.request("OPTIONS", base_url, expect=_ANSWERS) as response:
        said = _said(response) or {}
    path = said.get("path", "/keys")
    if response.status in (404, 410) or path != "/keys":
        raise StoreError(f"{shown_url(base_url)}: base_url of this server is {shown_url(keys)}")
