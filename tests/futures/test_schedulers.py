"""What all schedulers have in common, on every kind of executor."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import logging
import multiprocessing
import threading
import weakref
from collections import deque

import pytest

from encore.concurrent.futures import (
    Asynchronizer,
    DelayedAsynchronizer,
    EnhancedThreadPoolExecutor,
    Serializer,
    SerializingAsynchronizer,
    SynchronousExecutor,
)
from encore.concurrent.futures.abc_work_scheduler import ABCWorkScheduler, Work

LOGGER = "encore.concurrent.futures.abc_work_scheduler"
variable = contextvars.ContextVar("variable", default="unset")


class NoTimer:
    """A timer whose time is over as soon as it starts."""

    def __init__(self, interval, function):
        self.start = function

    def cancel(self):
        pass


class AtOnceAsynchronizer(DelayedAsynchronizer):
    def __init__(self, executor, name=None, callback=None):
        super().__init__(executor, 0, name, callback, NoTimer)


SCHEDULERS = [Serializer, Asynchronizer, SerializingAsynchronizer, AtOnceAsynchronizer]


def started_pool():
    """An executor that has all its threads, so that schedulers take turns in one of them."""
    pool = EnhancedThreadPoolExecutor(1)
    pool.submit(int).result(60)
    return pool


EXECUTORS = {
    "EnhancedThreadPoolExecutor": lambda: EnhancedThreadPoolExecutor(2),
    "all threads started": started_pool,
    "ThreadPoolExecutor": lambda: concurrent.futures.ThreadPoolExecutor(2),
    "SynchronousExecutor": SynchronousExecutor,
}


def fail_with(error):
    raise error


@pytest.fixture(params=SCHEDULERS)
def scheduler_class(request):
    return request.param


@pytest.fixture(params=EXECUTORS)
def executor(request):
    with EXECUTORS[request.param]() as executor:
        yield executor


class PlainFutures(EnhancedThreadPoolExecutor):
    _future_factory = concurrent.futures.Future


# The whole way


def test_an_operation_is_done_and_its_result_known(scheduler_class, executor, deadline):
    scheduler = scheduler_class(executor)
    future = scheduler.submit(lambda *a, **k: (a, k), 1, 2, operation=3, self=4)
    assert future.result(deadline) == ((1, 2), {"operation": 3, "self": 4})
    assert scheduler.wait(deadline)
    assert scheduler.submit(int, "7").result(deadline) == 7


def test_one_at_a_time(scheduler_class, executor, deadline):
    scheduler = scheduler_class(executor)
    running = 0
    most = 0
    done = []

    def operation(n):
        nonlocal running, most
        running += 1
        most = max(most, running)
        done.append(n)
        running -= 1

    for n in range(200):
        scheduler.submit(operation, n)
    assert scheduler.wait(deadline)
    assert most == 1
    assert done == sorted(done)
    assert done[-1] == 199


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_failing_operation_is_in_its_future_and_in_the_log(
    scheduler_class, executor, deadline, kind, caplog
):
    scheduler = scheduler_class(executor)
    future = scheduler.submit(fail_with, kind("failure"))
    assert scheduler.wait(deadline)
    assert isinstance(future.exception(0), kind)
    assert "in fail_with" in future.traceback()
    assert scheduler.submit(int, "7").result(deadline) == 7
    first, second = caplog.records
    assert first.name == second.name
    assert isinstance(first.exc_info[1], kind)


def test_threads_that_submit_and_wait_together(scheduler_class, executor, deadline):
    scheduler = scheduler_class(executor)
    start = threading.Barrier(8)
    waited = []

    def use(n):
        start.wait(deadline)
        futures = [scheduler.submit(divmod, n, 3) for _ in range(50)]
        waited.append(scheduler.wait(deadline) and all(future.done() for future in futures))

    threads = [threading.Thread(target=use, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline)
    assert waited == [True] * 8


def test_an_operation_may_submit_the_next(scheduler_class, executor, deadline):
    scheduler = scheduler_class(executor)
    count = 0
    over = threading.Event()

    def operation():
        nonlocal count
        count += 1
        if count < limit:
            scheduler.submit(operation)
        else:
            over.set()

    limit = 5000  # far deeper than the stack is
    scheduler.submit(operation)
    assert over.wait(deadline)
    assert scheduler.wait(deadline)
    assert count == limit


def test_operations_may_run_in_another_process(deadline):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        scheduler = Serializer(executor)
        futures = [scheduler.submit(int, text) for text in ("1", "x", "3")]
        assert scheduler.wait(deadline)
    assert futures[0].result(0) == 1
    assert "ValueError" in futures[1].traceback()
    assert futures[2].result(0) == 3


# Executors that hold a lock while they tell of what they cancel or break


@pytest.fixture
def in_thread(deadline):
    """Call a function in a thread of its own, because it may not return."""

    def call(function, *args, **kwargs):
        thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
        thread.start()
        thread.join(deadline)
        assert not thread.is_alive()

    return call


def test_shutting_down_with_what_waits_in_the_executor(
    scheduler_class, in_thread, deadline, caplog
):
    told = []
    executor = concurrent.futures.ThreadPoolExecutor(1)
    go = threading.Event()
    running = threading.Event()
    executor.submit(lambda: (running.set(), go.wait(deadline)))
    assert running.wait(deadline)
    scheduler = scheduler_class(executor, callback=told.append)
    first, second = (scheduler.submit(int) for _ in range(2))
    other = Serializer(executor)
    # This one would need the lock, too.
    first.add_done_callback(lambda _: other.submit(int))
    in_thread(executor.shutdown, wait=False, cancel_futures=True)
    assert scheduler.wait(deadline)
    go.set()
    assert isinstance(first.exception(0), concurrent.futures.CancelledError)
    assert isinstance(second.exception(0), RuntimeError)
    assert len(told) == 2


def test_an_executor_that_breaks(scheduler_class, deadline, caplog):
    go = threading.Event()

    def initializer():
        go.wait(deadline)
        raise ValueError

    executor = concurrent.futures.ThreadPoolExecutor(1, initializer=initializer)
    scheduler = scheduler_class(executor)
    futures = [scheduler.submit(int) for _ in range(2)]
    go.set()
    assert scheduler.wait(deadline)
    for future in futures:
        assert isinstance(future.exception(0), concurrent.futures.BrokenExecutor)
    executor.shutdown(wait=False)


def test_without_a_thread_to_go_on_what_is_pending_is_cancelled(
    scheduler_class, manual, monkeypatch
):
    def no_thread(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    told = []
    scheduler = scheduler_class(manual, callback=told.append)
    first, second = (scheduler.submit(int) for _ in range(2))
    future = manual.jobs.popleft()[0]
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    future.cancel()
    assert scheduler.wait(0)
    assert first.done()
    assert second.cancelled()
    assert told == [future]


# Turns: an executor of ours, with all its threads, does several operations in one go


@pytest.fixture
def started(make_pool, deadline):
    pool = make_pool(1)
    pool.submit(int).result(deadline)
    return pool


def count_submits(pool):
    """Count what goes through the queue of the pool, whether by submit() or not."""
    put = pool._pool.queue.put
    counted = []

    def counting(task):
        counted.append(task)
        put(task)

    pool._pool.put = counting
    return counted


def test_operations_that_wait_are_done_in_one_turn(started, deadline):
    counted = count_submits(started)
    go = threading.Event()
    scheduler = Serializer(started)
    scheduler.submit(go.wait, deadline)
    futures = [scheduler.submit(divmod, n, 3) for n in range(100)]
    go.set()
    assert scheduler.wait(deadline)
    assert [future.result(0) for future in futures] == [divmod(n, 3) for n in range(100)]
    assert len(counted) == 1


def test_a_turn_ends_when_somebody_else_waits_for_the_thread(scheduler_class, started, deadline):
    scheduler = scheduler_class(started)
    ran = []
    first = threading.Event()
    go = threading.Event()

    def block():
        first.set()
        go.wait(deadline)

    scheduler.submit(block)
    assert first.wait(deadline)
    for n in range(3):
        scheduler.submit(ran.append, ("scheduler", n))
        started.submit(ran.append, ("executor", n))
    go.set()
    assert scheduler.wait(deadline)
    started.submit(int).result(deadline)
    assert [n for who, n in ran if who == "executor"] == [0, 1, 2]
    # The operation after the first gets in line behind what was submitted meanwhile.
    assert [who for who, _ in ran][:3] == ["executor"] * 3
    assert ran[-1] == ("scheduler", 2)


def test_two_schedulers_share_a_thread_by_turns(started, deadline):
    ran = []
    go = threading.Event()
    started.submit(go.wait, deadline)
    one, other = Serializer(started), Serializer(started)
    for n in range(5):
        one.submit(ran.append, ("one", n))
        other.submit(ran.append, ("other", n))
    go.set()
    assert one.wait(deadline)
    assert other.wait(deadline)
    assert ran == [(who, n) for n in range(5) for who in ("one", "other")]


def test_a_subclass_whose_submit_is_its_own_sees_every_operation(deadline):
    class Counting(EnhancedThreadPoolExecutor):
        count = 0

        def submit(self, fn, /, *args, **kwargs):
            self.count += 1
            return super().submit(fn, *args, **kwargs)

    with Counting(1) as pool:
        scheduler = Serializer(pool)
        for n in range(10):
            scheduler.submit(divmod, n, 3)
        assert scheduler.wait(deadline)
        assert pool.count == 10


def test_a_submit_that_was_replaced_sees_every_operation(started, deadline, monkeypatch):
    seen = []
    submit = started.submit
    monkeypatch.setattr(started, "submit", lambda fn, *args: seen.append(fn) or submit(fn, *args))
    scheduler = Serializer(started)
    for n in range(10):
        scheduler.submit(divmod, n, 3)
    assert scheduler.wait(deadline)
    assert seen == [divmod] * 10


def test_every_operation_starts_a_thread_until_there_are_enough(make_pool, deadline):
    pool = make_pool(3)
    scheduler = Serializer(pool)
    for count in (1, 2, 3, 3):
        scheduler.submit(int).result(deadline)
        assert scheduler.wait(deadline)
        assert len(pool._threads) == count


def test_an_operation_waiting_for_its_turn_can_be_cancelled(started, deadline):
    ran = []
    go = threading.Event()
    started.submit(go.wait, deadline)
    scheduler = Serializer(started, callback=ran.append)
    futures = [scheduler.submit(ran.append, n) for n in range(4)]
    assert futures[0].cancel()
    assert futures[2].cancel()
    go.set()
    assert scheduler.wait(deadline)
    assert ran == [1, futures[1], 3, futures[3]]
    assert concurrent.futures.wait(futures, deadline).done == set(futures)


def test_shutting_the_executor_down_cancels_the_turn(started, deadline, caplog):
    ran = []
    go = threading.Event()
    running = threading.Event()
    started.submit(lambda: (running.set(), go.wait(deadline)))
    assert running.wait(deadline)
    scheduler = Serializer(started, callback=ran.append)
    first, second = (scheduler.submit(ran.append, n) for n in range(2))
    started.shutdown(wait=False, cancel_futures=True)
    assert scheduler.wait(deadline)
    go.set()
    assert first.cancelled()
    assert isinstance(second.exception(0), RuntimeError)
    assert len(ran) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2


def test_a_turn_after_the_executor_was_shut_down_does_what_it_was_put_for(
    started, deadline, caplog
):
    go = threading.Event()
    started.submit(go.wait, deadline)
    scheduler = Serializer(started)
    first, second = (scheduler.submit(int, text) for text in "12")
    started.shutdown(wait=False)
    go.set()
    assert scheduler.wait(deadline)
    assert first.result(0) == 1
    assert isinstance(second.exception(0), RuntimeError)
    assert len(caplog.records) == 2


def test_an_executor_that_closes_when_a_turn_is_put_takes_no_operation(started, deadline):
    pool = started._pool
    put = pool.queue.put

    def close_first(task):
        pool.close()
        put(task)

    pool.put = close_first
    scheduler = Serializer(started)
    with pytest.raises(RuntimeError, match="cannot schedule"):
        scheduler.submit(int)
    assert scheduler.wait(deadline)


@pytest.mark.usefixtures("hasty_switching")
def test_submitting_while_the_scheduler_shuts_down_is_refused_or_done(started, deadline):
    for _ in range(20):
        scheduler = Serializer(started)
        start = threading.Barrier(3)
        futures, refused = [], []

        def submit_many(scheduler, start, futures, refused):
            start.wait(deadline)
            try:
                while True:
                    futures.append(scheduler.submit(int))
            except RuntimeError as error:
                refused.append(error)

        args = (scheduler, start, futures, refused)
        threads = [threading.Thread(target=submit_many, args=args, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait(deadline)
        scheduler.shutdown()
        for thread in threads:
            thread.join(deadline)
        assert len(refused) == 2
        assert scheduler.wait(deadline)
        assert all(future.done() for future in futures)


@pytest.mark.usefixtures("hasty_switching")
def test_no_operation_is_lost_when_the_scheduler_falls_idle(started, deadline):
    scheduler = Serializer(started)
    for n in range(500):
        assert scheduler.submit(divmod, n, 3).result(deadline) == divmod(n, 3)
    assert scheduler.wait(deadline)


def test_an_operation_submitted_when_the_last_one_has_been_taken_is_done(started, deadline):
    class Late(deque):
        def __bool__(self):
            if len(self):
                return True
            if not futures:
                futures.append(scheduler.submit(int, "7"))
            return False

    futures = []
    scheduler = Serializer(started)
    scheduler._pending = Late()
    scheduler.submit(int)
    assert scheduler.wait(deadline)
    assert futures[0].result(0) == 7


def test_an_operation_submitted_when_the_scheduler_falls_idle_is_done(started, deadline):
    class Late(deque):
        def append(self, work):
            if not go.is_set():
                go.set()
                scheduler.wait(deadline)
            super().append(work)

    go = threading.Event()
    scheduler = Serializer(started)
    scheduler.submit(go.wait, deadline)
    scheduler._pending = Late()
    future = scheduler.submit(int, "7")
    assert future.result(deadline) == 7


def test_submit_wants_an_operation(scheduler_class, manual):
    with pytest.raises(TypeError):
        scheduler_class(manual).submit()


def test_callbacks_run_outside_of_the_context_of_the_operations(started, deadline):
    seen = []
    token = variable.set("mine")
    try:
        scheduler = Serializer(started, callback=lambda _: seen.append(variable.get()))
        scheduler.submit(int)
        assert scheduler.wait(deadline)
    finally:
        variable.reset(token)
    assert seen == ["unset"]


def test_a_turn_keeps_no_result_while_the_next_operation_runs(started, deadline):
    refs, seen = [], []
    go = threading.Event()

    def produce():
        thing = Thing()
        refs.append(weakref.ref(thing))
        return thing

    started.submit(go.wait, deadline)
    scheduler = Serializer(started)
    counted = count_submits(started)
    scheduler.submit(produce)
    scheduler.submit(lambda: seen.append(refs[0]()))
    go.set()
    assert scheduler.wait(deadline)
    assert len(counted) == 1
    assert seen == [None]


def test_a_thread_keeps_no_scheduler_whose_turn_is_over(started, deadline):
    scheduler = Serializer(started)
    scheduler.submit(int)
    assert scheduler.wait(deadline)
    gone = weakref.ref(scheduler)
    del scheduler
    started.submit(int).result(deadline)
    assert gone() is None


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_nothing_that_raises_ends_a_turn(started, deadline, kind, caplog):
    called = []

    def callback(future):
        called.append(future)
        raise kind("from the callback")

    go = threading.Event()
    started.submit(go.wait, deadline)
    scheduler = Serializer(started, callback=callback)
    counted = count_submits(started)
    futures = [scheduler.submit(fail_with, kind("from the operation")), scheduler.submit(int)]
    for future in futures:
        future.add_done_callback(lambda _: fail_with(kind("from a callback of the future")))
    go.set()
    assert scheduler.wait(deadline)
    assert called == futures
    assert len(counted) == 1
    assert [r.name for r in caplog.records].count(LOGGER) == 4


# The log


def test_two_records_tell_of_a_failing_operation(manual, caplog):
    scheduler = Serializer(manual, name="Saver")
    scheduler.submit(fail_with, LookupError("failure"))
    assert not caplog.records
    manual.do_all()
    first, second = caplog.records
    assert {record.name for record in caplog.records} == {LOGGER}
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert isinstance(first.exc_info[1], LookupError)
    assert "LookupError" in first.getMessage()
    assert "Saver" in first.getMessage()
    assert second.exc_info is None
    assert "Traceback (most recent call last)" in second.getMessage()
    assert "in fail_with" in second.getMessage()


def test_two_records_tell_of_a_failing_callback(manual, caplog):
    scheduler = Serializer(manual, "Saver", lambda future: fail_with(KeyError("callback")))
    future = scheduler.submit(int, "7")
    manual.do_all()
    assert future.result(0) == 7
    first, second = caplog.records
    assert {record.name for record in caplog.records} == {LOGGER}
    assert isinstance(first.exc_info[1], KeyError)
    assert "KeyError" in first.getMessage()
    assert "Saver" in first.getMessage()
    assert "Traceback" not in second.getMessage()


@pytest.mark.parametrize("kind", [KeyError, SystemExit])
def test_the_error_of_the_callback_hides_that_of_the_operation(manual, caplog, kind):
    scheduler = Serializer(manual, callback=lambda future: fail_with(kind("callback")))
    scheduler.submit(fail_with, LookupError("operation"))
    manual.do_all()
    first, second = caplog.records
    assert isinstance(first.exc_info[1], kind)
    assert kind.__name__ in first.getMessage()
    assert "LookupError: operation" in second.getMessage()


def test_nothing_is_logged_of_what_succeeds(manual, caplog):
    called = []
    scheduler = Serializer(manual, callback=called.append)
    scheduler.submit(int)
    manual.do_all()
    assert len(called) == 1
    assert not caplog.records


def test_futures_without_a_traceback_of_their_own_are_logged_too(make_pool, deadline, caplog):
    scheduler = Serializer(make_pool(1, cls=PlainFutures))
    scheduler.submit(fail_with, LookupError("failure"))
    assert scheduler.wait(deadline)
    _, second = caplog.records
    assert "in fail_with" in second.getMessage()


# The callback


def test_the_callback_gets_the_executors_future_of_every_operation(make_pool, deadline):
    class Mine(concurrent.futures.Future):
        pass

    class Pool(EnhancedThreadPoolExecutor):
        _future_factory = Mine

    seen = []
    scheduler = Serializer(make_pool(1, cls=Pool), callback=seen.append)
    scheduler.submit(int, "7")
    scheduler.submit(int, "x")
    assert scheduler.wait(deadline)
    assert [type(future) for future in seen] == [Mine, Mine]
    assert seen[0].result(0) == 7
    assert isinstance(seen[1].exception(0), ValueError)


def test_the_callback_finds_the_submitted_future_done_and_may_submit(manual):
    seen = []

    def callback(_):
        seen.append(future.done())
        if len(seen) < 2:
            scheduler.submit(int)

    scheduler = Serializer(manual, callback=callback)
    future = scheduler.submit(int)
    manual.do_all()
    assert seen == [True, True]
    assert scheduler.wait(0)


def test_wait_returns_after_the_callback_and_the_records(make_pool, deadline, caplog):
    scheduler = None
    go = threading.Event()
    called = threading.Event()

    def callback(_):
        called.set()
        assert go.wait(deadline)

    scheduler = Serializer(make_pool(1), callback=callback)
    scheduler.submit(fail_with, ValueError("failure"))
    assert called.wait(deadline)
    assert not scheduler.wait(0)
    go.set()
    assert scheduler.wait(deadline)
    assert len(caplog.records) == 2


# Whatever raises, wait() returns


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_log_handler_that_raises_holds_nothing_up(scheduler_class, executor, deadline, kind):
    class Nasty(logging.Handler):
        count = 0

        def emit(self, record):
            self.count += 1
            raise kind("from the handler")

    scheduler = scheduler_class(executor)
    handler = Nasty()
    logger = logging.getLogger(scheduler._logger_name)
    logger.addHandler(handler)
    try:
        scheduler.submit(fail_with, ValueError("failure"))
        assert scheduler.wait(deadline)
    finally:
        logger.removeHandler(handler)
    assert handler.count == 2
    assert scheduler.submit(int, "7").result(deadline) == 7


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_callback_of_the_submitted_future_that_raises_holds_nothing_up(
    scheduler_class, manual, kind, monkeypatch
):
    monkeypatch.setattr(concurrent.futures._base.LOGGER, "disabled", True)
    called = []
    scheduler = scheduler_class(manual, callback=called.append)
    for operation in (int, "not callable"):
        scheduler.submit(operation).add_done_callback(lambda _: fail_with(kind()))
        manual.do_all()
        assert scheduler.wait(0)
    assert len(called) == 2


def test_an_executor_that_takes_no_more_work_is_told_to_the_submitter(
    scheduler_class, executor, caplog
):
    scheduler = scheduler_class(executor)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        scheduler.submit(int)
    assert scheduler.wait(0)
    assert not caplog.records


def test_an_executor_that_takes_no_more_work_fails_what_is_pending(make_pool, deadline, caplog):
    pool = make_pool(1)
    go = threading.Event()
    seen = []
    scheduler = Serializer(pool, callback=seen.append)
    scheduler.submit(go.wait, deadline)
    pending = [scheduler.submit(int) for _ in range(2)]
    pool.shutdown(wait=False)
    go.set()
    assert scheduler.wait(deadline)
    assert [type(future.exception(0)) for future in pending] == [RuntimeError, RuntimeError]
    assert len(seen) == 3
    assert len(caplog.records) == 4


def test_an_operation_that_the_executor_cancels_is_no_failure(manual, deadline, caplog):
    seen = []
    scheduler = Serializer(manual, callback=seen.append)
    future = scheduler.submit(int)
    manual.jobs[0][0].cancel()
    manual.do_all()
    assert scheduler.wait(deadline)
    assert isinstance(future.exception(0), concurrent.futures.CancelledError)
    assert seen[0].cancelled()
    assert not caplog.records


# Cancelling, waiting, shutting down


def test_a_pending_operation_can_be_cancelled(manual):
    scheduler = Serializer(manual)
    ran = []
    first, second, third = (scheduler.submit(ran.append, n) for n in (1, 2, 3))
    assert not first.cancel()
    assert second.cancel()
    manual.do_all()
    assert ran == [1, 3]
    assert third.done()
    assert scheduler.wait(0)


def test_wait_gives_up_after_its_timeout(manual):
    scheduler = Serializer(manual)
    assert scheduler.wait(0) is True
    scheduler.submit(int)
    assert scheduler.wait(0) is False
    manual.do_all()
    assert scheduler.wait() is True


def test_any_timeout_will_do(manual):
    scheduler = Serializer(manual)
    scheduler.submit(int)
    timer = threading.Timer(0, manual.do_all)
    timer.start()
    assert scheduler.wait(float("inf"))
    timer.join()


def test_shutdown_waits_and_then_nothing_is_taken(scheduler_class, executor, deadline):
    scheduler = scheduler_class(executor)
    go = threading.Event()
    threading.Thread(target=go.set, daemon=True).start()
    future = scheduler.submit(go.wait, deadline)
    scheduler.shutdown()
    assert future.result(0) is True
    with pytest.raises(RuntimeError, match="after shutdown"):
        scheduler.submit(int)
    scheduler.shutdown()
    assert executor.submit(int, "7").result(deadline) == 7


def test_leaving_the_with_block_shuts_down(scheduler_class, executor):
    with scheduler_class(executor) as scheduler:
        future = scheduler.submit(int, "7")
    assert future.result(0) == 7
    with pytest.raises(RuntimeError):
        scheduler.submit(int)


@pytest.mark.parametrize("cls", [Serializer, SerializingAsynchronizer])
def test_what_is_pending_at_shutdown_is_done(cls, make_pool, deadline):
    scheduler = cls(make_pool(1))
    go = threading.Event()
    ran = []
    scheduler.submit(go.wait, deadline)
    scheduler.submit(ran.append, 1)
    threading.Thread(target=go.set, daemon=True).start()
    scheduler.shutdown()
    assert ran == [1]


# What is kept


class Thing:
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_finished_operations_are_not_kept(scheduler_class, make_pool, deadline, fails):
    futures = []
    scheduler = scheduler_class(make_pool(1), callback=futures.append)
    thing = Thing()

    def operation(thing, keyword):
        if fails:
            raise ValueError(str(keyword))

    logging.getLogger(scheduler._logger_name).disabled = True
    gone = [weakref.ref(operation), weakref.ref(thing)]
    try:
        scheduler.submit(operation, thing, keyword=thing)
        assert scheduler.wait(deadline)
    finally:
        logging.getLogger(scheduler._logger_name).disabled = False
    if fails:
        futures[0].exception(0).__traceback__ = None
    del operation, thing
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize("operation", [int, "not callable"])
def test_a_failure_makes_no_cycle(scheduler_class, manual, operation, monkeypatch):
    def callback(future):
        errors.append(KeyError())
        raise errors[0]

    errors = []
    scheduler = scheduler_class(manual, callback=callback)
    monkeypatch.setattr(logging.getLogger(scheduler._logger_name), "disabled", True)
    gc.disable()
    try:
        future = scheduler.submit(operation)
        manual.do_all()
        gone = weakref.ref(future)
        errors.clear()
        del future
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("make_executor", [SynchronousExecutor, started_pool])
def test_a_failed_operation_is_not_kept_until_garbage_is_collected(
    scheduler_class, make_executor, deadline, monkeypatch
):
    def operation(thing):
        raise ValueError

    with make_executor() as executor:
        scheduler = scheduler_class(executor)
        monkeypatch.setattr(logging.getLogger(scheduler._logger_name), "disabled", True)
        thing = Thing()
        gone = weakref.ref(thing)
        gc.disable()
        try:
            scheduler.submit(operation, thing)
            del thing
            assert scheduler.wait(deadline)
            executor.submit(int).result(deadline)
            assert gone() is None
        finally:
            gc.enable()


def test_a_future_keeps_no_key(started, deadline):
    def operation():
        pass

    scheduler = SerializingAsynchronizer(started)
    future = scheduler.submit(operation)
    assert scheduler.wait(deadline)
    gone = weakref.ref(operation)
    del operation
    assert gone() is None
    assert future.done()


def test_an_operation_that_cannot_be_a_key_is_refused(manual):
    scheduler = SerializingAsynchronizer(manual, key=lambda operation: [])
    for _ in range(2):
        with pytest.raises(TypeError, match="unhashable"):
            scheduler.submit(int)
        assert scheduler.wait(0)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_of_a_replaced_operation_that_raises_holds_nothing_up(manual, kind):
    scheduler = Asynchronizer(manual)
    scheduler.submit(int)
    scheduler.submit(int).add_done_callback(lambda _: fail_with(kind()))
    ran = []
    with pytest.raises(kind):
        scheduler.submit(ran.append, 1)
    manual.do_all()
    assert ran == [1]
    assert scheduler.wait(0)


def test_replaced_operations_are_not_kept(manual):
    scheduler = Asynchronizer(manual)
    scheduler.submit(int)
    thing = Thing()
    gone = weakref.ref(thing)
    scheduler.submit(print, thing)
    del thing
    scheduler.submit(int)
    assert gone() is None


def test_an_operation_sees_the_context_variables_of_its_submitter(
    scheduler_class, make_pool, deadline
):
    scheduler = scheduler_class(make_pool(1))
    go = threading.Event()
    scheduler.submit(go.wait, deadline)
    token = variable.set("mine")
    try:
        future = scheduler.submit(variable.get)
    finally:
        variable.reset(token)
    go.set()
    assert future.result(deadline) == "mine"


# Names and looks


def test_the_name_is_that_of_the_class_by_default(scheduler_class, executor):
    assert scheduler_class(executor).name == scheduler_class.__name__
    scheduler = scheduler_class(executor, "Saver", None)
    assert scheduler.name == "Saver"
    assert scheduler._executor is executor


def test_repr_tells_name_and_state(manual):
    scheduler = Serializer(manual, "Saver")
    assert repr(scheduler) == "<Serializer 'Saver': idle>"
    scheduler.submit(int)
    assert repr(scheduler) == "<Serializer 'Saver': busy>"
    manual.do_all()
    scheduler.shutdown()
    assert repr(scheduler) == "<Serializer 'Saver': shut down>"


def test_a_new_kind_of_scheduler_says_what_is_pending_and_what_is_next(manual):
    class Stack(ABCWorkScheduler):
        def __init__(self, executor):
            super().__init__(executor)
            self.stack = []

        def _add(self, work):
            self.stack.append(work)
            return ()

        def _next(self):
            return self.stack.pop() if self.stack else None

    ran = []
    scheduler = Stack(manual)
    for n in range(4):
        scheduler.submit(ran.append, n)
    assert [type(work) for work in scheduler.stack] == [Work] * 3
    last = scheduler.stack[-1]
    assert (last.operation, last.args, last.kwargs) == (ran.append, (3,), {})
    manual.do_all()
    assert ran == [0, 3, 2, 1]
    assert not hasattr(last, "operation")
    assert last.done()


def test_the_contract_cannot_be_instantiated(manual):
    with pytest.raises(TypeError, match="abstract"):
        ABCWorkScheduler(manual)
