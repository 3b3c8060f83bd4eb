"""The head of an answer: its status line and headers (RFC 9112), and how its body is framed.

http.client reads heads with a parser for e-mail: 100 us an answer, four times what the rest takes.
"""

from __future__ import annotations

from ._http_response import Headers
from .errors import StoreError

MAX_HEAD = 1 << 16
MAX_HEADERS = 200

# What must not be in a head, and may stand in a value: visible characters, spaces, tabs, line ends.
_ALLOWED = bytes([9, 10, 13, *range(32, 127), *range(128, 256)])

# What names are made of (RFC 9110, 5.6.2).
_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The names that come most often, as they are written, with what they are in lower case: those need
# not be looked at again.
_USUAL = {
    name: name.lower()
    for name in (
        "Accept-Ranges",
        "Age",
        "Cache-Control",
        "Connection",
        "Content-Encoding",
        "Content-Length",
        "Content-Range",
        "Content-Type",
        "Date",
        "ETag",
        "Encore-Created",
        "Encore-Data-Length",
        "Encore-Metadata-Length",
        "Encore-Modified",
        "Keep-Alive",
        "Last-Modified",
        "Server",
        "Transfer-Encoding",
        "Vary",
    )
}


class BadAnswerError(StoreError):
    """What came is not HTTP."""


def is_token(text: str) -> bool:
    """Whether it may be the name of a method or of a header."""
    return bool(text) and not text.strip(_TOKEN)


def find_end(data: bytes, start: int = 0) -> tuple[int, int] | None:
    """Return where a head ends and what follows begins, or None if it is not all there.

    Lines may end with a line feed alone (RFC 9112, 2.2). What is before `start` was looked at.
    """
    start = max(0, start - 2)
    end = data.find(b"\n\r\n", start)
    alone = data.find(b"\n\n", start, len(data) if end < 0 else end + 1)
    if alone >= 0:
        return alone, alone + 2
    return None if end < 0 else (end, end + 3)


def parse(head: bytes) -> tuple[int, int, Headers]:
    """Return the minor version, the status and the headers."""
    if head.translate(None, _ALLOWED):
        raise BadAnswerError("control characters in the headers")
    text = head.decode("latin-1")
    if text.count("\r") > text.count("\r\n") + text.endswith("\r"):
        raise BadAnswerError("a carriage return in the headers")
    if "\n " in text or "\n\t" in text:
        text = _unfolded(text)
    lines = text.split("\n")
    first = lines[0].rstrip("\r")
    # HTTP/1.1 200 OK, where the space after the status is forgotten often.
    status = first[9:12]
    if not (
        first.startswith("HTTP/1.")
        and first[7:8].isdecimal()
        and first[8:9] == " "
        and status.isdecimal()
        and len(status) == 3
        and status >= "100"
        and first[12:13] in ("", " ")
    ):
        raise BadAnswerError(f"no HTTP: {first[:40]!r}")
    if len(lines) > MAX_HEADERS + 1:
        raise BadAnswerError("too many headers")
    headers = Headers()
    values = headers.values
    usual = _USUAL.get
    for line in lines[1:]:
        name, _, value = line.partition(":")
        known = usual(name)
        if known is None or known in values:
            _add_unusual(headers, line)
        else:
            values[known] = value.strip(" \t\r")
    return int(first[7]), int(status), headers


def _unfolded(text: str) -> str:
    """Return a head without line breaks in values, which are as good as spaces (RFC 9112, 5.2)."""
    first, _, rest = text.partition("\n")
    if rest[:1] in (" ", "\t"):
        raise BadAnswerError("a header that goes on from none")
    lines: list[str] = []
    for line in rest.split("\n"):
        if line[:1] in (" ", "\t"):
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join((first, *lines))


def _add_unusual(headers: Headers, line: str) -> None:
    """Add a header that comes twice, or has a name that must be looked at."""
    name, colon, value = line.partition(":")
    if not colon or not is_token(name):
        raise BadAnswerError(f"not a header: {line[:40]!r}")
    headers.add(name.lower(), value.strip(" \t\r"))


def body_size(headers: Headers) -> int | None:
    """Return the Content-Length, None if there is none."""
    text = headers.values.get("content-length")
    if text is None:
        return None
    if text.isdecimal() and len(text) < 19:
        return int(text)
    # The same one twice is harmless (RFC 9110, 8.6).
    numbers = {each.strip(" \t") for each in text.split(",")}
    number = numbers.pop()
    if numbers or not (number.isdecimal() and len(number) < 19):
        raise BadAnswerError(f"bad Content-Length: {text[:40]!r}")
    return int(number)


def is_chunked(headers: Headers) -> bool:
    """Whether the body comes in chunks."""
    coding = headers.values.get("transfer-encoding")
    if coding is None:
        return False
    if "content-length" in headers.values:
        # Two peers may understand this in two ways (RFC 9112, 6.3).
        raise BadAnswerError("both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked":
        raise BadAnswerError(f"unknown Transfer-Encoding: {coding[:40]!r}")
    return True


def is_kept(minor: int, headers: Headers) -> bool:
    """Whether the server keeps the connection."""
    text = headers.values.get("connection")
    if text is None:
        return minor >= 1
    options = {each.strip(" \t") for each in text.lower().split(",")}
    return "close" not in options and (minor >= 1 or "keep-alive" in options)
