import asyncio
import functools
import gc
import logging
import sys
import threading
import types
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from encore.events.api import BaseEvent, BaseEventManager, Connection, EventManager

DEADLINE = 30


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


class Listener:
    def __init__(self, calls):
        self.calls = calls

    def heard(self, event):
        self.calls.append(event)


def named(name, calls):
    def listener(event):
        calls.append(name)

    return listener


class TestConnection:
    def test_it_disconnects_as_often_as_it_is_asked_to(self, manager, calls):
        connection = manager.connect(SaveEvent, calls.append)
        assert isinstance(connection, Connection)
        assert connection.connected
        connection.disconnect()
        connection.disconnect()
        manager.emit(SaveEvent())
        assert not connection.connected
        assert calls == []

    def test_it_lasts_for_a_block(self, manager, calls):
        with manager.connect(SaveEvent, calls.append) as connection:
            assert connection.connected
            manager.emit(SaveEvent())
        manager.emit(SaveEvent())
        assert len(calls) == 1

    def test_a_block_that_raises_disconnects_too(self, manager, calls):
        with pytest.raises(ValueError, match="inside"), manager.connect(SaveEvent, calls.append):
            raise ValueError("inside")
        manager.emit(SaveEvent())
        assert calls == []

    def test_a_block_whose_listener_was_disconnected_otherwise(self, manager, calls):
        with manager.connect(SaveEvent, calls.append):
            manager.disconnect(SaveEvent, calls.append)

    def test_a_replaced_connection_leaves_the_new_one_alone(self, manager, calls):
        listener = named("heard", calls)
        old = manager.connect(SaveEvent, listener)
        new = manager.connect(SaveEvent, listener, {"source": None})
        assert (old.connected, new.connected) == (False, True)
        old.disconnect()
        manager.emit(SaveEvent())
        assert calls == ["heard"]

    def test_it_need_not_be_kept(self, manager, calls):
        manager.connect(SaveEvent, named("heard", calls))
        gc.collect()
        manager.emit(SaveEvent())
        assert calls == ["heard"]

    def test_it_does_not_keep_the_manager_alive(self, calls):
        manager = EventManager()
        connection = manager.connect(SaveEvent, calls.append)
        gone = weakref.ref(manager)
        del manager
        assert gone() is None
        assert not connection.connected
        connection.disconnect()

    def test_it_does_not_keep_a_weakly_held_object_alive(self, manager, calls):
        listener = Listener(calls)
        connection = manager.connect(SaveEvent, listener.heard)
        gone = weakref.ref(listener)
        del listener
        assert gone() is None
        assert not connection.connected
        assert repr(connection) == (
            "<Connection of a listener that is gone to SaveEvent, disconnected>"
        )

    def test_repr(self, manager, calls):
        listener = named("heard", calls)
        connection = manager.connect(SaveEvent, listener)
        assert repr(connection) == f"<Connection of {listener!r} to SaveEvent>"
        connection.disconnect()
        assert repr(connection) == f"<Connection of {listener!r} to SaveEvent, disconnected>"

    def test_a_vetoed_connection_is_none_from_the_start(self, manager, calls):
        manager.set_trace(lambda name, method, args: name == "connect")
        connection = manager.connect(SaveEvent, calls.append)
        manager.set_trace(None)
        assert not connection.connected
        connection.disconnect()
        manager.emit(SaveEvent())
        assert calls == []

    def test_the_tracer_is_asked_once_before_it_disconnects(self, manager, calls):
        traced = []
        listener = Listener(calls)
        connection = manager.connect(SaveEvent, listener.heard)
        veto = True

        def tracer(name, method, args):
            traced.append((name, method, args))
            return veto

        manager.set_trace(tracer)
        connection.disconnect()
        assert connection.connected
        veto = False
        connection.disconnect()
        assert not connection.connected
        connection.disconnect()
        expected = ("disconnect", manager.disconnect, (SaveEvent, listener.heard))
        assert traced == [expected, expected]

    @pytest.mark.parametrize("cls", [FileEvent, SaveEvent])
    def test_disconnecting_takes_the_listener_out_of_every_plan(self, manager, calls, cls):
        connection = manager.connect(cls, named("heard", calls))
        manager.emit(SaveEvent())
        connection.disconnect()
        manager.emit(SaveEvent())
        assert calls == ["heard"]
        assert not manager.has_listeners(SaveEvent)


