from __future__ import annotations

import itertools
import logging
import threading

import pytest

from encore.concurrent.futures import DelayedAsynchronizer

LOGGER = "encore.concurrent.futures.delayed_asynchronizer"


class Timer:
    """A timer that fires when the test says so."""

    def __init__(self, interval, function):
        self.interval = interval
        self.fire = function
        self.calls = []

    def start(self):
        self.calls.append("start")

    def cancel(self):
        self.calls.append("cancel")


@pytest.fixture
def timers():
    return []


@pytest.fixture
def make(manual, timers):
    def timer_factory(interval, function):
        timers.append(Timer(interval, function))
        return timers[-1]

    def make(interval=1.5, **kwargs):
        return DelayedAsynchronizer(manual, interval, timer_factory=timer_factory, **kwargs)

    return make


def test_the_first_operation_starts_at_once(make, manual, timers):
    make().submit(int)
    assert len(manual.jobs) == 1
    assert not timers


def test_the_next_operation_waits_for_the_interval(make, manual, timers):
    ran = []
    scheduler = make()
    scheduler.submit(ran.append, 1)
    scheduler.submit(ran.append, 2)
    manual.do_one()
    scheduler.submit(ran.append, 3)
    assert not manual.jobs
    (timer,) = timers
    assert timer.interval == 1.5
    assert timer.calls == ["start"]
    timer.fire()
    manual.do_all()
    assert ran == [1, 3]


def test_wait_returns_when_the_interval_has_passed_too(make, manual, timers):
    scheduler = make()
    future = scheduler.submit(int)
    manual.do_all()
    assert future.done()
    assert not scheduler.wait(0)
    timers[0].fire()
    assert scheduler.wait(0)
    scheduler.submit(int)
    assert len(manual.jobs) == 1


def test_a_timer_that_fires_twice_counts_once(make, manual, timers):
    scheduler = make()
    scheduler.submit(int)
    scheduler.submit(int)
    manual.do_one()
    timers[0].fire()
    scheduler.submit(int)
    timers[0].fire()
    assert len(manual.jobs) == 1


def test_shutdown_cancels_what_waits_for_the_timer(make, manual, timers):
    ran = []
    scheduler = make()
    scheduler.submit(ran.append, 1)
    manual.do_all()
    waiting = scheduler.submit(ran.append, 2)
    scheduler.shutdown()
    assert timers[0].calls == ["start", "cancel"]
    assert waiting.cancelled()
    timers[0].fire()  # too late, as a real one may be
    assert not manual.jobs
    assert ran == [1]
    scheduler.shutdown()
    with pytest.raises(RuntimeError):
        scheduler.submit(int)


def test_shutdown_without_anything_pending_ends_the_rest(make, manual, timers):
    scheduler = make()
    scheduler.submit(int)
    manual.do_all()
    scheduler.shutdown()
    assert timers[0].calls == ["start", "cancel"]
    assert scheduler.wait(0)


def test_shutdown_waits_for_what_runs_and_cancels_what_is_pending(make, manual, timers):
    ran = []
    scheduler = make()
    scheduler.submit(ran.append, 1)
    waiting = [scheduler.submit(ran.append, 2)]
    thread = threading.Thread(target=scheduler.shutdown, daemon=True)
    thread.start()
    # The end of the shutdown has to wait; that it has begun shows when submit() refuses.
    with pytest.raises(RuntimeError):
        waiting.extend(scheduler.submit(ran.append, 3) for _ in itertools.count())
    assert thread.is_alive()
    manual.do_all()
    thread.join(60)
    assert not thread.is_alive()
    assert ran == [1]
    assert all(future.cancelled() for future in waiting)
    assert all(timer.calls == [] for timer in timers)


def test_failures_are_logged_by_the_logger_of_its_own_module(make, manual, timers, caplog):
    def fails():
        raise LookupError("failure")

    make(name="Saver").submit(fails)
    manual.do_all()
    first, second = caplog.records
    assert {record.name for record in caplog.records} == {LOGGER}
    assert "LookupError" in first.getMessage()
    assert "Saver" in first.getMessage()
    assert "in fails" in second.getMessage()
    assert timers[0].calls == ["start"]


