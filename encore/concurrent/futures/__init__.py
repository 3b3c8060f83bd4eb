"""Executors, and schedulers that decide in which order an executor gets its work.

The names below are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module

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

_HOMES = {
    "ABCWorkScheduler": "abc_work_scheduler",
    "Asynchronizer": "asynchronizer",
    "DelayedAsynchronizer": "delayed_asynchronizer",
    "EnhancedThreadPoolExecutor": "enhanced_thread_pool_executor",
    "Future": "future",
    "Serializer": "serializer",
    "SerializingAsynchronizer": "serializing_asynchronizer",
    "SynchronousExecutor": "synchronous",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
