"""What is answered when something goes wrong.

The text of an exception may name a path, or worse, so none of it is sent: what is said depends on
its class and the key. The log has the rest.
"""

from __future__ import annotations

import errno

from ._server_requests import RequestError
from ._server_responses import NOT_KEPT, Response, json_response
from .errors import (
    AuthorizationError,
    HiddenKeyError,
    IntegrityError,
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreOSError,
    TemporaryError,
)
from .retry_policy import is_temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._server_requests import Request

__all__ = ["error_response"]

_FULL = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)
)

# The first that fits; what is said of a key, and without one.
_KINDS: tuple[tuple[type[BaseException], int, str, str, str], ...] = (
    (HiddenKeyError, 404, "KeyError", "there is no key {}", "there is no such key"),
    (KeyError, 404, "KeyError", "there is no key {}", "there is no such key"),
    (AuthorizationError, 403, "AuthorizationError", "{}: not permitted", "not permitted"),
    (
        PreconditionError,
        412,
        "PreconditionError",
        "{} is not what the condition says",
        "the condition does not hold",
    ),
    (NotImplementedError, 501, "NotImplementedError", "{}: this store cannot do it", ""),
    (StoreFullError, 507, "StoreFullError", "there is no room for {}", "there is no room"),
    (TemporaryError, 503, "TemporaryError", "{}: it may work later", "it may work later"),
    (IntegrityError, 500, "IntegrityError", "the data of {} are damaged", "data are damaged"),
    (StoreError, 500, "StoreError", "the store failed at {}", "the store failed"),
    (TypeError, 400, "TypeError", "the store refuses {}", "the store refuses this"),
    (ValueError, 400, "ValueError", "the store refuses {}", "the store refuses this"),
)


def error_response(error: Exception, request: Request) -> Response:
    """Return the answer to a request that has led to an error."""
    if isinstance(error, RequestError):
        content = {"error": error.message, "kind": error.kind}
        return json_response(error.status, content, [NOT_KEPT, *error.headers])
    headers = [NOT_KEPT]
    status, kind, message = _meaning(error, request.key)
    if status == 503:
        after = getattr(error, "retry_after", None)
        headers.append(("Retry-After", str(_seconds(after))))
    if status == 400 or (status >= 500 and status not in (501, 507)):
        from ._server_log import log_error

        # What a store says is enough; what is no StoreError is somebody's mistake.
        log_error(error, request, whole=not isinstance(error, StoreError))
    return json_response(status, {"error": message, "kind": kind}, headers)


def _meaning(error: Exception, key: str | None) -> tuple[int, str, str]:
    if isinstance(error, StoreOSError):
        if error.errno in _FULL:
            error = StoreFullError(key=key)
        elif is_temporary(error):
            error = TemporaryError(key=key)
    for kind, status, name, of_key, otherwise in _KINDS:
        if isinstance(error, kind):
            if kind is KeyError and key is None:
                # It is about no key of the store.
                break
            return status, name, otherwise if key is None else of_key.format(ascii(key))
    return 500, "StoreError", "something unexpected happened"


def _seconds(after: float | None) -> int:
    """Return what Retry-After says: whole seconds, at least one."""
    if after is None or not 1 < after < 86400:
        return 86400 if after is not None and after >= 86400 else 1
    return -int(-after // 1)