@pytest.mark.parametrize("kind", [OSError, SystemExit])
@pytest.mark.parametrize("step", ["make", "start"])
def test_without_a_timer_there_is_no_rest(manual, caplog, kind, step):
    def timer_factory(interval, function):
        if step == "make":
            raise kind("no timer")
        timer = Timer(interval, function)
        timer.start = lambda: fail(timer)
        return timer

    def fail(timer):
        raise kind("no timer")

    ran = []
    scheduler = DelayedAsynchronizer(manual, 1, "Saver", None, timer_factory)
    scheduler.submit(ran.append, 1)
    scheduler.submit(ran.append, 2)
    manual.do_all()
    assert ran == [1, 2]
    assert scheduler.wait(0)
    assert [record.name for record in caplog.records] == [LOGGER] * 2
    assert caplog.records[0].levelno == logging.ERROR
    assert "Saver" in caplog.records[0].getMessage()
    scheduler.shutdown()


def test_a_timer_that_fires_and_then_fails_counts_once(manual, caplog):
    class Odd(Timer):
        def start(self):
            self.fire()
            raise OSError

    ran = []
    scheduler = DelayedAsynchronizer(manual, 1, timer_factory=Odd)
    for n in (1, 2):
        scheduler.submit(ran.append, n)
    manual.do_one()
    assert len(manual.jobs) == 1
    manual.do_all()
    assert ran == [1, 2]
    assert scheduler.wait(0)


@pytest.mark.parametrize("early", ["in the factory", "in start"])
def test_a_timer_that_fires_early_ends_the_rest(manual, early):
    def timer_factory(interval, function):
        timer = Timer(interval, function)
        if early == "in the factory":
            function()
        else:
            timer.start = function
        return timer

    ran = []
    scheduler = DelayedAsynchronizer(manual, 1, timer_factory=timer_factory)
    for n in (1, 2):
        scheduler.submit(ran.append, n)
    manual.do_all()
    assert ran == [1, 2]
    assert scheduler.wait(0)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_timer_that_cannot_be_cancelled_does_not_stop_the_shutdown(make, manual, timers, kind):
    def cancel():
        raise kind

    scheduler = make()
    scheduler.submit(int)
    manual.do_all()
    waiting = scheduler.submit(int)
    timers[0].cancel = cancel
    with pytest.raises(kind):
        scheduler.shutdown()
    assert waiting.cancelled()
    assert scheduler.wait(0)
    timers[0].fire()
    assert not manual.jobs


def test_a_callback_that_raises_does_not_stop_the_shutdown(make, manual, timers):
    def callback(_):
        raise SystemExit

    scheduler = make()
    scheduler.submit(int)
    manual.do_all()
    scheduler.submit(int).add_done_callback(callback)
    with pytest.raises(SystemExit):
        scheduler.shutdown()
    assert scheduler.wait(0)
    assert timers[0].calls == ["start", "cancel"]


def test_a_shutdown_while_the_timer_is_made(manual, deadline):
    def timer_factory(interval, function):
        thread = threading.Thread(target=scheduler.shutdown)
        thread.start()
        threads.append(thread)
        # That the shutdown has come to the rest shows when the scheduler has none.
        while scheduler._rest is not None:
            pass
        timers.append(Timer(interval, function))
        return timers[-1]

    threads, timers = [], []
    scheduler = DelayedAsynchronizer(manual, 1, timer_factory=timer_factory)
    scheduler.submit(int)
    manual.do_all()
    threads[0].join(deadline)
    assert not threads[0].is_alive()
    assert scheduler.wait(0)
    assert timers[0].calls == []


def test_the_default_timer_lets_time_pass(make_pool, deadline):
    scheduler = DelayedAsynchronizer(make_pool(1), 0.001)
    ran = []
    scheduler.submit(ran.append, 1).result(deadline)
    scheduler.submit(ran.append, 2)
    assert scheduler.wait(deadline)
    assert ran == [1, 2]


def test_the_default_timer_does_not_hold_up_the_exit(child):
    program = """
from encore.concurrent.futures import DelayedAsynchronizer, SynchronousExecutor
scheduler = DelayedAsynchronizer(SynchronousExecutor(), 3600)
scheduler.submit(int)
print(scheduler.wait(0))
"""
    assert child(program) == (0, ["False"])