class TestDecorator:
    def test_it_connects_the_function_and_leaves_it_as_it_is(self, manager, calls):
        @manager.listener(SaveEvent, filter={"source": 1}, priority=3)
        def listener(event):
            calls.append(event)
            return "a result"

        manager.connect(SaveEvent, lambda event: calls.append("after"))
        manager.emit(SaveEvent(2))
        manager.emit(event := SaveEvent(1))
        assert calls == ["after", event, "after"]
        assert listener(event) == "a result"

    def test_it_has_the_options_of_connect(self, manager, calls):
        @manager.listener(SaveEvent, once=True)
        def listener(event):
            calls.append(event)

        manager.emit(SaveEvent())
        manager.emit(SaveEvent())
        assert len(calls) == 1

    def test_without_a_class_it_is_refused_at_once(self, manager):
        with pytest.raises(TypeError, match=r"listener takes a class of events.* not <function"):

            @manager.listener
            def listener(event):
                pass

        with pytest.raises(TypeError, match=r"listener takes a class of events.* not 3"):
            manager.listener(3)
        assert manager.get_event() == {}

    def test_every_manager_has_it(self, calls):
        class Recording(EventManager):
            def connect(self, cls, func, filter=None, priority=0, **options):
                calls.append((cls, filter, priority, options))
                return super().connect(cls, func, filter, priority, **options)

        @Recording().listener(SaveEvent, {"a": 1}, 2, weak=True)
        def listener(event):
            pass

        assert calls == [(SaveEvent, {"a": 1}, 2, {"weak": True})]


