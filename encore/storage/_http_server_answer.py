"""The answer to a request, made of what a WSGI application gives (PEP 3333).

What it gives is checked before anything is sent: no header can end a line. What it has begun and does not
finish is cut off, never ended as if it were whole.
"""

from __future__ import annotations

import time

from ._http_server_head import TOKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any

    from ._http_server_channel import Channel

    ExcInfo = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None
    )

__all__ = ["Answer", "AnswerError", "Disconnected"]

# Those of one connection only (RFC 9110, 7.6.1): the server's own business.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

# What is sent with the head in one piece; copying more costs more than another system call.
_TOGETHER = 65536

_CONTROLS = {*range(0x09), *range(0x0A, 0x20), 0x7F}

#: Names of header fields as applications write them -> in lower case; those that were checked.
_names: dict[str, str] = {}

# How the body is delimited.
_NOTHING, _LENGTH, _CHUNKED, _CLOSE = range(4)


class AnswerError(ValueError):
    """An application does not keep to WSGI, or not to the length that it has announced."""


class Disconnected(Exception):
    """The client is gone, or takes nothing."""


class Answer:
    """What is sent for one request.

    Parameters
    ----------
    channel : Channel
    method : str
        That of the request.
    is_1_0 : bool
        Whether the client speaks HTTP/1.0.
    keep_alive : callable
        Asked once, for the head: whether the connection goes on after this.

    Attributes
    ----------
    status : int
        0 before the application has said it.
    size : int
        How many bytes of the body have been sent.
    has_begun : bool
        Whether the head has been sent, or a part of it.
    keeps_alive : bool
        Whether the client has been told that the connection goes on.
    needs_reset : bool
        Whether closing the connection looks like the end of a body: one that was not finished has to
        be broken.
    """

    __slots__ = (
        "_channel",
        "_fields",
        "_framing",
        "_has_date",
        "_is_1_0",
        "_keep_alive",
        "_left",
        "_length",
        "_line",
        "_method",
        "has_begun",
        "keeps_alive",
        "size",
        "status",
    )

    def __init__(
        self, channel: Channel, method: str, is_1_0: bool, keep_alive: Callable[[], bool]
    ) -> None:
        self._channel = channel
        self._method = method
        self._is_1_0 = is_1_0
        self._keep_alive = keep_alive
        self._line = ""
        self._fields: list[str] = []
        #: What the application says, and how much of that is left.
        self._length: int | None = None
        self._left = 0
        self._has_date = False
        self._framing = _NOTHING
        self.status = 0
        self.size = 0
        self.has_begun = False
        self.keeps_alive = False

    @property
    def needs_reset(self) -> bool:
        return self.has_begun and self._framing == _CLOSE

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo = None, /
    ) -> Callable[[bytes], object]:
        """PEP 3333's start_response()."""
        if exc_info:
            try:
                if self.has_begun and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AnswerError("start_response() was called before")
        number = _check_status(status)
        self._length, self._has_date = None, False
        fields = []
        for name, value in headers:
            lower = _names.get(name) or _check_name(name)
            if not (value.isascii() and value.isprintable()):
                _check_value(value)
            if lower == "content-length":
                self._length = _check_length(value, self._length)
                # RFC 9110, 8.6: not with 204, and it is the size of what GET gets with 304.
                if number == 204:
                    continue
            elif lower == "date":
                self._has_date = True
            fields.append(f"{name}: {value}\r\n")
        self._fields = fields
        self._line = status
        self.status = number
        return self.write

    def send(self, result: Iterable[bytes]) -> None:
        """Send what the application has returned, whole."""
        if type(result) is list or type(result) is tuple:
            data = result[0] if len(result) == 1 else b"".join(result)
            self._send_whole(data)
            return
        for data in result:
            self.write(data)
            if self.has_begun and self._framing == _NOTHING:
                # Whatever follows would be thrown away.
                return
        self._finish()

    def write(self, data: bytes, /) -> None:
        """Send a piece of the body; the first one with the head."""
        if not isinstance(data, bytes):
            raise TypeError(f"a body is made of bytes, not {type(data).__name__}")
        if not data:
            return
        head = b"" if self.has_begun else self._head(None)
        framing = self._framing
        size = len(data)
        if framing == _LENGTH:
            if size > self._left:
                raise AnswerError("the body is longer than its Content-Length")
            self._left -= size
        elif framing == _CHUNKED:
            data = b"%x\r\n%b\r\n" % (size, data)
        elif framing == _NOTHING:
            data, size = b"", 0
        self.size += size
        self._send(head, data)

    def _send_whole(self, data: bytes) -> None:
        if self.has_begun:
            # By write(), before there was anything to return.
            self.write(data)
            self._finish()
            return
        if type(data) is not bytes:
            raise TypeError(f"a body is made of bytes, not {type(data).__name__}")
        head = self._head(len(data))
        if self._framing == _NOTHING:
            data = b""
        elif len(data) != self._left:
            raise AnswerError(
                f"the body has {len(data)} bytes, and a Content-Length of {self._left}"
            )
        self._left = 0
        self.size = len(data)
        self._send(head, data)

    def _finish(self) -> None:
        if not self.has_begun:
            self._send_whole(b"")
        elif self._framing == _CHUNKED:
            self._channel_send(b"0\r\n\r\n")
        elif self._framing == _LENGTH and self._left:
            raise AnswerError(f"the body ends {self._left} bytes before its Content-Length")

    def _head(self, size: int | None) -> bytes:
        """Decide how the body is delimited; `size` is that of the whole, if it is known."""
        number = self.status
        if not number:
            raise AnswerError("start_response() was not called")
        keeps_alive = self._keep_alive()
        parts = [f"HTTP/1.1 {self._line}\r\n", *self._fields]
        length = self._length
        if number in (204, 304) or self._method == "HEAD":
            self._framing = _NOTHING
            if length is None and size and number not in (204, 304):
                parts.append(f"Content-Length: {size}\r\n")
        elif length is not None or size is not None:
            self._framing = _LENGTH
            if length is None:
                length = size
                parts.append(f"Content-Length: {size}\r\n")
            self._left = length or 0
        elif self._is_1_0:
            self._framing = _CLOSE
            keeps_alive = False
        else:
            self._framing = _CHUNKED
            parts.append("Transfer-Encoding: chunked\r\n")
        if not self._has_date:
            parts.append(date_line())
        if not keeps_alive:
            parts.append("Connection: close\r\n")
        elif self._is_1_0:
            parts.append("Connection: keep-alive\r\n")
        self.keeps_alive = keeps_alive
        parts.append("\r\n")
        return "".join(parts).encode("latin-1")

    def _send(self, head: bytes, data: bytes) -> None:
        self.has_begun = True
        if len(data) <= _TOGETHER:
            self._channel_send(head + data)
        else:
            if head:
                self._channel_send(head)
            self._channel_send(data)

    def _channel_send(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except OSError as error:
            raise Disconnected from error


def plain_answer(status: int, message: str, *fields: str, has_body: bool = True) -> bytes:
    """Return an answer of the server itself, with which the connection ends."""
    reason, kind = _OWN[status]
    # What has found no room may be sent again, whatever it is.
    more = ', "happened": false' if status == 503 else ""
    body = f'{{"error": "{message}", "kind": "{kind}"{more}}}\n'
    head = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *fields,
        f"{date_line()}Connection: close\r\n\r\n",
    )
    return ("\r\n".join(head) + (body if has_body else "")).encode("latin-1")


