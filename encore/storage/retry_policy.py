"""When to try again.

Waiting is exponential, with full jitter: each wait is a random part of a span that grows with each
attempt, so that many clients that failed together do not come back together (M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import errno
import time

from .errors import StoreOSError, TemporaryError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["RetryPolicy", "is_temporary"]

# What POSIX.1-2017 <errno.h> names, and describes, as a state of the moment: "try again",
# "interrupted", "busy", and connections that are broken, refused or have no way to the other end.
# The last are soft errors even inside TCP, which goes on (RFC 1122, 4.2.3.9). What a repetition finds
# unchanged is not here: no space (ENOSPC, EDQUOT), no permission, stale handles, damaged disks (EIO).
_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN",
        "EWOULDBLOCK",
        "EINTR",
        "EBUSY",
        "ETIMEDOUT",
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EPIPE",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETRESET",
        "ENETUNREACH",
        "ENOBUFS",
    )
    if hasattr(errno, name)
)


def is_temporary(error: BaseException) -> bool:
    """Whether something may work later that has failed with this error.

    It may after a TemporaryError, and after a StoreOSError that is of the moment: try again,
    interrupted, busy, timed out, a connection that is refused or broken, no way to a host.
    """
    if isinstance(error, StoreOSError):
        return error.errno in _ERRNOS or isinstance(error, TemporaryError)
    return isinstance(error, TemporaryError)


def _random() -> float:
    from random import random

    return random()


class RetryPolicy:
    """When to try again, and how often.

    Parameters
    ----------
    attempts : int > 0
        How often something is tried, the first time included.
    first_delay : float >= 0, in seconds
        The span of the first wait.
    factor : float >= 1
        How much longer each span is than the one before.
    max_delay : float >= 0, in seconds
        The longest span.
    jitter : float from 0 to 1
        How much of the span is left to chance: all of it (1), or nothing (0).
    deadline : float > 0, in seconds, or None
        No attempt starts later than this after the beginning of a call, and nobody waits for one
        that could not. For data that are read in pieces the last piece that came is the beginning.
    is_temporary : callable, optional
        Given an exception, says whether to try again; by default is_temporary() of this module.
    sleep, clock, random : callables, optional
        Instead of ``time.sleep``, ``time.monotonic`` and ``random.random``.
    """

    def __init__(
        self,
        attempts: int = 3,
        first_delay: float = 0.1,
        factor: float = 2.0,
        *,
        max_delay: float = 10.0,
        jitter: float = 1.0,
        deadline: float | None = 30.0,
        is_temporary: Callable[[BaseException], bool] = is_temporary,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random,
    ) -> None:
        if not isinstance(attempts, int) or isinstance(attempts, bool):
            raise TypeError(f"attempts is an int, not {shown(attempts)}")
        if attempts < 1:
            raise ValueError(f"attempts is positive, not {attempts}")
        for name, value, least in (
            ("first_delay", first_delay, 0),
            ("factor", factor, 1),
            ("max_delay", max_delay, 0),
            ("jitter", jitter, 0),
            ("deadline", 1 if deadline is None else deadline, 0),
        ):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name} is a number, not {shown(value)}")
            # Written so that NaN is none of these.
            if not value >= least:
                raise ValueError(f"{name} is at least {least}, not {value}")
        if jitter > 1:
            raise ValueError(f"jitter is at most 1, not {jitter}")
        self.attempts = attempts
        self.first_delay = first_delay
        self.factor = factor
        self.max_delay = max_delay
        self.jitter = jitter
        self.deadline = deadline
        self.is_temporary = is_temporary
        self.sleep = sleep
        self.clock = clock
        self.random = random

    def __repr__(self) -> str:
        return (
            f"RetryPolicy({self.attempts}, {self.first_delay}, {self.factor}, "
            f"max_delay={self.max_delay}, jitter={self.jitter}, deadline={self.deadline})"
        )

    def delay(self, attempt: int) -> float:
        """Return how long to wait after an attempt has failed, in seconds; the first has number 1."""
        try:
            span = min(self.max_delay, self.first_delay * self.factor ** (attempt - 1))
        except OverflowError:
            span = self.max_delay
        return span * (1 - self.jitter * self.random())


class Attempts:
    """The attempts of one call.

    Parameters
    ----------
    policy : RetryPolicy
    who : object
        In the log.
    may_wait : callable
        Asked before each wait.
    """

    def __init__(self, policy: RetryPolicy, who: object, may_wait: Callable[[], bool]) -> None:
        self._policy = policy
        self._who = who
        self._may_wait = may_wait
        self.begin()

    def begin(self) -> None:
        """Count from here."""
        self._count = 1
        self._started = self._policy.clock()

    def again(self, error: BaseException, may_repeat: bool = True) -> bool:
        """Wait for the next attempt, and return True; or return False if there is to be none."""
        policy = self._policy
        if not policy.is_temporary(error):
            return False
        if may_repeat and self._count < policy.attempts and self._may_wait():
            wait = max(policy.delay(self._count), getattr(error, "retry_after", None) or 0)
            if self._is_in_time(wait):
                from logging import getLogger

                getLogger(__name__).info(
                    "%r: attempt %d of %d failed, the next one is in %.3f s: %s",
                    self._who,
                    self._count,
                    policy.attempts,
                    wait,
                    error,
                )
                policy.sleep(wait)
                if self._is_in_time(0):
                    self._count += 1
                    return True
        facts: Any = error
        facts.attempts = self._count
        if self._count > 1 and hasattr(error, "add_note"):
            error.add_note(f"It has been tried {self._count} times.")
        return False

    def _is_in_time(self, wait: float) -> bool:
        policy = self._policy
        return policy.deadline is None or policy.clock() + wait - self._started <= policy.deadline


def may_have_happened(error: BaseException) -> bool:
    """Whether what failed with this error may have been done all the same."""
    happened = getattr(error, "happened", None)
    if happened is None and isinstance(error, StoreOSError):
        # Nobody was there to do it.
        return error.errno != errno.ECONNREFUSED
    return happened is not False
