"""ABCWorkScheduler: what all schedulers do; each says only what is pending and what is next."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Condition, RLock
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .future import Future

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

__all__ = ["ABCWorkScheduler", "Work"]

P = ParamSpec("P")
T = TypeVar("T")


class Work:
    """A submitted operation on its way.

    Attributes
    ----------
    operation : callable
        What to do; like `args`, `kwargs` and `key`, there only until the operation is started.
    args : tuple
        Its positional arguments.
    kwargs : dict
        Its keyword arguments.
    key : object
        For the scheduler to find it again among what is pending.
    future : Future
        What `ABCWorkScheduler.submit` returned.
    """

    __slots__ = ("_context", "_met", "args", "future", "key", "kwargs", "operation")

    def __init__(
        self, operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.key: Any = None
        self.future: Future[Any] = Future()
        # The executor may be called in another thread, but the operation is to see the context
        # variables of whoever submitted it.
        self._context = copy_context()
        self._met = False

    def __repr__(self) -> str:
        operation = getattr(self, "operation", "started")
        return f"<{type(self).__name__} {operation!r}>"

    def _start(self, executor: concurrent.futures.Executor) -> concurrent.futures.Future[Any]:
        submit = partial(executor.submit, self.operation, *self.args, **self.kwargs)
        # From here on the executor holds them, and for no longer than it needs them.
        context = self._context
        del self.operation, self.args, self.kwargs, self.key, self._context
        return context.run(submit)

    def _drop(self) -> None:
        if self.future.cancel():
            self.future.set_running_or_notify_cancel()  # tells those who wait for it


class ABCWorkScheduler(ABC):
    """Hands operations to an executor, one at a time.

    What is kept of the operations that are submitted while another one runs, and which of them is
    next, is the business of the subclasses.

    After each operation its future is given to `callback`. What the callback raises, or else what
    the operation raised, is logged in two records: the first with the exception, the second with
    the traceback of the operation.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Any executor. It is not shut down by the scheduler.
    name : str, optional
        Names the scheduler in log records; the name of the class if left out.
    callback : callable, optional
        Called with the executor's future of every operation when it is done, in the thread that
        finished it.

    Attributes
    ----------
    name : str
        As given.
    """

    _logger_name = __name__

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
    ) -> None:
        self.name = type(self).__name__ if name is None else name
        self._executor = executor
        self._callback = callback
        # Re-entrant, because a finalizer may submit at any point.
        self._lock = RLock()
        self._idle = Condition(self._lock)
        self._busy = False
        self._closed = False

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "busy" if self._busy else "idle"
        return f"<{type(self).__name__} {self.name!r}: {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _prepare(self, work: Work) -> None:  # noqa: B027 - most schedulers need no key
        """Give `work` its key. Called without the lock, so that it may run a caller's code."""

    @abstractmethod
    def _add(self, work: Work) -> Iterable[Work]:
        """Keep `work` as pending, and return what it replaces. Called with the lock held."""

    @abstractmethod
    def _next(self) -> Work | None:
        """Take the next one from what is pending. Called with the lock held."""

    def submit(
        self, operation: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have an operation done when it is its turn.

        Parameters
        ----------
        operation : callable
            What to do. What it raises is not raised here.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        Future
            The result; cancelled if the operation is dropped. It can be cancelled by the caller
            while the operation is pending.

        Raises
        ------
        RuntimeError
            After `shutdown`, and if the operation could start at once but the executor takes no
            more work.
        """
        work = Work(operation, args, kwargs)
        future = work.future
        self._prepare(work)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"cannot submit to {self.name} after shutdown")
            dropped = self._add(work)
            start = not self._busy
            self._busy = True
        for old in dropped:
            old._drop()
        if start and (refusal := self._go_on(own=work)) is not None:
            raise refusal
        return future

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is running or pending.

        Must not be called by an operation or a callback of this scheduler, which would wait for
        itself.

        Parameters
        ----------
        timeout : float, optional
            The most seconds to wait; as long as it takes if left out.

        Returns
        -------
        bool
            False if the time is over and the scheduler is still busy.
        """
        with self._lock:
            return self._idle.wait_for(lambda: not self._busy, timeout)

    def shutdown(self) -> None:
        """Take no more operations, and wait until those submitted have ended."""
        with self._lock:
            self._closed = True
        self.wait()

    def _go_on(self, own: Work | None = None) -> BaseException | None:
        """Start what is next; return what the executor raised when it was given `own`."""
        # A loop, not a recursion from the end of one operation to the start of the next: with an
        # executor that works inside submit() the chain may be as long as it likes.
        refusal: BaseException | None = None
        while True:
            with self._lock:
                work = self._next()
                if work is None:
                    self._busy = False
                    self._idle.notify_all()
                    return refusal
            if not work.future.set_running_or_notify_cancel():
                continue
            try:
                work._start(self._executor).add_done_callback(partial(self._ended, work))
            except BaseException as error:
                if work is own:
                    refusal = error
                else:
                    refused: Future[Any] = Future()
                    refused.set_exception(error)
                    self._settle(work, refused)
            else:
                if not self._meet(work) or not self._pause():
                    return refusal

    def _ended(self, work: Work, future: concurrent.futures.Future[Any]) -> None:
        try:
            self._settle(work, future)
        finally:
            if self._meet(work) and self._pause():
                self._go_on()

    def _meet(self, work: Work) -> bool:
        """Tell whether both the start and the end of `work` are over: the later one goes on."""
        with self._lock:
            met, work._met = work._met, True
        return met

    def _pause(self) -> bool:
        """Tell whether the next operation may start; if not, `_go_on` is called when it may."""
        return True

    def _settle(self, work: Work, future: concurrent.futures.Future[Any]) -> None:
        # Nothing may stop what comes after this. What is passed over here was raised by a callback
        # of the future that submit() returned, or by a log handler.
        try:
            failure = future.exception()
            error = failure
        except BaseException as cancelled:
            failure, error = cancelled, None
        try:
            if failure is None:
                work.future.set_result(future.result())
            else:
                work.future.set_exception(failure)
        except BaseException:
            pass
        if self._callback is not None:
            try:
                self._callback(future)
            except BaseException as raised:
                error = raised
        if error is not None:
            with suppress(BaseException):
                self._log(error, work.future.traceback())
        del failure, error  # their tracebacks may hold this frame

    def _log(self, error: BaseException, traceback: str | None) -> None:
        logger = logging.getLogger(self._logger_name)
        kind = type(error).__name__
        try:
            logger.error("%s in an operation of %s", kind, self.name, exc_info=error)
        finally:
            if traceback is None:
                logger.error("The operation itself did not fail")
            else:
                logger.error("Where the operation failed:\n%s", traceback)
