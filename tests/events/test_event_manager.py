import gc
import logging
import threading
import weakref

import pytest

from encore.events.api import BaseEvent, BaseEventManager, EventManager
from encore.events.event_manager import BaseEvent as BaseEventOfTheManager
from encore.events.event_manager import EventInfo

DEADLINE = 30


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


class TextSaveEvent(SaveEvent):
    pass


class OtherEvent(BaseEvent):
    pass


class Listener:
    """An object with a method to connect."""

    def __init__(self, calls=None):
        self.calls = calls

    def heard(self, event):
        self.calls.append(self)

    def __eq__(self, other):
        return isinstance(other, Listener)

    __hash__ = None


def named(name, calls):
    def listener(event):
        calls.append(name)

    return listener


def test_base_event_can_be_imported_from_the_manager_module():
    assert BaseEventOfTheManager is BaseEvent


class TestConnecting:
    def test_a_listener_is_called_with_the_event(self, manager, calls):
        manager.connect(SaveEvent, calls.append)
        event = SaveEvent()
        assert manager.emit(event) is None
        assert calls == [event]

    def test_a_listener_of_a_base_class_is_called_and_one_of_a_subclass_is_not(
        self, manager, calls
    ):
        manager.connect(BaseEvent, named("base", calls))
        manager.connect(FileEvent, named("file", calls))
        manager.connect(SaveEvent, named("save", calls))
        manager.connect(OtherEvent, named("other", calls))
        manager.emit(FileEvent())
        assert calls == ["base", "file"]

    def test_a_listener_of_two_classes_is_called_for_each(self, manager, calls):
        manager.connect(SaveEvent, calls.append)
        manager.connect(FileEvent, calls.append)
        manager.emit(SaveEvent())
        assert len(calls) == 2
        manager.disconnect(SaveEvent, calls.append)
        manager.emit(SaveEvent())
        assert len(calls) == 3

    def test_a_disconnected_listener_is_not_called(self, manager, calls):
        manager.connect(SaveEvent, calls.append)
        manager.emit(SaveEvent())
        manager.disconnect(SaveEvent, calls.append)
        manager.emit(SaveEvent())
        assert len(calls) == 1

    @pytest.mark.parametrize("cls", [SaveEvent, FileEvent])
    def test_disconnecting_an_unknown_listener_is_a_key_error(self, manager, calls, cls):
        manager.connect(SaveEvent, calls.append)
        manager.disconnect(SaveEvent, calls.append)
        with pytest.raises(KeyError):
            manager.disconnect(cls, calls.append)

    def test_connecting_again_replaces_filter_and_priority_and_moves_to_the_end(
        self, manager, calls
    ):
        first, second, third = (named(name, calls) for name in ("first", "second", "third"))
        for listener in (first, second, third):
            manager.connect(SaveEvent, listener)
        manager.emit(SaveEvent())
        manager.connect(SaveEvent, first)
        calls.clear()
        manager.emit(SaveEvent())
        assert calls == ["second", "third", "first"]

        manager.connect(SaveEvent, second, filter={"size": 1}, priority=-1)
        calls.clear()
        manager.emit(SaveEvent())
        assert calls == ["third", "first"]
        calls.clear()
        manager.emit(SaveEvent(size=1))
        assert calls == ["third", "first", "second"]

        manager.disconnect(SaveEvent, second)
        with pytest.raises(KeyError):
            manager.disconnect(SaveEvent, second)

    def test_a_connection_works_before_and_after_the_first_emit(self, manager, calls):
        for number in range(4):
            manager.connect(FileEvent, named(number, calls))
            calls.clear()
            manager.emit(SaveEvent())
            assert calls == list(range(number + 1))

    def test_the_filter_is_copied(self, manager, calls):
        wanted = {"size": 1}
        manager.connect(SaveEvent, calls.append, filter=wanted)
        wanted["size"] = 2
        manager.emit(SaveEvent(size=1))
        assert len(calls) == 1

    def test_an_unhashable_callable_can_be_connected_and_disconnected(self, manager, calls):
        class Unhashable(Listener):
            def __call__(self, event):
                calls.append(self)

        listener, equal = Unhashable(), Unhashable()
        manager.connect(SaveEvent, listener)
        with pytest.raises(KeyError):
            manager.disconnect(SaveEvent, equal)
        manager.emit(SaveEvent())
        assert len(calls) == 1
        manager.disconnect(SaveEvent, listener)
        manager.emit(SaveEvent())
        assert len(calls) == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((3, print), "not a class of events: 3"),
            ((SaveEvent, 3), "not 3"),
            ((SaveEvent, print, {1: 2}), "names of attributes, not 1"),
            ((SaveEvent, print, None, "high"), "the priority is a number, not 'high'"),
            ((SaveEvent, print, None, ""), "the priority is a number, not ''"),
            ((SaveEvent, print, None, None), "the priority is a number, not None"),
            ((SaveEvent, print, None, 1j), "the priority is a number, not 1j"),
            (("name", print), "not a class of events: 'name'"),
        ],
    )
    def test_bad_arguments_are_type_errors_and_change_nothing(self, manager, arguments, message):
        with pytest.raises(TypeError, match=message):
            manager.connect(*arguments)
        assert manager.get_event() == {}

    @pytest.mark.parametrize("known", [True, False])
    def test_the_key_error_of_disconnect_names_class_and_listener(self, manager, known):
        if known:
            manager.connect(SaveEvent, repr)
        with pytest.raises(KeyError) as caught:
            manager.disconnect(SaveEvent, print)
        assert caught.value.args == (f"{print!r} is not connected to SaveEvent",)

    def test_what_is_no_event_cannot_be_emitted(self, manager):
        with pytest.raises(TypeError, match="emit takes an event, not 'event'"):
            manager.emit("event")
        for _ in range(2):
            with pytest.raises(TypeError, match="emit takes an event, not the class SaveEvent"):
                manager.emit(SaveEvent)
        with pytest.raises(TypeError, match="emit takes an event, not the class SaveEvent"):
            EventManager(on_error="raise").emit(SaveEvent, block=False)
        with pytest.raises(TypeError, match="not a class of events"):
            manager.has_listeners(int)

    def test_a_mixin_of_events_can_be_listened_for(self, manager, calls):
        class Audited:
            pass

        class AuditedSave(Audited, SaveEvent):
            pass

        manager.connect(Audited, calls.append)
        manager.emit(AuditedSave())
        manager.emit(SaveEvent())
        assert len(calls) == 1


