"""A request as it is sent: its head, and a body that may come from a stream."""

from __future__ import annotations

from ._http_head import is_token
from ._streams import as_bytes, check_readable
from .errors import StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ._streams import Readable

# A body up to this size goes out with the head.
SMALL = 1 << 16

# At once from a stream, or from a large body in memory.
PIECE = 1 << 18


class Source:
    """A stream of the caller as a body.

    Parameters
    ----------
    stream : binary stream
        Read from where it stands.
    """

    def __init__(self, stream: Readable) -> None:
        check_readable(stream)
        self._stream: Any = stream
        self._start = _position(stream)
        #: Whether some of it has been read.
        self.is_begun = False
        #: What it has raised, which is the caller's own affair.
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        self.is_begun = True
        try:
            return as_bytes(self._stream.read(size), "the stream's read() must give")
        except BaseException as error:
            self.error = error
            raise

    def taken_error(self) -> BaseException:
        """Return what it has raised, once."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(PIECE), b"")

    @property
    def may_repeat(self) -> bool:
        """Whether it can be given (again) from its beginning."""
        return not self.is_begun or self._start is not None

    def again(self) -> bool:
        """Go back to the beginning; False if that is not possible."""
        if self.is_begun:
            if self._start is None:
                return False
            try:
                self._stream.seek(self._start)
            except Exception:
                return False
            self.is_begun = False
        return True


def _position(stream: Any) -> int | None:
    """Return where a stream stands, None if it cannot go back there."""
    try:
        return int(stream.tell()) if stream.seekable() else None
    except Exception:
        # A stream is anything with read().
        return None


class Request:
    """A request, apart from where it goes.

    Parameters
    ----------
    method : str
    headers : dict
    body : bytes-like, Source or None

    Raises
    ------
    TypeError, ValueError
        If it cannot be sent as it is.
    """

    __slots__ = ("body", "method", "names", "size", "source", "text")

    def __init__(self, method: str, headers: Mapping[str, str], body: Any) -> None:
        if not is_token(method):
            raise ValueError(f"no method of HTTP: {shown(method)}")
        self.method = method
        #: What is in memory.
        self.body: memoryview | None = None
        self.source: Source | None = None
        #: Bytes of the body; None if there is none, or nobody knows.
        self.size: int | None = None
        #: Headers by lower-case name.
        self.names: dict[str, str] = {}
        text = ""
        for name, value in headers.items():
            text += _field(name, value)
            self.names[name.lower()] = value
        if not _OURS.isdisjoint(self.names):
            raise ValueError(f"headers that are not the caller's: {', '.join(_OURS)}")
        said = self.names.get("content-length")
        if said is not None:
            if not (said.isascii() and said.isdigit()):
                raise ValueError(f"bad Content-Length: {shown(said)}")
            self.size = int(said)
        if body is None:
            if self.size:
                raise ValueError(f"no body, and Content-Length: {said}")
            if said is None and method in ("POST", "PUT", "PATCH"):
                text += "Content-Length: 0\r\n"
        elif isinstance(body, Source):
            self.source = body
            if said is None:
                text += "Transfer-Encoding: chunked\r\n"
        else:
            self.body = memoryview(body).cast("B")
            if self.size not in (None, len(self.body)):
                raise ValueError(f"a body of {len(self.body)} bytes, and Content-Length: {said}")
            self.size = len(self.body)
            if said is None:
                text += f"Content-Length: {self.size}\r\n"
        #: The headers as they are sent.
        self.text = text

    def head(self, target: str, authority: str, more: str) -> bytes:
        """Return the head as it is sent."""
        text = f"{self.method} {target} HTTP/1.1\r\nHost: {authority}\r\n{self.text}{more}\r\n"
        return text.encode("latin-1")

    def again(self) -> bool:
        """Whether the body can be sent again."""
        return self.source is None or self.source.again()

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the body, framed as it is sent."""
        if self.body is not None:
            for start in range(0, len(self.body), PIECE):
                yield self.body[start : start + PIECE]
        if self.source is not None:
            yield from self._chunks() if self.size is None else self._sized(self.size)

    def _chunks(self) -> Iterator[bytes]:
        assert self.source is not None
        for piece in self.source:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    def _sized(self, missing: int) -> Iterator[bytes]:
        assert self.source is not None
        while missing:
            piece = self.source.read(min(missing, PIECE))
            missing -= len(piece)
            if not piece or missing < 0:
                raise StoreError(
                    f"the stream has {abs(missing)} bytes {'less' if missing > 0 else 'more'}"
                    f" than the {self.size} that were announced"
                )
            yield piece


# What follows from the URL and the body.
_OURS = frozenset(("expect", "host", "transfer-encoding"))

# Whose names need not be looked at.
_USUAL = frozenset(
    ("Accept", "Content-Length", "Content-Type", "If-Match", "If-None-Match", "Range")
)


def _field(name: str, value: str) -> str:
    """Return a header as it is sent; ValueError if it would be more than one, or none."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"headers are str, not {shown(name)}: {type(value).__name__}")
    # The value is not shown: it may be a secret.
    if name not in _USUAL and not is_token(name):
        raise ValueError(f"not the name of a header: {shown(name)}")
    if not (value.isascii() and value.isprintable()) and not all(
        each == "\t" or " " <= each <= "~" or "\xa0" <= each <= "\xff" for each in value
    ):
        raise ValueError(f"control characters, or such beyond Latin-1, in {name}")
    return f"{name}: {value}\r\n"
