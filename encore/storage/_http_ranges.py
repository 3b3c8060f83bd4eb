"""Half-open parts of what a URL holds, by Range requests (RFC 9110, section 14), whose ends are inclusive."""

from __future__ import annotations

import io

from ._http_errors import shown_url
from ._streams import BUFFER_SIZE, BufferIteratorIO, buffer_iterator, skip
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ._http_response import Response

__all__ = ["part_of", "range_header", "whole_of"]

# Small reads are served from a buffer of this size.
_READ_AHEAD = 65536


def range_header(begin: int, length: int | None) -> str:
    """Return the header that asks for `length` bytes from `begin` on; the last ones if `begin` is negative."""
    if begin < 0:
        return f"bytes={begin}"
    return f"bytes={begin}-" if length is None else f"bytes={begin}-{begin + length - 1}"


def whole_of(response: Response) -> BinaryIO:
    """Return a stream of the body of an answer."""
    return io.BufferedReader(response, _READ_AHEAD)


def part_of(response: Response, begin: int, length: int | None) -> BinaryIO:
    """Return a stream of what was asked for by range_header(), also where the server has sent more.

    Parameters
    ----------
    response : Response
        With status 200, 206 or 416.
    begin : int
    length : int or None
        At most so many bytes; None for all that there are.
    """
    if response.status == 416:
        response.close()
        return io.BytesIO()
    if response.status == 206:
        try:
            _check_part(response, begin, length)
        except BaseException:
            response.close()
            raise
        return whole_of(response)
    if begin < 0:
        if response.size is None:
            with response:
                return io.BytesIO(_end_of(response, -begin))
        begin = max(0, response.size + begin)
    return io.BufferedReader(BufferIteratorIO(_cut_out(response, begin, length)), _READ_AHEAD)


def _cut_out(response: Response, begin: int, length: int | None) -> Iterator[bytes]:
    with response:
        skip(response, begin)
        buffer_size = min(BUFFER_SIZE, length or BUFFER_SIZE)
        yield from buffer_iterator(response, buffer_size, max_bytes=length)


def _end_of(response: Response, count: int) -> bytes:
    """Return the last bytes of a body whose size is not known, without keeping more than those."""
    end = b""
    while piece := response.read(BUFFER_SIZE):
        end = (end + piece)[-count:]
    return end


def _check_part(response: Response, begin: int, length: int | None) -> None:
    """Raise StoreError unless an answer has the part that was asked for."""
    text = response.headers.get("Content-Range") or ""
    unit, _, rest = text.partition(" ")
    part, _, total = rest.partition("/")
    first, _, last = part.partition("-")
    numbers = [each.strip() for each in (first, last, total)]
    if total.strip() == "*":
        numbers[2] = "0"
    if unit.lower() == "bytes" and all(
        each.isascii() and each.isdigit() and len(each) < 20 for each in numbers
    ):
        start, stop, size = int(numbers[0]), int(numbers[1]) + 1, int(numbers[2])
        if total.strip() == "*":
            # Of unknown size; then less than was asked for cannot be told from all there is.
            size = stop
        wanted = max(0, size + begin) if begin < 0 else begin
        end = size if length is None or begin < 0 else min(begin + length, size)
        if start == wanted and stop == end and response.size in (None, stop - start):
            return
    raise StoreError(f"{shown_url(response.url)}: another part than was asked for ({text:.60})")
