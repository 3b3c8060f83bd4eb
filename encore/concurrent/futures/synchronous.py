"""SynchronousExecutor: no threads at all."""

from __future__ import annotations

import concurrent.futures
from contextvars import copy_context

from .future import _FINISHED, Future, with_signature_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SynchronousExecutor"]

_new = object.__new__


class SynchronousExecutor(concurrent.futures.Executor):
    """An executor that has done the job when `submit` returns.

    For tests, and for turning concurrency off without changing the code that uses it. As in a
    thread of an executor, what the job raises is in its future, and what it does to context
    variables ends with it.
    """

    _future_factory: type[concurrent.futures.Future[Any]] = Future

    def __init__(self) -> None:
        self._shutdown = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{': shut down' if self._shutdown else ''}>"

    @with_signature_of(concurrent.futures.Executor.submit)
    def submit(self, /, *call: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        run = copy_context().run
        future: concurrent.futures.Future[Any]
        try:
            result = run(*call, **kwargs) if kwargs else run(*call)
        except BaseException as error:
            if not call:
                raise TypeError("submit() needs a function to call") from None
            future = self._future_factory()
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            try:
                return future
            finally:
                del future  # the traceback of the error holds this frame
        if self._future_factory is Future:
            done: Future[Any] = _new(Future)  # and not Future(), which prepares it for being told
            done._result = result
            done._state = _FINISHED
            return done
        future = self._future_factory()
        future.set_running_or_notify_cancel()
        future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shutdown = True
