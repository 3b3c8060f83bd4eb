"""Parts of what is behind a URL: how to ask for one, and how to cut it out of what comes."""

from __future__ import annotations

import io

from ._http_errors import shown_url
from ._streams import BUFFER_SIZE, slice_bounds
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ._http_response import Response

__all__ = ["NOTHING", "content_range", "part_of", "stream_of", "wanted_range"]

# So many bytes too many are taken rather than asking for the size first.
_LITTLE = 65536

# No data are longer, and what is longer than this is read as something else by some servers.
_HUGE = 2**63 - 1


NOTHING = "nothing"


def wanted_range(start: int | None, end: int | None, size: int | None) -> str | None:
    """Return how to ask for a range: '' for all data, NOTHING if it is empty; None without the size."""
    if size is not None:
        begin, stop = slice_bounds(start, end, size)
        if begin == stop:
            return NOTHING
        return "" if stop - begin == size else f"{begin}-{stop - 1}"
    start = start or 0
    if start > _HUGE or (end is not None and start >= end and (start < 0) == (end < 0)):
        return NOTHING
    if end is None or end > _HUGE:
        if start < 0:
            # More than all is all; but of what is cut at a far end it is not known.
            return (str(start) if start >= -_HUGE else "") if end is None else None
        return f"{start}-" if start else ""
    if end >= 0:
        return f"{start}-{end - 1}" if start >= 0 else None
    if end < -_LITTLE:
        return None
    if start < -_HUGE:
        return ""
    return f"{start}" if start < 0 else f"{start}-" if start else ""


def content_range(text: str | None) -> tuple[int, int, int] | None:
    """Return the first and the last byte, and how many there are; None if that is not said or makes no sense."""
    unit, _, rest = (text or "").strip().partition(" ")
    place, _, total = rest.strip().partition("/")
    first, _, last = place.partition("-")
    # int() takes digits of all scripts, underscores and signs, and refuses thousands of digits.
    for number in (first, last, total):
        if not number.isascii() or not number.isdigit() or len(number) >= 20:
            return None
    found = int(first), int(last), int(total)
    return found if unit.lower() == "bytes" and found[0] <= found[1] < found[2] else None


def part_of(
    url: str,
    response: Response,
    skip: int,
    length: int | None,
    is_sure: bool = True,
    is_all: bool = False,
) -> BinaryIO:
    return stream_of(_Part(url, response, skip, length, is_sure, is_all), length)


def stream_of(raw: io.RawIOBase, size: int | None) -> BinaryIO:
    return io.BufferedReader(raw, _LITTLE if size is None else min(_LITTLE, size + 1))


class _Part(io.RawIOBase):
    """A part of the body of a response.

    Parameters
    ----------
    url : str
    response : Response
    skip : int
        So many bytes come before.
    length : int or None
        So many bytes it has, None for all there are.
    is_sure : bool
        Whether it is an error if there are fewer.
    is_all : bool
        Whether it is an error if there are more behind.
    """

    def __init__(
        self,
        url: str,
        response: Response,
        skip: int,
        length: int | None,
        is_sure: bool,
        is_all: bool,
    ) -> None:
        super().__init__()
        self._url = url
        self._response = response
        self._skip = skip
        self._left = length
        self._is_sure = is_sure
        self._is_all = is_all

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        target = memoryview(buffer).cast("B")
        if self._left is not None:
            target = target[: self._left]
        while self._skip and target:
            passed = len(self._response.read(min(self._skip, _LITTLE)))
            if not passed:
                return self._ended()
            self._skip -= passed
        count = self._response.readinto(target) if target else 0
        if not count:
            return self._ended()
        if self._left is not None:
            self._left -= count
        return count

    def readall(self) -> bytes:
        # Not in the small steps of RawIOBase.
        return b"".join(iter(lambda: self.read(BUFFER_SIZE) or b"", b""))

    def _ended(self) -> int:
        if self._left:
            if self._is_sure:
                raise StoreError(
                    f"{shown_url(self._url)}: the data end {self._left} bytes too early"
                )
        elif self._is_all and self._response.read(1):
            raise StoreError(f"{shown_url(self._url)}: there are more data than there were")
        return 0

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()
