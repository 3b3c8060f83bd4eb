"""Conditional requests: what If-Match and its kin ask (RFC 9110, section 13), and what the store is asked then."""

from __future__ import annotations

import time

from ._etags import format_etag, parse_etag
from ._server_requests import RequestError
from .errors import PreconditionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._server_requests import Request
    from .abstract_store import AbstractStore
    from .value import Value

__all__ = [
    "check_read",
    "format_date",
    "is_conditional",
    "is_same_etag",
    "write_conditions",
]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _parse_etags(text: str, name: str) -> list[tuple[bool, str]] | None:
    """Return entity tags, whether each is weak and the tag with its quotes; None for ``*``."""
    if text.strip() == "*":
        return None
    found = []
    position, size = 0, len(text)
    while position < size:
        if text[position] in " \t,":
            position += 1
            continue
        weak = text.startswith("W/", position)
        position += 2 * weak
        end = text.find('"', position + 1)
        tag = text[position : end + 1]
        if not tag.startswith('"') or len(tag) < 2 or " " in tag:
            break
        found.append((weak, tag))
        position = end + 1
        rest = text[position:].lstrip(" \t")
        if rest and not rest.startswith(","):
            break
    else:
        if found:
            return found
    # To pass over it would do what was to be done only under a condition.
    raise RequestError(400, f"{name} is * or a list of quoted entity tags")


def _matches(text: str, name: str, tags: tuple[str, ...] | None, weakly: bool) -> bool:
    """Whether one of the tags of a header is one of `tags`; None: there is nothing, (): it has none."""
    wanted = _parse_etags(text, name)
    if tags is None:
        return False
    return wanted is None or any(tag in tags and (weakly or not weak) for weak, tag in wanted)


def format_date(moment: float | None) -> str | None:
    """Return a time as HTTP writes it; None if there is none, or none that can be written."""
    if moment is None:
        return None
    try:
        date = time.gmtime(moment // 1)
    except (ValueError, OverflowError, OSError):
        return None
    if not 1000 <= date.tm_year <= 9999:
        return None
    return (
        f"{_DAYS[date.tm_wday]}, {date.tm_mday:02} {_MONTHS[date.tm_mon - 1]} {date.tm_year} "
        f"{date.tm_hour:02}:{date.tm_min:02}:{date.tm_sec:02} GMT"
    )


def _parse_date(text: str) -> float | None:
    """Return the time that a header gives, None if it is none, which is as if it were not there."""
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        # parsedate_to_datetime() raises a TypeError for some of what it cannot parse (bpo-30681).
        return None


def is_conditional(request: Request) -> bool:
    """Whether there may be a condition."""
    environ = request.environ
    return (
        "HTTP_IF_NONE_MATCH" in environ
        or "HTTP_IF_MATCH" in environ
        or "HTTP_IF_MODIFIED_SINCE" in environ
        or "HTTP_IF_UNMODIFIED_SINCE" in environ
    )


def check_read(request: Request, tags: tuple[str, ...], modified: float | None) -> bool:
    """Whether what is asked for is to be sent; False if the client has it (304).

    In the order of RFC 9110, section 13.2.2.

    Parameters
    ----------
    request : Request
        For GET or HEAD.
    tags : tuple of str
        The entity tags of what would be sent, and of what is the same in another coding.
    modified : float or None

    Raises
    ------
    PreconditionError
        If what is there is not what the client wants.
    """
    if_match = request.header("If-Match")
    if if_match is not None:
        if not _matches(if_match, "If-Match", tags, weakly=False):
            raise PreconditionError("If-Match does not hold")
    elif _is_later(request.header("If-Unmodified-Since"), modified):
        raise PreconditionError("If-Unmodified-Since does not hold")
    if_none_match = request.header("If-None-Match")
    if if_none_match is not None:
        return not _matches(if_none_match, "If-None-Match", tags, weakly=True)
    return _is_later(request.header("If-Modified-Since"), modified) is not False


def _is_later(date: str | None, modified: float | None) -> bool | None:
    """Whether a time is later than that of a header; None if there is none of the two."""
    if date is None or modified is None:
        return None
    since = _parse_date(date)
    # Dates of HTTP are whole seconds.
    return None if since is None else modified // 1 > since


def is_same_etag(text: str, etag: str | None) -> bool:
    """Whether If-Range asks for this entity tag: the strong comparison.

    A date never does: it is a strong validator only of what has certainly not changed twice in one
    second (RFC 9110, section 8.8.2.2), which no store can tell.
    """
    return etag is not None and text.strip() == etag


def write_conditions(request: Request, store: AbstractStore, key: str) -> dict[str, str]:
    """Return ``if_match`` or ``if_none_match`` for a method of the store that writes.

    What a store has no argument for (lists, dates, ``*``) is looked at here, and the store is asked
    to write only if what was looked at is still there.

    Raises
    ------
    PreconditionError
        If the conditions do not hold.
    NotImplementedError
        If the store has no conditional writes.
    """
    if not is_conditional(request):
        return {}
    if_match = request.header("If-Match")
    if_none_match = request.header("If-None-Match")
    unmodified = None if if_match is not None else request.header("If-Unmodified-Since")
    if unmodified is not None and _parse_date(unmodified) is None:
        unmodified = None
    if if_match is None and if_none_match is None and unmodified is None:
        # If-Modified-Since is for GET and HEAD.
        return {}
    wanted = None if if_match is None else _parse_etags(if_match, "If-Match")
    unwanted = None if if_none_match is None else _parse_etags(if_none_match, "If-None-Match")
    if not store.info().get("conditional"):
        raise NotImplementedError("the store has no conditional writes")
    if if_match is None and unmodified is None and unwanted is None:
        return {"if_none_match": "*"}
    if if_none_match is None and wanted is not None and len(wanted) == 1 and not wanted[0][0]:
        etag = parse_etag(wanted[0][1])
        if etag is not None:
            return {"if_match": etag}
    return _pinned(request, store, key, unmodified)


def _pinned(
    request: Request, store: AbstractStore, key: str, unmodified: str | None
) -> dict[str, str]:
    value: Value | None
    try:
        value = store.get(key)
    except KeyError:
        value = None
    etag = None if value is None else value.etag
    tags = None if value is None else () if etag is None else (format_etag(etag),)
    if_match = request.header("If-Match")
    if_none_match = request.header("If-None-Match")
    if if_match is not None and not _matches(if_match, "If-Match", tags, weakly=False):
        raise PreconditionError("If-Match does not hold", key=key)
    if value is not None and _is_later(unmodified, value.modified):
        raise PreconditionError("If-Unmodified-Since does not hold", key=key)
    if if_none_match is not None and _matches(if_none_match, "If-None-Match", tags, weakly=True):
        raise PreconditionError("If-None-Match does not hold", key=key)
    if value is None:
        return {"if_none_match": "*"} if if_none_match is not None else {}
    if etag is None:
        raise NotImplementedError("the store has no etags")
    return {"if_match": etag}
