"""How far, how fast, how long: the arithmetic of one operation. Time is passed in."""

from __future__ import annotations

__all__ = ["Meter", "as_number"]

_HALF_LIFE = 5.0
"""Seconds after which half of the recent rate is forgotten."""


def as_number(value: object) -> int | float | None:
    """A finite count, zero or more; None for everything that is not one."""
    try:
        # Exactly an int or a float, since a subclass may compare and format itself in any way.
        number: int | float
        if isinstance(value, bool) or value is None:
            return None
        if isinstance(value, int):
            number = int.__index__(value)
        elif isinstance(value, float):
            number = float.__float__(value)
        elif hasattr(value, "__float__") or hasattr(value, "__index__"):
            number = float(value)  # type: ignore[arg-type]
        else:
            return None
    except Exception:  # whatever a foreign number type raises, it is no count
        return None
    # Also drops NaN, and integers that no float can hold: they cannot be divided.
    return number if 0 <= number <= 1e300 else None


class Meter:
    """Count, rate and time left of an operation that began at `now`.

    Parameters
    ----------
    now : float
        The time of the start, in seconds of any clock.
    total : number, optional
        The count at which the operation is complete, if it is known.
    """

    __slots__ = ("_counted", "_longest", "_mark", "_passed", "count", "start", "total")

    def __init__(self, now: float, total: float | None = None) -> None:
        self.start = now
        self.total = total
        self.count: float = 0
        self._mark: tuple[float, float] = (0, now)
        # What was counted in how much time, both fading: a ratio of sums, since the ratio of a
        # single count to the instant before it says nothing.
        self._counted = self._passed = 0.0
        self._longest = 0.0  # time between two counts

    def __repr__(self) -> str:
        return f"{type(self).__name__}(count={self.count!r}, total={self.total!r})"

    def update(self, count: float, now: float) -> None:
        """Take note of a new count."""
        marked, then = self._mark
        passed = now - then
        if count < marked:
            # It began again; what was measured says nothing now.
            self._counted = self._passed = self._longest = 0.0
            self._mark = (count, now)
        elif passed > 0:
            kept = 2.0 ** (-passed / _HALF_LIFE)
            self._counted = self._counted * kept + count - marked
            self._passed = self._passed * kept + passed
            self._longest = max(self._longest, passed)
            self._mark = (count, now)
        self.count = count

    def elapsed(self, now: float) -> float:
        """Seconds since the start."""
        return max(0.0, now - self.start)

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1, or None if the total is not known."""
        if self.total is None:
            return None
        if self.total == 0:
            return 1.0
        return min(1.0, self.count / self.total)

    def average(self, now: float) -> float | None:
        """Counts a second since the start, None before anything was measured."""
        elapsed = now - self.start
        return self.count / elapsed if elapsed > 0 and self.count > 0 else None

    def rate(self, now: float) -> float | None:
        """Counts a second: the average over all, blended with that of the last seconds.

        The average alone is slow to notice a change, the last seconds alone make the time left
        jump.
        """
        average = self.average(now)
        if average is None or self._passed == 0:
            return average
        counted, passed = self._counted, self._passed
        # Waiting longer for a step than ever before is news too; to wait as usual is not.
        idle = now - self._mark[1] - self._longest
        if idle > 0:
            kept = 2.0 ** (-idle / _HALF_LIFE)
            counted *= kept
            passed = passed * kept + idle
        return (average + counted / passed) / 2

    def remaining(self, now: float) -> float | None:
        """Seconds left at this rate, or None where nobody can say."""
        if self.total is None:
            return None
        if self.count >= self.total:
            return 0.0
        rate = self.rate(now)
        return (self.total - self.count) / rate if rate else None
