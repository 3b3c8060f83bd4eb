import copy
import dataclasses
import pickle
import weakref

import pytest

from encore.events.api import BaseEvent, BaseEventManager


class SaveEvent(BaseEvent):
    pass


def test_keyword_arguments_become_attributes():
    event = SaveEvent("here", filename="a.txt", size=3)
    assert (event.source, event.filename, event.size) == ("here", "a.txt", 3)


def test_source_may_be_given_by_name_and_is_none_by_default():
    assert SaveEvent(source=1).source == 1
    assert SaveEvent().source is None


def test_any_attribute_name_is_allowed():
    event = BaseEvent(**{"self": 1, "odd name": 2})
    assert vars(event) == {"source": None, "self": 1, "odd name": 2}


def test_attributes_can_be_added_later():
    event = BaseEvent()
    event.note = "later"
    assert event.note == "later"


def test_events_can_be_referenced_weakly():
    event = BaseEvent()
    assert weakref.ref(event)() is event


def test_events_can_be_copied_and_pickled():
    event = SaveEvent(filename="a.txt")
    event.mark_as_handled()
    for other in (copy.copy(event), pickle.loads(pickle.dumps(event))):
        assert vars(other) == vars(event)
        assert other._handled


def test_an_event_is_handled_once_it_is_marked():
    event = BaseEvent()
    assert not event._handled
    event.mark_as_handled()
    assert event._handled
    assert not BaseEvent()._handled


def test_repr_names_the_class_and_the_public_attributes():
    event = SaveEvent(1, filename="a.txt")
    event.mark_as_handled()
    assert repr(event) == "SaveEvent(source=1, filename='a.txt')"


def test_a_subclass_need_not_call_the_base_constructor(manager, calls):
    class Bare(BaseEvent):
        def __init__(self):
            pass

    manager.connect(Bare, calls.append)
    event = Bare()
    manager.emit(event)
    assert calls == [event]


@dataclasses.dataclass
class Placed(BaseEvent):
    order: int


@dataclasses.dataclass(frozen=True)
class Frozen(BaseEvent):
    order: int


@dataclasses.dataclass
class Sourced(BaseEvent):
    source: object  # without a default, before one that has none either
    order: int = 0


@dataclasses.dataclass
class Initialised(BaseEvent):
    order: int
    scale: dataclasses.InitVar[int] = 1


class TestDataclass:
    @pytest.mark.parametrize("event", [Placed(3), Frozen(3), Initialised(3, scale=2)])
    def test_the_source_is_none(self, manager, calls, event):
        assert event.source is None
        assert event.order == 3
        assert repr(event) == f"{type(event).__name__}(order=3)"
        manager.connect(BaseEvent, calls.append, {"source": None, "order": 3})
        manager.connect(BaseEvent, print, {"order": 4})
        manager.emit(event)
        assert calls == [event]

    @pytest.mark.parametrize("cls", [Placed, Frozen])
    def test_it_can_be_handled_and_held(self, manager, calls, cls):
        manager.connect(cls, calls.append)
        manager.connect(cls, lambda event: event.mark_as_handled(), priority=1)
        manager.emit(event := cls(3))
        assert event._handled
        manager.disconnect(cls, calls.append)
        manager.connect(cls, calls.append, priority=2)
        with manager.held(cls):
            manager.emit(event := cls(4))
            assert calls == []
        assert calls == [event]

    def test_a_manager_of_another_kind_holds_frozen_ones(self, manager, calls):
        with BaseEventManager.held(manager, Frozen):
            manager.connect(Frozen, calls.append)
            manager.emit(event := Frozen(3))
            assert calls == []
        assert calls == [event]
        assert not event._handled

    def test_the_source_may_be_a_field(self):
        event = Sourced("here")
        assert (event.source, event.order) == ("here", 0)
        assert [field.name for field in dataclasses.fields(event)] == ["source", "order"]
        with pytest.raises(TypeError, match="source"):
            Sourced()

    def test_the_fields_are_the_dataclasss_own(self):
        assert dataclasses.asdict(Placed(3)) == {"order": 3}
        assert Placed(3) == Placed(3) != Placed(4)
        assert pickle.loads(pickle.dumps(Frozen(3))) == Frozen(3)
