"""The list of keys: all, those with a prefix, those whose metadata have what is asked for."""

from __future__ import annotations

from time import monotonic

from ._metadata import normalise
from ._server_page_markup import Html, element, text_field
from ._server_page_text import exact_size, readable, short_size, shown_key, utc
from ._server_queries import Query
from ._server_requests import RequestError, read_json
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from ._server_page_frame import Site
    from ._server_responses import Response
    from .abstract_store import AbstractReadOnlyStore

__all__ = ["answer_list"]

PAGE = 100

# Sizes and times are looked up key by key, for so many seconds: a list does not wait for a slow store.
PATIENCE = 0.5


def answer_list(site: Site) -> Response:
    prefix, after = site.field("prefix") or "", site.field("after")
    texts = [text for text in site.fields("where") if text]
    status, alert = 200, None
    keys: list[str] = []
    try:
        criteria = parse_criteria(texts)
    except ValueError as error:
        status, alert = 400, str(error)
    else:
        # One more, to see whether there are more.
        asked = {"where": criteria, "prefix": prefix, "start_after": after, "limit": PAGE + 1}
        keys = list(Query(asked).keys(site.store))
    has_more = len(keys) > PAGE
    del keys[PAGE:]
    return site.answer(
        "Keys",
        element("h1", "Keys"),
        _search(site, prefix, texts),
        element("p", alert, class_="alert", role="alert")
        if alert
        else _found(site, keys, has_more, bool(prefix or texts), after),
        _ways_on(site, prefix, texts, after, keys[-1] if has_more else None),
        status=status,
    )


def parse_criteria(texts: Sequence[str]) -> dict[str, Any]:
    """Return criteria from ``name=value``, where a value is JSON, or else text, as on the command line."""
    criteria: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Metadata are searched by name=value; “{readable(text)}” has no =.")
        if name in criteria:
            raise ValueError(f"“{readable(name)}” is asked for twice.")
        try:
            criteria[name] = read_json(value)
        except RequestError:
            criteria[name] = value
    try:
        return normalise(criteria)
    except ValueError as error:
        raise ValueError(f"Nothing can be found by this: {error}.") from error


def _search(site: Site, prefix: str, texts: Sequence[str]) -> Html:
    criteria = [
        element("div", text_field("and metadata" if number else "Metadata", "where", text, number))
        for number, text in enumerate((*texts, ""))
    ]
    return element(
        "form",
        element(
            "div",
            element("div", text_field("Key begins with", "prefix", prefix)),
            criteria,
            class_="fields",
        ),
        element(
            "p",
            "Metadata are searched by ",
            element("code", "name=value"),
            "; a value is JSON, or else text.",
            class_="hint",
        ),
        element(
            "div",
            element("button", "Search", type="submit", class_="strong"),
            element("a", "Show all", href=site.link()) if prefix or texts else None,
            class_="actions",
        ),
        method="get",
        action=site.link(),
        role="search",
        class_="search",
    )


def _found(site: Site, keys: list[str], has_more: bool, is_search: bool, after: str | None) -> Html:
    if not keys:
        if after is not None:
            text = "There are no keys behind this one."
        else:
            text = "No key is like this." if is_search else "There are no keys yet."
        return element("p", text)
    number = f"{len(keys)} key{'' if len(keys) == 1 else 's'}"
    about = (
        [number, " behind ", element("bdi", readable(after), class_="key")]
        if after is not None
        else [number]
    )
    if has_more:
        about.append("; there are more")
    rows = (
        element(
            "tr",
            element(
                "th",
                element("a", shown_key(key), href=site.link("key", key=key)),
                scope="row",
            ),
            cells,
        )
        for key, cells in _facts(site.store, keys)
    )
    return element(
        "table",
        element("caption", about),
        element(
            "thead",
            element(
                "tr",
                element("th", "Key", scope="col"),
                element("th", "Size", scope="col", class_="number"),
                element("th", "Modified", scope="col"),
            ),
        ),
        element("tbody", rows),
    )


def _facts(store: AbstractReadOnlyStore, keys: list[str]) -> Iterator[tuple[str, Html]]:
    """Yield each key with the cells that show its size and time."""
    end = monotonic() + PATIENCE
    for key in keys:
        size, modified = Html("-"), Html("-")
        if monotonic() < end:
            try:
                value = store.get(key)
                size = element("span", short_size(value.size), title=exact_size(value.size))
                modified = utc(value.modified)
            except (StoreError, KeyError):
                # It has gone, or is damaged: its own page says so.
                pass
        cells = element("td", size, class_="number") + element("td", modified)
        yield key, Html(cells)


def _ways_on(
    site: Site, prefix: str, texts: list[str], after: str | None, last: str | None
) -> Html | None:
    if after is None and last is None:
        return None
    return element(
        "nav",
        element("a", "First page", class_="button", href=site.link(prefix=prefix, where=texts))
        if after is not None
        else None,
        element(
            "a",
            "Next page",
            class_="button",
            rel="next",
            href=site.link(prefix=prefix, where=texts, after=last),
        )
        if last is not None
        else None,
        class_="actions",
        aria_label="Pages of the list",
    )
