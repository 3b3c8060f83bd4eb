"""An answer of a server: its status, its headers, and its body, whose length is checked."""

from __future__ import annotations

import io

from ._http_errors import shown_url
from .errors import StoreError, TemporaryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    class Body(Protocol):
        """What a transport gives to read a body from. It may also have ``readinto(view)``, and
        ``renew(seconds)``: the next reads have so much time; before, they have what is left of the call."""

        def read(self, size: int, /) -> bytes:
            """Return at most `size` bytes; b'' is the end."""
            ...

        def close(self) -> None: ...


# At once from a body that is read to its end.
_PIECE = 1 << 20

# What compressed bodies may grow to if nobody has set a limit.
_INFLATED = 1 << 28


class Headers:
    """The headers of an answer, under names of any case.

    Parameters
    ----------
    pairs : iterable of (str, str)
        In the order in which they came. Values of one name are joined by commas.
    """

    __slots__ = ("values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        #: By lower-case name.
        self.values: dict[str, str] = {}
        for name, value in pairs:
            self.add(name.lower(), value)

    def add(self, name: str, value: str) -> None:
        """Add one; the name is in lower case."""
        known = self.values.get(name)
        self.values[name] = value if known is None else f"{known}, {value}"

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a header."""
        return self.values.get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __repr__(self) -> str:
        # Without values: there may be secrets among them.
        return f"<Headers {' '.join(self.values)}>"


class Response(io.RawIOBase):
    """An answer, and a stream of its body.

    Reading raises a TemporaryError where the body ends before it should, again and again. Closing it
    gives its connection back.

    Parameters
    ----------
    status : int
    url : str
        Whose answer it is, after redirects.
    headers : Headers
    body : Body, optional
    size : int, optional
        How many bytes the body has, or would have (of a HEAD); None if that is not known.
    """

    def __init__(
        self,
        status: int,
        url: str,
        headers: Headers,
        body: Body | None = None,
        size: int | None = None,
    ) -> None:
        self.status = status
        self.url = url
        self.headers = headers
        self.size = size
        self._body = body
        self._missing = size
        self._failure: StoreError | None = None
        self._room: int | None = None
        self._inflate: Any = None
        self._deflated = b""
        self._timeout: float | None = None
        self._pace = self._came = 0

    def __repr__(self) -> str:
        return f"<Response {self.status}>"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        into = getattr(self._body, "readinto", None)
        if into is None or self._inflate is not None:
            data = self.read(len(target))
            target[: len(data)] = data
            return len(data)
        return len(self._take(len(target), lambda size: target[: into(target)]))

    def read(self, size: int | None = -1, /) -> bytes:
        """Return what has come, at most `size` bytes; all of them if that is negative."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._body is None or size == 0:
            return b""
        read: Callable[[int], bytes] = self._body.read
        if self._inflate is not None:
            read = self._inflated
        if size is not None and size > 0:
            data: bytes = self._take(size, read)
            return data
        first: bytes = self._take(_PIECE, read)
        if not first or (self._missing == 0 and self._inflate is None):
            return first
        pieces = [first]
        while pieces[-1]:
            pieces.append(self._take(_PIECE, read))
        return b"".join(pieces)

    def readall(self) -> bytes:
        # Else a BufferedReader would get it in very small pieces.
        return self.read()

    def _take(self, size: int, read: Callable[[int], Any]) -> Any:
        """Return what read(size) returns; what is wrong with it is so for ever."""
        if self._failure is not None:
            raise _copy(self._failure)
        try:
            if self._timeout is not None and self._came >= self._pace:
                self._body.renew(self._timeout)  # type: ignore[union-attr]
                self._came = 0
            data = read(size)
            count = len(data)
            self._came += count
            if self._missing is not None and self._inflate is None:
                self._missing -= count
                if self._missing < 0 or not count:
                    self._check_length()
            if self._room is not None:
                self._room -= count
                if self._room < 0:
                    raise self._too_large()
        except StoreError as error:
            self._failure = _copy(error)
            self._body.close()  # type: ignore[union-attr]
            raise
        return data

    def _check_length(self) -> None:
        missing = self._missing or 0
        if missing > 0:
            raise TemporaryError(f"{shown_url(self.url)}: the data end {missing} bytes too early")
        if missing < 0:
            raise StoreError(f"{shown_url(self.url)}: there are more data than was promised")

    def _too_large(self) -> StoreError:
        return StoreError(f"{shown_url(self.url)}: the answer is too large")

    # For those who have asked for it

    def each_read(self, timeout: float) -> None:
        """From now on each read has so much time of its own."""
        if hasattr(self._body, "renew"):
            self._timeout = timeout

    def paced(self, size: int) -> None:
        """From now on that time is for each `size` bytes, however many reads they take."""
        self._pace = size
        self._came = size

    def limit(self, size: int) -> None:
        """Let the body have so many bytes at most."""
        if self._inflate is None and self.size is not None and self.size > size and self._body:
            self.close()
            raise self._too_large()
        self._room = size

    def inflate(self) -> None:
        """Decompress what is read; a bomb does not go off, as no more is made of it than is read."""
        import zlib

        self._inflate = zlib.decompressobj(31)
        self._room = _INFLATED
        self.size = None

    def _inflated(self, size: int) -> bytes:
        import zlib

        try:
            while True:
                data: bytes = self._inflate.decompress(self._deflated, size)
                self._deflated = self._inflate.unconsumed_tail
                if data:
                    return data
                if self._inflate.eof:
                    # Another member may follow.
                    self._deflated = self._inflate.unused_data or self._raw()
                    if not self._deflated:
                        return b""
                    self._inflate = zlib.decompressobj(31)
                elif not self._deflated:
                    self._deflated = self._raw()
                    if not self._deflated:
                        raise TemporaryError(f"{shown_url(self.url)}: the gzip data end too early")
        except zlib.error as error:
            raise StoreError(f"{shown_url(self.url)}: bad gzip data") from error

    def _raw(self) -> bytes:
        assert self._body is not None
        data = self._body.read(65536)
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0 or not data:
                self._check_length()
        return data

    def load(self, in_time: Callable[[], None]) -> None:
        """Read all of the body now; it is read from memory then. `in_time` is called now and then."""
        body = self._body
        if body is None:
            return
        read = body.read if self._inflate is None else self._inflated
        data: bytes = self._take(_PIECE, read)
        if self._missing or self._missing is None or self._inflate is not None:
            pieces = [data]
            while pieces[-1]:
                in_time()
                pieces.append(self._take(_PIECE, read))
            data = b"".join(pieces)
        body.close()
        self._body = Loaded(data)
        self.size = self._missing = len(data)
        self._inflate = self._room = None

    def finish(self) -> None:
        """Close it, but wait for what little may be missing, so that the connection is kept."""
        body, self._body = self._body, None
        if body is not None:
            finish = getattr(body, "finish", body.close)
            finish()
        self.close()

    def close(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
        super().close()


def _copy(error: StoreError) -> StoreError:
    """Return an exception without its traceback, which refers to whatever was under way."""
    from copy import copy

    return copy(error)


class Loaded:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        data = self._data
        if len(data) <= size:
            self._data = b""
            return data
        self._data = data[size:]
        return data[:size]

    def close(self) -> None:
        pass
