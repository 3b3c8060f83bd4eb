"""DelayedAsynchronizer: the newest operation, not too often."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from threading import Timer

from .asynchronizer import Asynchronizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from typing import Any, Protocol

    class StartsAndCancels(Protocol):
        def start(self) -> object: ...
        def cancel(self) -> object: ...


__all__ = ["DelayedAsynchronizer"]


class DelayedAsynchronizer(Asynchronizer):
    """An `Asynchronizer` that rests for a while after every operation.

    `wait` returns when the rest after the last operation is over too, so that what is submitted
    next starts at once. `shutdown` cancels what waits for the end of a rest.

    Parameters
    ----------
    executor, name, callback
        As for every scheduler.
    interval : float
        Seconds from the end of an operation to the start of the next.
    timer_factory : callable, optional
        ``timer_factory(interval, function)`` makes an object with the methods ``start()`` and
        ``cancel()`` that calls the function once. The default is a `threading.Timer` for which
        the interpreter does not wait when it exits.
    """

    _logger_name = __name__

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        interval: float,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
        timer_factory: Callable[[float, Callable[[], None]], StartsAndCancels] | None = None,
    ) -> None:
        super().__init__(executor, name, callback)
        self._interval = interval
        self._timer_factory = _daemon_timer if timer_factory is None else timer_factory
        # A timer may fire although it was cancelled; only the rest that it was made for counts.
        self._rest: object | None = None
        self._timer: StartsAndCancels | None = None

    def shutdown(self) -> None:
        with self._lock:
            self._closed = True
            timer, self._timer, self._rest = self._timer, None, None
        if timer is not None:
            self._drop_pending()
            self._go_on()
            timer.cancel()
        super().shutdown()

    def _pause(self) -> bool:
        rest = object()
        try:
            timer = self._timer_factory(self._interval, partial(self._rested, rest))
        except BaseException as error:
            self._log_no_timer(error)
            return True
        with self._lock:
            closed = self._closed
            if not closed:
                self._rest, self._timer = rest, timer
        if closed:
            self._drop_pending()
            return True
        try:
            timer.start()
        except BaseException as error:
            self._log_no_timer(error)
            return self._end(rest)
        return False

    def _rested(self, rest: object) -> None:
        if self._end(rest):
            self._go_on()

    def _end(self, rest: object) -> bool:
        """End this rest; False if it had ended before."""
        with self._lock:
            if self._rest is not rest:
                return False
            self._rest = self._timer = None
            return True

    def _drop_pending(self) -> None:
        with self._lock:
            work = self._next()
        if work is not None:
            work._drop()

    def _log_no_timer(self, error: BaseException) -> None:
        import logging

        with suppress(BaseException):
            logging.getLogger(__name__).error(
                "%s goes on without a rest, for want of a timer", self.name, exc_info=error
            )


def _daemon_timer(interval: float, function: Callable[[], None]) -> Timer:
    timer = Timer(interval, function)
    timer.daemon = True
    return timer
