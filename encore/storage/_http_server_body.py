"""The body of a request as an application reads it: ``wsgi.input``.

It ends where the body ends (``wsgi.input_terminated``), or raises.
"""

from __future__ import annotations

from ._http_server_head import MAX_FIELDS, TEXT, RequestError, check_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from ._http_server_channel import Channel

__all__ = ["ChunkedBody", "RequestBody", "RequestBodyError"]

_HEX = b"0123456789abcdefABCDEF"
_EVERYTHING = 2**63

# Lines between chunks, and all that is in them besides the sizes: extensions and trailers, which
# nobody uses, must not be a way to send much that is no body.
_LINE = 4096
_OVERHEAD = 16384


class RequestBodyError(OSError):
    """The body of a request cannot be read to its end.

    Attributes
    ----------
    status : int
        What to answer.
    """

    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestBodyTimeout(RequestBodyError, TimeoutError):
    """The client was too slow."""

    status = 408


class RequestBody:
    """A body of known size, read as a binary file is.

    Parameters
    ----------
    channel : Channel
    size : int
    ask : callable or None
        Called before the first wait for the client.

    Attributes
    ----------
    failure : RequestBodyError or None
        What made reading fail; it is raised again.
    """

    failure: RequestBodyError | None = None

    def __init__(
        self, channel: Channel, size: int, ask: Callable[[], object] | None = None
    ) -> None:
        self._channel = channel
        self._left = size
        self._ask = ask
        #: What readline() has read too much.
        self._rest = b""

    @property
    def is_pending(self) -> bool:
        """Whether the client waits to be asked for the body."""
        return self._ask is not None

    @property
    def unread(self) -> int | None:
        """How much has not been read from the client; None if that is not known."""
        return self._left

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, fewer only at the end; all that is left if it is negative or None."""
        if size is None or size < 0:
            size = _EVERYTHING
        pieces = []
        if self._rest and size:
            pieces.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(pieces[0])
        while size:
            piece = self._some(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer, until it is full or the body ends."""
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read up to and with the next line break, or `size` bytes."""
        if size is None or size < 0:
            size = _EVERYTHING
        pieces: list[bytes] = []
        while size:
            piece = self._rest or self._some(65536)
            self._rest = b""
            if not piece:
                break
            end = min(piece.find(b"\n") + 1 or len(piece), size)
            pieces.append(piece[:end])
            self._rest = piece[end:]
            size -= end
            if pieces[-1].endswith(b"\n"):
                break
        return b"".join(pieces)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Read lines: all, or as many as have `hint` bytes together."""
        lines = []
        size = 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _some(self, size: int) -> bytes:
        left = self._left
        if self.failure is not None:
            raise self.failure
        if not left:
            return b""
        piece = self._take(min(size, left))
        self._left = left - len(piece)
        return piece

    def _take(self, size: int) -> bytes:
        try:
            self._ask_for_it()
            piece = self._channel.take(size)
        except OSError as error:
            self._broke(error)
        if not piece:
            self._fail("the body ends too early")
        return piece

    def _ask_for_it(self) -> None:
        ask, self._ask = self._ask, None
        # A client that sends already has not waited.
        if ask is not None and not self._channel.has_data:
            ask()

    def _broke(self, error: OSError) -> NoReturn:
        if isinstance(error, TimeoutError):
            self.failure = RequestBodyTimeout("the body did not come in time")
        else:
            self.failure = RequestBodyError("the connection broke in the body")
        raise self.failure from error

    def _fail(self, message: str) -> NoReturn:
        self.failure = RequestBodyError(message)
        raise self.failure


class ChunkedBody(RequestBody):
    """A body in chunks: its size is known at the end."""

    def __init__(self, channel: Channel, ask: Callable[[], object] | None = None) -> None:
        #: What is left of the chunk; what ends it is read before the next one.
        super().__init__(channel, 0, ask)
        self._is_first = True
        self._has_ended = False
        self._overhead = _OVERHEAD

    @property
    def unread(self) -> int | None:
        return 0 if self._has_ended else None

    def _some(self, size: int) -> bytes:
        if self.failure is None and not self._left and not self._has_ended:
            self._begin_chunk()
        return super()._some(size)

    def _begin_chunk(self) -> None:
        if not self._is_first and self._line() != b"":
            self._fail("a chunk is longer than it says")
        self._is_first = False
        digits, semicolon, extension = self._line().partition(b";")
        if semicolon:
            digits = digits.rstrip(b" \t")
        if not 0 < len(digits) <= 15 or digits.strip(_HEX) or extension.translate(None, TEXT):
            self._fail("a chunk is malformed")
        self._spend(len(extension))
        self._left = int(digits, 16)
        if not self._left:
            self._skip_trailers()
            self._has_ended = True

    def _skip_trailers(self) -> None:
        """Pass over trailers: fields that come so late could make others false."""
        for _ in range(MAX_FIELDS + 1):
            line = self._line()
            if not line:
                return
            self._spend(len(line))
            try:
                check_field(line.decode("latin-1"))
            except RequestError as error:
                self._fail(error.message)
            if line.translate(None, TEXT):
                self._fail("a trailer is malformed")
        self._fail("too many trailers")

    def _spend(self, size: int) -> None:
        self._overhead -= size
        if self._overhead < 0:
            self._fail("there is too much between the chunks")

    def _line(self) -> bytes:
        try:
            self._ask_for_it()
            line = self._channel.take_line(_LINE)
        except OSError as error:
            self._broke(error)
        if line is None:
            self._fail("a chunk is malformed, or the body ends too early")
        return line
