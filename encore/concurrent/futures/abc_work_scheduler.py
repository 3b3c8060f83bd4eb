"""ABCWorkScheduler: what all schedulers do; each says only what is pending and what is next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Condition, RLock

from .future import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    SelfT = TypeVar("SelfT", bound="ABCWorkScheduler")
    T = TypeVar("T")

__all__ = ["ABCWorkScheduler", "Work"]


class Work(Future["T"]):
    """A submitted operation on its way: the future that `ABCWorkScheduler.submit` returns for it.

    Attributes
    ----------
    operation : callable
        What to do; like `args` and `kwargs` there only until the operation is started or dropped.
    args : tuple
        Its positional arguments.
    kwargs : dict
        Its keyword arguments.
    key : object
        For the scheduler to find it again among what is pending.
    """

    key: Any = None
    _met = False

    @property
    def operation(self) -> Callable[..., T]:
        return self._job[1][0]  # type: ignore[index, no-any-return]

    @property
    def args(self) -> tuple[Any, ...]:
        return self._job[1][1:]  # type: ignore[index]

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._job[2]  # type: ignore[index]

    def _start(self, executor: concurrent.futures.Executor) -> concurrent.futures.Future[T] | None:
        """Give the operation to the executor, unless it was cancelled."""
        try:
            # From here on the executor holds them, and for no longer than it needs them. It may be
            # called in another thread, but the operation is to see the context variables of whoever
            # submitted it.
            context, call, kwargs = self._job  # type: ignore[misc]
            del self._job
        except AttributeError:
            self._drop()
            return None
        return context.run(executor.submit, *call, **kwargs)


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
        Called with the future of every operation when it is done, in the thread that finished it:
        the executor's, or the one that `submit` returned if the executor made none.

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

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _prepare(self, work: Work[Any]) -> None:  # noqa: B027 - most schedulers need no key
        """Give `work` its key. Called without the lock, so that it may run a caller's code."""

    @abstractmethod
    def _add(self, work: Work[Any]) -> Iterable[Work[Any]]:
        """Keep `work` as pending, and return what it replaces. Called with the lock held."""

    @abstractmethod
    def _next(self) -> Work[Any] | None:
        """Take the next one from what is pending. Called with the lock held."""

    def submit(self, operation: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
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
        work: Work[T] = Work()
        work._job = (copy_context(), (operation, *args), kwargs)
        self._prepare(work)
        self._begin(work)
        return work

    def _begin(self, work: Work[Any]) -> None:
        """Take `work`, and start it if nothing else is under way."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"cannot submit to {self.name} after shutdown")
            dropped = self._add(work)
            start = not self._busy
            self._busy = True
        for old in dropped:
            old._drop()
        if start:
            self._go_on(own=work)

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

    def _take(self) -> Work[Any] | None:
        """Take what is next; if there is nothing, the scheduler is idle from now on."""
        with self._lock:
            work = self._next()
            if work is None:
                self._busy = False
                self._idle.notify_all()
        return work

    def _go_on(self, own: Work[Any] | None = None) -> None:
        """Start what is next; if the executor does not take `own`, raise what it raises."""
        # A loop, not a recursion from the end of one operation to the start of the next: with an
        # executor that works inside submit() the chain may be as long as it likes.
        refusal: BaseException | None = None
        try:
            while (work := self._take()) is not None:
                if self._take_turns(work):
                    break
                try:
                    future = work._start(self._executor)
                    if future is None:
                        continue
                    if not (done := future.done()):
                        future.add_done_callback(partial(self._ended, work))
                except BaseException as error:
                    if work is own:
                        refusal = error
                        continue
                    future, done = Future(), True
                    future.set_exception(error)
                if done:
                    self._settle(work, future)
                elif not self._meet(work):
                    break
                if not self._pause():
                    break
            if refusal is not None:
                raise refusal
        finally:
            del refusal, own  # its traceback holds this frame

    def _take_turns(self, work: Work[Any]) -> bool:
        """Do `work`, and what comes after it, without an executor's submit for each.

        That is only done where nobody can tell the difference, see `_turns` of the executor.
        """
        # Looked up in the class: an executor may be somebody's mock, which has every attribute.
        turns = getattr(type(self._executor), "_turns", None)
        pool = None if turns is None else turns(self._executor)
        if pool is None or (put := pool.put) is None:
            return False
        turn = Turn(self, work)
        put(turn)
        # As in submit() of the executor: if it is still open, a worker will come to the turn.
        return pool.put is put or not turn.take_back()

    def _do_in_turn(self, turn: Turn, pool: Any, queue: Any) -> None:
        work = turn.take_back()  # not an argument, which the caller would hold until the turn ends
        nobody_waits, take = queue.empty, self._take
        pauses = type(self)._pause is not ABCWorkScheduler._pause  # called for every operation else
        while work is not None:
            if not work._do(pool, queue):
                return  # in a forked child: everything else is the business of the parent
            told = self._callback is not None or work._exception is not None
            if (told or pauses) and not work.cancelled():
                self._report(work, work._exception, work)
                if not self._pause():
                    return
            del work
            # Who waits for the thread gets it, just as if every operation had been submitted.
            if pool.put is None or not nobody_waits():
                self._go_on()
                return
            work = take()

    def _miss_turn(self, work: Work[Any]) -> None:
        """Go on after the executor has dropped `work`."""
        if not work.cancelled():
            work._drop()
            self._report(work, None, work)
            if not self._pause():
                return
        self._go_on()

    def _ended(self, work: Work[Any], future: concurrent.futures.Future[Any]) -> None:
        try:
            self._settle(work, future)
        finally:
            if self._meet(work) and self._pause():
                self._go_on()

    def _meet(self, work: Work[Any]) -> bool:
        """Tell whether both the start and the end of `work` are over: the later one goes on."""
        with self._lock:
            met, work._met = work._met, True
        return met

    def _pause(self) -> bool:
        """Tell whether the next operation may start; if not, `_go_on` is called when it may."""
        return True

    def _settle(self, work: Work[Any], future: concurrent.futures.Future[Any]) -> None:
        """Give `work` the outcome of the executor's future."""
        # Nothing may stop what comes after this. What is passed over here was raised by a callback
        # of the future that submit() returned.
        try:
            failure = future.exception()
            error = failure
        except BaseException as cancelled:
            failure, error = cancelled, None
        with suppress(BaseException):
            if failure is None:
                work.set_result(future.result())
            else:
                work.set_exception(failure)
        self._report(future, error, work)
        del failure, error  # their tracebacks may hold this frame

    def _report(
        self,
        future: concurrent.futures.Future[Any],
        error: BaseException | None,
        work: Work[Any],
    ) -> None:
        """Tell the callback, and the log of a failure."""
        if self._callback is not None:
            try:
                self._callback(future)
            except BaseException as raised:
                error = raised
        if error is not None:
            with suppress(BaseException):
                self._log(error, work.traceback())
        del error  # as above

    def _log(self, error: BaseException, traceback: str | None) -> None:
        import logging

        logger = logging.getLogger(self._logger_name)
        kind = type(error).__name__
        try:
            logger.error("%s in an operation of %s", kind, self.name, exc_info=error)
        finally:
            if traceback is None:
                logger.error("The operation itself did not fail")
            else:
                logger.error("Where the operation failed:\n%s", traceback)


class Turn:
    """In the queue of an executor: a scheduler's turn to use the thread that comes to it."""

    __slots__ = ("_scheduler", "_work")

    def __init__(self, scheduler: ABCWorkScheduler, work: Work[Any]) -> None:
        self._scheduler = scheduler
        self._work = work

    def take_back(self) -> Work[Any] | None:
        """Return the operation if no thread has come to the turn, which is over then."""
        try:
            work = self._work
            del self._work  # atomic: only one of two has it
        except AttributeError:
            return None
        return work

    def _do(self, pool: Any, queue: Any) -> bool:
        self._scheduler._do_in_turn(self, pool, queue)
        return pool.queue is queue

    def _drop(self) -> None:
        if (work := self.take_back()) is not None:
            self._scheduler._miss_turn(work)
