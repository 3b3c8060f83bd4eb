import re
import threading

import pytest

from encore.events.api import BaseEvent, BaseEventManager, EventManager

DEADLINE = 30


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


class OtherEvent(BaseEvent):
    pass


class Forwarding(BaseEventManager):
    """A manager that has only what every manager must have."""

    def __init__(self):
        self.inner = EventManager()
        for name in ("connect", "disconnect", "emit", "disable", "enable", "is_enabled"):
            setattr(self, name, getattr(self.inner, name))

    connect = disconnect = emit = disable = enable = is_enabled = None


@pytest.fixture(params=[EventManager, Forwarding])
def any_manager(request):
    return request.param()


class TestDisabled:
    def test_for_the_length_of_a_block(self, any_manager, calls):
        any_manager.connect(FileEvent, calls.append)
        with any_manager.disabled(FileEvent):
            assert not any_manager.is_enabled(SaveEvent)
            any_manager.emit(SaveEvent())
        assert any_manager.is_enabled(SaveEvent)
        any_manager.emit(event := SaveEvent())
        assert calls == [event]

    def test_what_was_disabled_stays_so(self, any_manager):
        any_manager.disable(SaveEvent)
        with any_manager.disabled(SaveEvent):
            pass
        assert not any_manager.is_enabled(SaveEvent)

    def test_blocks_nest(self, any_manager):
        with any_manager.disabled(SaveEvent):
            with any_manager.disabled(SaveEvent), any_manager.disabled(FileEvent):
                pass
            assert not any_manager.is_enabled(SaveEvent)
            assert any_manager.is_enabled(FileEvent)
        assert any_manager.is_enabled(SaveEvent)

    def test_a_block_that_raises_enables_again(self, any_manager):
        with pytest.raises(ValueError, match="inside"), any_manager.disabled(SaveEvent):
            raise ValueError("inside")
        assert any_manager.is_enabled(SaveEvent)

    def test_a_subclass_of_a_disabled_class_is_left_as_it_was(self, manager):
        manager.disable(FileEvent)
        with manager.disabled(SaveEvent):
            pass
        manager.enable(FileEvent)
        assert manager.is_enabled(SaveEvent)

    def test_to_enable_inside_counts_afterwards(self, manager):
        manager.disable(SaveEvent)
        with manager.disabled(SaveEvent):
            manager.enable(SaveEvent)
            assert not manager.is_enabled(SaveEvent)
        assert manager.is_enabled(SaveEvent)

    def test_blocks_of_two_threads_may_overlap(self, manager):
        first, second = manager.disabled(SaveEvent), manager.disabled(SaveEvent)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not manager.is_enabled(SaveEvent)
        second.__exit__(None, None, None)
        assert manager.is_enabled(SaveEvent)

    def test_the_event_info_knows(self, manager):
        manager.register(SaveEvent)
        with manager.disabled(SaveEvent):
            assert not manager.get_event(SaveEvent).enabled
        assert manager.get_event(SaveEvent).enabled


