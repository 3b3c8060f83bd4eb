"""Listeners that something else than the emit runs."""

import asyncio
import functools
import gc
import logging
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from encore.concurrent.futures import SerializingAsynchronizer, SynchronousExecutor
from encore.events.api import BaseEvent, EventManager

DEADLINE = 30


class SaveEvent(BaseEvent):
    pass


def broken(event):
    raise ValueError("on purpose")


async def broken_coroutine(event):
    raise ValueError("on purpose")


@pytest.fixture
def failures():
    """What a callable on_error is told."""
    return []


@pytest.fixture(params=["log", "raise", "callable", "callable that raises"])
def told(request, failures, caplog):
    """A manager, and the one failure (listener, event, error) it has told of."""

    def tell(*failure):
        failures.append(failure)
        if request.param == "callable that raises":
            raise RuntimeError("gave up")

    manager = EventManager(on_error=tell if "callable" in request.param else request.param)

    def failure_of(listener, event):
        if "callable" in request.param:
            ((told, about, error),) = failures
            assert (told, about) == (listener, event)
            if request.param == "callable":
                assert caplog.records == []
                return error
        (record,) = caplog.records
        assert record.getMessage() == f"listener {listener!r} failed for {event!r}"
        if "callable" not in request.param:
            return record.exc_info[1]
        assert str(record.exc_info[1]) == "gave up"
        return error

    return manager, failure_of


