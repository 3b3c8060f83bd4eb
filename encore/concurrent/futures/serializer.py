"""Serializer: every operation, in order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .abc_work_scheduler import ABCWorkScheduler

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from typing import Any

    from .abc_work_scheduler import Work

__all__ = ["Serializer"]


class Serializer(ABCWorkScheduler):
    """Does all operations, one at a time, in the order in which they were submitted."""

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
    ) -> None:
        super().__init__(executor, name, callback)
        self._pending: deque[Work] = deque()

    def _add(self, work: Work) -> tuple[Work, ...]:
        self._pending.append(work)
        return ()

    def _next(self) -> Work | None:
        return self._pending.popleft() if self._pending else None