class TestHeld:
    def test_events_are_delivered_in_order_at_the_end(self, any_manager, calls):
        any_manager.connect(BaseEvent, calls.append)
        events = [SaveEvent(), OtherEvent(), FileEvent()]
        with any_manager.held(FileEvent):
            for event in events:
                any_manager.emit(event)
            assert calls == [events[1]]
        assert calls == [events[1], events[0], events[2]]
        any_manager.emit(after := SaveEvent())
        assert calls[3:] == [after]

    @pytest.mark.parametrize("discard", [True, False])
    def test_a_block_that_raises(self, any_manager, calls, discard):
        any_manager.connect(SaveEvent, calls.append)
        with (  # noqa: PT012
            pytest.raises(ValueError, match="inside"),
            any_manager.held(SaveEvent, discard_on_error=discard),
        ):
            any_manager.emit(event := SaveEvent())
            raise ValueError("inside")
        assert calls == ([] if discard else [event])
        any_manager.emit(after := SaveEvent())
        assert calls[-1] is after

    def test_a_filter_narrows_it_down(self, any_manager, calls):
        any_manager.connect(SaveEvent, lambda event: calls.append(event.source))
        with any_manager.held(SaveEvent, {"source": lambda source: source > 1}):
            for source in (2, 1, 3):
                any_manager.emit(SaveEvent(source))
        assert calls == [1, 2, 3]

    def test_an_inner_block_lets_go_into_the_outer_one(self, any_manager, calls):
        any_manager.connect(SaveEvent, lambda event: calls.append(event.source))
        with any_manager.held(SaveEvent):
            any_manager.emit(SaveEvent(1))
            with any_manager.held(SaveEvent):
                any_manager.emit(SaveEvent(2))
            with pytest.raises(ValueError, match="inside"):  # noqa: SIM117, PT012
                with any_manager.held(SaveEvent, discard_on_error=True):
                    any_manager.emit(SaveEvent(3))
                    raise ValueError("inside")
            any_manager.emit(SaveEvent(4))
            assert calls == []
        assert calls == [1, 2, 4]

    def test_other_threads_are_not_held_up(self, any_manager, calls):
        any_manager.connect(SaveEvent, lambda event: calls.append(event.source))
        with any_manager.held(SaveEvent):
            any_manager.emit(SaveEvent("mine"))
            thread = threading.Thread(target=any_manager.emit, args=(SaveEvent("theirs"),))
            thread.start()
            thread.join(DEADLINE)
            assert calls == ["theirs"]
        assert calls == ["theirs", "mine"]

    def test_listeners_of_the_end_are_called(self, any_manager, calls):
        any_manager.connect(SaveEvent, print)
        with any_manager.held(SaveEvent):
            any_manager.emit(event := SaveEvent())
            any_manager.disconnect(SaveEvent, print)
            any_manager.connect(SaveEvent, calls.append)
        assert calls == [event]

    def test_what_a_listener_emits_meanwhile_is_not_held(self, manager, calls):
        def listener(event):
            calls.append(event.source)
            if event.source == 1:
                manager.emit(SaveEvent("at once"))

        manager.connect(SaveEvent, listener)
        with manager.held(SaveEvent):
            manager.emit(SaveEvent(1))
            manager.emit(SaveEvent(2))
        assert calls == [1, "at once", 2]

    def test_hooks_are_called_once_and_late(self, manager, calls):
        class HookedEvent(SaveEvent):
            def pre_emit(self):
                calls.append("pre")

            def post_emit(self):
                calls.append("post")

        with manager.held(SaveEvent):
            manager.emit(HookedEvent())
            assert calls == []
        assert calls == ["pre", "post"]

    def test_a_disabled_event_is_not_held(self, manager, calls):
        manager.connect(SaveEvent, calls.append)
        with manager.held(SaveEvent), manager.disabled(SaveEvent):
            manager.emit(SaveEvent())
        assert calls == []

    def test_an_event_on_another_thread_is_delivered_there_at_the_end(self, manager, calls):
        started = []

        def listener(event):
            calls.append(threading.current_thread() is threading.main_thread())
            started.append(True)

        manager.connect(SaveEvent, listener)
        done = threading.Event()
        manager.connect(SaveEvent, lambda event: done.set(), priority=-1)
        with manager.held(SaveEvent):
            thread = manager.emit(SaveEvent(), block=False)
            thread.join(DEADLINE)
            assert calls == []
        assert done.wait(DEADLINE)
        assert calls == [False]

    def test_the_tracer_is_asked_when_the_event_is_emitted(self, manager, calls):
        traced = []
        manager.connect(SaveEvent, calls.append)
        manager.set_trace(lambda name, method, args: traced.append(name))
        with manager.held(SaveEvent):
            manager.emit(SaveEvent())
            assert traced == ["emit"]
        assert traced == ["emit", "listen"]

    def test_a_predicate_that_raises_is_reported_and_holds_nothing(self, manager, calls, caplog):
        manager.connect(SaveEvent, calls.append)
        with manager.held(SaveEvent, {"source": lambda source: 1 / 0}):
            manager.emit(event := SaveEvent())
            assert calls == [event]
        assert re.match("filter of .* holds SaveEvent back", caplog.records[0].getMessage())

    def test_all_are_delivered_before_the_first_failure_is_raised(self, calls, caplog):
        manager = EventManager(on_error="raise")

        def broken(event):
            calls.append(event.source)
            raise ValueError(event.source)

        manager.connect(SaveEvent, broken)
        with pytest.raises(ValueError, match="1"), manager.held(SaveEvent):  # noqa: PT012
            manager.emit(SaveEvent(1))
            manager.emit(SaveEvent(2))
        assert calls == [1, 2]
        assert caplog.records[0].exc_info[1].args == (2,)

    def test_the_blocks_own_exception_is_not_replaced(self, calls, caplog):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, lambda event: 1 / 0)
        with pytest.raises(ValueError, match="inside"), manager.held(SaveEvent):  # noqa: PT012
            manager.emit(SaveEvent())
            raise ValueError("inside")
        assert caplog.records[0].exc_info[0] is ZeroDivisionError

    def test_a_vetoed_listener_of_a_simple_manager(self, calls):
        manager = Forwarding()
        manager.connect(SaveEvent, calls.append)
        manager.inner.set_trace(lambda name, method, args: name == "connect")
        with manager.held(SaveEvent):
            manager.emit(event := SaveEvent())
            assert calls == [event]

    def test_a_block_that_another_thread_left_holds_nothing_more(self, manager, calls):
        def generator():
            with manager.held(SaveEvent):
                yield

        manager.connect(SaveEvent, calls.append)
        left = generator()
        next(left)
        thread = threading.Thread(target=left.close)
        thread.start()
        thread.join(DEADLINE)
        with manager.held(OtherEvent):
            manager.emit(event := SaveEvent())
        assert calls == [event]

    def test_what_nobody_hears_yet_has_listeners(self, manager):
        with manager.held(SaveEvent):
            assert manager.has_listeners(SaveEvent)
        assert not manager.has_listeners(SaveEvent)

    def test_a_filter_that_raises_is_logged_where_errors_are_raised(self, calls, caplog):
        manager = EventManager(on_error="raise")
        manager.connect(SaveEvent, calls.append)
        with manager.held(SaveEvent, {"source": lambda source: 1 / 0}):
            manager.emit(SaveEvent())
        assert len(calls) == 1
        assert caplog.records[0].exc_info[0] is ZeroDivisionError
