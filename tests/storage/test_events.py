"""The classes of the events of a store; what is emitted when is the matter of the stores."""

from __future__ import annotations

import weakref

import pytest

from encore.events.api import (
    BaseEvent,
    ProgressEndEvent,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.storage import events
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
