from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import gc
import threading
import weakref

import pytest

from encore.concurrent.futures.future import Future

STATES = ["pending", "running", "cancelled", "cancelled and notified", "finished", "failed"]


def in_state(future, state):
    if state.startswith("cancelled"):
        assert future.cancel()
        if state.endswith("notified"):
            assert not future.set_running_or_notify_cancel()
    elif state != "pending":
        assert future.set_running_or_notify_cancel()
        if state == "finished":
            future.set_result("result")
        elif state == "failed":
            future.set_exception(ZeroDivisionError("failure"))
    return future


def outcome(function, *args):
    try:
        return function(*args)
    except BaseException as error:
        return type(error), str(error)


@pytest.mark.parametrize("asked_before", [False, True], ids=["short way", "long way"])
@pytest.mark.parametrize("state", STATES)
def test_answers_like_the_standard_librarys(state, asked_before, monkeypatch):
    monkeypatch.setattr(concurrent.futures._base.LOGGER, "disabled", True)

    def transcript(future):
        called = []
        if asked_before:
            concurrent.futures.wait([future], timeout=0)
        future.add_done_callback(called.append)
        in_state(future, state)
        future.add_done_callback(called.append)
        answers = [future.done(), future.running(), future.cancelled(), called.count(future)]
        answers += [outcome(future.result, 0), repr(outcome(future.exception, 0))]
        answers += [future in concurrent.futures.wait([future], timeout=0).done]
        answers += [future.cancel(), outcome(future.set_running_or_notify_cancel)]
        last = outcome(future.set_result, 1), outcome(future.set_exception, ValueError())
        errors = [o[0] for o in last if isinstance(o, tuple)]
        answers += [errors, future.done(), called.count(future)]
        return [*answers, repr(outcome(future.result, 0))]

    def without_addresses(answers):
        return [a.split(" at ")[0] if isinstance(a, str) else a for a in answers]

    ours, theirs = transcript(Future()), transcript(concurrent.futures.Future())
    for answer, expected in zip(ours, theirs, strict=True):
        if isinstance(expected, tuple) and expected[0] is concurrent.futures.InvalidStateError:
            assert answer[0] is expected[0]
        else:
            assert answer == expected


def test_traceback_is_the_text_of_where_the_job_failed():
    def fails():
        raise LookupError("nothing there")

    future = Future()
    try:
        fails()
    except LookupError as error:
        future.set_exception(error)
    text = future.traceback()
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in fails" in text
    assert text.endswith("LookupError: nothing there\n")


def test_traceback_is_taken_when_the_job_failed():
    error = ValueError("first words")
    future = Future()
    future.set_exception(error)
    error.args = ("other words",)
    error.__cause__ = KeyError()
    assert future.traceback() == "ValueError: first words\n"


@pytest.mark.parametrize("state", ["cancelled", "cancelled and notified", "finished"])
def test_traceback_is_none_for_what_did_not_fail(state):
    assert in_state(Future(), state).traceback() is None


def test_traceback_is_none_where_none_is_set_as_the_exception():
    future = Future()
    future.set_exception(None)
    assert future.traceback() is None
    assert future.result(0) is None


def test_an_exception_that_cannot_be_shown_fails_the_future_all_the_same():
    class Nasty(Exception):
        def __str__(self):
            raise KeyboardInterrupt

    future = Future()
    try:
        raise Nasty
    except Nasty as error:
        future.set_exception(error)
    assert isinstance(future.exception(0), Nasty)
    assert "in test_an_exception_that_cannot_be_shown" in future.traceback()
    assert "Nasty" in future.traceback()


def test_a_failure_in_code_whose_source_cannot_be_had_is_a_failure_all_the_same():
    class Loader:
        def get_source(self, name):
            raise KeyboardInterrupt

    names = {"__name__": "sourceless", "__loader__": Loader()}
    exec(compile("def fails(): 1/0", "sourceless.py", "exec"), names)
    future = Future()
    try:
        names["fails"]()
    except ZeroDivisionError as error:
        future.set_exception(error)
    assert isinstance(future.exception(0), ZeroDivisionError)
    assert "ZeroDivisionError" in future.traceback()


