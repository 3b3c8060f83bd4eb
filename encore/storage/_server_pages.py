"""Pages for people: the list of keys, one key, upload and deletion, in plain HTML without scripts.

Nothing changes by GET. Each form that changes something holds a token of its own user, and other
sites can neither read it nor make one; where a request comes from is looked at before.
"""

from __future__ import annotations

from ._keys import check_key
from ._server_page_frame import Site
from ._server_page_key import answer_download, answer_key, ask_deletion, delete
from ._server_page_list import answer_list
from ._server_page_markup import element
from ._server_page_text import shown_key
from ._server_page_upload import ask_upload, upload
from ._server_requests import RequestError
from ._server_responses import REASONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._server_requests import Request
    from ._server_responses import Response
    from .abstract_store import AbstractReadOnlyStore
    from .server import StoreApplication

__all__ = ["answer_page", "error_page", "is_for_people"]

_POSTED = ("upload", "delete")


def answer_page(
    request: Request, store: AbstractReadOnlyStore, application: StoreApplication
) -> Response:
    """Answer a GET, HEAD or POST of ``/``, ``/browse`` or anything below.

    Raises
    ------
    RequestError
        If there is no such page, or something is wrong with the request.
    """
    site = Site(request, application, store)
    page = request.path.removeprefix("/").removeprefix("browse").removeprefix("/")
    is_posted = request.method == "POST"
    if is_posted and page not in _POSTED:
        allow = ("Allow", "GET, HEAD, OPTIONS")
        raise RequestError(405, "this page takes no form", "ValueError", [allow])
    if not page:
        return answer_list(site)
    if page == "upload":
        return (upload if is_posted else ask_upload)(site, _key_of(site))
    answers = {
        "key": answer_key,
        "download": answer_download,
        "delete": delete if is_posted else ask_deletion,
    }
    answer = answers.get(page)
    if answer is None:
        raise RequestError(404, "there is no such page", "KeyError")
    key = _key_of(site)
    if key is None:
        raise RequestError(400, "there is no key in this URL")
    return answer(site, key)


def _key_of(site: Site) -> str | None:
    key = site.field("key")
    if key is None:
        return None
    try:
        check_key(key)
    except ValueError as error:
        raise RequestError(400, f"this is no key: {error}") from error
    site.request.key = key
    return key


def is_for_people(request: Request) -> bool:
    """Whether whoever asks wants to see a page if something goes wrong."""
    path = request.path
    if path in ("/", "/browse") or path.startswith("/browse/"):
        return True
    return "text/html" in (request.header("Accept") or "").lower()


def error_page(response: Response, request: Request, application: StoreApplication) -> Response:
    """Return a page that says what an error in JSON says, with the same status and headers."""
    import json

    assert isinstance(response.body, bytes)
    message: str = json.loads(response.body)["error"]
    message = f"{message[:1].upper()}{message[1:]}"
    key = request.key
    # JSON names the key in ASCII.
    before, found, behind = message.partition(ascii(key)) if key else (message, "", "")
    title = REASONS[response.status]
    site = Site(request, application)
    own = [header for header in response.headers if header[0] != "Content-Type"]
    return site.answer(
        title,
        element("h1", title),
        element("p", before, shown_key(key) if found and key else None, behind),
        element("p", element("a", "All keys", class_="button", href=site.link())),
        status=response.status,
        headers=own,
    )
