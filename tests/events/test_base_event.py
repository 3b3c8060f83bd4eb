import copy
import pickle
import weakref

from encore.events.api import BaseEvent


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
