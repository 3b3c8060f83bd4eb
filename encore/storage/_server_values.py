"""Answers that hold a value, or a part of one."""

from __future__ import annotations

from ._etags import format_etag
from ._metadata import dumps
from ._server_conditions import (
    check_read,
    format_date,
    is_conditional,
    is_same_etag,
)
from ._server_ranges import parse_range
from ._server_requests import RequestError
from ._server_responses import REVALIDATED, Response, Streamed
from ._streams import buffer_iterator
from .errors import IntegrityError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import BinaryIO

    from ._server_requests import Request
    from ._server_responses import Headers
    from .value import Value

__all__ = ["answer_data", "answer_metadata", "answer_value"]

# What is sent at once; data of up to this size are read before anything is sent.
PIECE = 1 << 18

# Types that no browser takes for a page or a script, given that it may not guess (nosniff): metadata
# are written by anybody who may write.
_HARMLESS = frozenset(
    (
        *("audio/flac", "audio/mpeg", "audio/ogg", "audio/wav", "audio/webm"),
        *("image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"),
        *("text/plain", "video/mp4", "video/ogg", "video/webm"),
    )
)
_BYTES = "application/octet-stream"

# Should a browser show it all the same: without scripts, and as of no origin.
_SANDBOX = ("Content-Security-Policy", "default-src 'none'; sandbox")


class Facts:
    """What the headers say of a value."""

    __slots__ = ("etag", "headers", "modified")

    def __init__(self, value: Value) -> None:
        etag, created, modified = value.etag, value.created, value.modified
        self.headers = [REVALIDATED]
        self.etag = None if etag is None else format_etag(etag)
        self.modified = modified
        if self.etag is not None:
            self.headers.append(("ETag", self.etag))
        date = format_date(modified)
        if date is not None:
            self.headers.append(("Last-Modified", date))
        if created is not None:
            self.headers.append(("Encore-Created", repr(float(created))))
        if modified is not None:
            self.headers.append(("Encore-Modified", repr(float(modified))))

    def not_modified(self, request: Request) -> Response | None:
        """Return what is answered to those who have it already."""
        if not is_conditional(request):
            return None
        tags = () if self.etag is None else (self.etag,)
        return None if check_read(request, tags, self.modified) else Response(304, self.headers)


def answer_data(request: Request, value: Value, key: str) -> Response:
    """Answer with the data, or the range of them that is asked for."""
    # Of a value behind a URL the size is known when it has been opened.
    size = value.size
    facts = Facts(value)
    known = facts.not_modified(request)
    if known is not None:
        return known
    part = None
    asked = request.header("Range")
    # Of HEAD there are no ranges (RFC 9110, section 14.2).
    if asked is not None and size is not None and request.method == "GET":
        if_range = request.header("If-Range")
        if if_range is None or is_same_etag(if_range, facts.etag):
            try:
                part = parse_range(asked, size)
            except RequestError as error:
                error.headers += facts.headers
                raise
    headers = [*_kind_headers(value, key), ("Accept-Ranges", "bytes"), *facts.headers]
    if part is not None:
        begin, end = part
        headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{size}"))
        return _with_data(206, headers, value.range(begin, end), end - begin)
    if request.is_head:
        return Response(200, headers, None, size)
    return _with_data(200, headers, value.data, size)


def _with_data(status: int, headers: Headers, stream: BinaryIO, size: int | None) -> Response:
    pieces = _pieces(b"", stream, size)
    if size is not None and size <= PIECE:
        return Response(status, headers, b"".join(pieces))
    return Response(status, headers, Streamed(pieces), size)


def _pieces(before: bytes, stream: BinaryIO, size: int | None) -> Generator[bytes, None, None]:
    """Yield what comes before the data, and exactly as much of a stream as was promised."""
    with stream:
        while size is None or size > 0:
            piece = stream.read(PIECE if size is None else min(PIECE, size))
            if not piece:
                if size is not None:
                    raise IntegrityError(f"the data end {size} bytes too early")
                break
            if size is not None:
                size -= len(piece)
            yield before + piece if before else piece
            before = b""
        if before:
            yield before


def _kind_headers(value: Value, key: str) -> Headers:
    """Return headers that tell what the data are, in a way that makes no page of the server's own of them."""
    from urllib.parse import quote

    try:
        given = value.metadata.get("type")
    except StoreError:
        # Damaged metadata are no reason to keep the data back.
        given = None
    kind, _, parameters = given.partition(";") if isinstance(given, str) else (_BYTES, "", "")
    kind = kind.strip().lower()
    if kind in _HARMLESS:
        if kind == "text/plain" and parameters.replace(" ", "").lower() == "charset=utf-8":
            kind = "text/plain; charset=utf-8"
        disposition = "inline"
    else:
        kind, disposition = _BYTES, "attachment"
    name = quote(key.rpartition("/")[2] or "data", safe="")
    return [
        ("Content-Type", kind),
        ("Content-Disposition", f"{disposition}; filename*=UTF-8''{name}"),
        _SANDBOX,
    ]


def answer_metadata(request: Request, value: Value) -> Response:
    """Answer with the metadata as JSON."""
    facts = Facts(value)
    known = facts.not_modified(request)
    if known is not None:
        return known
    headers = [("Content-Type", "application/json"), *facts.headers]
    return Response(200, headers, metadata_text(value))


def metadata_text(value: Value) -> bytes:
    """Return the metadata as JSON; IntegrityError if they are none, which only another program can have written."""
    try:
        return dumps(value.metadata).encode("ascii")
    except ValueError as error:
        raise IntegrityError("the metadata are no JSON") from error


def answer_value(request: Request, value: Value) -> Response:
    """Answer with the metadata as JSON, and the data behind them if they are not larger than the client wants."""
    size = value.size
    facts = Facts(value)
    known = facts.not_modified(request)
    if known is not None:
        known.headers.append(("Vary", "Encore-Data-Limit"))
        return known
    metadata = metadata_text(value)
    length = len(metadata)
    limit = request.number("Encore-Data-Limit")
    data: bytes | None = None
    if size is None and limit is not None and limit <= PIECE:
        # What is small is read, and then its size is known.
        with value.data as source:
            data = b"".join(buffer_iterator(source, limit + 1, max_bytes=limit + 1))
        if len(data) <= limit:
            size = len(data)
        else:
            data = None
    headers = [
        ("Content-Type", _BYTES),
        ("Encore-Metadata-Length", str(length)),
        *facts.headers,
        ("Vary", "Encore-Data-Limit"),
    ]
    if size is not None:
        headers.append(("Encore-Data-Length", str(size)))
    if limit is not None and (size is None or size > limit):
        return Response(200, headers, metadata)
    if data is not None:
        return Response(200, headers, metadata + data)
    whole = None if size is None else length + size
    if request.is_head:
        return Response(200, headers, None, whole)
    pieces = _pieces(metadata, value.data, size)
    if size is not None and size <= PIECE:
        return Response(200, headers, b"".join(pieces))
    return Response(200, headers, Streamed(pieces), whole)