# What the server itself answers: reasons, and kinds as StoreApplication names them.
_OWN = {
    400: ("Bad Request", "ValueError"),
    408: ("Request Timeout", "TemporaryError"),
    413: ("Content Too Large", "ValueError"),
    414: ("URI Too Long", "ValueError"),
    417: ("Expectation Failed", "ValueError"),
    426: ("Upgrade Required", "StoreError"),
    431: ("Request Header Fields Too Large", "ValueError"),
    500: ("Internal Server Error", "StoreError"),
    501: ("Not Implemented", "NotImplementedError"),
    503: ("Service Unavailable", "TemporaryError"),
    505: ("HTTP Version Not Supported", "ValueError"),
}

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: The second, and the line with its Date.
_date: tuple[int, str] = (0, "")


def date_line() -> str:
    """Return the header line that says when this is."""
    global _date  # noqa: PLW0603
    now = int(time.time())
    second, line = _date
    if second != now:
        t = time.gmtime(now)
        # strftime() would use the names of the locale.
        line = (
            f"Date: {_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
            f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT\r\n"
        )
        _date = now, line
    return line


def _check_status(status: str) -> int:
    digits = status[:3]
    if len(status) < 4 or status[3] != " " or not digits.isdecimal() or not digits.isascii():
        raise AnswerError(f"a status is a number of three digits and a reason, not {status!a}")
    if not (status.isascii() and status.isprintable()):
        raise AnswerError(f"a status is printable text: {status!a}")
    number = int(digits)
    if number < 200:
        raise AnswerError(f"{number} is no status of an answer")
    return number


def _check_name(name: str) -> str:
    if not name or name.strip(TOKEN):
        raise AnswerError(f"{name!a} is no name of a header field")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise AnswerError(f"{name} is the server's business")
    if len(_names) < 1000:
        _names[name] = lower
    return lower


def _check_value(value: Any) -> None:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise AnswerError(f"the value of a header field is Latin-1: {value!a}") from error
    if not _CONTROLS.isdisjoint(map(ord, value)):
        raise AnswerError(f"there are control characters in the value of a header field: {value!a}")


def _check_length(value: str, other: int | None) -> int:
    # Negative numbers, signs and underscores are none of these.
    if other is not None or not value.isdecimal():
        raise AnswerError(f"this is no Content-Length, or not the only one: {value!a}")
    return int(value)
