"""Future: the result of a job, with the traceback of its failure.

Most futures are never waited for: when somebody asks, the job is done. Such a future is *quiet*.
It has neither lock nor condition, and its worker finishes it without them. Whoever wants to be
told of its end (a waiter, a callback) or to have a say in it (`cancel`, `set_result`) first makes
it loud for good, and then goes by its lock as the standard library does.

Two attributes of the instance are tokens: deleting an attribute is atomic, with and without the
GIL, so exactly one of those who try to delete one succeeds. Who gets `_job` may start the job, or
cancel it; a future that is PENDING without it is running. Who gets `_quiet` decides whether the
future ends quietly or is loud.
"""

from __future__ import annotations

import concurrent.futures
from functools import wraps
from threading import Lock, RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context
    from queue import SimpleQueue
    from typing import Any, Protocol, TypeVar

    T = TypeVar("T")

    Function = TypeVar("Function", bound=Callable[..., Any])
    # The context to run in, the function and its positional arguments, its keyword arguments.
    Call = tuple[Context, tuple[Any, ...], dict[str, Any]]

    class Pool(Protocol):
        queue: SimpleQueue[Any]

        def log(self, message: str, *args: object) -> None: ...


__all__ = ["Future"]


def with_signature_of(model: Function) -> Callable[[Callable[..., Any]], Function]:
    """Declare that the decorated function is called as `model` is.

    For functions that take what they will call, and its arguments, as one tuple: passing a tuple on
    costs a third of what passing on a function and the rest of its arguments does.
    """
    return wraps(model)  # type: ignore[return-value]


_PENDING, _FINISHED = "PENDING", "FINISHED"
_CANCELLED, _NOTIFIED = "CANCELLED", "CANCELLED_AND_NOTIFIED"


class _MadeLoudWhenAskedFor:
    # The standard library's wait() and as_completed() hold this lock while they look at _state and
    # put themselves into _waiters. Only the inherited methods, all of them overridden, need a whole
    # condition. Not a data descriptor: the lock, once made, is found in the instance first.
    def __get__(self, future: Future[Any], owner: type) -> RLock:
        return future._made_loud()


