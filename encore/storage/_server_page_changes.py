"""Changes that people make: by forms of ours, and only to what they were shown."""

from __future__ import annotations

import time

from ._etags import format_etag, parse_etag
from ._server_page_forms import read_form
from ._server_page_markup import element
from ._server_page_tokens import is_valid, make_token
from ._server_requests import RequestError
from .errors import PreconditionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._server_page_forms import FilePart
    from ._server_page_frame import Site
    from ._server_page_markup import Html
    from .abstract_store import AbstractStore
    from .value import Value

__all__ = ["LONGEST_ETAG", "change", "etag_field", "read_posted", "token_field"]

LONGEST_ETAG = 1 << 16
_LONGEST_TOKEN = 200

# What a form has besides its fields and its file: heads and boundaries.
_BESIDE = 1 << 16


def token_field(site: Site) -> Html:
    """Return the field that shows that a form is one of ours."""
    token = make_token(site.application.secret, site.request.user, time.time())
    return element("input", type="hidden", name="token", value=token)


def etag_field(value: Value) -> Html | None:
    """Return the field that tells what was shown; None if there is no telling."""
    if value.etag is None:
        return None
    # In ASCII: an etag may be any text, of which a form would change the line breaks.
    return element("input", type="hidden", name="etag", value=format_etag(value.etag))


def read_posted(
    site: Site, limits: dict[str, int], has_file: bool = False
) -> tuple[dict[str, str], FilePart | None]:
    """Return the fields of a form, and its file; RequestError if it is not one of ours.

    Parameters
    ----------
    site : Site
    limits : dict of str to int
        How many bytes each field may have.
    has_file : bool
        Whether there may be a file.
    """
    request, most = site.request, site.application.max_body if has_file else 0
    limits = {"token": _LONGEST_TOKEN, **limits}
    body = request.body(most + sum(limits.values()) + _BESIDE)
    fields, file = read_form(request.environ.get("CONTENT_TYPE"), body, limits, most)
    token = fields.pop("token", "")
    if not is_valid(token, site.application.secret, request.user, time.time()):
        message = "This form is too old, or not one of this server: load it again."
        raise RequestError(403, message, "AuthorizationError")
    return fields, file


def change(store: AbstractStore, method: str, key: str, etag: str, *args: Any) -> None:
    """Call a method of the store that changes a key, if the key has not changed since it was shown.

    Parameters
    ----------
    store : AbstractStore
    method : str
    key : str
    etag : str
        The field of the form, empty if there was none.
    *args
        What the method takes besides.
    """
    seen = parse_etag(etag)
    if seen is None and etag:
        raise RequestError(400, "this is no entity tag")
    # Gone is gone, whatever it was.
    value = store.get(key)
    only: dict[str, str] = {}
    try:
        if seen is not None and store.info().get("conditional"):
            only["if_match"] = seen
        elif seen is not None and value.etag != seen:
            raise PreconditionError(key=key)
        getattr(store, method)(key, *args, **only)
    except PreconditionError as error:
        message = "It has changed since it was shown to you; nothing was done."
        raise RequestError(412, message, "PreconditionError") from error
