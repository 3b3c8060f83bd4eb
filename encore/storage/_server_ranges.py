"""Parts of what is asked for (RFC 9110, section 14): one range of bytes, or all."""

from __future__ import annotations

from ._server_requests import RequestError

__all__ = ["parse_range"]

# A position behind the end of everything, however many digits it has.
_FAR = 10**19


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return where the part that a Range header asks for begins and ends; None for the whole.

    The whole is for what is no range of bytes, which is as if it were not there; and for several
    ranges.

    Parameters
    ----------
    text : str
        The header.
    size : int
        How many bytes there are.

    Raises
    ------
    RequestError
        416, if there is nothing of the range.
    """
    unit, equals, ranges = text.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    first, dash, last = (part.strip(" \t") for part in ranges.partition("-"))
    if not dash or not (first or last) or not (_is_number(first) and _is_number(last)):
        return None
    if not first:
        length = _number(last)
        if not size and length:
            # Of nothing the last five bytes are nothing, which no Content-Range can say.
            return None
        begin, end = max(0, size - length), size
    else:
        begin = _number(first)
        end = _number(last) + 1 if last else size
        if last and end <= begin:
            return None
        end = min(end, size)
    if begin >= size:
        headers = [("Content-Range", f"bytes */{size}")]
        raise RequestError(416, f"there are only {size} bytes", headers=headers)
    return begin, end


def _is_number(text: str) -> bool:
    # isdigit() knows digits of other scripts too.
    return not text or (text.isascii() and text.isdigit())


def _number(text: str) -> int:
    text = text.lstrip("0")
    return _FAR if len(text) > 19 else int(text or "0")