class TestWeakMethods:
    def test_a_bound_method_disappears_with_its_object(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard)
        manager.emit(SaveEvent())
        assert len(calls) == 1
        calls.clear()
        del listener
        gc.collect()
        manager.emit(SaveEvent())
        assert calls == []
        assert list(manager.get_listeners(SaveEvent)) == []

    def test_a_method_of_an_object_in_a_cycle_disappears_at_the_collection(self, manager, calls):
        listener = Listener(calls)
        listener.itself = listener
        alive = weakref.ref(listener)
        manager.connect(SaveEvent, listener.heard)
        del listener
        gc.collect()
        assert alive() is None
        manager.emit(SaveEvent())
        assert calls == []

    def test_methods_of_equal_objects_are_different_listeners(self, manager, calls):
        one, two = Listener(calls), Listener(calls)
        manager.connect(SaveEvent, one.heard)
        manager.connect(SaveEvent, two.heard)
        manager.emit(SaveEvent())
        assert [id(listener) for listener in calls] == [id(one), id(two)]
        manager.disconnect(SaveEvent, one.heard)
        calls.clear()
        manager.emit(SaveEvent())
        assert [id(listener) for listener in calls] == [id(two)]

    def test_everything_else_is_held_strongly(self, manager, calls):
        manager.connect(SaveEvent, lambda event: calls.append("lambda"))
        manager.connect(
            SaveEvent, type("Callable", (), {"__call__": lambda s, e: calls.append(1)})()
        )
        gc.collect()
        manager.emit(SaveEvent())
        assert calls == ["lambda", 1]

    def test_a_method_of_an_object_without_weak_references_is_held_strongly(self, manager, calls):
        class Slotted:
            __slots__ = ()

            def heard(self, event):
                calls.append("slotted")

        slotted = Slotted()
        manager.connect(SaveEvent, slotted.heard)
        del slotted
        manager.emit(SaveEvent())
        assert calls == ["slotted"]

    def test_functions_stored_on_a_class_and_class_methods_are_called(self, manager, calls):
        class Holder:
            def plain(event):
                calls.append("plain")

            @classmethod
            def of_class(cls, event):
                calls.append(cls)

            @staticmethod
            def static(event):
                calls.append("static")

        manager.connect(SaveEvent, Holder.plain)
        manager.connect(SaveEvent, Holder.of_class)
        manager.connect(SaveEvent, Holder.static)
        manager.emit(SaveEvent())
        assert calls == ["plain", Holder, "static"]

    def test_dead_listeners_are_forgotten_by_the_next_change(self, manager, calls):
        listeners = [Listener(calls) for _ in range(10)]
        for listener in listeners:
            manager.connect(SaveEvent, listener.heard)
        del listeners, listener
        gc.collect()
        manager.connect(SaveEvent, calls.append)
        assert repr(manager) == "<EventManager: 1 listener, 1 class of events>"
        assert [len(held) for held in manager._registry._listeners.values()] == [1]
        assert manager._registry.dead == []

    def test_a_dead_listener_is_forgotten_by_disconnect_too(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard)
        manager.connect(SaveEvent, calls.append)
        del listener
        gc.collect()
        manager.disconnect(SaveEvent, calls.append)
        assert manager._registry._listeners == {SaveEvent: {}}

    def test_the_death_of_a_replaced_connection_leaves_the_new_one_alone(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, listener.heard)
        (old,) = (item.reference for item in manager._registry._listeners[SaveEvent].values())
        manager.connect(SaveEvent, listener.heard)
        manager._registry.dead.append(old)
        manager.connect(FileEvent, print)
        manager.disconnect(FileEvent, print)
        manager.emit(SaveEvent())
        assert len(calls) == 1

    def test_a_listener_whose_object_dies_during_the_emit_is_not_called(self, manager, calls):
        listeners = [Listener(calls)]
        manager.connect(SaveEvent, lambda event: listeners.clear())
        manager.connect(SaveEvent, listeners[0].heard)
        manager.emit(SaveEvent())
        assert calls == []


