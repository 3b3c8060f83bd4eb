"""SynchronousExecutor: no threads at all."""

from __future__ import annotations

import concurrent.futures
from contextvars import copy_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .future import Future

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["SynchronousExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


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

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self._future_factory()
        future.set_running_or_notify_cancel()
        try:
            result = copy_context().run(fn, *args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        try:
            return future
        finally:
            del future  # an exception's traceback holds this frame, and the future the exception

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shutdown = True
