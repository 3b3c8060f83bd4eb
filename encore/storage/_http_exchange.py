"""A request and its answer, over one connection."""

from __future__ import annotations

import errno

from ._http_bodies import ChunkedBody, EndlessBody, SizedBody
from ._http_errors import BrokenConnectionError, StaleConnectionError, UnsentError
from ._http_head import BadAnswerError, body_size, is_chunked, is_kept
from ._http_requests import SMALL
from ._http_response import Response
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._http_bodies import HTTPBody
    from ._http_requests import Request
    from ._http_response import Headers
    from ._http_socket import Connection

    Answer = tuple[int, int, Headers]

# Answers that are not the answer yet.
_MOST_INTERIM = 20


def exchange(
    connection: Connection, request: Request, head: bytes, timeout: float, wait: float | None
) -> tuple[Answer, bool]:
    """Send a request; return the head of the answer, and whether the server had asked for the body.

    Parameters
    ----------
    connection : Connection
    request : Request
    head : bytes
    timeout : float
        How long the server may take for each piece of a large body, and then for the answer.
    wait : float or None
        How long it may take to ask for the body; None if it was not told to.
    """
    body = request.body
    early = None
    asked = wait is None
    try:
        if request.source is None and (body is None or len(body) <= SMALL):
            _send_first(connection, head if body is None else b"".join((head, body)))
            return _settled(connection, _answer(connection), True), asked
        _send_first(connection, head)
        if wait is not None and connection.has_arrived(min(wait, connection.left())):
            early, asked = _next_head(connection), True
        if not _is_refusal(early):
            for piece in request.pieces():
                if early is None and connection.has_arrived():
                    early = _next_head(connection)
                    if _is_refusal(early):
                        break
                connection.begin(timeout)
                connection.send_bytes(piece)
        if early is not None and _is_refusal(early):
            # It does not want the rest.
            return _settled(connection, early, False), asked
    except UnsentError as error:
        if error.errno == errno.ETIMEDOUT:
            raise
        if request.source is not None and request.source.error is error:
            raise
        # It may have said why, before it closed the connection.
        try:
            return _settled(connection, early or _answer(connection), False), asked
        except StaleConnectionError:
            raise
        except StoreError:
            raise error from None
    return _settled(connection, early or _answer(connection), True), asked


def _send_first(connection: Connection, data: bytes) -> None:
    try:
        connection.send_bytes(data)
    except UnsentError:
        # Some of it may have been sent.
        raise
    except BrokenConnectionError as error:
        error.happened = False
        raise


def _is_refusal(answer: Answer | None) -> bool:
    return answer is not None and answer[1] >= 300


def _settled(connection: Connection, answer: Answer, is_sent: bool) -> Answer:
    connection.is_kept = is_sent and is_kept(answer[0], answer[2])
    return answer


def _next_head(connection: Connection) -> Answer | None:
    """Return the next head, None if it is an interim one."""
    answer = connection.head()
    if answer[1] >= 200:
        return answer
    if answer[1] == 101:
        raise BadAnswerError(f"{connection.where}: another protocol, which nobody has asked for")
    return None


def _answer(connection: Connection) -> Answer:
    for _ in range(_MOST_INTERIM):
        answer = _next_head(connection)
        if answer is not None:
            return answer
    raise BadAnswerError(f"{connection.where}: interim answers without end")


def response_of(
    answer: Answer,
    connection: Connection,
    request: Request,
    url: str,
    release: Callable[[Connection], None],
) -> Response:
    """Return an answer whose body comes over the connection, and then releases it."""
    _, status, headers = answer
    body: HTTPBody
    try:
        if status in (204, 304):
            size: int | None = 0
        elif request.method == "HEAD":
            size = None if "transfer-encoding" in headers.values else body_size(headers)
        elif is_chunked(headers):
            body = ChunkedBody(connection, release)
            return Response(status, url, headers, body)
        else:
            size = body_size(headers)
            if size is None:
                return Response(status, url, headers, EndlessBody(connection, release))
            if size:
                body = SizedBody(connection, release, size)
                return Response(status, url, headers, body, size)
    except BadAnswerError as error:
        raise BadAnswerError(f"{connection.where}: {error}") from None
    release(connection)
    return Response(status, url, headers, None, size)
