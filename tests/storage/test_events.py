"""The classes of the events of a store; what is emitted when is the matter of the stores."""

from __future__ import annotations

import weakref

import pytest

from encore.events.api import (
    BaseEvent,
    EventManager,
    ProgressEndEvent,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.storage import events
from encore.storage._changes import has_listeners
from encore.storage._progress import progress_wanted, unheard
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreKeyEvent,
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)

ALL = [getattr(events, name) for name in events.__all__]


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (StoreEvent, {BaseEvent}),
        (StoreTransactionEvent, {StoreEvent}),
        (StoreTransactionStartEvent, {StoreTransactionEvent}),
        (StoreTransactionEndEvent, {StoreTransactionEvent}),
        (StoreKeyEvent, {StoreEvent}),
        (StoreModificationEvent, {StoreKeyEvent}),
        (StoreSetEvent, {StoreModificationEvent}),
        (StoreUpdateEvent, {StoreModificationEvent}),
        (StoreDeleteEvent, {StoreModificationEvent}),
        (StoreProgressEvent, {ProgressEvent, StoreKeyEvent}),
        (StoreProgressStartEvent, {StoreProgressEvent, ProgressStartEvent}),
        (StoreProgressStepEvent, {StoreProgressEvent, ProgressStepEvent}),
        (StoreProgressEndEvent, {StoreProgressEvent, ProgressEndEvent}),
    ],
)
def test_inheritance(kind, bases):
    assert set(kind.__bases__) == bases


def test_the_module_exports_all_of_them_and_nothing_else():
    own = {
        name
        for name, value in vars(events).items()
        if isinstance(value, type) and value.__module__ == events.__name__
    }
    assert own == set(events.__all__)


def test_actions():
    assert [kind.action for kind in (StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent)] == [
        "set",
        "update",
        "delete",
    ]
    assert not hasattr(StoreModificationEvent, "action")


@pytest.mark.parametrize("kind", ALL)
def test_an_event_takes_a_source_and_any_attribute(kind):
    event = kind("source", key="k", metadata={"a": 1}, state="done")
    assert (event.source, event.key, event.metadata, event.state) == (
        "source",
        "k",
        {"a": 1},
        "done",
    )
    assert weakref.ref(event)() is event
    assert kind.__name__ in repr(event)
    assert kind().source is None


# Whether anybody would notice

ONE_KEY = [
    StoreSetEvent,
    StoreUpdateEvent,
    StoreDeleteEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreProgressEndEvent,
]


def listener(event):
    pass


@pytest.fixture
def manager():
    """A manager that has been asked before."""
    manager = EventManager()
    unheard(manager)
    assert unheard(manager)
    return manager


@pytest.mark.parametrize("filter", [None, {"key": "k"}, {"key": lambda key: True}], ids=str)
@pytest.mark.parametrize("kind", sorted({*ONE_KEY, *ALL, BaseEvent, ProgressEvent}, key=str))
def test_what_anybody_listens_for_is_not_unheard(manager, kind, filter):
    concerned = any(issubclass(each, kind) for each in ONE_KEY)
    with manager.connect(kind, listener, filter):
        assert unheard(manager) is not concerned
        assert has_listeners(manager, *ONE_KEY) is concerned
    assert unheard(manager)
    assert not has_listeners(manager, *ONE_KEY)


@pytest.mark.parametrize("kind", [*ONE_KEY, StoreKeyEvent])
def test_nothing_is_said_while_some_are_disabled(manager, kind):
    # One of the others may be heard.
    manager.connect(StoreModificationEvent, listener)
    manager.connect(StoreProgressEvent, listener)
    manager.disable(kind)
    assert not unheard(manager)
    assert progress_wanted(manager) is (kind is not StoreKeyEvent)
    manager.enable(kind)
    assert not unheard(manager)
    manager.disconnect(StoreModificationEvent, listener)
    manager.disconnect(StoreProgressEvent, listener)
    assert unheard(manager)


def test_a_manager_that_is_watched_is_not_unheard(manager, monkeypatch):
    manager.set_trace(lambda *args: None)
    assert not unheard(manager)
    manager.set_trace(None)
    assert unheard(manager)
    with monkeypatch.context() as patch:
        patch.setattr(EventManager, "emit", lambda self, event: None)
        assert not unheard(manager)
    assert unheard(manager)
    manager.emit = lambda event: None
    assert not unheard(manager)


def test_of_a_manager_of_another_kind_nothing_is_said():
    class Own(EventManager):
        def emit(self, event, block=True):
            pass

    class Foreign:
        pass

    for manager in (Own(), Foreign()):
        for _ in range(2):
            assert not unheard(manager)
        assert progress_wanted(manager)
        assert has_listeners(manager, StoreSetEvent)
