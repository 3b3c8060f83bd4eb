"""Executors, and schedulers that decide in which order an executor gets its work.

The names below are imported when they are first asked for.
"""

from __future__ import annotations

from ..._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .abc_work_scheduler import ABCWorkScheduler
    from .asynchronizer import Asynchronizer
    from .delayed_asynchronizer import DelayedAsynchronizer
    from .enhanced_thread_pool_executor import EnhancedThreadPoolExecutor
    from .future import Future
    from .serializer import Serializer
    from .serializing_asynchronizer import SerializingAsynchronizer
    from .synchronous import SynchronousExecutor

__all__ = [
    "ABCWorkScheduler",
    "Asynchronizer",
    "DelayedAsynchronizer",
    "EnhancedThreadPoolExecutor",
    "Future",
    "Serializer",
    "SerializingAsynchronizer",
    "SynchronousExecutor",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "abc_work_scheduler": "ABCWorkScheduler",
        "asynchronizer": "Asynchronizer",
        "delayed_asynchronizer": "DelayedAsynchronizer",
        "enhanced_thread_pool_executor": "EnhancedThreadPoolExecutor",
        "future": "Future",
        "serializer": "Serializer",
        "serializing_asynchronizer": "SerializingAsynchronizer",
        "synchronous": "SynchronousExecutor",
    },
)
