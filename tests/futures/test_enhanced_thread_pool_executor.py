from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import inspect
import logging
import threading
import weakref

import pytest

from encore.concurrent.futures.enhanced_thread_pool_executor import EnhancedThreadPoolExecutor
from encore.concurrent.futures.future import Future
from encore.concurrent.futures.serializer import Serializer

LOGGER = "encore.concurrent.futures.enhanced_thread_pool_executor"
variable = contextvars.ContextVar("variable", default="unset")


def fail_with(error):
    raise error


class Blocker:
    """A job that ends when the test says so."""

    def __init__(self, deadline):
        self.deadline = deadline
        self.running = threading.Event()
        self.go = threading.Event()

    def __call__(self):
        self.running.set()
        assert self.go.wait(self.deadline)
        return "done"


@pytest.fixture
def blocker(deadline):
    blocker = Blocker(deadline)
    yield blocker
    blocker.go.set()


class Thing:
    """Something that can be referred to weakly."""

    def method(self):
        return "result"


# Jobs and their futures


def test_a_job_runs_in_a_worker_with_its_arguments(make_pool, deadline):
    pool = make_pool(2)
    future = pool.submit(lambda *a, **k: (a, k, threading.current_thread()), 1, 2, fn=3, self=4)
    args, kwargs, thread = future.result(deadline)
    assert (args, kwargs) == ((1, 2), {"fn": 3, "self": 4})
    assert thread in pool._threads
    assert isinstance(future, Future)


def test_every_kind_of_exception_lands_in_the_future_and_the_worker_goes_on(make_pool, deadline):
    pool = make_pool(1)
    for kind in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration):
        future = pool.submit(fail_with, kind("failure"))
        assert isinstance(future.exception(deadline), kind)
        assert "in fail_with" in future.traceback()
    assert pool.submit(threading.get_ident).result(deadline) == next(iter(pool._threads)).ident


def test_a_pending_job_can_be_cancelled(make_pool, blocker, deadline):
    pool = make_pool(1)
    first = pool.submit(blocker)
    ran = []
    second = pool.submit(ran.append, 2)
    third = pool.submit(ran.append, 3)
    assert blocker.running.wait(deadline)
    assert second.cancel()
    assert not first.cancel()
    blocker.go.set()
    third.result(deadline)
    assert ran == [3]
    assert second.cancelled()


def test_map_submits_everything_at_once(make_pool, blocker, deadline):
    pool = make_pool(1)
    ran = []
    results = pool.map(ran.append, range(5))
    pool.submit(int).result(deadline)
    assert ran == [0, 1, 2, 3, 4]
    assert list(results) == [None] * 5
    assert list(pool.map(pow, (2, 3), (3, 2), timeout=deadline)) == [8, 9]


def test_futures_mix_with_the_standard_librarys(make_pool, blocker, deadline):
    pool = make_pool(2)
    with concurrent.futures.ThreadPoolExecutor(2) as other:
        futures = [e.submit(divmod, n, 2) for n in range(10) for e in (pool, other)]
        blocked = pool.submit(blocker)
        done = concurrent.futures.wait(
            [*futures, blocked], deadline, concurrent.futures.FIRST_COMPLETED
        ).done
        assert done
        assert blocked not in done
        blocker.go.set()
        assert set(concurrent.futures.as_completed(futures, deadline)) == set(futures)
        assert not concurrent.futures.wait([blocked], deadline).not_done


def test_submit_wants_a_function(make_pool, deadline):
    pool = make_pool(1)
    for _ in range(2):  # without and with its thread
        with pytest.raises(TypeError, match="submit"):
            pool.submit()
        pool.submit(int).result(deadline)
    expected = inspect.signature(concurrent.futures.Executor.submit)
    assert inspect.signature(EnhancedThreadPoolExecutor.submit) == expected


@pytest.mark.parametrize("base", [concurrent.futures.Future, Future])
def test_a_subclass_chooses_its_futures(make_pool, deadline, base):
    class Mine(base):
        pass

    class Pool(EnhancedThreadPoolExecutor):
        _future_factory = Mine

    pool = make_pool(1, cls=Pool)
    future = pool.submit(int, "x")
    assert type(future) is Mine
    assert isinstance(future.exception(deadline), ValueError)
    assert next(iter(pool._threads)).name == "PoolWorker-1"


