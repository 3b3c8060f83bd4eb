"""Uploads: a new key, or other data for one that is there."""

from __future__ import annotations

import io

from ._keys import check_key
from ._metadata import normalise
from ._server_page_changes import LONGEST_ETAG, change, etag_field, read_posted, token_field
from ._server_page_markup import Html, element, text_field
from ._server_page_text import shown_key
from ._server_requests import RequestError, read_json
from .errors import PreconditionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._server_page_forms import FilePart
    from ._server_page_frame import Site
    from ._server_responses import Response
    from ._streams import Readable
    from .abstract_store import AbstractStore
    from .value import Value

__all__ = ["ask_upload", "upload"]

# A file of up to this size is read before the store is asked for anything.
_AT_HAND = 1 << 18

_NEW_FIELDS = {"key": 4096, "metadata": 1 << 20, "overwrite": 9}
_OTHER_FIELDS = {"etag": LONGEST_ETAG}


def ask_upload(site: Site, key: str | None) -> Response:
    """Answer with the form for a new key, or for the data of one that is there."""
    site.writable()
    if key is None:
        title, what = "Upload", _new_fields()
    else:
        title, what = "Replace data", _replaced(key, site.store.get(key))
    return site.answer(
        title,
        element("h1", title),
        element(
            "form",
            token_field(site),
            what,
            # Behind all other fields, so that these are known when it arrives.
            element("label", "File", for_="file"),
            element("input", type="file", id="file", name="file", required=True),
            element(
                "div",
                element("button", title, type="submit", class_="strong"),
                element(
                    "a",
                    "Cancel",
                    class_="button",
                    href=site.link() if key is None else site.link("key", key=key),
                ),
                class_="actions",
            ),
            method="post",
            action=site.link("upload", key=key),
            enctype="multipart/form-data",
            accept_charset="utf-8",
        ),
    )


def _new_fields() -> list[Html | None]:
    return [
        text_field("Key", "key", hint="Without one, the name of the file."),
        element("label", "Metadata", for_="metadata"),
        element(
            "textarea",
            "{}",
            id="metadata",
            name="metadata",
            spellcheck="false",
            autocapitalize="off",
            aria_describedby="metadata-hint",
        ),
        element(
            "p",
            "A JSON object, such as ",
            element("code", '{"author": "me", "stars": 5}'),
            id="metadata-hint",
            class_="hint",
        ),
        element(
            "p",
            element("input", type="checkbox", id="overwrite", name="overwrite", value="yes"),
            element("label", "Overwrite data and metadata if the key is there", for_="overwrite"),
            class_="choice",
        ),
    ]


def _replaced(key: str, value: Value) -> list[Html | None]:
    return [
        etag_field(value),
        element("p", shown_key(key)),
        element("p", "It gets the data of a file; its metadata stay as they are.", class_="hint"),
    ]


def upload(site: Site, key: str | None) -> Response:
    store = site.writable()
    is_new = key is None
    fields, file = read_posted(site, _NEW_FIELDS if is_new else _OTHER_FIELDS, has_file=True)
    if file is None or not file.name:
        raise RequestError(400, "Choose a file.")
    try:
        if key is None:
            key = _key_of(fields, file)
            site.request.key = key
            _set_new(store, key, fields, file)
        else:
            change(store, "set_data", key, fields.get("etag", ""), _stream_of(file))
    except Exception as error:
        if file.error is not None and file.error is not error:
            # The store has made something else of it.
            raise file.error from error
        raise
    return site.see(site.link("key", key=key))


def _set_new(store: AbstractStore, key: str, fields: dict[str, str], file: FilePart) -> None:
    metadata = _metadata_of(fields.get("metadata", ""))
    only: dict[str, Any] = {}
    if "overwrite" not in fields:
        # Before all of a large file is read.
        if store.exists(key):
            raise _there()
        if store.info().get("conditional"):
            only = {"if_none_match": "*"}
    try:
        store.set(key, (_stream_of(file), metadata), **only)
    except PreconditionError as error:
        raise _there() from error


def _key_of(fields: dict[str, str], file: FilePart) -> str:
    try:
        return check_key(fields.get("key") or file.name)
    except ValueError as error:
        raise RequestError(400, f"This cannot be a key: {error}.") from error


def _metadata_of(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        return normalise(read_json(text))
    except RequestError as error:
        raise RequestError(400, "The metadata are no JSON.") from error
    except (TypeError, ValueError) as error:
        raise RequestError(400, f"The metadata are not right: {error}.") from error


def _stream_of(file: FilePart) -> Readable:
    """Return a stream that keeps no store waiting if there is little to be read."""
    left = file.most_left
    return io.BytesIO(file.read()) if left is not None and left <= _AT_HAND else file


def _there() -> RequestError:
    message = (
        "There is something under this key already. Go back, and choose another one, or tick the "
        "box that overwrites it."
    )
    return RequestError(412, message, "PreconditionError")
