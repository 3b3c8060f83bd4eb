"""Future: the result of a job, with the traceback of its failure."""

from __future__ import annotations

import concurrent.futures
from threading import Condition, RLock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Future"]

T = TypeVar("T")

_PENDING, _RUNNING, _FINISHED = "PENDING", "RUNNING", "FINISHED"
_UNFINISHED = (_PENDING, _RUNNING)
_CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")


class _MadeWhenWaitedFor:
    # A Condition costs more than everything else in a future, and most futures are never waited
    # for. Not a data descriptor: once made, the condition is found in the instance first.
    def __get__(self, future: Future[Any], owner: type) -> Condition:
        with future._lock:
            condition: Condition = future.__dict__.setdefault(
                "_condition", Condition(future._lock)
            )
        return condition


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` that remembers where its job failed.

    It works wherever the standard library's does, in `concurrent.futures.wait` and
    `concurrent.futures.as_completed` too, mixed with others.
    """

    # The standard library's wait() and as_completed() use _condition, _state and _waiters of every
    # future they are given, so these keep their names and meaning. As long as there is no
    # condition nobody waits, and the methods below take a short way; otherwise the inherited ones
    # do the work. Both ways hold the same lock. Callbacks are forgotten once they have been called:
    # kept, they would keep alive what they close over.
    _condition = _MadeWhenWaitedFor()

    def __init__(self) -> None:
        # All that the inherited __init__ sets, but for the condition it would make.
        self._lock = RLock()
        self._state = _PENDING
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._traceback: str | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], Any]] = []

    def traceback(self) -> str | None:
        """Return the formatted traceback of where the job failed.

        Waits until the job has ended, as `result` does.

        Returns
        -------
        str or None
            The text, taken when the job failed; None if it succeeded or was cancelled.
        """
        try:
            self.exception()
        except concurrent.futures.CancelledError:
            return None
        return self._traceback

    def cancelled(self) -> bool:
        return self._state in _CANCELLED

    def done(self) -> bool:
        return self._state not in _UNFINISHED

    def result(self, timeout: float | None = None) -> T:
        if self._state == _FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        try:
            return super().result(timeout)
        finally:
            del self  # the traceback of what is raised here holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._state == _FINISHED:
            return self._exception
        try:
            return super().exception(timeout)
        finally:
            del self  # as above

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        with self._lock:
            unfinished = self._state in _UNFINISHED
            if unfinished:
                self._done_callbacks.append(fn)
        if not unfinished:
            super().add_done_callback(fn)

    def set_running_or_notify_cancel(self) -> bool:
        with self._lock:
            if self._state == _PENDING:
                self._state = _RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        with self._lock:
            alone = self._state in _UNFINISHED and "_condition" not in self.__dict__
            if alone:
                self._result = result
                self._state = _FINISHED
        if not alone:
            super().set_result(result)
        elif self._done_callbacks:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        self._done_callbacks.clear()

    def set_exception(self, exception: BaseException | None) -> None:
        text = None if exception is None else _format(exception)
        with self._lock:
            if self._state in _UNFINISHED:
                self._traceback = text
        super().set_exception(exception)
        self._done_callbacks.clear()


def _format(exception: BaseException) -> str:
    from traceback import format_exception

    try:
        return "".join(format_exception(exception))
    except BaseException as error:
        # The loaders of the modules on the way are asked for their source, and may raise anything.
        # That must not keep the failure itself from those who wait for it.
        return f"{type(exception).__qualname__}, and no traceback: {type(error).__qualname__}\n"
