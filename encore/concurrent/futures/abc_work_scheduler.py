"""ABCWorkScheduler: what all schedulers do; each says only what is pending and what is next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from contextvars import copy_context
from threading import RLock, Thread

from ..threadtools import CancellationToken
from ._fork import start_again_in_children
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

_new = object.__new__


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

    @property
    def operation(self) -> Callable[..., T]:
        return self._job[1][0]  # type: ignore[index, no-any-return]

    @property
    def args(self) -> tuple[Any, ...]:
        return self._job[1][1:]  # type: ignore[index]

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._job[2]  # type: ignore[index]

    def _start(self, executor: concurrent.futures.Executor) -> concurrent.futures.Future[T]:
        """Give the operation to the executor; return its future, or self if it was cancelled."""
        try:
            # From here on the executor holds them, and for no longer than it needs them. It may be
            # called in another thread, but the operation is to see the context variables of whoever
            # submitted it.
            context, call, kwargs = self._job  # type: ignore[misc]
            del self._job
        except AttributeError:
            self._drop()
            return self
        finally:
            del self  # see _go_on()
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
        Called with the future of every operation when it is done, the executor's, or the one that
        `submit` returned if the executor made none. This happens in the thread that finished it,
        or in one of its own if the executor cancelled the operation or is broken.

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
        # Re-entrant, because a finalizer or a signal handler may submit at any point.
        self._lock = RLock()
        # Under the key None, who has to go on; nobody while the scheduler is idle. A dictionary,
        # because setdefault() cannot be interrupted, and tells who was first.
        self._owner: dict[None, object] = {}
        self._more = False  # whether anything was submitted since _take() last looked
        self._idle: CancellationToken | None = None  # of those who wait
        self._closed = False
        self._prepares = type(self)._prepare is not ABCWorkScheduler._prepare
        start_again_in_children(self)

    def _start_again(self) -> None:
        """In a forked child: leave what was submitted to the parent."""
        self._lock = RLock()
        self._owner.clear()
        self._idle = None
        while self._next() is not None:
            pass

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "busy" if self._owner else "idle"
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
        work: Work[T] = _new(Work)
        try:
            work._quiet = True
            work._job = (copy_context(), (operation, *args), kwargs)
            if self._prepares:
                self._prepare(work)
            self._begin(work)
            return work
        finally:
            del work  # see _go_on()

    def _begin(self, work: Work[Any]) -> None:
        """Take `work`, and start it if nothing else is under way."""
        owner = self._owner
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError(f"cannot submit to {self.name} after shutdown")
                # First, so that who interrupts _add() only adds something too.
                if not owner:
                    owner.setdefault(None, work)
                dropped = self._add(work)
                self._more = True
                # Again, in case that who interrupted brought what was under way to its end.
                start = owner.setdefault(None, work) is work
            for old in dropped:
                old._drop()
            if start:
                self._go_on(work)
        except BaseException:
            if owner.get(None) is work:
                self._go_on(work)
            raise
        finally:
            del work  # see _go_on()

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
            if not self._owner:
                return True
            idle = self._idle = self._idle or CancellationToken()
        return idle.wait(timeout)

    def shutdown(self) -> None:
        """Take no more operations, and wait until those submitted have ended."""
        with self._lock:
            self._closed = True
        self.wait()

    def _take(self, owner: object) -> Work[Any] | None:
        """Take what is next, for its owner; if there is nothing, the scheduler is idle."""
        with self._lock:
            while True:
                self._more = False
                if (work := self._next()) is not None:
                    return work
                self._owner.clear()
                # Before that, who interrupted this (a signal handler, a finalizer) or needs no lock
                # has left it to us to go on; after that, he has gone on himself.
                if not self._more or self._owner.setdefault(None, owner) is not owner:
                    break
            self._wake()
        return None

    def _wake(self) -> None:
        """Wake those who wait, if the scheduler is idle."""
        with self._lock:
            if not self._owner and self._idle is not None:
                self._idle.cancel()
                self._idle = None

    def _go_on(self, own: Work[Any] | None = None) -> None:
        """Start what is next; if the executor does not take `own`, raise what it raises."""
        # A loop, not a recursion from the end of one operation to the start of the next: with an
        # executor that works inside submit() the chain may be as long as it likes.
        #
        # It may be interrupted anywhere, by Control-C, say. With no work in hand it just goes on;
        # work that was given a turn is left to who has it, or else taken back.
        me = object()
        raised: BaseException | None = None
        work: Any = None
        future: Any = None
        turn: Turn | None = None
        try:
            while True:
                try:
                    self._owner[None] = me
                    while (work := self._take(me)) is not None:
                        # Looked up in the class: an executor may be somebody's mock, which has
                        # every attribute. Nobody can tell the difference, see there.
                        executor = self._executor
                        turns = getattr(type(executor), "_turns", None)
                        pool = None if turns is None else turns(executor)
                        if pool is not None and (put := pool.put) is not None:
                            turn = Turn(self, work)
                            put(turn)
                            # As in submit() of the executor: if it is still open, a worker will
                            # come to the turn.
                            if pool.put is put or turn.take_back() is None:
                                break
                            turn = None
                        future = work._start(executor)
                        if future is work:
                            work = future = None
                            continue
                        if not future.done():
                            turn = Turn(self, work)
                            future.add_done_callback(turn)
                            break
                        self._settle(work, future)
                        work = future = None
                        if not self._pause():
                            break
                    break
                except BaseException as error:
                    if work is None:
                        again, raised = raised is not None, error
                        if self._owner.get(None) is me:
                            if not again:
                                continue
                            self._owner.clear()
                        self._wake()
                        break
                    if turn is not None and turn.take_back() is None:
                        raised = error
                        break
                    try:
                        future.add_done_callback(Turn(self, work))
                    except Exception:  # the executor has not taken it, or returned no future
                        if work is own:
                            raised = error
                        else:
                            future = Future()
                            future.set_exception(error)
                            self._settle(work, future)
                    else:
                        raised = error
                        break
                    work = future = turn = None
            if raised is not None:
                raise raised
        finally:
            # The traceback of an operation that was done in submit() of the executor holds this
            # frame and those that called it: without its future they are no cycle.
            del raised, own, work, future

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
            work = take(turn)

    def _miss_turn(self, work: Work[Any]) -> None:
        """Go on after the executor has dropped `work`."""
        goes_on = True
        try:
            if not work.cancelled():
                work._drop()
                self._report(work, None, work)
                goes_on = self._pause()
        finally:
            if goes_on:
                self._go_on()

    def _ended(self, work: Work[Any], future: concurrent.futures.Future[Any]) -> None:
        """Go on after the executor has ended `work`."""
        if not future.cancelled() and not isinstance(future.exception(), BrokenExecutor):
            self._end(work, future)
            return
        # The standard library's executors hold a lock here, and need it in submit().
        try:
            Thread(target=self._end, args=(work, future), daemon=False).start()
        except RuntimeError:  # no more threads to be had: the interpreter exits
            try:
                self._settle(work, future)
            finally:
                while (pending := self._take(self)) is not None:
                    pending._drop()

    def _end(self, work: Work[Any], future: concurrent.futures.Future[Any]) -> None:
        try:
            self._settle(work, future)
        finally:
            if self._pause():
                self._go_on()

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
    """The turn of an operation: a token, whoever takes it back has to go on.

    In the queue of an executor it is the scheduler's turn to use the thread that comes to it; it is
    a callback for the future of any other.
    """

    __slots__ = ("_scheduler", "_work")

    def __init__(self, scheduler: ABCWorkScheduler, work: Work[Any]) -> None:
        self._scheduler = scheduler
        self._work = work

    def take_back(self) -> Work[Any] | None:
        """Return the operation, unless somebody has done so before."""
        try:
            work = self._work
            del self._work  # atomic: only one of two has it
        except AttributeError:
            return None
        return work

    def __call__(self, future: concurrent.futures.Future[Any]) -> None:
        if (work := self.take_back()) is not None:
            self._scheduler._ended(work, future)

    def _do(self, pool: Any, queue: Any) -> bool:
        self._scheduler._do_in_turn(self, pool, queue)
        return pool.queue is queue

    def _drop(self) -> None:
        if (work := self.take_back()) is not None:
            self._scheduler._miss_turn(work)
