"""Patterns that threaded code needs again and again."""

from __future__ import annotations

from _thread import TIMEOUT_MAX, allocate_lock
from functools import wraps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["CancellationToken", "synchronized"]


def synchronized(func: Callable[P, T]) -> Callable[P, T]:
    """Let only one thread at a time run the decorated function.

    Every decorated function has a lock of its own, so two of them do not keep each other out. The
    lock is re-entrant: the function may call itself. A decorated method has one lock for all
    instances.

    Parameters
    ----------
    func : callable
        The function to guard.

    Returns
    -------
    callable
        A function with the same name, signature and result.
    """
    from threading import RLock

    lock = RLock()

    @wraps(func)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            return func(*args, **kwargs)

    return guarded


class CancellationToken:
    """A request to stop, passed from those who may make it to the work that heeds it.

    The work looks at `cancelled` wherever it can stop. All methods may be called from any thread,
    from a signal handler and from a finalizer, whatever they interrupt. There is no way back: a
    token is for one piece of work.

    Attributes
    ----------
    cancelled : bool
        Whether `cancel` was called. It cannot be assigned.
    """

    __slots__ = ("__weakref__", "_sleepers", "cancelled")

    cancelled: bool
    _sleepers: list[LockType]

    def __init__(self) -> None:
        object.__setattr__(self, "cancelled", False)
        object.__setattr__(self, "_sleepers", [])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} of a {type(self).__name__} cannot be assigned")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{': cancelled' if self.cancelled else ''}>"

    # No condition: cancel() must not wait for a lock that the code it interrupts may hold. Every
    # sleeper has a lock of its own instead. It is in the list before wait() looks at `cancelled`,
    # which is set before cancel() looks into the list, so one of the two sees the other.

    def cancel(self) -> None:
        """Ask the work to stop; asking again changes nothing."""
        object.__setattr__(self, "cancelled", True)
        for sleeper in tuple(self._sleepers):
            try:
                sleeper.release()
            except RuntimeError:
                pass  # it has been woken

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the token is cancelled: a sleep that ends early.

        Parameters
        ----------
        timeout : float, optional
            The most seconds to wait; as long as it takes if left out.

        Returns
        -------
        bool
            Whether the token is cancelled.
        """
        sleeper = allocate_lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        try:
            if not self.cancelled:
                seconds = -1 if timeout is None else min(max(timeout, 0), TIMEOUT_MAX)
                sleeper.acquire(timeout=seconds)
        finally:
            self._sleepers.remove(sleeper)
        return self.cancelled