class TestOnce:
    def test_it_hears_the_first_event_that_matches(self, manager, calls):
        connection = manager.connect(SaveEvent, calls.append, {"source": 1}, once=True)
        manager.emit(SaveEvent(2))
        assert connection.connected
        manager.emit(event := SaveEvent(1))
        manager.emit(SaveEvent(1))
        assert calls == [event]
        assert not connection.connected
        assert manager.get_listeners(SaveEvent) == []

    def test_it_is_disconnected_before_it_is_called(self, manager, calls):
        def listener(event):
            calls.append(connection.connected)
            manager.emit(SaveEvent())

        connection = manager.connect(SaveEvent, listener, once=True)
        manager.emit(SaveEvent())
        assert calls == [False]

    def test_it_may_connect_itself_again(self, manager, calls):
        def listener(event):
            calls.append(event)
            manager.connect(SaveEvent, listener, once=True)

        manager.connect(SaveEvent, listener, once=True)
        for _ in range(3):
            manager.emit(SaveEvent())
        assert len(calls) == 3

    def test_a_veto_does_not_use_it_up(self, manager, calls):
        manager.connect(SaveEvent, calls.append, once=True)
        manager.set_trace(lambda name, method, args: name == "listen")
        manager.emit(SaveEvent())
        manager.set_trace(None)
        assert calls == []
        manager.emit(SaveEvent())
        manager.emit(SaveEvent())
        assert len(calls) == 1

    def test_a_method_is_held_weakly_all_the_same(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard, once=True)
        del listener
        manager.emit(SaveEvent())
        assert calls == []
        assert not manager.has_listeners(SaveEvent)

    def test_of_many_threads_one_calls_it(self, manager, calls):
        barrier = threading.Barrier(8)

        def emit():
            barrier.wait(DEADLINE)
            manager.emit(SaveEvent())

        for _ in range(20):
            calls.clear()
            manager.connect(SaveEvent, calls.append, once=True)
            threads = [threading.Thread(target=emit) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            assert len(calls) == 1

    def test_one_that_fails_is_named_in_the_log(self, manager, caplog):
        def broken(event):
            raise ValueError("on purpose")

        manager.connect(SaveEvent, broken, once=True)
        manager.emit(SaveEvent())
        assert repr(broken) in caplog.records[0].getMessage()

    def test_it_leaves_nothing_behind(self, manager):
        def listener(event):
            pass

        gone = weakref.ref(listener)
        manager.connect(SaveEvent, listener, once=True)
        gc.disable()
        try:
            manager.emit(SaveEvent())
            del listener
            assert gone() is None
        finally:
            gc.enable()


class TestWeak:
    def test_a_function_goes_when_nothing_else_holds_it(self, manager, calls):
        listener = named("heard", calls)
        connection = manager.connect(SaveEvent, listener, weak=True)
        manager.emit(SaveEvent())
        assert manager.get_listeners(SaveEvent) == [listener]
        gone = weakref.ref(listener)
        del listener
        assert gone() is None
        assert not connection.connected
        manager.emit(SaveEvent())
        assert calls == ["heard"]
        assert manager.get_listeners(SaveEvent) == []
        assert not manager.has_listeners(SaveEvent)
        assert not connection.connected

    def test_a_function_held_weakly_can_be_disconnected_and_replaced(self, manager, calls):
        listener = named("heard", calls)
        manager.connect(SaveEvent, listener, weak=True)
        manager.disconnect(SaveEvent, listener)
        with pytest.raises(KeyError):
            manager.disconnect(SaveEvent, listener)
        manager.connect(SaveEvent, listener, weak=True)
        manager.connect(SaveEvent, listener)
        manager.emit(SaveEvent())
        assert calls == ["heard"]
        gone = weakref.ref(listener)
        del listener
        assert gone() is not None

    def test_an_object_that_can_be_called_goes_too(self, manager, calls):
        class Callable:
            def __call__(self, event):
                calls.append(event)

        listener = Callable()
        manager.connect(SaveEvent, listener, weak=True)
        manager.emit(SaveEvent())
        assert len(calls) == 1
        del listener
        manager.emit(SaveEvent())
        assert len(calls) == 1

    def test_a_bound_method_can_be_held(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard, weak=False)
        gone = weakref.ref(listener)
        del listener
        manager.emit(SaveEvent())
        assert len(calls) == 1
        manager.disconnect(SaveEvent, gone().heard)
        gc.collect()
        assert gone() is None

    def test_what_cannot_be_held_weakly_is_refused(self, manager, calls):
        class Slotted:
            __slots__ = ()

            def heard(self, event):
                pass

        with pytest.raises(TypeError, match="cannot be held weakly"):
            manager.connect(SaveEvent, Slotted().heard, weak=True)
        with pytest.raises(TypeError, match="cannot be held weakly"):
            manager.connect(SaveEvent, calls.append, weak=True)
        assert manager.get_listeners(SaveEvent) == []
        kept = Slotted()
        manager.connect(SaveEvent, kept.heard)
        assert manager.get_listeners(SaveEvent) == [kept.heard]

    def test_a_new_function_at_the_place_of_a_dead_one_is_another(self, manager, calls):
        for number in range(200):
            manager.connect(SaveEvent, named(number, calls), weak=True)
        listener = named("alive", calls)
        manager.connect(SaveEvent, listener, weak=True)
        manager.emit(SaveEvent())
        assert calls == ["alive"]


class TestDispatch:
    def test_an_executor_runs_the_listener(self, manager):
        names = []
        with ThreadPoolExecutor(1, "elsewhere") as executor:
            manager.connect(
                SaveEvent,
                lambda event: names.append(threading.current_thread().name),
                dispatch=executor,
            )
            manager.emit(SaveEvent())
        assert names == ["elsewhere_0"]

    def test_a_callable_is_given_a_callable(self, manager, calls):
        waiting = []
        manager.connect(SaveEvent, calls.append, dispatch=waiting.append)
        manager.emit(event := SaveEvent())
        assert calls == []
        waiting[0]()
        assert calls == [event]

    def test_an_event_loop_runs_the_listener(self, manager, calls):
        async def main():
            loop = asyncio.get_running_loop()
            heard = loop.create_future()
            manager.connect(SaveEvent, heard.set_result, dispatch=loop.call_soon_threadsafe)
            thread = manager.emit(event := SaveEvent(), block=False)
            assert await asyncio.wait_for(heard, DEADLINE) is event
            thread.join(DEADLINE)

        asyncio.run(main())

    def test_filters_priorities_and_once_hold(self, manager, calls):
        waiting = []
        manager.connect(
            SaveEvent, named("low", calls), {"source": 1}, -1, once=True, dispatch=waiting.append
        )
        manager.connect(SaveEvent, named("high", calls), {"source": 1}, dispatch=waiting.append)
        manager.emit(SaveEvent(2))
        manager.emit(SaveEvent(1))
        manager.emit(SaveEvent(1))
        for call in waiting:
            call()
        assert calls == ["high", "low", "high"]

    def test_the_listener_is_known_under_its_own_name(self, manager, calls):
        listener = named("heard", calls)
        manager.connect(SaveEvent, listener, dispatch=lambda call: call())
        assert manager.get_listeners(SaveEvent) == [listener]
        manager.disconnect(SaveEvent, listener)
        manager.emit(SaveEvent())
        assert calls == []

    def test_an_object_that_dies_in_the_meantime_is_not_called(self, manager, calls):
        waiting = []
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard, dispatch=waiting.append)
        manager.emit(SaveEvent())
        del listener
        waiting[0]()
        assert calls == []

    def test_an_executor_that_takes_nothing_more_is_logged(self, manager, calls, caplog):
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        listener = named("heard", calls)
        manager.connect(SaveEvent, listener, dispatch=executor)
        manager.connect(SaveEvent, named("after", calls))
        manager.emit(SaveEvent())
        assert calls == ["after"]
        assert repr(listener) in caplog.records[0].getMessage()

    @pytest.mark.parametrize("dispatch", [3, "executor", ()])
    def test_anything_else_is_refused(self, manager, calls, dispatch):
        with pytest.raises(TypeError, match="dispatch"):
            manager.connect(SaveEvent, calls.append, dispatch=dispatch)
        assert manager.get_listeners(SaveEvent) == []


