"""A value behind a URL."""

from __future__ import annotations

import io

from ._http_errors import http_date, shown_url
from ._metadata import copy_of, normalise
from ._streams import check_bounds, slice_bounds
from ._url_parts import NOTHING, content_range, part_of, stream_of, wanted_range
from .errors import StoreError, shown
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, BinaryIO
    from urllib.request import OpenerDirector

    from ._http import Client
    from ._http_response import Headers, Response

__all__ = ["URLValue"]

# Who refuses HEAD with one of these may answer GET all the same (signed URLs are for one method).
_NO_HEAD = frozenset({400, 403, 405, 406, 501})

# These have all data.
_WHOLE = frozenset({200, 203})


class Facts:
    """What the headers of an answer say of the data."""

    __slots__ = ("_created", "_date", "_modified", "etag", "size")

    def __init__(self, headers: Headers, size: int | None) -> None:
        self.size = size
        self.etag = headers.get("ETag")
        self._date = headers.get("Last-Modified")
        # Our server says it exactly.
        self._modified = headers.get("Encore-Modified")
        self._created = headers.get("Encore-Created")

    # They are read when they are wanted, which takes longer than the rest of a small answer.

    @property
    def modified(self) -> float | None:
        return http_date(self._date) if self._modified is None else _number(self._modified)

    @property
    def created(self) -> float | None:
        return _number(self._created)

    def _marks(self) -> tuple[str | None, str | None, int | None]:
        # A cache on the way may make an etag weak.
        return self.etag and self.etag.removeprefix("W/"), self._modified or self._date, self.size

    @property
    def version(self) -> tuple[Any, ...] | None:
        """What is another one when the data are others; None if nothing is."""
        etag, date, size = self._marks()
        return (etag,) if etag else (date, size) if date else None

    def agrees_with(self, other: Facts) -> bool:
        """Whether both may be of the same data."""
        mine, theirs = self._marks(), other._marks()
        if mine[0] and theirs[0]:
            return mine[0] == theirs[0]
        # Dates are coarse, so the size has to be the same too.
        pairs = zip(mine[1:], theirs[1:], strict=True)
        return all(one == other for one, other in pairs if one is not None and other is not None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if number - number == 0 else None


class URLValue(Value):
    """A value whose data are fetched from a URL whenever they are asked for.

    What is said of the data comes with the first answer: of HEAD, if nothing was read before. A
    range is asked for as one, where the server can do that. Data that were replaced after the first
    answer are a StoreError.

    Parameters
    ----------
    url : str
    metadata : dict, optional
    opener : urllib.request.OpenerDirector, optional
        Opens the URL; urllib's own by default.
    timeout : float, optional
        Seconds to wait for the server.
    """

    #: Of the store it comes from, where a missing one is a KeyError.
    _key: str | None = None
    _client: Client | None = None
    _facts: Facts | None = None

    def __init__(
        self,
        url: str,
        metadata: Mapping[str, Any] | None = None,
        opener: OpenerDirector | None = None,
        *,
        timeout: float = 30.0,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f"url is a str, not {shown(url)}")
        self.url = url
        self.timeout = timeout
        self._metadata: Mapping[str, Any] = {} if metadata is None else normalise(metadata)
        self._opener = opener

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_url(self.url)!r})"

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)

    # What the server says of the data

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self._known().size

    @property
    def modified(self) -> float | None:  # type: ignore[override]
        return self._known().modified

    @property
    def etag(self) -> str | None:  # type: ignore[override]
        return self._known().etag

    def _known(self) -> Facts:
        facts = self._facts
        if facts is None:
            with self._request("HEAD", expect=_NO_HEAD) as response:
                if response.status not in _NO_HEAD:
                    return self._learn(response, response.size)
            with self._request("GET") as response:
                return self._learn(response, response.size)
        return facts

    def _learn(self, response: Response, size: int | None) -> Facts:
        found, facts = Facts(response.headers, size), self._facts
        if facts is not None and not facts.agrees_with(found):
            raise StoreError(
                f"{shown_url(self.url)}: the data have changed since they were looked up",
                key=self._key,
            )
        # What one kind of answer leaves out another may have said.
        if facts is None or (facts.size is None and found.size is not None):
            self._facts = found
            return found
        return facts

    # The data

    @property
    def data(self) -> BinaryIO:
        return self._whole(None, None)

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        start, end = check_bounds(start, end)
        facts = self._facts
        size = None if facts is None else facts.size
        wanted = wanted_range(start, end, size)
        if wanted is None:
            # It cannot be said without the size; or not even with it, as nobody knows that.
            size = self._known().size
            wanted = "" if size is None else wanted_range(start, end, size)
        if wanted == NOTHING:
            return io.BytesIO()
        if not wanted:
            return self._whole(start, end)
        assert wanted is not None
        response = self._request("GET", headers={"Range": f"bytes={wanted}"}, expect=(416,))
        try:
            stream = self._cut(response, start, end)
        except BaseException:
            response.close()
            raise
        # Else the server has sent something that is no answer to this.
        return self._whole(start, end) if stream is None else stream

    def _cut(self, response: Response, start: int | None, end: int | None) -> BinaryIO | None:
        """Return the range out of an answer to a request for it; None if it is not in there."""
        if response.status in _WHOLE:
            return self._slice(response, start, end)
        if response.status == 416:
            response.close()
            # Not for its word alone: this would be an error that nobody sees.
            size = self._known().size
            if size is None or wanted_range(start, end, size) != NOTHING:
                return None
            return io.BytesIO()
        found = content_range(response.headers.get("Content-Range"))
        if response.status == 206 and found is not None:
            first, last, total = found
            begin, stop = slice_bounds(start, end, total)
            facts = self._facts
            if (
                first <= begin < stop <= last + 1
                and response.size in (None, last - first + 1)
                and (facts is None or facts.size in (None, total))
            ):
                self._learn(response, total)
                if (begin, stop - 1) == (first, last) and response.size is not None:
                    return stream_of(response, response.size)
                return part_of(self.url, response, begin - first, stop - begin)
        response.close()
        return None

    def _whole(self, start: int | None, end: int | None) -> BinaryIO:
        response = self._request("GET")
        try:
            if response.status not in _WHOLE:
                raise StoreError(f"{shown_url(self.url)}: status {response.status}", key=self._key)
            return self._slice(response, start, end)
        except BaseException:
            response.close()
            raise

    def _slice(self, response: Response, start: int | None, end: int | None) -> BinaryIO:
        """Return a range of an answer that has all data."""
        facts = self._learn(response, response.size)
        size = response.size if response.size is not None else facts.size
        if size is not None:
            begin, stop = slice_bounds(start, end, size)
            if begin == 0 and stop == response.size:
                return stream_of(response, stop)
            is_all = start is end is None
            return part_of(self.url, response, begin, stop - begin, is_all=is_all)
        if start is end is None:
            return stream_of(response, None)
        if (start or 0) >= 0 and (end is None or end >= 0):
            begin = start or 0
            return part_of(self.url, response, begin, end and max(0, end - begin), is_sure=False)
        with response:
            return io.BytesIO(response.read()[start:end])

    def _request(
        self,
        method: str,
        headers: Mapping[str, str] | None = None,
        expect: Collection[int] = (),
    ) -> Response:
        client = self._client
        if client is None:
            self._client = client = self._new_client()
        return client.request(method, self.url, headers=headers, key=self._key, expect=expect)

    def _new_client(self) -> Client:
        from ._http import Client

        transport: Any
        if self._opener is None and self.url[:5].lower() == "file:":
            from ._file_transport import FileTransport

            transport = FileTransport()
        else:
            from ._url_transport import URLTransport

            transport = URLTransport(self._opener)
        return Client(transport, timeout=self.timeout)