class Future(concurrent.futures.Future["T"]):
    """A `concurrent.futures.Future` that remembers where its job failed.

    It works wherever the standard library's does, in `concurrent.futures.wait` and
    `concurrent.futures.as_completed` too, mixed with others.
    """

    # The standard library's functions use _condition, _state and _waiters of every future they are
    # given, so these keep their names and meaning. What most futures never need, or need late, is
    # an attribute of the class until then: making a condition and three lists is what the inherited
    # __init__ spends its time on.
    _condition = _MadeLoudWhenAskedFor()  # type: ignore[assignment]
    _state = _PENDING
    _result: T | None = None
    _exception: BaseException | None = None
    _traceback: str | None = None
    _waiters: list[Any]
    _sleepers: Sequence[Lock] = ()
    _done_callbacks: Sequence[Callable[[Any], Any]] = ()
    _quiet = False
    _job: Call | None

    def __init__(self) -> None:
        self._quiet = True
        self._job = None

    def __repr__(self) -> str:
        state = "running" if self.running() else self._state.partition("_")[0].lower()
        outcome = ""
        if self._exception is not None:
            outcome = f" raised {type(self._exception).__name__}"
        elif self._state == _FINISHED:
            outcome = f" returned {type(self._result).__name__}"
        return f"<{type(self).__name__} at {id(self):#x} state={state}{outcome}>"

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
        return self._state in (_CANCELLED, _NOTIFIED)

    def running(self) -> bool:
        return self._state == _PENDING and not hasattr(self, "_job")

    def done(self) -> bool:
        return self._state != _PENDING

    def result(self, timeout: float | None = None) -> T:
        if self._state == _FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        try:
            self._wait(timeout)
            if self._exception is not None:
                raise self._exception
            return self._result  # type: ignore[return-value]
        finally:
            del self  # the traceback of what is raised here holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._state != _FINISHED:
            self._wait(timeout)
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        """Wait until the future has a result or an exception; raise if it gets neither."""
        if self._state == _PENDING:
            sleeper = Lock()
            sleeper.acquire()
            with self._made_loud():
                if asleep := self._state == _PENDING:
                    self._sleepers = (*self._sleepers, sleeper)
            if asleep:
                woken = False
                try:
                    woken = sleeper.acquire(timeout=-1 if timeout is None else max(timeout, 0))
                finally:
                    if not woken:
                        with self._made_loud():
                            self._sleepers = tuple(s for s in self._sleepers if s is not sleeper)
        if self._state == _PENDING:
            raise concurrent.futures.TimeoutError
        if self._state != _FINISHED:
            raise concurrent.futures.CancelledError

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        if self._state == _PENDING:
            with self._made_loud():
                if self._state == _PENDING:
                    self.__dict__.setdefault("_done_callbacks", []).append(fn)
                    return
        try:
            fn(self)
        except Exception:
            import logging

            # As the standard library does, by its logger.
            logger = logging.getLogger("concurrent.futures")
            logger.exception("exception calling callback for %r", self)

    def cancel(self) -> bool:
        if self._state == _FINISHED:  # map() cancels every future whose result it has
            return False
        with self._made_loud():
            if self._state != _PENDING:
                return self._state != _FINISHED
            job = self.__dict__.pop("_job", self)
            if job is self:
                return False
            self._state = _CANCELLED
            self._wake()
        del job  # not while the lock was held: a finalizer may do anything
        self._call_back()
        return True

    def set_running_or_notify_cancel(self) -> bool:
        if hasattr(self, "_job"):
            try:
                del self._job
            except AttributeError:
                pass
            else:
                return True
        with self._made_loud():
            if self._state != _CANCELLED:
                raise RuntimeError("Future in unexpected state")
            self._state = _NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
        return False

    def set_result(self, result: T) -> None:
        self._finish(result, None, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self._finish(None, exception, None if exception is None else _format(exception))

    def _made_loud(self) -> RLock:
        """Make the future loud, unless it just ended quietly; return its lock."""
        names = self.__dict__
        lock: RLock | None = names.get("_condition")
        if lock is None:
            # Re-entrant, because a finalizer may come here at any point.
            lock = names.setdefault("_lock", RLock())
            with lock:
                if "_condition" not in names:
                    if names.pop("_quiet", None) is None:
                        # As the one who took it is about to say.
                        self._state = _FINISHED if "_result" in names else _NOTIFIED
                    names["_waiters"] = []
                    names["_condition"] = lock
        return lock

    def _finish(
        self, result: T | None, exception: BaseException | None, traceback: str | None
    ) -> None:
        with self._made_loud():
            if self._state != _PENDING:
                raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")
            job = self.__dict__.pop("_job", None)
            self._result, self._exception, self._traceback = result, exception, traceback
            self._state = _FINISHED
            for waiter in self._waiters:
                if exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._wake()
        del job  # as in cancel()
        self._call_back()

    def _wake(self) -> None:
        for sleeper in self._sleepers:
            sleeper.release()
        self._sleepers = ()

    def _call_back(self) -> None:
        if self._done_callbacks:
            try:
                self._invoke_callbacks()  # type: ignore[attr-defined]
            finally:
                self._done_callbacks = ()  # kept, they would keep alive what they close over

    def _do(self, pool: Pool, queue: SimpleQueue[Any]) -> bool:
        """Do the job that an executor has put here; False in a child that the job has forked."""
        try:
            context, call, kwargs = self._job  # type: ignore[misc]
            del self._job
        except AttributeError:
            self._drop()
            return True
        try:
            result = context.run(*call, **kwargs) if kwargs else context.run(*call)
        except BaseException as error:
            # Whoever is told that the job is done may expect that nothing holds its arguments.
            del context, call, kwargs
            if pool.queue is not queue:
                return False
            try:
                self.set_exception(error)
            except BaseException:
                pool.log("%r could not be finished", self)
            del self  # the traceback of the error holds this frame
            return True
        del context, call, kwargs
        if pool.queue is not queue:
            return False
        if self._quiet:
            # Before it is told, for whoever finds the token gone. If somebody else (no worker does
            # that) finishes the future between these lines, it has either result.
            self._result = result
            try:
                del self._quiet
            except AttributeError:
                pass
            else:
                self._state = _FINISHED
                return True
        try:
            self.set_result(result)
        except BaseException:
            # A callback's error, or the future was finished by somebody else.
            pool.log("%r could not be finished", self)
        return True

    def _drop(self) -> None:
        """Cancel the future if nobody has begun with it, and tell those who wait for it."""
        try:
            if self._quiet:
                job = self._job
                del self._job
                try:
                    del self._quiet
                except AttributeError:
                    self._job = job  # somebody has to be told
                else:
                    self._state = _NOTIFIED
                    return
        except AttributeError:
            pass  # somebody has begun with it, or cancelled it
        if self.cancel():
            with self._made_loud():
                if self._state == _CANCELLED:
                    self.set_running_or_notify_cancel()


class Job:
    """The job of a future that is not one of ours, in the queue of an executor."""

    __slots__ = ("future", "job")

    def __init__(
        self,
        future: concurrent.futures.Future[Any],
        job: Call,
    ) -> None:
        self.future = future
        self.job = job

    def _do(self, pool: Pool, queue: SimpleQueue[Any]) -> bool:
        future = self.future
        context, call, kwargs = self.job
        del self.future, self.job
        try:
            if future.set_running_or_notify_cancel():
                try:
                    result = context.run(*call, **kwargs)
                except BaseException as error:
                    del context, call, kwargs
                    if pool.queue is queue:
                        future.set_exception(error)
                else:
                    del context, call, kwargs
                    if pool.queue is queue:
                        future.set_result(result)
        except BaseException:
            pool.log("%r could not be finished", future)
        finally:
            del future  # the traceback of the error holds this frame
        return pool.queue is queue

    def _drop(self) -> None:
        if self.future.cancel():
            self.future.set_running_or_notify_cancel()


def _format(exception: BaseException) -> str:
    from traceback import format_exception

    try:
        return "".join(format_exception(exception))
    except BaseException as error:
        # The loaders of the modules on the way are asked for their source, and may raise anything.
        # That must not keep the failure itself from those who wait for it.
        return f"{type(exception).__qualname__}, and no traceback: {type(error).__qualname__}\n"
