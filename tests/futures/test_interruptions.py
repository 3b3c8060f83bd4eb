"""Signal handlers and finalizers that come in between, whatever line is next."""

from __future__ import annotations

import concurrent.futures
import linecache
import threading
from pathlib import Path

import pytest

from encore.concurrent.futures import (
    Asynchronizer,
    DelayedAsynchronizer,
    EnhancedThreadPoolExecutor,
    Serializer,
    SerializingAsynchronizer,
    SynchronousExecutor,
    abc_work_scheduler,
)

FOLDER = Path(abc_work_scheduler.__file__).parent
SCHEDULER_FILES = {
    str(FOLDER / f"{name}.py")
    for name in (
        "abc_work_scheduler",
        "asynchronizer",
        "delayed_asynchronizer",
        "serializer",
        "serializing_asynchronizer",
    )
}


class NoTimer:
    def __init__(self, interval, function):
        self.start = function

    def cancel(self):
        pass


class AtOnceAsynchronizer(DelayedAsynchronizer):
    def __init__(self, executor):
        super().__init__(executor, 0, timer_factory=NoTimer)


@pytest.fixture(params=[Serializer, Asynchronizer, SerializingAsynchronizer, AtOnceAsynchronizer])
def scheduler_class(request):
    return request.param


def lines(frame):
    # A `with` statement is one step from its last line to the release of the lock, if that is
    # written in C; tracing alone tells two.
    code = frame.f_code.co_filename
    return code in SCHEDULER_FILES and "with self._lock" not in linecache.getline(
        code, frame.f_lineno
    )


def everywhere(try_it):
    """Call ``try_it(number)`` until the number is too high for an interruption to come."""
    number = 1
    while try_it(number):
        number += 1
    assert number > 20


@pytest.mark.parametrize("make_executor", [SynchronousExecutor, EnhancedThreadPoolExecutor])
def test_a_scheduler_goes_on_after_control_c_in_submit(
    scheduler_class, make_executor, deadline, interrupted
):
    executor = make_executor(*[1] * (make_executor is EnhancedThreadPoolExecutor))
    executor.submit(int).result(deadline)

    def try_it(number):
        scheduler = scheduler_class(executor)
        came = interrupted(lambda: scheduler.submit(int), lines, number)
        assert scheduler.wait(deadline)
        future = scheduler.submit(int, "7")
        assert scheduler.wait(deadline)
        assert future.result(0) == 7
        return came

    with executor:
        everywhere(try_it)


def test_control_c_leaves_alone_what_runs(scheduler_class, manual, interrupted):
    def try_it(number):
        running = []

        def operation():
            running.append(len(manual.jobs))

        scheduler = scheduler_class(manual)
        came = interrupted(lambda: scheduler.submit(operation), lines, number)
        future = scheduler.submit(operation)
        assert len(manual.jobs) == 1
        manual.do_all()
        assert scheduler.wait(0)
        assert future.done()
        assert set(running) == {0}
        return came

    everywhere(try_it)


@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_lost_that_a_signal_handler_submits(scheduler_class, manual, busy, interrupted):
    def operation():
        pass

    def try_it(number):
        executor = manual if busy else SynchronousExecutor()
        scheduler = scheduler_class(executor)
        futures = [scheduler.submit(int)] if busy else []

        def submit(*_):
            futures.append(scheduler.submit(operation))

        came = interrupted(submit, lines, number, submit)
        manual.do_all()
        assert scheduler.wait(0)
        assert all(future.done() for future in futures)
        return came

    # What a busy scheduler does in submit() is short.
    number = 1
    while try_it(number):
        number += 1
    assert number > 5


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_executor_that_raises_leaves_the_scheduler_idle(scheduler_class, kind):
    class Raising(SynchronousExecutor):
        raises = True

        def submit(self, fn, /, *args, **kwargs):
            if self.raises:
                raise kind
            return super().submit(fn, *args, **kwargs)

    executor = Raising()
    scheduler = scheduler_class(executor)
    with pytest.raises(kind):
        scheduler.submit(int)
    assert scheduler.wait(0)
    executor.raises = False
    assert scheduler.submit(int, "7").result(0) == 7


def test_control_c_while_a_thread_starts_leaves_it_counted(make_pool, deadline, monkeypatch):
    start = threading.Thread.start

    def start_interrupted(thread):
        start(thread)
        started.add(thread)
        raise KeyboardInterrupt

    started = set()
    pool = make_pool(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(int)
    assert pool.submit(int, "7").result(deadline) == 7
    assert pool._threads == started


def test_a_failing_next_is_told_and_the_scheduler_idle(manual, deadline):
    class Failing(Asynchronizer):
        def _next(self):
            raise LookupError

    scheduler = Failing(manual)
    waiting = threading.Thread(target=scheduler.wait)
    waiting.start()
    with pytest.raises(LookupError):
        scheduler.submit(int)
    assert scheduler.wait(0)
    waiting.join(deadline)
    assert not waiting.is_alive()


@pytest.mark.parametrize("returned", [None, 7])
def test_an_executor_that_returns_no_future_is_told(scheduler_class, returned):
    class Wrong(concurrent.futures.Executor):
        def submit(self, fn, /, *args, **kwargs):
            return returned

    scheduler = scheduler_class(Wrong())
    with pytest.raises(AttributeError):
        scheduler.submit(int)
    assert scheduler.wait(0)
