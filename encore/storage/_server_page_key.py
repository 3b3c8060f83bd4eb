"""One key: what is known of it, its download, and its end."""

from __future__ import annotations

from ._server_page_changes import LONGEST_ETAG, change, etag_field, read_posted, token_field
from ._server_page_markup import Html, element
from ._server_page_text import exact_size, pretty, readable, shown_key, utc
from ._server_values import answer_data
from .errors import IntegrityError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._server_page_frame import Site
    from ._server_responses import Response
    from .value import Value

__all__ = ["answer_download", "answer_key", "ask_deletion", "delete"]

# Metadata may be far larger than what anybody reads.
_LONGEST = 100_000


def answer_key(site: Site, key: str) -> Response:
    value = site.store.get(key)
    return site.answer(
        readable(key),
        element("h1", shown_key(key)),
        _facts(value),
        element(
            "div",
            element("a", "Download", class_="button strong", href=site.link("download", key=key)),
            element("a", "Replace", class_="button", href=site.link("upload", key=key))
            if site.is_writable
            else None,
            element("a", "Delete", class_="button danger", href=site.link("delete", key=key))
            if site.is_writable
            else None,
            class_="actions",
        ),
        element("h2", "Metadata"),
        _metadata(value),
    )


def _facts(value: Value) -> Html:
    facts = [
        ("Size", exact_size(value.size)),
        ("Created", utc(value.created)),
        ("Modified", utc(value.modified)),
        ("ETag", None if value.etag is None else element("code", readable(value.etag))),
    ]
    return element(
        "dl",
        ((element("dt", name), element("dd", fact)) for name, fact in facts if fact is not None),
    )


def _metadata(value: Value) -> list[Html]:
    try:
        metadata: Any = value.metadata
        text, size = pretty(metadata, _LONGEST)
    except (IntegrityError, ValueError):
        return [element("p", "The metadata are damaged.", class_="alert")]
    if not metadata:
        return [element("p", "There are none.")]
    content = [element("pre", text, tabindex="0")]
    if size > _LONGEST:
        note = f"This is the beginning; there are {size:,} characters."
        content.append(element("p", note, class_="hint"))
    return content


def answer_download(site: Site, key: str) -> Response:
    """Answer with the data, in a way that no browser shows as a page of ours."""
    response = answer_data(site.request, site.store.get(key), key)
    headers = [
        (name, text)
        for name, text in response.headers
        if name not in ("Content-Type", "Content-Disposition")
    ]
    if response.status != 304:
        headers.append(("Content-Type", "application/octet-stream"))
        headers.append(("Content-Disposition", _disposition(key)))
    response.headers = headers
    return response


def _disposition(key: str) -> str:
    """Return what names the file after the last part of a key (RFC 6266)."""
    from urllib.parse import quote

    name = "".join(
        each if each.isprintable() and each not in '\\/:*?"<>|' else "_"
        for each in key.rpartition("/")[2]
    )
    if not name.strip(". "):
        name = "data"
    # For programs that know no UTF-8 here.
    plain = "".join(each if each.isascii() and each != "%" else "_" for each in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def ask_deletion(site: Site, key: str) -> Response:
    site.writable()
    value = site.store.get(key)
    return site.answer(
        "Delete a key",
        element("h1", "Delete this key?"),
        element("p", shown_key(key)),
        _facts(value),
        element(
            "form",
            token_field(site),
            etag_field(value),
            element(
                "div",
                element("button", "Delete", type="submit", class_="strong danger"),
                element("a", "Keep it", class_="button", href=site.link("key", key=key)),
                class_="actions",
            ),
            method="post",
            action=site.link("delete", key=key),
            enctype="multipart/form-data",
        ),
    )


def delete(site: Site, key: str) -> Response:
    store = site.writable()
    fields, _ = read_posted(site, {"etag": LONGEST_ETAG})
    change(store, "delete", key, fields.get("etag", ""))
    return site.answer(
        "Deleted",
        element("h1", "Deleted"),
        element("p", shown_key(key), " has been deleted."),
        element("p", element("a", "All keys", class_="button", href=site.link())),
    )
