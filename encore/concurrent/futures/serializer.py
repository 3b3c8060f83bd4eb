"""Serializer: every operation, in order."""

from __future__ import annotations

from collections import deque
from contextvars import copy_context

from .abc_work_scheduler import ABCWorkScheduler, Work
from .future import with_signature_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from typing import Any

    from .future import Future

__all__ = ["Serializer"]

_new = object.__new__


class Serializer(ABCWorkScheduler):
    """Does all operations, one at a time, in the order in which they were submitted."""

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
    ) -> None:
        super().__init__(executor, name, callback)
        self._pending: deque[Work[Any]] = deque()

    # A deque needs no lock. While the scheduler is busy, submit() and the end of an operation leave
    # the scheduler's alone: submit() looks whether it is still busy after it has put something
    # there, and the inherited _take() whether there is more after it has said that it is not.

    @with_signature_of(ABCWorkScheduler.submit)
    def submit(self, /, *call: Any, **kwargs: Any) -> Future[Any]:
        if not call:
            raise TypeError("submit() needs an operation")
        work: Work[Any] = _new(Work)
        work._quiet = True
        work._job = (copy_context(), call, kwargs)
        owner = self._owner
        if owner and not self._closed:
            self._pending.append(work)
            self._more = True
            if owner and not self._closed:
                return work
            try:
                self._pending.remove(work)
            except ValueError:
                return work  # it has its turn already
        try:
            self._begin(work)
            return work
        finally:
            del work  # as the inherited one does

    def _take(self, owner: object) -> Work[Any] | None:
        if self._pending:
            try:
                return self._pending.popleft()
            except IndexError:
                pass
        return super()._take(owner)

    def _add(self, work: Work[Any]) -> tuple[Work[Any], ...]:
        self._pending.append(work)
        return ()

    def _next(self) -> Work[Any] | None:
        return self._pending.popleft() if self._pending else None