class TestOrder:
    def test_priority_goes_before_the_class_of_the_listener(self, manager, calls):
        for name, cls, priority in [
            ("a", SaveEvent, 0),
            ("b", BaseEvent, 5),
            ("c", FileEvent, 0),
            ("d", SaveEvent, -1),
            ("e", FileEvent, 5),
            ("f", BaseEvent, 0),
        ]:
            manager.connect(cls, named(name, calls), priority=priority)
        manager.emit(SaveEvent())
        assert "".join(calls) == "beacfd"

    def test_connections_after_the_first_emit_take_their_place(self, manager, calls):
        manager.emit(SaveEvent())
        for name, priority in [("a", 0), ("b", 2), ("c", 1), ("d", 0), ("e", 2), ("f", -3)]:
            manager.connect(SaveEvent, named(name, calls), priority=priority)
        manager.emit(SaveEvent())
        assert "".join(calls) == "becadf"

    def test_filtered_and_unfiltered_listeners_have_one_order(self, manager, calls):
        manager.connect(SaveEvent, named("a", calls))
        manager.connect(SaveEvent, named("b", calls), filter={"size": 1})
        manager.connect(SaveEvent, named("c", calls), filter={"name": "x"}, priority=1)
        manager.connect(SaveEvent, named("d", calls))
        manager.connect(SaveEvent, named("e", calls), filter={"size": 1, "name": "x"})
        manager.connect(SaveEvent, named("f", calls), filter={"size": [1]}, priority=9)
        manager.connect(SaveEvent, named("g", calls), filter={"size": 1}, priority=2)
        manager.emit(SaveEvent(size=1, name="x"))
        assert "".join(calls) == "gcabde"

    def test_a_handled_event_goes_no_further(self, manager, calls):
        manager.connect(FileEvent, named("low", calls), priority=-1)
        manager.connect(SaveEvent, lambda event: event.mark_as_handled())
        manager.connect(BaseEvent, named("high", calls), priority=1)
        manager.emit(SaveEvent())
        assert calls == ["high"]
        manager.emit(FileEvent())
        assert calls == ["high", "high", "low"]

    def test_a_handled_event_goes_no_further_among_filtered_listeners(self, manager, calls):
        manager.connect(SaveEvent, named("low", calls), filter={"size": 1}, priority=-1)
        manager.connect(SaveEvent, lambda event: event.mark_as_handled())
        manager.emit(SaveEvent(size=1))
        assert calls == []

    def test_the_hierarchy_ends_at_the_base_event(self, manager):
        class Mixin:
            pass

        class Before(Mixin, SaveEvent):
            pass

        class After(BaseEvent, Mixin):
            pass

        assert manager.get_event_hierarchy(Before) == (
            Before, Mixin, SaveEvent, FileEvent, BaseEvent,
        )  # fmt: skip
        assert manager.get_event_hierarchy(After) == (After, BaseEvent)
        assert manager.get_event_hierarchy(Mixin) == (Mixin,)