def test_a_job_sees_the_context_variables_of_the_submitter(make_pool, deadline):
    pool = make_pool(1)

    def job():
        seen = variable.get()
        variable.set("changed by the job")
        return seen

    assert pool.submit(job).result(deadline) == "unset"
    token = variable.set("mine")
    try:
        assert pool.submit(job).result(deadline) == "mine"
        assert variable.get() == "mine"
    finally:
        variable.reset(token)
    assert pool.submit(job).result(deadline) == "unset"


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_failing_callback_leaves_the_worker_alive(make_pool, blocker, deadline, kind, caplog):
    pool = make_pool(1)
    future = pool.submit(blocker)
    future.add_done_callback(lambda _: fail_with(kind("from the callback")))
    blocker.go.set()
    assert pool.submit(int, "7").result(deadline) == 7
    assert future.result(deadline) == "done"
    assert "from the callback" in caplog.text


def test_a_future_finished_by_somebody_else_leaves_the_worker_alive(
    make_pool, blocker, deadline, caplog
):
    pool = make_pool(1)
    future = pool.submit(blocker)
    assert blocker.running.wait(deadline)
    future.set_result("from outside")
    blocker.go.set()
    assert pool.submit(int, "7").result(deadline) == 7
    assert future.result(0) == "from outside"
    assert [r.name for r in caplog.records] == [LOGGER]


def test_a_log_handler_that_raises_leaves_the_worker_alive(make_pool, deadline):
    class Nasty(logging.Handler):
        def emit(self, record):
            raise SystemExit("from the handler")

    handler = Nasty()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        pool = make_pool(1, initializer=fail_with, initargs=(ValueError(),))
        assert pool.submit(int, "7").result(deadline) == 7
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)


# Threads


def test_every_submit_starts_a_thread_until_there_are_enough(make_pool, deadline):
    pool = make_pool(3)
    assert pool._threads == set()
    for count in (1, 2, 3, 3, 3):
        pool.submit(int).result(deadline)
        assert len(pool._threads) == count
    names = {f"EnhancedThreadPoolExecutorWorker-{n}" for n in (1, 2, 3)}
    assert {thread.name for thread in pool._threads} == names


def test_threads_have_the_given_name(make_pool, deadline):
    pool = make_pool(1, name="Loader")
    assert pool.name == "Loader"
    job = pool.submit(threading.current_thread)
    assert job.result(deadline).name == "LoaderWorker-1"
    assert make_pool(1).name == "EnhancedThreadPoolExecutor"


def test_the_surface_takes_its_arguments_by_position(make_pool, deadline):
    ran = []
    pool = make_pool(1, lambda: ran.append("in"), lambda: ran.append("out"), "Name", False)
    pool.submit(ran.append, "job")
    pool.shutdown()
    assert ran == ["in", "job", "out"]
    assert pool.name == "Name"
    assert pool.wait_at_exit is False


def test_the_set_of_threads_stays_after_shutdown(make_pool):
    pool = make_pool(2)
    for _ in range(2):
        pool.submit(int)
    threads = set(pool._threads)
    pool.shutdown()
    assert pool._threads == threads
    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)


def test_a_thread_that_cannot_be_started_is_no_loss_if_there_is_another(
    make_pool, deadline, monkeypatch
):
    pool = make_pool(2)
    assert pool.submit(int, "1").result(deadline) == 1
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail_with(RuntimeError("no more")))
        assert pool.submit(int, "2").result(deadline) == 2
    assert len(pool._threads) == 1


def test_submit_raises_if_there_is_no_thread_at_all(make_pool, deadline, monkeypatch):
    pool = make_pool(2)
    ran = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail_with(RuntimeError("no more")))
        with pytest.raises(RuntimeError, match="no more"):
            pool.submit(ran.append, "refused")
    pool.submit(ran.append, "taken").result(deadline)
    assert ran == ["taken"]


# Initializer and uninitializer


def test_initializer_and_uninitializer_run_in_every_thread(make_pool):
    ran = []

    def note(what):
        ran.append((what, threading.current_thread().name))

    pool = make_pool(2, note, lambda: note("out"), name="", initargs=iter(["in"]))
    for _ in range(4):
        pool.submit(int)
    pool.shutdown()
    expected = [("in", "Worker-1"), ("in", "Worker-2"), ("out", "Worker-1"), ("out", "Worker-2")]
    assert sorted(ran) == expected


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_failing_initializer_is_logged_and_the_worker_goes_on(make_pool, deadline, caplog, kind):
    pool = make_pool(1, initializer=fail_with, initargs=(kind("failure"),), name="Some")
    assert pool.submit(int, "7").result(deadline) == 7
    (record,) = caplog.records
    assert record.name == LOGGER
    assert record.levelno == logging.ERROR
    assert isinstance(record.exc_info[1], kind)
    assert "fail_with" in record.getMessage()
    assert "SomeWorker-1" in record.getMessage()


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_failing_uninitializer_is_logged(make_pool, caplog, kind):
    pool = make_pool(2, uninitializer=lambda: fail_with(kind("failure")))
    pool.submit(int)
    pool.submit(int)
    pool.shutdown()
    assert [type(record.exc_info[1]) for record in caplog.records] == [kind, kind]
    assert not any(thread.is_alive() for thread in pool._threads)


