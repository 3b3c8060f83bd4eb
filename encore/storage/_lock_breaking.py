"""Which holders of a lock have died, and how their lock is removed. What it relies on is said in file_lock.py."""

from __future__ import annotations

import os
import time

from ._heartbeat import INTERVAL
from ._lock_holders import (
    BREAKING,
    RELEASING,
    Holder,
    holders_of,
    inode_of,
    remove_if_empty,
    unlink_file,
)
from ._owner import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._lock_holders import Key
    from .file_lock import FileLock

# Signs of life may come late; and their giver may not have been told the same time.
_SILENCE = 4 * INTERVAL


class BreakableLock:
    """The part of a lock that removes it where its holder has died.

    Parameters
    ----------
    path : str
        The lock: a file or a directory.
    poll_interval : float
        Seconds between two looks at it, at most.
    stale_timeout : float, optional
        Seconds after which a holder on another computer is taken for dead that gave no sign of life.
    """

    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _sleep: Callable[[float], None] = staticmethod(time.sleep)

    def __init__(self, path: str, poll_interval: float, stale_timeout: float | None) -> None:
        self._path = path
        self.poll_interval = poll_interval
        self.stale_timeout = stale_timeout
        #: Of those elsewhere: the last sign of life, and when it was seen first.
        self._signs: dict[Key, tuple[int, float]] = {}
        self._breaker: FileLock | None = None

    def _has_died(self, holder: Holder) -> bool:
        """Whether it is known that a holder has died, or has lost the lock."""
        if holder.state == BREAKING:
            return True
        return holder.owner is not None and bool(holder.owner.has_died())

    def _is_silent(self, holder: Holder, now: float) -> bool:
        """Whether a holder elsewhere has given no sign of life for too long."""
        if self.stale_timeout is None:
            return False
        if holder.owner is not None and holder.owner.has_died() is not None:
            return False
        sign, since = self._signs.get(holder.key, (None, now))
        if sign != holder.sign:
            since = now
        self._signs[holder.key] = (holder.sign, since)
        return now - since >= max(self.stale_timeout, _SILENCE)

    def _break(self, holder: Holder, forced: bool) -> bool:
        """Remove the lock of a holder; return whether that was done."""
        breaker = self._breaker
        if breaker is None:
            breaker = self._breaker = self._new_breaker()
        taken: list[str] = []
        try:
            if holder.shared:
                return self._remove_member(str(holder.path))
            if not breaker._acquire(0.0, taken):
                return False
            try:
                return self._break_alone(holder, forced)
            finally:
                breaker._undo(taken)
        except PermissionError:
            # It is for others to break.
            return False

    def _new_breaker(self) -> FileLock:
        """Return the lock that whoever breaks this one has."""
        from .file_lock import FileLock

        lock = FileLock(
            f"{self._path}.break", None, self.poll_interval, stale_timeout=self.stale_timeout
        )
        lock._clock, lock._sleep = self._clock, self._sleep
        return lock

    def _break_alone(self, holder: Holder, forced: bool) -> bool:
        again = holders_of(self._path)
        if [other.key for other in again] != [holder.key]:
            return False
        if not forced and again[0].sign != holder.sign:
            # It was about to be taken for dead, and has given a sign of life.
            return False
        path = holder.path
        if path is not None:
            if holder.state == RELEASING and not self._has_died(holder):
                # Its owner would remove the next lock.
                return False
            if not holder.state:
                try:
                    os.rename(path, path + BREAKING)
                except FileNotFoundError:
                    return False
                path += BREAKING
        unlink_file(self._path)
        if path is not None:
            unlink_file(path)
        self._sweep()
        return True

    def _sweep(self) -> None:
        """Remove what others have left that were killed while they took, broke or released the lock."""
        folder, base = os.path.split(self._path)
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if entry.name.startswith(f"{base}.")]
        for path in paths:
            lock, _, own = path.rpartition(".")
            owner = Owner.parse(own)
            if (
                owner is not None
                and owner.has_died()
                and inode_of(path) not in (None, inode_of(lock))
            ):
                unlink_file(path)

    def _remove_member(self, path: str) -> bool:
        # Names are never used again, so it is that one and no newer.
        removed = unlink_file(path)
        remove_if_empty(self._path)
        return removed
