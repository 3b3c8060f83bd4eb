"""SerializingAsynchronizer: the newest operation of every kind, in order."""

from __future__ import annotations

from collections import OrderedDict

from .abc_work_scheduler import ABCWorkScheduler

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Hashable
    from typing import Any

    from .abc_work_scheduler import Work

__all__ = ["SerializingAsynchronizer"]


class SerializingAsynchronizer(ABCWorkScheduler):
    """Does one operation at a time, and of those that wait the newest for every callable.

    A newer submission takes the place of the older one in the order.

    Parameters
    ----------
    executor, name, callback
        As for every scheduler.
    key : callable, optional
        Called with the operation and its arguments; says by a hashable value which operations
        replace each other. If left out, those that call the same (an equal) callable do.
    """

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        name: str | None = None,
        callback: Callable[[concurrent.futures.Future[Any]], object] | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        super().__init__(executor, name, callback)
        self._key = key
        self._pending: OrderedDict[Hashable, list[Work[Any] | None]] = OrderedDict()

    def _prepare(self, work: Work[Any]) -> None:
        if self._key is None:
            work.key = work.operation
        else:
            work.key = self._key(work.operation, *work.args, **work.kwargs)

    def _add(self, work: Work[Any]) -> tuple[Work[Any], ...]:
        # Each of the two lines does all or nothing, whatever interrupts.
        place = self._pending.setdefault(work.key, [None])
        replaced, place[0] = place[0], work
        return () if replaced is None else (replaced,)

    def _next(self) -> Work[Any] | None:
        if not self._pending:
            return None
        (work,) = self._pending.popitem(last=False)[1]
        if work is not None:
            del work.key  # the future would keep it
        return work
