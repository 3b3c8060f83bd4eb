"""What goes wrong with HTTP, as errors of a store: connections that break, answers that refuse."""

from __future__ import annotations

import errno

from .errors import (
    AuthenticationError,
    AuthorizationError,
    IntegrityError,
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreOSError,
    TemporaryError,
    from_os_error,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._http_response import Response

# What is read of the body of a refusal.
_LIMIT = 1 << 16

# RFC 9110, 15.5.9 (the request did not come whole), RFC 8470, 5.2 (it was not processed), RFC 6585, 4
# (there were too many): it may be sent again, and nothing was done.
_NOT_DONE = frozenset({408, 425, 429})

# RFC 9110, 15.6.2 and 15.6.6: what a server cannot do it will not do later.
_NEVER = frozenset({501, 505})

# What OpenSSL says, before and since its version 3.2, of what is no TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})

# What our server says in "kind", where that says more than the status.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        AuthenticationError,
        IntegrityError,
        NotImplementedError,
        StoreError,
        StoreFullError,
        TypeError,
        ValueError,
    )
}


class BrokenConnectionError(StoreOSError, TemporaryError):
    """A connection could not be made, or broke."""


class NoRoomError(StoreOSError, StoreFullError):
    """The server has no room; as where the disk is here, it is an OSError with ENOSPC too."""


class StaleConnectionError(BrokenConnectionError):
    """A connection that was kept from an earlier request broke before an answer came.

    Most likely the server had closed it, and never got the request.
    """


class UnsentError(BrokenConnectionError):
    """A connection broke while something was sent."""


def broken(
    error: OSError, where: str, *, stale: bool = False, happened: bool | None = None
) -> StoreError:
    """Return what an OSError of a connection is."""
    kind = type(error).__name__
    code = error.errno
    if isinstance(error, TimeoutError):
        code, text = errno.ETIMEDOUT, "timed out"
    elif kind in ("SSLEOFError", "SSLZeroReturnError"):
        code, text = errno.ECONNRESET, "the connection was cut off"
    elif kind == "SSLCertVerificationError":
        reason = getattr(error, "verify_message", "") or "not valid"
        return _with(StoreError(f"{where}: the certificate is refused: {reason}"), happened)
    elif kind == "SSLError":
        reason = getattr(error, "reason", None) or "for an unknown reason"
        text = f"{where}: TLS failed: {reason.replace('_', ' ').lower()}"
        if reason in _NO_TLS:
            text += ", as of a server that speaks plain HTTP"
        return _with(StoreError(text), happened)
    elif kind == "gaierror":
        # Its numbers are not those of errno.
        text = f"{where}: {error.strerror or 'unknown host'}"
        again = TemporaryError(text) if _is_for_now(error) else StoreError(text)
        return _with(again, happened)
    else:
        text = error.strerror or str(error)
    found = (StaleConnectionError if stale else BrokenConnectionError)(code, text, where)
    if stale:
        pass
    elif code is None:
        return _with(TemporaryError(f"{where}: {text}"), happened)
    elif not isinstance(error, ConnectionError | TimeoutError) and not kind.startswith("SSL"):
        # Others are of the moment, or not, by their number: no route to the host, too many files.
        return _with(from_os_error(OSError(code, text, where)), happened)
    return _with(found, happened)


def _is_for_now(error: OSError) -> bool:
    import socket

    return error.errno == socket.EAI_AGAIN


def _with(error: StoreError, happened: bool | None) -> StoreError:
    facts: Any = error
    if happened is not None:
        facts.happened = happened
    return error


def timed_out(where: str, *, happened: bool | None = None) -> StoreError:
    """Return the error of a call whose time is over."""
    return broken(TimeoutError(), where, happened=happened)


def shown_url(url: str) -> str:
    """Return a URL without what may be a secret: what stands before the @, and the query."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid URL"
    if not parts.scheme and "@" in parts.path:
        # Something that was meant to be a URL.
        return "..." + parts.path.rpartition("@")[2]
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=parts.query and "...", fragment="").geturl()


def retry_after(text: str | None, now: float | None = None) -> float | None:
    """Return how many seconds a Retry-After says: a number, or a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:10])
    date = http_date(text)
    if date is None:
        return None
    if now is None:
        import time

        now = time.time()
    return max(0.0, date - now)


def http_date(text: str | None) -> float | None:
    """Return the seconds since the epoch of a date as HTTP writes it; None if it is none."""
    if text is None:
        return None
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        # HTTP knows no local time.
        return date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        # What it raises for what is no date differs from version to version.
        return None


def error_of(response: Response, key: str | None) -> Exception:
    """Return the error that an answer stands for; the answer is read, and closed."""
    said = _said(response)
    error = _error_of(response, key, said)
    facts: Any = error
    facts.status = response.status
    return error


def _error_of(response: Response, key: str | None, said: dict[str, Any]) -> Exception:
    status = response.status
    text = f"{shown_url(response.url)}: {line_of(said.get('error')) or f'status {status}'}"
    kind = _KINDS.get(str(said.get("kind")))
    if status in (404, 410) and key is not None:
        return KeyError(key)
    if status in (401, 403, 407):
        return (kind if kind is AuthenticationError else AuthorizationError)(text, key=key)
    if status == 412:
        return PreconditionError(text, key=key)
    if status == 507:
        return NoRoomError(errno.ENOSPC, text, key=key)
    if status == 501 and kind is NotImplementedError:
        return NotImplementedError(text)
    if status == 400 and kind in (TypeError, ValueError):
        return kind(text)
    if kind is IntegrityError or kind is StoreError:
        # Damage, or a mistake in a program, is the same next time.
        return kind(text, key=key)
    if status in _NOT_DONE or (status >= 500 and status not in _NEVER):
        happened = said.get("happened")
        return TemporaryError(
            text,
            key=key,
            retry_after=retry_after(response.headers.get("Retry-After")),
            happened=False if status in _NOT_DONE or happened is False else None,
        )
    return StoreError(text, key=key)


def _said(response: Response) -> dict[str, Any]:
    """Return what a refusal says in JSON, {} if nothing."""
    with response:
        if not (response.headers.get("Content-Type") or "").lower().startswith("application/json"):
            return {}
        import json

        try:
            response.limit(_LIMIT)
            said = json.loads(response.read())
        except (StoreError, ValueError, RecursionError):
            return {}
    return said if isinstance(said, dict) else {}


def line_of(text: Any) -> str:
    """Return a stranger's text as one short line, '' if it is none."""
    if not isinstance(text, str):
        return ""
    return "".join(each if each.isprintable() else " " for each in text[:300]).strip()
