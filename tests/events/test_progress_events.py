import threading
import uuid
from concurrent.futures import Future

import pytest

from encore.events import package_globals
from encore.events.api import (
    BaseEvent,
    Cancelled,
    EventManager,
    ProgressEndEvent,
    ProgressEvent,
    ProgressManager,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.testing import capture_events


@pytest.fixture
def events(manager):
    events = []
    manager.connect(ProgressEvent, events.append)
    return events


def summary(events):
    names = {ProgressStartEvent: "start", ProgressStepEvent: "step", ProgressEndEvent: "end"}
    details = {"start": "steps", "step": "step", "end": "exit_state"}
    return [
        (name, event.message, getattr(event, details[name]))
        for event in events
        for name in [names[type(event)]]
    ]


def test_a_with_block_is_bracketed_by_start_and_end(manager, events):
    with ProgressManager(manager, "here", "id", "Copying", 2, file="a.txt") as progress:
        progress("one", 1)
        progress(step=2)
    assert summary(events) == [
        ("start", "Copying", 2),
        ("step", "one", 1),
        ("step", "Copying", 2),
        ("end", "Copying", "normal"),
    ]
    assert {(e.source, e.operation_id, e.file) for e in events} == {("here", "id", "a.txt")}


def test_defaults(manager, events):
    with ProgressManager(manager) as progress:
        pass
    assert summary(events) == [
        ("start", "Performing operation", -1),
        ("end", "Performing operation", "normal"),
    ]
    assert {event.source for event in events} == {None}
    assert isinstance(progress.operation_id, uuid.UUID)
    assert {event.operation_id for event in events} == {progress.operation_id}


def test_operations_have_different_ids(manager):
    assert ProgressManager(manager).operation_id != ProgressManager(manager).operation_id


@pytest.mark.parametrize("error", [ValueError("no disk"), KeyboardInterrupt("no disk")])
def test_an_exception_ends_the_operation_and_propagates(manager, events, error):
    with pytest.raises(type(error)) as caught, ProgressManager(manager):
        raise error
    assert caught.value is error
    assert summary(events)[-1] == ("end", "no disk", "exception")


def test_the_end_is_emitted_once(manager, events):
    def operation():
        with ProgressManager(manager) as progress:
            progress.end("stopped", "warning")
            progress.end("again")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        operation()
    assert summary(events)[1:] == [("end", "stopped", "warning")]


def test_the_start_is_emitted_once(manager, events):
    with ProgressManager(manager) as progress:
        progress.start()
        progress()
    assert [name for name, _, _ in summary(events)] == ["start", "step", "end"]


@pytest.mark.parametrize("first", [ProgressManager.step, ProgressManager.__call__])
def test_a_step_starts_the_operation(manager, events, first):
    progress = ProgressManager(manager)
    first(progress)
    progress.end()
    first(progress)
    assert [name for name, _, _ in summary(events)] == ["start", "step", "end", "start", "step"]


def test_an_end_alone_has_its_start(manager, events):
    ProgressManager(manager).end(exit_state="error")
    assert [name for name, _, _ in summary(events)] == ["start", "end"]


def test_steps_are_counted_by_default(manager, events):
    progress = ProgressManager(manager)
    for message, step in [(None, None), ("m", None), (None, 7), (None, None), (None, 0)]:
        progress(message, step)
    assert [event.step for event in events[1:]] == [0, 1, 7, 3, 0]


@pytest.mark.parametrize("number", [3, 0, 2.5, -1])
def test_a_lone_number_is_the_step(manager, events, number):
    progress = ProgressManager(manager, message="Copying")
    progress(number)
    progress.step(number)
    assert summary(events)[1:] == [("step", "Copying", number)] * 2


def test_a_boolean_or_a_number_with_a_step_is_a_message(manager, events):
    progress = ProgressManager(manager)
    progress(True)
    progress(5, 6)
    assert summary(events)[1:] == [("step", True, 0), ("step", 5, 6)]


def test_end_state_is_another_name_of_exit_state(manager, events):
    progress = ProgressManager(manager)
    progress.end(message="Failure", end_state="warning")
    assert summary(events)[-1] == ("end", "Failure", "warning")
    assert not hasattr(events[-1], "end_state")


def test_further_attributes_are_put_on_the_event(manager, events):
    progress = ProgressManager(manager, colour="red")
    progress.start(shape="round")
    progress.step(shape="square", colour="blue")
    progress.end(shape="flat")
    assert [(e.shape, e.colour) for e in events] == [
        ("round", "red"), ("square", "blue"), ("flat", "red"),
    ]  # fmt: skip


def test_the_event_classes_can_be_chosen(manager, events):
    class Start(ProgressStartEvent):
        pass

    class Step(ProgressStepEvent):
        pass

    class End(ProgressEndEvent):
        pass

    class Manager(ProgressManager):
        StartEventType, StepEventType, EndEventType = Start, Step, End

    with Manager(manager) as progress:
        progress()
    assert [type(event) for event in events] == [Start, Step, End]


def test_overridden_methods_are_used(manager):
    calls = []

    class Manager(ProgressManager):
        def start(self, **kwargs):
            calls.append("start")
            super().start(**kwargs)

        def step(self, message=None, step=None, **kwargs):
            calls.append("step")
            super().step(message, step, **kwargs)

        def end(self, message=None, exit_state="normal", **kwargs):
            calls.append("end")
            super().end(message, exit_state, **kwargs)

    with Manager(manager) as progress:
        progress("one")
    assert calls == ["start", "step", "end"]


def test_nothing_is_made_where_nobody_listens(manager):
    made = []

    class Step(ProgressStepEvent):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    class Manager(ProgressManager):
        StepEventType = Step

    with Manager(manager) as progress:
        progress()
        assert made == []
        assert progress._operation_id is None
        manager.connect(Step, made.append)
        progress()
    event, heard = made
    assert event is heard
    assert (event.step, event.operation_id) == (1, progress.operation_id)


def test_hooks_of_events_are_called_where_nobody_listens(manager):
    calls = []

    class Step(ProgressStepEvent):
        def pre_emit(self):
            calls.append(self.step)

    class Manager(ProgressManager):
        StepEventType = Step

    Manager(manager).step()
    assert calls == [0]


def test_the_default_manager_is_the_one_of_the_process(monkeypatch):
    shared = EventManager()
    monkeypatch.setattr(package_globals, "_event_manager", shared)
    assert ProgressManager().event_manager is shared


def test_an_operation_id_may_be_assigned(manager, events):
    progress = ProgressManager(manager)
    progress.operation_id = 5
    progress.start()
    assert events[0].operation_id == 5


def test_repr_tells_the_message_and_the_state(manager):
    progress = ProgressManager(manager, message="Copying")
    assert repr(progress) == "<ProgressManager 'Copying': new>"
    progress.start()
    assert repr(progress) == "<ProgressManager 'Copying': running>"
    progress.end()
    assert repr(progress) == "<ProgressManager 'Copying': ended>"


def test_progress_events_are_events():
    for cls in (ProgressStartEvent, ProgressStepEvent, ProgressEndEvent):
        assert issubclass(cls, ProgressEvent)
    assert issubclass(ProgressEvent, BaseEvent)


class Token:
    cancelled = False


class TestCancelling:
    @pytest.fixture
    def events(self, manager):
        with capture_events(manager, ProgressEvent) as events:
            yield events

    @pytest.mark.parametrize("method", [True, False])
    def test_the_next_step_raises_and_the_end_is_a_warning(self, manager, events, method):
        future = Future()
        token = future if method else Token()
        with pytest.raises(Cancelled, match="Copying"):  # noqa: PT012, SIM117
            with ProgressManager(manager, message="Copying", cancel=token) as progress:
                progress(1)
                if method:
                    future.cancel()
                else:
                    token.cancelled = True
                progress(2)
        assert [type(event).__name__[8:-5] for event in events] == ["Start", "Step", "End"]
        assert events[-1].exit_state == "warning"
        assert not hasattr(events[0], "cancel")

    def test_without_a_block_the_operation_ends_too(self, manager, events):
        progress = ProgressManager(manager, cancel=Token())
        progress()
        progress._cancel.cancelled = True
        with pytest.raises(Cancelled):
            progress()
        progress.end()
        assert [event.exit_state for event in events if hasattr(event, "exit_state")] == ["warning"]

    def test_it_raises_where_nobody_listens(self, manager):
        token = Token()
        token.cancelled = True
        with pytest.raises(Cancelled), ProgressManager(manager, cancel=token) as progress:
            progress()

    def test_a_body_that_raises_cancelled_itself_ends_with_a_warning(self, manager, events):
        with pytest.raises(Cancelled), ProgressManager(manager):
            raise Cancelled("by the body")
        assert (events[-1].exit_state, events[-1].message) == ("warning", "by the body")

    def test_what_cannot_be_asked_is_refused(self, manager):
        with pytest.raises(TypeError, match=r"cancel needs .*'cancelled'.*'is_set', unlike <obj"):
            ProgressManager(manager, cancel=object())

    def test_an_event_of_threads_will_do(self, manager, events):
        asked = threading.Event()
        with ProgressManager(manager, cancel=asked) as progress:
            progress(1)
            asked.set()
            with pytest.raises(Cancelled):
                progress(2)
        assert events[-1].exit_state == "warning"


def test_a_call_is_the_step_of_the_subclass(manager):
    class Doubling(ProgressManager):
        def step(self, message=None, step=None, **kwargs):
            super().step(message, step * 2, **kwargs)

    with capture_events(manager, ProgressStepEvent) as events, Doubling(manager) as progress:
        progress(None, 4)
    assert [event.step for event in events] == [8]


def test_an_event_class_with_a_constructor_of_its_own_is_called(manager):
    class OwnStep(ProgressStepEvent):
        def __init__(self, source=None, **kwargs):
            super().__init__(source, **kwargs, own=True)

    class Own(ProgressManager):
        StepEventType = OwnStep

    with capture_events(manager, ProgressStepEvent) as events, Own(manager) as progress:
        progress(4)
    assert (events[0].own, events[0].step) == (True, 4)