async def coroutine_function(event):
    pass


async def async_generator(event):
    yield


class Coroutines:
    async def method(self, event):
        pass

    @classmethod
    async def of_the_class(cls, event):
        pass

    async def __call__(self, event):
        pass


@pytest.mark.parametrize(
    "listener",
    [
        coroutine_function,
        async_generator,
        Coroutines().method,
        Coroutines.of_the_class,
        Coroutines(),
        functools.partial(coroutine_function),
        staticmethod(coroutine_function),
        functools.partial(functools.partial(coroutine_function)),
        AsyncMock(),
    ],
)
def test_a_coroutine_function_is_refused(manager, listener):
    with pytest.raises(TypeError, match="coroutine function"):
        manager.connect(SaveEvent, listener)
    with pytest.raises(TypeError, match="coroutine function"), ThreadPoolExecutor(1) as executor:
        manager.connect(SaveEvent, listener, dispatch=executor)
    assert manager.get_listeners(SaveEvent) == []
    manager.connect(SaveEvent, listener, dispatch=lambda call: None)


@pytest.mark.parametrize("mock", [Mock(), MagicMock()])
def test_a_mock_is_a_listener(manager, mock):
    manager.connect(SaveEvent, mock)
    manager.emit(event := SaveEvent())
    mock.assert_called_once_with(event)


