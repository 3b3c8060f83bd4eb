"""Asynchronizer: the newest operation."""

from __future__ import annotations

from .abc_work_scheduler import ABCWorkScheduler

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable
    from typing import Any

    from .abc_work_scheduler import Work

__all__ = ["Asynchronizer"]


class Asynchronizer(ABCWorkScheduler):
    """Does one operation at a time, and keeps only the newest of those that wait meanwhile."""

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
    ) -> None:
        super().__init__(executor, name, callback)
        self._pending: Work[Any] | None = None

    def _add(self, work: Work[Any]) -> tuple[Work[Any], ...]:
        replaced, self._pending = self._pending, work
        return () if replaced is None else (replaced,)

    def _next(self) -> Work[Any] | None:
        work, self._pending = self._pending, None
        return work
