"""Finding keys: ``/query`` as in EnCore 0.8 and by POST, and ``/keys`` page by page."""

from __future__ import annotations

from itertools import islice

from ._changes import ChangeTeller
from ._keys import MAX_PATTERN, check_page, key_matcher
from ._metadata import check_criteria, check_names, dumps, equal, matches, normalise
from ._server_requests import RequestError, read_json
from ._server_responses import REVALIDATED, Response, body_of, text_response
from .errors import (
    AuthorizationError,
    IntegrityError,
    StoreError,
    StoreOSError,
    TemporaryError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import Any

    from ._server_requests import Request
    from .abstract_store import AbstractReadOnlyStore

    Metadata = dict[str, Any]

__all__ = ["Query", "answer_keys", "answer_posted", "answer_query"]

# How many bytes of lines are sent at once.
_PIECE = 1 << 16

# What query() may take for something else than a criterion.
_ARGUMENTS = ("self", "select", "where")

_PAGE = 1000
_LONGEST_PAGE = 100_000


def _found(
    store: AbstractReadOnlyStore, criteria: Metadata, select: list[str] | None
) -> Iterator[tuple[str, Metadata]]:
    if isinstance(store, ChangeTeller):
        return store.query(select, where=criteria)
    # The query() of a store written for 0.8 takes no where.
    if criteria.keys().isdisjoint(_ARGUMENTS):
        return store.query(select, **criteria)
    return (
        (key, metadata if select is None else {n: metadata[n] for n in select if n in metadata})
        for key, metadata in store.query()
        if matches(metadata, criteria)
    )


def _found_keys(store: AbstractReadOnlyStore, criteria: Metadata) -> Iterator[str]:
    if isinstance(store, ChangeTeller):
        return store.query_keys(where=criteria)
    if criteria.keys().isdisjoint(_ARGUMENTS):
        return store.query_keys(**criteria)
    return (key for key, _ in _found(store, criteria, []))


# As in EnCore 0.8: criteria in the query of the URL, keys line by line


def answer_query(request: Request, store: AbstractReadOnlyStore) -> Response:
    given: Metadata = {}
    for name, text in _parameters(request):
        try:
            value = read_json(text)
        except RequestError as error:
            what = f'{name!a:.80}: {error.message}; a text stands in quotes: "text"'
            raise RequestError(400, what) from error
        if name in given and not equal(given[name], value):
            return _lines((), [REVALIDATED])
        given[name] = value
    try:
        criteria = normalise(given)
    except (TypeError, ValueError) as error:
        raise RequestError(400, str(error)) from error
    return _lines(_found_keys(store, criteria), [REVALIDATED])


def _parameters(request: Request) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    text = request.environ.get("QUERY_STRING", "")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise RequestError(400, "a query is UTF-8, percent-encoded") from error


def _lines(keys: Iterable[str], headers: list[tuple[str, str]]) -> Response:
    lines = []
    for key in keys:
        # Not only those of \n: programs of 0.8 take the answer apart in more ways than one.
        if len(key.splitlines()) != 1 or key.splitlines()[0] != key:
            raise RequestError(
                406, "there are keys with line breaks: POST to /query, which answers in JSON"
            )
        lines.append(f"{key}\n")
    return text_response(200, "".join(lines), headers)


def answer_keys(request: Request, store: AbstractReadOnlyStore) -> Response:
    """Answer with a page of keys, and where the next one is."""
    given = dict(_parameters(request))
    unknown = given.keys() - {"prefix", "start_after", "limit"}
    if unknown:
        raise RequestError(400, "there are the parameters prefix, start_after and limit")
    text = given.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise RequestError(400, f"limit is a number from 1 to {_LONGEST_PAGE}")
    limit = min(int(text), _LONGEST_PAGE)
    prefix = given.get("prefix", "")
    # One more, to see whether there are more.
    keys = list(store.keys(prefix, given.get("start_after"), limit + 1))
    headers = [REVALIDATED]
    if len(keys) > limit:
        from urllib.parse import quote, urlencode

        del keys[limit:]
        page = {"prefix": prefix, "start_after": keys[-1], "limit": str(limit)}
        script = quote(request.environ.get("SCRIPT_NAME", "").encode("latin-1", "replace"))
        headers.append(("Link", f'<{script}/keys?{urlencode(page)}>; rel="next"'))
    return _lines(keys, headers)


# By POST: JSON both ways

_NAMES = frozenset(("where", "select", "keys_only", "prefix", "glob", "start_after", "limit"))


class Query:
    """What is asked for by POST."""

    def __init__(self, content: Any) -> None:
        if not isinstance(content, dict):
            raise TypeError("a query is a JSON object")
        unknown = sorted(content.keys() - _NAMES)
        if unknown:
            raise ValueError(f"a query has no {unknown[0]!a:.80}")
        where = content.get("where")
        criteria = check_criteria({} if where is None else where, {})
        assert criteria is not None
        self.criteria = criteria
        self.select = check_names(content.get("select"))
        self.keys_only = content.get("keys_only", False)
        if not isinstance(self.keys_only, bool):
            raise TypeError("keys_only is true or false")
        prefix = content.get("prefix")
        self.prefix = "" if prefix is None else prefix
        self.start_after = content.get("start_after")
        self.limit = content.get("limit")
        check_page(self.prefix, self.start_after, self.limit)
        self.glob = content.get("glob")
        if isinstance(self.glob, str) and len(self.glob) > MAX_PATTERN:
            raise ValueError(f"a pattern has at most {MAX_PATTERN} characters here")
        self._match = key_matcher("*" if self.glob is None else self.glob)

    @property
    def is_sorted(self) -> bool:
        return bool(self.prefix) or self.start_after is not None or self.limit is not None

    def wants(self, key: str) -> bool:
        return (
            key.startswith(self.prefix)
            and (self.start_after is None or key > self.start_after)
            and (self.glob is None or bool(self._match(key)))
        )

    def keys(self, store: AbstractReadOnlyStore) -> Iterator[str]:
        """Return keys alone."""
        if self.criteria:
            keys = filter(self.wants, _found_keys(store, self.criteria))
            return iter(self._page(keys)) if self.is_sorted else keys
        if not self.is_sorted:
            return _found_keys(store, {}) if self.glob is None else store.glob(self.glob)
        return self._listed(store, self.start_after, self.limit)

    def _page(self, keys: Iterable[Any]) -> list[Any]:
        if self.limit is None:
            return sorted(keys, key=_key_of)
        from heapq import nsmallest

        return nsmallest(self.limit, keys, key=_key_of)

    def _listed(
        self, store: AbstractReadOnlyStore, start: str | None, limit: int | None
    ) -> Iterator[str]:
        if self.glob is None:
            return store.keys(self.prefix, start, limit)
        return islice(filter(self._match, store.keys(self.prefix, start)), limit)

    def items(self, store: AbstractReadOnlyStore) -> Iterator[tuple[str, Metadata]]:
        """Return keys and metadata."""
        if self.is_sorted and not self.criteria:
            return self._looked_up(store)
        found = _found(store, self.criteria, self.select)
        wanted = (item for item in found if self.wants(item[0]))
        return iter(self._page(wanted)) if self.is_sorted else wanted

    def _looked_up(self, store: AbstractReadOnlyStore) -> Iterator[tuple[str, Metadata]]:
        wanted = self.limit
        start = self.start_after
        while wanted is None or wanted > 0:
            last = None
            for last in self._listed(store, start, wanted):
                metadata = metadata_unless_damaged(store, last, self.select)
                if metadata is not None:
                    yield last, metadata
                    if wanted is not None:
                        wanted -= 1
            if wanted is None or last is None:
                break
            # Those that have gone meanwhile do not make it a shorter page, which would be the last.
            start = last


def metadata_unless_damaged(
    store: AbstractReadOnlyStore, key: str, select: list[str] | None = None
) -> Metadata | None:
    """Return the metadata of a key; None if they are damaged, or it is not there."""
    try:
        return store.get_metadata(key, select)
    except (KeyError, AuthorizationError, IntegrityError):
        return None
    except (TemporaryError, StoreOSError):
        raise
    except StoreError as error:
        if error.key == key:
            return None
        raise


def _key_of(item: Any) -> str:
    key: str = item if isinstance(item, str) else item[0]
    return key


def answer_posted(request: Request, store: AbstractReadOnlyStore, most: int) -> Response:
    content = request.json(most)
    try:
        query = Query(content)
    except (TypeError, ValueError) as error:
        raise RequestError(400, str(error), type(error).__name__) from error
    headers = [("Content-Type", "application/x-ndjson"), REVALIDATED]
    return Response(200, headers, body_of(_pieces(_json_lines(query, store))))


def _json_lines(query: Query, store: AbstractReadOnlyStore) -> Iterator[str]:
    import json

    if query.keys_only:
        for key in query.keys(store):
            yield json.dumps(key)
    else:
        for key, metadata in query.items(store):
            try:
                text = dumps(metadata)
            except ValueError:
                # Another program has written NaN: it does not hide the others.
                continue
            yield f"[{json.dumps(key)},{text}]"
    # So that an answer that is cut off is seen to be.
    yield "null"


def _pieces(lines: Iterator[str]) -> Generator[bytes, None, None]:
    piece: list[str] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line) + 1
        if size >= _PIECE:
            piece.append("")
            yield "\n".join(piece).encode("ascii")
            piece, size = [], 0
    piece.append("")
    yield "\n".join(piece).encode("ascii")
