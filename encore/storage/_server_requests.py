"""What a client asks of the server: path, headers, body, as WSGI (PEP 3333) shows them.

Nothing of a request is trusted, and its body is read only when somebody asks for it.
"""

from __future__ import annotations

from ._streams import BUFFER_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Environ = dict[str, Any]

__all__ = ["Body", "Request", "RequestError", "read_json"]

# Whoever is behind it may say anything: no more digits than an int of 64 bits has.
_MOST_DIGITS = 19


class RequestError(Exception):
    """A request that is refused because of what it is.

    Parameters
    ----------
    status : int
    message : str
        One line for whoever sent it.
    kind : str, optional
        The class of the error at the client.
    headers : list of (str, str)
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "ValueError",
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.headers = headers or []


class Body:
    """The body of a request: a stream that ends where the request does.

    If it is shorter than promised, or cannot be read, the reader gets a RequestError and no end of
    the data, so that nothing that is incomplete is stored.

    Attributes
    ----------
    size, missing : int or None
        How many bytes were promised, and how many of them have not been read; None if they come in
        chunks.
    error : RequestError or None
        What was wrong with it.
    """

    def __init__(self, stream: Any, size: int | None, most: int) -> None:
        self._stream = stream
        self.missing = size
        self._done = 0
        self._most = most
        self.size = size
        self.error: RequestError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(BUFFER_SIZE), b""))
        if self.error is not None:
            raise self.error
        missing = self.missing
        if missing is not None:
            size = min(size, missing)
        if not size:
            return b""
        try:
            data: bytes = self._stream.read(size)
        except TimeoutError as error:
            raise self._failed(408, "the body took too long") from error
        except Exception as error:
            raise self._failed(400, "the body could not be read") from error
        if missing is None:
            self._done += len(data)
            if self._done > self._most:
                raise self._failed(413, f"a body has at most {self._most} bytes here")
        elif not data:
            raise self._failed(400, f"the body ends {missing} bytes too early")
        else:
            self.missing = missing - len(data)
        return data

    def read_exactly(self, size: int) -> bytes:
        """Return `size` bytes; RequestError if there are fewer."""
        pieces = []
        while size:
            piece = self.read(min(size, BUFFER_SIZE))
            if not piece:
                raise self._failed(400, f"the body ends {size} bytes too early")
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _failed(self, status: int, message: str) -> RequestError:
        self.error = RequestError(status, message)
        return self.error


class Request:
    """One request.

    Parameters
    ----------
    environ : dict
        As WSGI gives it.

    Attributes
    ----------
    method : str
    path : str
        Decoded; set by decode_path().
    key : str or None
        The key that it is about.
    user : str or None
        The name of who has logged in.
    """

    __slots__ = ("environ", "is_head", "key", "method", "path", "user")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.is_head = self.method == "HEAD"
        self.path = ""
        self.key: str | None = None
        self.user: str | None = None

    def decode_path(self) -> None:
        """Set the path; RequestError if it is no UTF-8."""
        path = self.environ.get("PATH_INFO", "")
        if not path.isascii():
            try:
                # Bytes are shown as if they were ISO 8859-1.
                path = path.encode("latin-1").decode()
            except UnicodeError as error:
                raise RequestError(400, "a path is UTF-8, percent-encoded") from error
        self.path = path

    def header(self, name: str) -> str | None:
        """Return a header; of several of one name, the server makes one with commas."""
        value: str | None = self.environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return value

    def number(self, name: str) -> int | None:
        """Return a header that is a number of bytes, None without one."""
        text = self.header(name)
        return None if text is None else count_of(text, name)

    def body(self, most: int) -> Body:
        """Return the body; RequestError if it is promised to have more than `most` bytes."""
        environ = self.environ
        text = environ.get("CONTENT_LENGTH")
        size: int | None = 0
        if text:
            size = count_of(text, "Content-Length")
            if size > most:
                raise RequestError(413, f"a body has at most {most} bytes here")
        elif environ.get("wsgi.input_terminated"):
            size = None
        elif environ.get("HTTP_TRANSFER_ENCODING"):
            raise RequestError(411, "the length of the body is needed")
        coding = environ.get("HTTP_CONTENT_ENCODING")
        if coding and coding.strip().lower() != "identity":
            raise RequestError(415, "a body is stored as it is, in no coding")
        if environ.get("HTTP_CONTENT_RANGE"):
            # RFC 9110, section 14.5
            raise RequestError(400, "data are stored whole, no range of them")
        return Body(environ["wsgi.input"], size, most)

    def json(self, most: int) -> Any:
        """Return the body, which is JSON."""
        body = self.body(most)
        return read_json(body.read() if body.size is None else body.read_exactly(body.size))


def count_of(text: str, name: str) -> int:
    """Return a number of bytes that a header gives; RequestError if it is none."""
    text = text.strip()
    # isdigit() knows digits of other scripts too.
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise RequestError(400, f"{name} is a number of bytes")
    return int(text)


def read_json(text: str | bytes) -> Any:
    """Return what a JSON text says; RequestError if it is none."""
    import json

    try:
        if not isinstance(text, str):
            # Not by json, which guesses UTF-16 and UTF-32 as well.
            text = text.decode()
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise RequestError(400, "this JSON is nested too deeply") from error
    except ValueError as error:
        raise RequestError(400, "this is no JSON") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")
