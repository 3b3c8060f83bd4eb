"""What the server logs: a line for each request, and what went wrong."""

from __future__ import annotations

from time import perf_counter

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Logger

    from ._server_requests import Request
    from ._server_responses import Streamed

__all__ = ["LoggedBody", "log_error", "log_request", "logger"]

_LONGEST = 2000

_logger: Logger | None = None


def logger() -> Logger:
    """Return the logger, ``encore.storage.server``."""
    global _logger  # noqa: PLW0603 - logging is imported on first use
    if _logger is None:
        from logging import getLogger

        _logger = getLogger("encore.storage.server")
    return _logger


def log_request(request: Request, status: int, size: int, seconds: float) -> None:
    """Log what was asked and answered: address, method, path as sent, status, bytes, seconds, user."""
    log = logger()
    if log.isEnabledFor(20):  # INFO
        user = "-" if request.user is None else _shown(request.user)
        log.info(
            "%s %s %s %d %d %.6f %s",
            _shown(request.environ.get("REMOTE_ADDR") or "-"),
            _shown(request.method),
            _path(request),
            status,
            size,
            seconds,
            user,
        )


def log_error(error: BaseException, request: Request, whole: bool) -> None:
    """Log what went wrong, with its traceback if it is to be whole."""
    what = f"{type(error).__name__}: {_shown(str(error))}"
    logger().error(
        "%s %s: %s", _shown(request.method), _path(request), what, exc_info=error if whole else None
    )


class LoggedBody:
    """A body on its way: what was sent is logged at its end."""

    def __init__(self, request: Request, status: int, body: Streamed, began: float) -> None:
        self._request = request
        self._status = status
        self._body = body
        self._began = began
        self._size = 0
        self._is_closed = False

    def __iter__(self) -> LoggedBody:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._body)
        except StopIteration:
            raise
        except Exception as error:
            # The server breaks the connection, so that the client sees that it has not got all.
            log_error(error, self._request, whole=not isinstance(error, StoreError))
            raise
        self._size += len(piece)
        return piece

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._body.close()
        finally:
            seconds = perf_counter() - self._began
            log_request(self._request, self._status, self._size, seconds)


def _path(request: Request) -> str:
    """Return the path as it was sent, where the server tells; without a query, which may hold anything."""
    environ = request.environ
    sent = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if not isinstance(sent, str):
        from urllib.parse import quote

        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        sent = quote(path.encode("latin-1", "replace"), safe="/~!$&'()*+,;=:@")
    return _shown(sent.partition("?")[0])


def _shown(text: str) -> str:
    """Return text in printable ASCII, so that no client writes lines of its own into the log."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii")