class TestReentrancy:
    def test_a_listener_disconnected_by_an_earlier_one_is_still_called(self, manager, calls):
        later = named("later", calls)
        manager.connect(SaveEvent, lambda event: manager.disconnect(SaveEvent, later))
        manager.connect(SaveEvent, later)
        manager.emit(SaveEvent())
        assert calls == ["later"]
        assert later not in manager.get_listeners(SaveEvent)

    def test_a_listener_connected_by_an_earlier_one_waits_for_the_next_event(self, manager, calls):
        later = named("later", calls)
        manager.connect(SaveEvent, lambda event: manager.connect(SaveEvent, later))
        manager.emit(SaveEvent())
        assert calls == []
        manager.emit(SaveEvent())
        assert calls == ["later"]

    def test_an_emit_inside_a_listener_runs_at_once(self, manager, calls):
        def first(event):
            calls.append("first begins")
            if isinstance(event, SaveEvent):
                manager.emit(OtherEvent())
            calls.append("first ends")

        manager.connect(BaseEvent, first)
        manager.connect(OtherEvent, named("other", calls))
        manager.connect(SaveEvent, named("second", calls))
        manager.emit(SaveEvent())
        assert calls == [
            "first begins", "first begins", "first ends", "other", "first ends", "second",
        ]  # fmt: skip

    def test_a_listener_may_disconnect_itself(self, manager, calls):
        def once(event):
            manager.disconnect(SaveEvent, once)
            calls.append("once")

        manager.connect(SaveEvent, once)
        manager.emit(SaveEvent())
        manager.emit(SaveEvent())
        assert calls == ["once"]

    def test_a_listener_that_changes_the_event_changes_no_filter_of_this_emit(self, manager, calls):
        def change(event):
            event.size = 2

        manager.connect(SaveEvent, change)
        for size in (1, 2):
            manager.connect(SaveEvent, named(size, calls), filter={"size": size})
            manager.connect(SaveEvent, named([size], calls), filter={"size": size, "x": 0})
        manager.emit(SaveEvent(size=1, x=0))
        assert calls == [1, [1]]


class TestErrors:
    @pytest.mark.parametrize("filter", [None, {"size": 1}])
    def test_a_listener_that_raises_is_logged_and_the_others_run(
        self, manager, calls, caplog, filter
    ):
        def broken(event):
            raise ValueError("broken listener")

        manager.connect(SaveEvent, broken, filter=filter)
        manager.connect(SaveEvent, calls.append)
        event = SaveEvent(size=1)
        manager.emit(event)
        assert calls == [event]
        (record,) = caplog.records
        assert record.name == "encore.events.event_manager"
        assert record.levelno == logging.ERROR
        assert record.exc_info[0] is ValueError
        assert "broken" in record.getMessage()
        assert repr(event) in record.getMessage()

    def test_the_record_names_a_bound_method(self, manager, caplog):
        class Broken:
            def heard(self, event):
                raise ValueError("broken method")

        listener = Broken()
        manager.connect(SaveEvent, listener.heard)
        manager.emit(SaveEvent())
        assert repr(listener.heard) in caplog.records[0].getMessage()

    def test_a_listener_that_disconnected_itself_before_it_failed_is_logged(self, manager, caplog):
        def broken(event):
            manager.disconnect(SaveEvent, broken)
            raise ValueError("broken listener")

        manager.connect(SaveEvent, broken)
        manager.emit(SaveEvent())
        assert repr(broken) in caplog.records[0].getMessage()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_a_base_exception_ends_the_dispatch(self, manager, calls, caplog, error):
        def interrupt(event):
            raise error

        manager.connect(HookedEvent, interrupt)
        manager.connect(FileEvent, interrupt)
        manager.connect(FileEvent, calls.append)
        with pytest.raises(error):
            manager.emit(FileEvent())
        event = HookedEvent()
        with pytest.raises(error):
            manager.emit(event)
        assert calls == []
        assert event.hooks == ["pre"]
        assert caplog.records == []