class TestOnError:
    @staticmethod
    def broken(event):
        raise ValueError(event.source)

    def test_everything_is_in_one_record(self, manager, caplog):
        manager.connect(SaveEvent, self.broken)
        manager.emit(event := SaveEvent("here"))
        (record,) = caplog.records
        assert record.name == "encore.events.event_manager"
        assert repr(self.broken) in record.getMessage()
        assert repr(event) in record.getMessage()
        assert isinstance(record.exc_info[1], ValueError)

    def test_nothing_is_formatted_if_nobody_reads_it(self, manager, caplog):
        class Private(BaseEvent):
            def __repr__(self):
                raise AssertionError("formatted")

        caplog.set_level("CRITICAL", "encore.events.event_manager")
        manager.connect(Private, self.broken)
        manager.emit(Private())
        assert caplog.records == []

    @pytest.mark.parametrize("hooked", [True, False])
    def test_raise_raises_when_all_have_been_called(self, calls, caplog, hooked):
        class HookedEvent(SaveEvent):
            def post_emit(self):
                calls.append("post_emit")

        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, lambda event: 1 / 0)
        manager.connect(SaveEvent, self.broken)
        manager.connect(SaveEvent, named("heard", calls))
        with pytest.raises(ZeroDivisionError):
            manager.emit(HookedEvent() if hooked else SaveEvent())
        assert calls == ["heard", "post_emit"] if hooked else ["heard"]
        (record,) = caplog.records
        assert record.exc_info[0] is ValueError, "the second failure is lost"

    def test_a_callable_is_told_at_once(self, calls):
        manager = EventManager(
            on_error=lambda listener, event, error: calls.append((listener, event, str(error)))
        )
        manager.connect(SaveEvent, self.broken)
        manager.connect(SaveEvent, calls.append)
        manager.emit(event := SaveEvent("here"))
        assert calls == [(self.broken, event, "here"), event]

    def test_what_a_callable_raises_is_raised(self, calls):
        def give_up(listener, event, error):
            raise RuntimeError("gave up") from error

        manager = EventManager(on_error=give_up)
        manager.connect(SaveEvent, self.broken)
        manager.connect(SaveEvent, calls.append)
        with pytest.raises(RuntimeError, match="gave up") as caught:
            manager.emit(SaveEvent())
        assert isinstance(caught.value.__cause__, ValueError)
        assert len(calls) == 1

    def test_a_predicate_that_raises_is_reported_too(self, calls):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, calls.append, {"source": lambda source: 1 / 0})
        manager.connect(SaveEvent, named("heard", calls))
        with pytest.raises(ZeroDivisionError):
            manager.emit(SaveEvent())
        assert calls == ["heard"]

    @pytest.mark.parametrize("on_error", ["ignore", None, 3])
    def test_anything_else_is_refused(self, on_error):
        with pytest.raises(ValueError, match="on_error"):
            EventManager(on_error=on_error)

    @pytest.mark.parametrize("filter", [None, {"source": lambda source: 1 / 0}])
    @pytest.mark.parametrize("on_error", ["raise", "log", lambda *args: None])
    @pytest.mark.parametrize("held", [True, False])
    def test_the_error_keeps_nothing_alive(self, filter, on_error, held, caplog):
        manager = EventManager(on_error=on_error)
        future = Future()
        gone = weakref.ref(future)
        manager.connect(SaveEvent, lambda event: 1 / 0, filter)
        caplog.set_level("CRITICAL", "encore.events.event_manager")
        gc.disable()
        try:
            try:
                if held:
                    with manager.held(SaveEvent):
                        manager.emit(SaveEvent(future=future))
                else:
                    manager.emit(SaveEvent(future=future))
            except ZeroDivisionError:
                pass
            del future
            assert gone() is None
        finally:
            gc.enable()

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("on_error", ["raise", "log"])
    def test_nothing_of_the_managers_own_is_in_the_traceback(self, first, on_error):
        manager = EventManager(on_error=on_error)
        contexts = []

        def listener(event):
            contexts.append(sys.exc_info()[0])

        manager.connect(SaveEvent, listener)
        if not first:
            manager.emit(SaveEvent())
        manager.emit(SaveEvent())
        assert set(contexts) == {None}

    @pytest.mark.parametrize("first", [True, False])
    def test_logging_that_is_broken_does_not_end_the_dispatch(self, manager, calls, first):
        def broken_filter(record):
            raise RuntimeError("the logging is broken")

        manager.connect(SaveEvent, self.broken)
        manager.connect(SaveEvent, calls.append)
        logger = logging.getLogger("encore.events.event_manager")
        logger.addFilter(broken_filter)
        try:
            if not first:
                manager.has_listeners(SaveEvent)
            manager.emit(SaveEvent())
        finally:
            logger.removeFilter(broken_filter)
        assert len(calls) == 1

    def test_a_hook_that_raises_hides_no_listeners_error(self, caplog):
        class HookedEvent(SaveEvent):
            def post_emit(self):
                raise RuntimeError("the hook")

        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, self.broken)
        with pytest.raises(RuntimeError, match="the hook"):
            manager.emit(HookedEvent())
        assert caplog.records[0].exc_info[0] is ValueError


def test_a_manager_of_08_style_needs_no_more_than_it_had():
    class Simple(BaseEventManager):
        def connect(self, cls, func, filter=None, priority=0):
            self.connected = (cls, func, filter, priority)

        def disconnect(self, cls, func):
            self.connected = None

        def emit(self, event, block=True):
            pass

        def disable(self, cls):
            pass

        def enable(self, cls):
            pass

        def is_enabled(self, cls):
            return True

    manager = Simple()
    manager.connect(SaveEvent, print, priority=2)
    assert manager.connected == (SaveEvent, print, None, 2)
    assert manager.has_listeners(SaveEvent)


def test_a_priority_that_is_not_a_number_is_refused(manager, calls):
    with pytest.raises(ValueError, match="priority"):
        manager.connect(SaveEvent, calls.append, priority=float("nan"))


def test_a_filter_that_is_no_mapping_is_refused(manager, calls):
    with pytest.raises(TypeError, match="filter"):
        manager.connect(SaveEvent, calls.append, ["source"])


def test_a_method_of_an_unhashable_callable_is_a_listener(manager, calls):
    class Unhashable(list):
        def __call__(self, obj, event):
            calls.append(event)

    class Owner:
        pass

    method = types.MethodType(Unhashable(), Owner())
    manager.connect(SaveEvent, method)
    manager.emit(SaveEvent())
    manager.disconnect(SaveEvent, method)
    manager.emit(SaveEvent())
    assert len(calls) == 1