@pytest.mark.parametrize("method", ["result", "exception", "traceback"])
@pytest.mark.parametrize("fails", [False, True])
def test_waiting_threads_wake_up(method, fails, deadline):
    future = Future()
    waits = threading.Event()
    seen = []

    def wait():
        waits.set()
        seen.append(outcome(getattr(future, method)))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert waits.wait(deadline)
    if fails:
        future.set_exception(ValueError("no"))
    else:
        future.set_result("yes")
    for thread in threads:
        thread.join(deadline)
    assert len(seen) == 3
    assert len({repr(answer) for answer in seen}) == 1


def test_wait_and_as_completed_take_both_kinds_together(deadline):
    futures = [Future(), concurrent.futures.Future(), Future(), concurrent.futures.Future()]
    futures[0].set_result(0)
    done, _ = concurrent.futures.wait(futures, timeout=0)
    assert done == {futures[0]}
    started = threading.Event()
    order = []

    def collect():
        for future in concurrent.futures.as_completed(futures, timeout=deadline):
            order.append(future)
            started.set()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    assert started.wait(deadline)
    for future in futures[1:]:
        future.set_running_or_notify_cancel()
        future.set_result(1)
    thread.join(deadline)
    assert set(order) == set(futures)
    assert order[0] is futures[0]
    assert not concurrent.futures.wait(futures, timeout=0).not_done