class HookedEvent(BaseEvent):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hooks = []

    def pre_emit(self):
        self.hooks.append("pre")

    def post_emit(self):
        self.hooks.append("post")


class TestHooks:
    def test_hooks_are_called_around_the_listeners(self, manager):
        manager.connect(HookedEvent, lambda event: event.hooks.append("listener"))
        event = HookedEvent()
        manager.emit(event)
        assert event.hooks == ["pre", "listener", "post"]

    def test_hooks_are_called_where_nobody_listens(self, manager):
        event = HookedEvent()
        manager.emit(event)
        assert event.hooks == ["pre", "post"]

    @pytest.mark.parametrize("hook", ["pre_emit", "post_emit"])
    def test_one_hook_is_enough(self, manager, calls, hook):
        cls = type("OneHook", (BaseEvent,), {hook: lambda self: calls.append(hook)})
        manager.emit(cls())
        assert calls == [hook]

    def test_post_emit_sees_what_became_of_the_event(self, manager, calls, caplog):
        class Reported(BaseEvent):
            def post_emit(self):
                calls.append(self._handled)

        manager.emit(Reported())
        manager.connect(Reported, lambda event: 1 / 0, priority=1)
        manager.connect(Reported, lambda event: event.mark_as_handled())
        manager.emit(Reported())
        assert calls == [False, True]
        assert len(caplog.records) == 1

    def test_an_error_of_pre_emit_reaches_the_caller_before_any_listener(self, manager, calls):
        class Invalid(BaseEvent):
            def pre_emit(self):
                raise ValueError("no size")

        manager.connect(Invalid, calls.append)
        with pytest.raises(ValueError, match="no size"):
            manager.emit(Invalid())
        assert calls == []

    def test_hooks_run_before_filters_are_compared(self, manager, calls):
        class Completed(BaseEvent):
            def pre_emit(self):
                self.size = 1

        manager.connect(Completed, calls.append, filter={"size": 1})
        manager.emit(Completed())
        assert len(calls) == 1


class TestDisabling:
    def test_a_disabled_class_is_not_emitted_at_all(self, manager, calls):
        manager.connect(HookedEvent, calls.append)
        manager.disable(HookedEvent)
        event = HookedEvent()
        manager.emit(event)
        assert (calls, event.hooks) == ([], [])
        manager.enable(HookedEvent)
        manager.emit(event)
        assert (calls, event.hooks) == ([event], ["pre", "post"])

    def test_disabling_a_class_disables_its_subclasses_and_no_others(self, manager, calls):
        manager.connect(BaseEvent, calls.append)
        manager.emit(SaveEvent())
        calls.clear()
        manager.disable(FileEvent)
        manager.emit(SaveEvent())
        manager.emit(TextSaveEvent())
        assert calls == []
        assert not manager.is_enabled(SaveEvent)
        manager.emit(BaseEvent())
        manager.emit(OtherEvent())
        assert len(calls) == 2
        assert manager.is_enabled(BaseEvent)

    def test_each_class_has_a_state_of_its_own(self, manager, calls):
        manager.connect(BaseEvent, calls.append)
        manager.disable(SaveEvent)
        manager.disable(FileEvent)
        manager.disable(FileEvent)
        manager.enable(FileEvent)
        assert manager.is_enabled(FileEvent)
        assert not manager.is_enabled(SaveEvent)
        manager.emit(SaveEvent())
        assert calls == []

    def test_a_class_that_was_never_connected_can_be_disabled_and_enabled(self, manager):
        assert manager.is_enabled(SaveEvent)
        manager.enable(SaveEvent)
        manager.disable(SaveEvent)
        assert not manager.is_enabled(SaveEvent)
        manager.enable(SaveEvent)
        assert manager.is_enabled(SaveEvent)

    def test_listeners_come_and_go_while_their_class_is_disabled(self, manager, calls):
        first, second = named("first", calls), named("second", calls)
        manager.connect(SaveEvent, first)
        manager.disable(SaveEvent)
        manager.emit(SaveEvent())
        manager.connect(SaveEvent, second)
        manager.disconnect(SaveEvent, first)
        manager.emit(SaveEvent())
        assert calls == []
        assert list(manager.get_listeners(SaveEvent)) == [second]
        manager.enable(SaveEvent)
        manager.emit(SaveEvent())
        assert calls == ["second"]


