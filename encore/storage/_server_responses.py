"""What the server answers."""

from __future__ import annotations

from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    Headers = list[tuple[str, str]]

__all__ = ["REASONS", "Response", "Streamed", "body_of", "json_response", "text_response"]

# Those that are used; http.HTTPStatus takes long to import.
REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    303: "See Other",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    421: "Misdirected Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}

# Always asked whether it is still right: a store may change at any moment.
REVALIDATED = ("Cache-Control", "no-cache")
NOT_KEPT = ("Cache-Control", "no-store")


class Response:
    """A status, headers and a body.

    Parameters
    ----------
    status : int
    headers : list of (str, str)
        Without Content-Length.
    body : bytes, Streamed or None
        None where only the headers will be sent.
    size : int, optional
        What is to be the Content-Length of anything but bytes, if it is known.
    """

    __slots__ = ("body", "headers", "size", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: bytes | Streamed | None = b"",
        size: int | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.size = len(body) if isinstance(body, bytes) else size

    def close(self) -> None:
        if isinstance(self.body, Streamed):
            self.body.close()


class Streamed:
    """A body that is made while it is sent.

    Its beginning is made at once: what fails there can still be answered.

    Parameters
    ----------
    pieces : generator of bytes
        Closed when all is sent, or nobody waits any more.
    ahead : int
        How many pieces are made at once.
    """

    def __init__(self, pieces: Generator[bytes, None, None], ahead: int = 1) -> None:
        self._pieces = pieces
        try:
            self._ready = list(islice(pieces, ahead))
        except BaseException:
            self.close()
            raise
        self._ready.reverse()

    def __iter__(self) -> Streamed:
        return self

    def __next__(self) -> bytes:
        return self._ready.pop() if self._ready else next(self._pieces)

    def close(self) -> None:
        self._pieces.close()


def body_of(pieces: Generator[bytes, None, None]) -> bytes | Streamed:
    """Return a body that is streamed only if it has more than one piece."""
    body = Streamed(pieces, 2)
    if len(body._ready) > 1:
        return body
    body.close()
    return next(body, b"")


def json_response(status: int, content: Any, headers: Headers | None = None) -> Response:
    """Return an answer in JSON."""
    import json

    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Response(status, [("Content-Type", "application/json"), *(headers or ())], body)


def text_response(status: int, text: str, headers: Headers | None = None) -> Response:
    """Return an answer in plain text."""
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status, [kind, *(headers or ())], text.encode())