class TestFailing:
    def test_in_an_executor(self, told):
        manager, failure_of = told
        with ThreadPoolExecutor(1) as executor:
            manager.connect(SaveEvent, broken, dispatch=executor)
            manager.emit(event := SaveEvent())
        assert str(failure_of(broken, event)) == "on purpose"

    def test_in_what_waits(self, told):
        manager, failure_of = told
        waiting = []
        manager.connect(SaveEvent, broken, dispatch=waiting.append)
        manager.emit(event := SaveEvent())
        assert waiting[0]() is None
        assert str(failure_of(broken, event)) == "on purpose"

    def test_in_an_event_loop(self, told):
        manager, failure_of = told
        futures = []

        async def main():
            loop = asyncio.get_running_loop()

            def dispatch(call):
                futures.append(asyncio.run_coroutine_threadsafe(call(), loop))

            manager.connect(SaveEvent, broken_coroutine, dispatch=dispatch)
            manager.emit(event := SaveEvent())
            await asyncio.wait_for(asyncio.wrap_future(futures[0]), DEADLINE)
            return event

        event = asyncio.run(main())
        assert str(failure_of(broken_coroutine, event)) == "on purpose"

    def test_where_the_manager_is_gone_it_is_logged(self, caplog):
        manager = EventManager(on_error="raise")
        waiting = []
        manager.connect(SaveEvent, broken, dispatch=waiting.append)
        manager.emit(SaveEvent())
        del manager
        waiting[0]()
        (record,) = caplog.records
        assert repr(broken) in record.getMessage()
        assert record.exc_info[0] is ValueError

    @pytest.mark.parametrize("dispatch", [lambda call: call(), SynchronousExecutor()])
    def test_during_the_emit_it_is_raised_from_there(self, calls, caplog, dispatch):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, broken, dispatch=dispatch)
        manager.connect(SaveEvent, calls.append)
        with pytest.raises(ValueError, match="on purpose"):
            manager.emit(SaveEvent())
        assert len(calls) == 1
        assert caplog.records == []

    def test_during_the_emit_a_callable_is_told_once(self, failures):
        def tell(*failure):
            failures.append(failure)
            raise RuntimeError("gave up")

        manager = EventManager(on_error=tell)
        manager.connect(SaveEvent, broken, dispatch=lambda call: call())
        with pytest.raises(RuntimeError, match="gave up"):
            manager.emit(event := SaveEvent())
        ((listener, about, error),) = failures
        assert (listener, about, str(error)) == (broken, event, "on purpose")

    def test_a_coroutine_that_is_run_during_the_emit_is_raised_from_there(self):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, broken_coroutine, dispatch=lambda call: asyncio.run(call()))
        with pytest.raises(ValueError, match="on purpose"):
            manager.emit(SaveEvent())

    def test_a_dispatch_that_calls_twice_and_fails_hides_nothing(self, failures):
        def dispatch(call):
            call()
            call()
            raise RuntimeError("no more")

        manager = EventManager(on_error=lambda *failure: failures.append(failure))
        manager.connect(SaveEvent, broken, dispatch=dispatch)
        manager.emit(SaveEvent())
        assert sorted(str(error) for _, _, error in failures) == [
            "no more", "on purpose", "on purpose",
        ]  # fmt: skip

    def test_of_another_event_run_meanwhile_it_is_not_the_emits(self, caplog):
        # As a scheduler that has work waiting does.
        manager = EventManager(on_error="raise")
        waiting = []

        def dispatch(call):
            waiting.append(call)
            if len(waiting) == 2:
                waiting[0]()

        manager.connect(SaveEvent, broken, dispatch=dispatch)
        manager.emit(SaveEvent(1))
        manager.emit(SaveEvent(2))
        (record,) = caplog.records
        assert repr(SaveEvent(1)) in record.getMessage()

    def test_in_an_emit_inside_of_it(self):
        manager = EventManager(on_error="raise")
        raised = []

        def listener(event):
            if event.source == 0:
                raise ValueError("inner")
            with pytest.raises(ValueError, match="inner") as caught:
                manager.emit(SaveEvent(event.source - 1))
            raised.append(caught.value)
            raise ValueError("outer")

        manager.connect(SaveEvent, listener, dispatch=lambda call: call())
        with pytest.raises(ValueError, match="outer"):
            manager.emit(SaveEvent(1))
        assert len(raised) == 1

    @pytest.mark.parametrize("on_error", ["raise", "log", lambda *args: None])
    @pytest.mark.parametrize("dispatch", [lambda call: call(), "later"])
    def test_the_error_keeps_nothing_alive(self, on_error, dispatch, caplog):
        manager = EventManager(on_error=on_error)
        future = Future()
        gone = weakref.ref(future)
        waiting = []
        later = dispatch == "later"
        manager.connect(SaveEvent, broken, dispatch=waiting.append if later else dispatch)
        caplog.set_level(logging.CRITICAL, "encore.events.event_manager")
        gc.disable()
        try:
            try:
                manager.emit(SaveEvent(future=future))
                if later:
                    waiting.pop()()
            except ValueError:
                pass
            del future
            assert gone() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("listener", [broken, broken_coroutine])
def test_a_listener_that_was_disconnected_is_not_kept(manager, listener):
    def dispatch(call):
        pass

    gone = weakref.ref(dispatch)
    manager.connect(SaveEvent, listener, dispatch=dispatch)
    manager.emit(SaveEvent())
    gc.disable()
    try:
        manager.disconnect(SaveEvent, listener)
        del dispatch
        assert gone() is None
    finally:
        gc.enable()


def test_a_scheduler_still_sees_one_callable_for_all_events(manager, calls):
    executor = Waiting()
    scheduler = SerializingAsynchronizer(executor)
    manager.connect(SaveEvent, calls.append, dispatch=scheduler)
    events = [SaveEvent(number) for number in range(3)]
    for event in events:
        manager.emit(event)
    executor.run()
    scheduler.wait()
    # The first was under way; of those that waited, the newest is left.
    assert calls == [events[0], events[2]]


class Waiting:
    """An executor that runs when it is told to."""

    def __init__(self):
        self.jobs = []

    def submit(self, func, *args, **kwargs):
        future = Future()
        self.jobs.append((future, functools.partial(func, *args, **kwargs)))
        return future

    def run(self):
        while self.jobs:
            future, job = self.jobs.pop(0)
            future.set_result(job())