class TestThreadedEmit:
    def test_the_listeners_run_on_the_started_thread_that_is_returned(self, manager, calls):
        go = threading.Event()

        def listener(event):
            go.wait(DEADLINE)
            calls.append(threading.current_thread())

        manager.connect(HookedEvent, listener)
        event = HookedEvent()
        thread = manager.emit(event, block=False)
        assert isinstance(thread, threading.Thread)
        assert thread.is_alive()
        assert "HookedEvent" in thread.name
        assert calls == []
        go.set()
        thread.join(DEADLINE)
        assert calls == [thread]
        assert event.hooks == ["pre", "post"]

    def test_a_thread_is_returned_even_where_nothing_is_to_be_done(self, manager, calls):
        manager.connect(HookedEvent, calls.append)
        manager.disable(HookedEvent)
        event = HookedEvent()
        thread = manager.emit(event, block=False)
        manager.enable(HookedEvent)
        thread.join(DEADLINE)
        assert (calls, event.hooks) == ([], [])


class TestHasListeners:
    @pytest.mark.parametrize("filter", [None, {"size": 1}, {"size": [1]}])
    def test_true_exactly_while_there_is_a_listener_in_the_hierarchy(self, manager, calls, filter):
        assert not manager.has_listeners(SaveEvent)
        manager.connect(TextSaveEvent, calls.append, filter)
        assert not manager.has_listeners(SaveEvent)
        manager.connect(FileEvent, calls.append, filter)
        assert manager.has_listeners(SaveEvent)
        manager.disconnect(FileEvent, calls.append)
        assert not manager.has_listeners(SaveEvent)
        assert manager.has_listeners(TextSaveEvent)

    @pytest.mark.parametrize("filter", [None, {"size": 1}])
    def test_a_dead_listener_does_not_count(self, manager, filter):
        one, two = Listener(), Listener()
        manager.connect(SaveEvent, one.heard, filter)
        manager.connect(SaveEvent, two.heard, filter)
        assert manager.has_listeners(SaveEvent)
        del one
        gc.collect()
        assert manager.has_listeners(SaveEvent)
        del two
        gc.collect()
        assert not manager.has_listeners(SaveEvent)

    def test_false_for_a_disabled_class(self, manager, calls):
        manager.connect(HookedEvent, calls.append)
        manager.disable(BaseEvent)
        assert not manager.has_listeners(HookedEvent)
        manager.enable(BaseEvent)
        assert manager.has_listeners(HookedEvent)

    def test_true_for_a_class_with_hooks(self, manager):
        assert manager.has_listeners(HookedEvent)

    def test_true_while_there_is_a_tracer(self, manager):
        manager.set_trace(lambda *args: None)
        assert manager.has_listeners(SaveEvent)
        manager.set_trace(None)
        assert not manager.has_listeners(SaveEvent)

    def test_true_where_emit_is_overridden_or_replaced(self, manager):
        class Recorder(EventManager):
            def emit(self, event, block=True):
                return super().emit(event, block)

        assert Recorder().has_listeners(SaveEvent)
        manager.emit = print
        assert manager.has_listeners(SaveEvent)

    def test_a_manager_that_does_not_know_answers_true(self):
        class Simple(BaseEventManager):
            connect = disconnect = emit = disable = enable = is_enabled = None

        assert Simple().has_listeners(SaveEvent) is True


