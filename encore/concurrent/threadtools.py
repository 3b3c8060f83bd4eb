"""Patterns that threaded code needs again and again."""

from __future__ import annotations

from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["synchronized"]


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
    lock = RLock()

    @wraps(func)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with lock:
            return func(*args, **kwargs)

    return guarded
