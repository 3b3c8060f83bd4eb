"""Times as people say them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

__all__ = ["convertToHumanReadable", "makeEpochTime", "makeFancyDatetime"]

_UNITS = (
    ("year", 365 * 24 * 3600),
    ("month", 30 * 24 * 3600),
    ("day", 24 * 3600),
    ("hour", 3600),
    ("minute", 60),
)


def makeEpochTime(dt: datetime) -> int:
    """Return the whole seconds from the epoch to a time.

    Parameters
    ----------
    dt : datetime
        A time; local if it has no time zone.

    Returns
    -------
    int
        The seconds, negative before 1970.
    """
    return int(dt.replace(microsecond=0).timestamp())


def convertToHumanReadable(dt: datetime, utc: bool = False) -> str:
    """Say how long ago a time was, as in ``'2 days, 3 hours ago.'``.

    A year has 365 days here, and a month 30.

    Parameters
    ----------
    dt : datetime
        A time. One that is still to come counts as now.
    utc : bool
        Whether a time without a time zone is in UTC, not local.

    Returns
    -------
    str
        The largest unit that fits, and the next smaller one if there is any of it; seconds only
        for what was less than a minute ago.
    """
    if dt.tzinfo is None:
        dt = dt.replace(tzinfo=timezone.utc) if utc else dt.astimezone()
    seconds = max(0, (datetime.now(timezone.utc) - dt) // timedelta(seconds=1))
    counts = []
    rest = seconds
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        counts.append((count, unit))
    first = next((i for i, (count, _) in enumerate(counts) if count), len(counts))
    said = [(n, unit) for n, unit in counts[first : first + 2] if n] or [(seconds, "second")]
    return ", ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in said) + " ago."


def makeFancyDatetime(dt: datetime) -> dict[str, str | int]:
    """Return a time in words and in seconds.

    Parameters
    ----------
    dt : datetime
        A time; local if it has no time zone.

    Returns
    -------
    dict
        'fancy_datetime': what `convertToHumanReadable` says; 'seconds_since_epoch': what
        `makeEpochTime` counts.
    """
    return {
        "fancy_datetime": convertToHumanReadable(dt),
        "seconds_since_epoch": makeEpochTime(dt),
    }
