from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import threading
import weakref

import pytest

from encore.concurrent.futures import SynchronousExecutor

variable = contextvars.ContextVar("variable", default="unset")


def test_the_job_is_done_in_this_thread_when_submit_returns():
    future = SynchronousExecutor().submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


def test_arguments_are_passed_whatever_their_names():
    future = SynchronousExecutor().submit(lambda *args, **kwargs: (args, kwargs), 1, fn=2, self=3)
    assert future.result() == ((1,), {"fn": 2, "self": 3})


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_the_job_raises_is_in_the_future(kind):
    def fails():
        raise kind("failure")

    future = SynchronousExecutor().submit(fails)
    assert isinstance(future.exception(), kind)
    assert "in fails" in future.traceback()


def test_after_shutdown_submit_raises():
    executor = SynchronousExecutor()
    assert repr(executor) == "<SynchronousExecutor>"
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)
    assert repr(executor) == "<SynchronousExecutor: shut down>"
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def test_it_is_an_executor():
    with SynchronousExecutor() as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert list(executor.map(pow, (2, 3), (3, 2))) == [8, 9]
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_a_subclass_chooses_its_futures():
    class Plain(SynchronousExecutor):
        _future_factory = concurrent.futures.Future

    assert type(Plain().submit(int)) is concurrent.futures.Future


def test_context_variables_are_seen_and_not_changed():
    token = variable.set("outer")
    try:

        def job():
            seen = variable.get()
            variable.set("inner")
            return seen

        assert SynchronousExecutor().submit(job).result() == "outer"
        assert variable.get() == "outer"
    finally:
        variable.reset(token)


def test_a_failed_job_makes_no_cycle():
    gc.disable()
    try:
        future = SynchronousExecutor().submit(int, "x")
        gone = weakref.ref(future)
        del future
        assert gone() is None
    finally:
        gc.enable()


def test_submit_wants_a_function():
    with pytest.raises(TypeError, match="submit"):
        SynchronousExecutor().submit()
