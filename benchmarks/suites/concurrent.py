"""Executors and schedulers.

Jobs that do nothing are submitted and waited for all together; a figure is for one of them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.suite import Row, both

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from benchmarks.suite import Measure

WORKERS = 4


def job(argument: int = 0) -> None:
    pass


def encore(module: str, name: str, *args: object) -> Any:
    return getattr(import_module(f"encore.concurrent.futures.{module}"), name)(*args)


def pool() -> Any:
    return encore("enhanced_thread_pool_executor", "EnhancedThreadPoolExecutor", WORKERS)


def timed(work: Callable[[int], object]) -> Measure:
    def measure(count: int) -> float:
        start = perf_counter()
        work(count)
        return perf_counter() - start

    return measure


def submitting(executor: Any) -> Measure:
    def work(count: int) -> None:
        for future in [executor.submit(job) for _ in range(count)]:
            future.result()

    return timed(work)


def submitting_for_wait(executor: Any) -> Measure:
    return timed(lambda count: wait([executor.submit(job) for _ in range(count)]))


def mapping(executor: Any) -> Measure:
    return timed(lambda count: list(executor.map(job, range(count))))


def serializer() -> Measure:
    scheduler = encore("serializer", "Serializer", pool())

    def work(count: int) -> None:
        for _ in range(count):
            scheduler.submit(job)
        scheduler.wait()

    return timed(work)


def synchronous() -> Measure:
    executor = encore("synchronous", "SynchronousExecutor")

    def work(count: int) -> None:
        for _ in range(count):
            executor.submit(job)

    return timed(work)


def row(name: str, way: Callable[[Any], Measure], **goals: float) -> Row:
    setups = {**both(lambda: way(pool())), "limit": lambda: way(ThreadPoolExecutor(WORKERS))}
    return Row(name, setups, goals, "ThreadPoolExecutor", slice=0.02)


ROWS = [
    row("executor submit", submitting, S=4.5),
    row("executor submit, waited for with concurrent.futures.wait", submitting_for_wait),
    row("executor map", mapping, S=5),
    Row("Serializer submit", both(serializer), {"S": 8}, slice=0.02),
    Row("SynchronousExecutor submit", both(synchronous), {"S": 4.9}),
]