class TestInspection:
    def test_get_listeners_yields_what_was_connected_in_call_order(self, manager, calls):
        listener = Listener(calls)
        manager.connect(SaveEvent, print)
        manager.connect(FileEvent, listener.heard, priority=1)
        manager.connect(BaseEvent, calls.append, priority=2)
        found = list(manager.get_listeners(SaveEvent))
        assert found == [calls.append, listener.heard, print]

    def test_get_listeners_of_an_event_compares_filters(self, manager, calls):
        names = {}
        for name, filter in {
            "all": None,
            "one": {"size": 1},
            "two": {"size": 2},
            "both": {"size": 1, "name": "x"},
            "missing": {"colour": 1},
        }.items():
            names[name] = named(name, calls)
            manager.connect(SaveEvent, names[name], filter=filter)
        assert list(manager.get_listeners(SaveEvent(size=1, name="y"))) == [
            names["all"], names["one"],
        ]  # fmt: skip
        assert list(manager.get_listeners(SaveEvent)) == list(names.values())

    def test_a_filter_that_fails_is_logged_and_no_match(self, manager, caplog):
        class Broken(BaseEvent):
            @property
            def size(self):
                raise ValueError("no size")

        manager.connect(Broken, print, filter={"size": 1})
        assert list(manager.get_listeners(Broken())) == []
        assert len(caplog.records) == 1

    def test_connected_registered_and_disabled_classes_are_known(self, manager):
        assert manager.get_event() == {}
        manager.register(FileEvent)
        manager.connect(SaveEvent, print)
        manager.disable(OtherEvent)
        manager.emit(TextSaveEvent())
        known = manager.get_event()
        assert set(known) == {FileEvent, SaveEvent, OtherEvent}
        assert all(isinstance(info, EventInfo) for info in known.values())
        manager.disconnect(SaveEvent, print)
        assert SaveEvent in manager.get_event()

    def test_a_known_class_cannot_be_registered(self, manager):
        manager.register(FileEvent)
        manager.connect(SaveEvent, print)
        for cls in (FileEvent, SaveEvent):
            with pytest.raises(ValueError, match=cls.__name__):
                manager.register(cls)
        assert list(manager.get_listeners(SaveEvent)) == [print]

    def test_an_unknown_class_is_a_key_error(self, manager):
        with pytest.raises(KeyError):
            manager.get_event(SaveEvent)

    def test_event_info_follows_the_manager(self, manager, calls):
        manager.connect(SaveEvent, print)
        manager.connect(FileEvent, calls.append)
        info = manager.get_event(SaveEvent)
        assert (info.cls, info.enabled, info.listeners) == (SaveEvent, True, [print])
        assert repr(info) == "<EventInfo SaveEvent: enabled, 1 listener>"
        manager.disable(SaveEvent)
        manager.disconnect(SaveEvent, print)
        assert repr(info) == "<EventInfo SaveEvent: disabled, 0 listeners>"

    def test_repr_counts_listeners_and_classes(self, manager):
        manager.connect(SaveEvent, print)
        manager.connect(FileEvent, print)
        assert repr(manager) == "<EventManager: 2 listeners, 2 classes of events>"


def test_the_contract_is_abstract():
    with pytest.raises(TypeError):
        BaseEventManager()


def test_overrides_inherit_their_documentation():
    import inspect

    for name in ("connect", "disconnect", "emit", "disable", "enable", "is_enabled"):
        assert getattr(EventManager, name).__doc__ is None
        assert "Parameters" in inspect.getdoc(getattr(EventManager, name))


class TestIsSilent:
    """Whether a class of events and its base classes are unheard, in one question."""

    class Both(SaveEvent, OtherEvent):
        pass

    @pytest.fixture
    def manager(self, manager):
        assert not manager.is_silent(self.Both), "not said at once"
        assert manager.is_silent(self.Both)
        return manager

    @pytest.mark.parametrize("cls", [BaseEvent, SaveEvent, OtherEvent])
    def test_not_where_somebody_listens(self, manager, cls):
        manager.connect(cls, print, {"source": 1})
        assert not manager.is_silent(self.Both)
        manager.disconnect(cls, print)
        assert manager.is_silent(self.Both)

    def test_not_where_one_of_the_base_classes_is_disabled(self, manager):
        # The events of the others are emitted.
        manager.disable(SaveEvent)
        assert manager.has_listeners(self.Both) is False
        for _ in range(2):
            assert not manager.is_silent(self.Both)

    def test_not_where_there_is_a_tracer_or_a_block(self, manager):
        manager.set_trace(lambda name, method, args: False)
        assert not manager.is_silent(self.Both)
        manager.set_trace(None)
        with manager.held(BaseEvent):
            assert not manager.is_silent(self.Both)
        assert manager.is_silent(self.Both)

    def test_not_where_emit_was_replaced(self, manager, monkeypatch, calls):
        with monkeypatch.context() as patch:
            patch.setattr(EventManager, "emit", lambda *args: None)
            assert not manager.is_silent(self.Both)
        assert manager.is_silent(self.Both)
        manager.emit = calls.append
        assert not manager.is_silent(self.Both)

        class Own(EventManager):
            def emit(self, event, block=True):
                pass

        own = Own()
        for _ in range(2):
            assert not own.is_silent(self.Both)