def test_result_times_out():
    with pytest.raises(concurrent.futures.TimeoutError):
        Future().result(timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        Future().exception(timeout=0)


def test_callbacks_are_not_kept_once_called():
    class Thing:
        def __call__(self, future):
            called.append(future)

    called = []
    for finish in ("set_result", "set_exception"):
        thing = Thing()
        gone = weakref.ref(thing)
        future = Future()
        future.add_done_callback(thing)
        del thing
        getattr(future, finish)(None)
        assert called.pop() is future
        assert gone() is None


def test_asking_for_a_failure_makes_no_cycle():
    future = Future()
    future.set_exception(ValueError("failure"))
    gone = weakref.ref(future)
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            future.result()
        future = None
        assert gone() is None
    finally:
        gc.enable()


def test_many_threads_race_to_finish_and_to_wait(deadline):
    for _ in range(50):
        future = Future()
        start = threading.Barrier(4)
        seen = []

        def wait(future=future, start=start, seen=seen):
            start.wait(deadline)
            seen.append(future.result(deadline))

        def finish(future=future, start=start):
            start.wait(deadline)
            future.set_result("done")

        threads = [threading.Thread(target=t, daemon=True) for t in (wait, wait, wait, finish)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline)
        assert seen == ["done"] * 3


@pytest.mark.usefixtures("hasty_switching")
def test_every_callback_is_called_once_however_late_it_is_added(make_pool, deadline):
    pool = make_pool(2)
    called = []
    for _ in range(300):
        pool.submit(int).add_done_callback(called.append)
    pool.shutdown()
    assert len(called) == len(set(map(id, called))) == 300


@pytest.mark.usefixtures("hasty_switching")
def test_no_waiter_misses_the_end_of_a_job(make_pool, deadline):
    pool = make_pool(2)
    for n in range(100):
        futures = [pool.submit(divmod, n, 3) for _ in range(4)]
        assert futures[3].result(deadline) == divmod(n, 3)
        assert not concurrent.futures.wait(futures, deadline).not_done
        assert [future.result(0) for future in futures] == [divmod(n, 3)] * 4


@pytest.mark.usefixtures("hasty_switching")
def test_a_job_is_either_started_or_cancelled(make_pool, deadline):
    pool = make_pool(2)
    ran = set()
    futures = [pool.submit(ran.add, n) for n in range(300)]
    cancelled = {n for n, future in enumerate(futures) if future.cancel()}
    assert concurrent.futures.wait(futures, deadline).done == set(futures)
    assert {n for n, future in enumerate(futures) if future.cancelled()} == cancelled
    assert ran == set(range(300)) - cancelled


@pytest.mark.parametrize("ends", ["finished", "dropped"])
def test_who_comes_between_the_end_and_its_announcement_sees_the_end(ends, deadline):
    # What a worker without the GIL may be caught at: the last token is taken, the state not set.
    future = Future()
    del future._job
    if ends == "finished":
        future._result = 7
    del future._quiet
    called = []
    future.add_done_callback(called.append)
    assert called == [future]
    assert future.done()
    assert concurrent.futures.wait([future], timeout=0).done == {future}
    if ends == "finished":
        assert future.result(0) == 7
    else:
        assert future.cancelled()


def test_who_wants_to_be_told_in_the_last_moment_is_told():
    class Pool:
        queue = None

    class Late(Future):
        def __setattr__(self, name, value):
            if name == "_result" and not called:
                called.append("asked")
                self.add_done_callback(called.append)
            super().__setattr__(name, value)

    called = []
    future = Late()
    future._job = (contextvars.copy_context(), (int, "7"), {})
    assert future._do(Pool(), None)
    assert called == ["asked", future]
    assert future.result(0) == 7


@pytest.mark.parametrize("token", ["_job", "_quiet"])
def test_what_is_dropped_while_it_is_cancelled_is_told_to_those_who_wait(token):
    class Late(Future):
        def __delattr__(self, name):
            if name == token and not cancelled:
                cancelled.append(None)
                cancelled[0] = self.cancel()
            super().__delattr__(name)

    cancelled = []
    future = Late()
    future._drop()
    assert cancelled == [token == "_job"]
    assert future.cancelled()
    assert concurrent.futures.wait([future], timeout=0).done == {future}


def test_a_job_that_was_dropped_wakes_those_who_wait(deadline):
    for asked_before in (False, True):
        future = Future()
        if asked_before:
            concurrent.futures.wait([future], timeout=0)
        future._drop()
        assert future.cancelled()
        assert concurrent.futures.wait([future], timeout=0).done == {future}
        with pytest.raises(RuntimeError):
            future.set_running_or_notify_cancel()


def test_a_wait_that_times_out_leaves_nothing_behind():
    future = Future()
    for _ in range(3):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0)
    assert future._sleepers == ()


def test_what_a_callback_raises_is_logged_and_stops_nothing(caplog):
    called = []
    future = Future()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(called.append)
    future.set_result(7)
    future.add_done_callback(lambda _: 1 / 0)
    assert called == [future]
    assert [record.name for record in caplog.records] == ["concurrent.futures"] * 2
    assert all(record.exc_info[0] is ZeroDivisionError for record in caplog.records)


def test_arguments_are_finalized_without_a_lock(deadline):
    held, called = [], []

    class Thing:
        def __del__(self):
            args = (called.append,)
            thread = threading.Thread(target=future.add_done_callback, args=args, daemon=True)
            thread.start()
            thread.join(deadline)
            held.append(thread.is_alive())

    future = Future()
    future._job = (None, (Thing(),), {})
    future.add_done_callback(lambda _: None)
    assert future.cancel()
    assert held == [False]


def test_repr_tells_the_state_and_the_outcome():
    shown = [repr(in_state(Future(), state)) for state in STATES]
    assert all(text.startswith("<Future at 0x") for text in shown)
    assert [text.partition(" state=")[2] for text in shown] == [
        "pending>",
        "running>",
        "cancelled>",
        "cancelled>",
        "finished returned str>",
        "finished raised ZeroDivisionError>",
    ]


def test_can_be_subscripted():
    assert Future[int]
