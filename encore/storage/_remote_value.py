"""The value of a key of a server: small data are there already, larger ones are fetched when they are asked for."""

from __future__ import annotations

import io

from ._http_errors import http_date
from ._http_ranges import part_of, range_header, whole_of
from ._metadata import copy_of
from ._streams import check_bounds, slice_bounds
from .errors import StoreError
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from ._http_response import Headers, Response
    from ._remote_server import RemoteServer

    Metadata = dict[str, Any]

__all__ = ["RemoteValue", "number_of"]

# They tell data apart where there is no etag.
_DATES = ("Last-Modified", "Encore-Modified")


class RemoteValue(Value):
    """What a server has said of a key.

    Data that are fetched later are those of the same moment, or it is a StoreError that says that they
    have been overwritten.

    Parameters
    ----------
    key : str
    headers : Headers
        Of the answer.
    size : int or None
    etag : str or None
        That of data and metadata together.
    metadata : dict
        Nobody else's.
    data : bytes or None
        None if they have to be fetched.
    server : callable
        Returns the server; raises StoreError if the store is not connected any more.
    """

    def __init__(
        self,
        key: str,
        headers: Headers,
        size: int | None,
        etag: str | None,
        metadata: Metadata,
        data: bytes | None,
        server: Callable[[], RemoteServer],
    ) -> None:
        self._key = key
        self._metadata = metadata
        self._data = data
        self._server = server
        # That of a server of 0.8's kind says nothing of the metadata.
        self._tag = headers.get("ETag")
        self._dates = {name: headers.get(name) for name in _DATES}
        created, modified = _stamp(headers, "Encore-Created"), _stamp(headers, "Encore-Modified")
        self.size = size
        self.created = created
        self.modified = http_date(headers.get("Last-Modified")) if modified is None else modified
        self.etag = etag

    @property
    def metadata(self) -> Metadata:
        return copy_of(self._metadata)

    @property
    def permissions(self) -> dict[str, set[str]]:
        return self._server().permissions(self._key)

    @property
    def data(self) -> BinaryIO:
        if self._data is not None:
            return io.BytesIO(self._data)
        return whole_of(self._open({}))

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        start, end = check_bounds(start, end)
        if self._data is not None:
            return io.BytesIO(self._data[start:end])
        if self.size is not None:
            begin, stop = slice_bounds(start, end, self.size)
            length: int | None = stop - begin
        elif (start or 0) < 0 or (end or 0) < 0:
            return super().range(start, end)
        else:
            begin = start or 0
            length = None if end is None else max(0, end - begin)
        if length == 0:
            return io.BytesIO()
        if begin == 0 and length == self.size:
            return self.data
        response = self._open({"Range": range_header(begin, length)}, (416,))
        return part_of(response, begin, length)

    def _open(self, headers: dict[str, str], expect: tuple[int, ...] = ()) -> Response:
        """Ask for the data; StoreError unless they are those of this value."""
        if self.etag is not None and self._tag is not None:
            headers["If-Match"] = self._tag
        try:
            response = self._server().open_data(self._key, headers, (412, *expect))
        except KeyError as error:
            raise StoreError(
                f"{self._key!r} has been deleted since its value was fetched", key=self._key
            ) from error
        if not self._is_same(response):
            response.close()
            raise StoreError(
                f"{self._key!r} has been overwritten since its value was fetched", key=self._key
            )
        return response

    def _is_same(self, response: Response) -> bool:
        if response.status in (412, 416):
            # Of nothing there is no part.
            return response.status == 416 and self.size is None
        headers = response.headers
        if self._tag is not None:
            return headers.get("ETag") in (None, self._tag)
        for name, date in self._dates.items():
            if date is not None and headers.get(name) not in (None, date):
                return False
        return (
            response.status != 200
            or None in (response.size, self.size)
            or response.size == self.size
        )


def _stamp(headers: Headers, name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        stamp = float(text)
    except ValueError:
        return None
    # Neither NaN nor an infinity.
    return stamp if stamp - stamp == 0 else None


def number_of(headers: Headers, name: str) -> int | None:
    """Return a header that is a number of bytes, None if there is none."""
    text = headers.get(name)
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text)