class TestCoroutineFunctions:
    def test_an_event_loop_runs_one(self, manager, calls):
        async def listener(event):
            await asyncio.sleep(0)
            calls.append(event)

        async def main():
            loop = asyncio.get_running_loop()
            tasks = []

            def dispatch(call):
                tasks.append(loop.create_task(call()))

            manager.connect(SaveEvent, listener, dispatch=dispatch)
            manager.emit(SaveEvent())
            assert "listener" in repr(tasks[0])
            await asyncio.gather(*tasks)

        asyncio.run(main())
        assert len(calls) == 1

    def test_another_thread_runs_one(self, manager):
        heard = Future()

        async def listener(event):
            await asyncio.sleep(0)
            heard.set_result(event)

        async def main():
            loop = asyncio.get_running_loop()
            manager.connect(
                SaveEvent,
                listener,
                dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop),
            )
            thread = manager.emit(event := SaveEvent(), block=False)
            assert await asyncio.wait_for(asyncio.wrap_future(heard), DEADLINE) is event
            thread.join(DEADLINE)

        asyncio.run(main())

    def test_another_coroutine_awaits_one(self, manager, calls):
        async def listener(event):
            calls.append(event)

        waiting = []
        manager.connect(SaveEvent, listener, dispatch=waiting.append)
        manager.emit(event := SaveEvent())

        async def main():
            await waiting[0]()

        asyncio.run(main())
        assert calls == [event]

    def test_one_that_nobody_runs_is_reported(self, told):
        # What a warning would be is an error in these tests.
        manager, failure_of = told

        async def listener(event):
            raise AssertionError

        async def main():
            loop = asyncio.get_running_loop()
            manager.connect(SaveEvent, listener, dispatch=loop.call_soon_threadsafe)
            manager.emit(event := SaveEvent())
            called = loop.create_future()
            loop.call_soon(called.set_result, None)
            await asyncio.wait_for(called, DEADLINE)
            return event

        event = asyncio.run(main())
        gc.collect()
        message = str(failure_of(listener, event))
        assert "did not run the coroutine" in message
        assert "asyncio.run_coroutine_threadsafe(call(), loop)" in message

    def test_one_that_nobody_runs_during_the_emit_is_raised_from_there(self):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, broken_coroutine, dispatch=lambda call: call())
        with pytest.raises(RuntimeError, match="did not run the coroutine"):
            manager.emit(SaveEvent())

    def test_a_dispatch_that_fails_is_all_that_is_reported(self, failures):
        # Kept as text: the traceback of the error keeps the coroutine.
        manager = EventManager(on_error=lambda *failure: failures.append(str(failure[2])))
        loop = asyncio.new_event_loop()
        loop.close()
        manager.connect(
            SaveEvent,
            broken_coroutine,
            dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop),
        )
        manager.emit(SaveEvent())
        gc.collect()
        assert failures == ["Event loop is closed"]

    @pytest.mark.parametrize("end", ["close", "cancel"])
    def test_one_that_was_given_up_is_not_reported(self, manager, caplog, end):
        waiting = []
        manager.connect(SaveEvent, broken_coroutine, dispatch=waiting.append)
        manager.emit(SaveEvent())

        async def main():
            task = asyncio.get_running_loop().create_task(waiting[0]())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        if end == "close":
            waiting[0]().close()
        else:
            asyncio.run(main())
        gc.collect()
        assert caplog.records == []

    def test_a_method_of_what_is_gone_is_not_called(self, manager, calls, caplog):
        class Listener:
            async def heard(self, event):
                calls.append(event)

        listener = Listener()
        waiting = []
        manager.connect(SaveEvent, listener.heard, dispatch=waiting.append)
        manager.emit(SaveEvent())
        del listener
        gc.collect()
        asyncio.run(waiting[0]())
        assert calls == []
        assert caplog.records == []
