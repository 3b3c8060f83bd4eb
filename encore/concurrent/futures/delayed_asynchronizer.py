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
        self._rest: Rest | None = None

    def _start_again(self) -> None:
        super()._start_again()
        self._rest = None

    def shutdown(self) -> None:
        with self._lock:
            self._closed = True
            work = self._next()
            rest, self._rest = self._rest, None
        try:
            if work is not None:
                work._drop()
        finally:
            try:
                if rest is not None and rest.goes_on:
                    self._go_on()
                if rest is not None and rest.timer is not None:
                    rest.timer.cancel()
            finally:
                super().shutdown()

    def _pause(self) -> bool:
        rest = Rest()
        with self._lock:
            if self._closed:
                return True
            self._rest = rest
        try:
            timer = self._timer_factory(self._interval, partial(self._rested, rest))
            rest.timer = timer
            if self._rest is rest:
                timer.start()
        except BaseException as error:
            self._log_no_timer(error)
            self._end_rest(rest)
        with self._lock:
            # A rest that is over by now has left it to this to go on. That is a loop, not a
            # recursion, if the timer fires in start().
            if self._rest is not rest:
                return True
            self._owner[None] = rest
            rest.goes_on = True
            return False

    def _rested(self, rest: Rest) -> None:
        if self._end_rest(rest) and rest.goes_on:
            self._go_on()

    def _end_rest(self, rest: Rest) -> bool:
        """End this rest; False if it had ended before."""
        with self._lock:
            if self._rest is not rest:
                return False
            self._rest = None
            return True

    def _log_no_timer(self, error: BaseException) -> None:
        import logging

        with suppress(BaseException):
            logging.getLogger(__name__).error(
                "%s goes on without a rest, for want of a timer", self.name, exc_info=error
            )


class Rest:
    """The time after an operation. A timer may fire although it was cancelled, or early."""

    timer: StartsAndCancels | None = None
    goes_on = False  # whether it is up to who ends it


def _daemon_timer(interval: float, function: Callable[[], None]) -> Timer:
    timer = Timer(interval, function)
    timer.daemon = True
    return timer