# Ends


def test_shutdown_waits_for_all_jobs(make_pool, blocker, deadline):
    pool = make_pool(1)
    pool.submit(blocker)
    last = pool.submit(int, "7")
    assert blocker.running.wait(deadline)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)
    assert not last.done()
    blocker.go.set()
    pool.shutdown()
    assert last.result(0) == 7


def test_a_job_that_comes_behind_the_end_of_the_queue_is_refused(make_pool, deadline):
    executor = make_pool(1)
    executor.submit(int).result(deadline)
    pool = executor._pool
    put = pool.queue.put

    def close_first(task):
        executor.shutdown()
        put(task)

    pool.put = close_first  # as if another thread had come between
    ran = []
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(ran.append, "lost")
    assert not ran


@pytest.mark.usefixtures("hasty_switching")
def test_what_is_submitted_during_shutdown_is_refused_or_done(deadline):
    for _ in range(20):
        pool = EnhancedThreadPoolExecutor(2)
        for _ in range(2):
            pool.submit(int).result(deadline)
        start = threading.Barrier(3)
        futures, refused = [], []

        def submit_many(pool, start, futures, refused):
            start.wait(deadline)
            try:
                while True:
                    futures.append(pool.submit(int))
            except RuntimeError as error:
                refused.append(error)

        args = (pool, start, futures, refused)
        threads = [threading.Thread(target=submit_many, args=args, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait(deadline)
        pool.shutdown()
        for thread in threads:
            thread.join(deadline)
        assert len(refused) == 2
        assert all(future.done() for future in futures)


def test_shutdown_can_cancel_what_is_pending(make_pool, blocker, deadline):
    pool = make_pool(1)
    first = pool.submit(blocker)
    assert blocker.running.wait(deadline)
    pending = [pool.submit(int) for _ in range(3)]
    pool.shutdown(wait=False)
    pending[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    assert concurrent.futures.wait(pending, deadline).done == set(pending)
    assert all(future.cancelled() for future in pending)
    blocker.go.set()
    pool.shutdown()
    assert first.result(0) == "done"


def test_cancelling_at_shutdown_passes_over_what_somebody_else_finished(
    make_pool, blocker, deadline
):
    pool = make_pool(1)
    pool.submit(blocker)
    assert blocker.running.wait(deadline)
    pending = pool.submit(int)
    pending.set_result("from outside")
    pool.shutdown(wait=False, cancel_futures=True)
    assert pending.result(0) == "from outside"


def test_a_job_may_shut_its_executor_down(make_pool, deadline):
    pool = make_pool(2)
    assert pool.submit(pool.shutdown).exception(deadline) is None
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_leaving_the_with_block_shuts_down():
    with EnhancedThreadPoolExecutor(1) as pool:
        future = pool.submit(int, "7")
    assert future.result(0) == 7
    assert not any(thread.is_alive() for thread in pool._threads)


def test_shutdown_without_any_thread_returns():
    EnhancedThreadPoolExecutor(1).shutdown()


def test_dropping_the_executor_ends_its_threads_after_their_work(blocker, deadline):
    ended = []
    pool = EnhancedThreadPoolExecutor(2, uninitializer=lambda: ended.append(1))
    pool.submit(blocker)
    idle = pool.submit(int)
    last = [pool.submit(int, "7") for _ in range(3)]
    idle.result(deadline)
    threads = pool._threads
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    blocker.go.set()
    for thread in threads:
        thread.join(deadline)
        assert not thread.is_alive()
    assert [future.result(0) for future in last] == [7, 7, 7]
    assert ended == [1, 1]


def test_dropping_a_scheduler_with_its_executor_has_the_operations_done_first(deadline):
    pool = EnhancedThreadPoolExecutor(1)
    pool.submit(int).result(deadline)
    (thread,) = pool._threads
    go = threading.Event()
    ran = []
    scheduler = Serializer(pool)
    scheduler.submit(go.wait, deadline)
    for n in range(3):
        scheduler.submit(ran.append, n)
    del scheduler, pool
    go.set()
    thread.join(deadline)
    assert not thread.is_alive()
    assert ran == [0, 1, 2]


def test_an_executor_in_a_cycle_ends_too(deadline):
    pool = EnhancedThreadPoolExecutor(1)
    pool.myself = pool
    pool.submit(int).result(deadline)
    (thread,) = pool._threads
    del pool
    gc.collect()
    thread.join(deadline)
    assert not thread.is_alive()


@pytest.mark.parametrize("fails", [False, True])
def test_finished_work_is_not_kept(make_pool, deadline, fails):
    pool = make_pool(1)
    thing = Thing()

    def job(thing, keyword):
        if fails:
            # No traceback, which would hold the frame of this function.
            raise ValueError(str(keyword)) from None
        return thing

    job_gone, thing_gone = weakref.ref(job), weakref.ref(thing)
    future = pool.submit(job, thing, keyword=thing)
    future_gone = weakref.ref(future)
    concurrent.futures.wait([future], deadline)
    if fails:
        future.exception().__traceback__ = None
    del job, thing, future
    gc.collect()
    pool.submit(int).result(deadline)
    assert [job_gone(), thing_gone(), future_gone()] == [None, None, None]


def test_a_failed_job_makes_no_cycle(make_pool, deadline):
    pool = make_pool(1)
    gc.disable()
    try:
        future = pool.submit(int, "x")
        assert isinstance(future.exception(deadline), ValueError)
        gone = weakref.ref(future)
        del future
        pool.submit(int).result(deadline)
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("function", [Thing.method, int])
def test_arguments_are_let_go_before_the_job_is_reported_as_done(
    make_pool, blocker, deadline, function
):
    pool = make_pool(1)
    pool.submit(blocker)
    thing = Thing()
    gone = weakref.ref(thing)
    seen = []
    future = pool.submit(function, thing)
    future.add_done_callback(lambda _: seen.append(gone()))
    del thing
    blocker.go.set()
    pool.shutdown()
    assert seen == [None]


def test_a_finalizer_may_submit_while_a_submit_is_under_way(make_pool, deadline):
    pool = make_pool(4)
    results = []

    class Submits:
        def __init__(self):
            self.myself = self

        def __del__(self):
            results.append(pool.submit(int, "7"))

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Submits()
            pool.submit(int)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert [future.result(deadline) for future in results] == [7] * 200


def test_sixteen_threads_submit_at_once(make_pool, deadline):
    pool = make_pool(4)
    start = threading.Barrier(16)
    futures = []

    def submit_many():
        start.wait(deadline)
        futures.extend(pool.submit(divmod, n, 7) for n in range(100))

    threads = [threading.Thread(target=submit_many, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline)
    assert len(pool._threads) == 4
    results = sorted(future.result(deadline) for future in futures)
    assert results == sorted(divmod(n, 7) for n in range(100) for _ in range(16))


# Bad arguments and looks


@pytest.mark.parametrize("count", [0, -1])
def test_there_must_be_room_for_a_worker(count):
    with pytest.raises(ValueError, match="max_workers"):
        EnhancedThreadPoolExecutor(count)


@pytest.mark.parametrize("name", ["initializer", "uninitializer"])
def test_what_cannot_be_called_is_refused(name):
    with pytest.raises(TypeError, match="callable"):
        EnhancedThreadPoolExecutor(1, **{name: "text"})


def test_repr_tells_name_and_state(make_pool):
    pool = make_pool(3, name="Loader")
    assert repr(pool) == "<EnhancedThreadPoolExecutor 'Loader': 0 of 3 threads>"
    pool.submit(int)
    assert repr(pool) == "<EnhancedThreadPoolExecutor 'Loader': 1 of 3 threads>"
    pool.shutdown()
    assert repr(pool) == "<EnhancedThreadPoolExecutor 'Loader': shut down>"


def test_a_callback_that_raises_does_not_stop_the_shutdown(make_pool, deadline):
    def callback(future):
        called.append(future)
        raise SystemExit

    called = []
    go = threading.Event()
    started = threading.Event()
    pool = make_pool(1)
    running = pool.submit(lambda: started.set() or go.wait(deadline))
    assert started.wait(deadline)
    futures = [pool.submit(int) for _ in range(3)]
    for future in futures:
        future.add_done_callback(callback)
    with pytest.raises(SystemExit):
        pool.shutdown(cancel_futures=True)
    go.set()
    assert called == futures
    assert running.result(deadline) is True
