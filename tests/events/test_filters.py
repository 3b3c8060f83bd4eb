from unittest import mock

import pytest

from encore.events.api import BaseEvent, EventManager


class SaveEvent(BaseEvent):
    pass


class Thing:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Counted:
    """A value that counts how often it is compared."""

    comparisons = 0

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return hash(self.value)

    def __eq__(self, other):
        Counted.comparisons += 1
        return isinstance(other, Counted) and self.value == other.value


@pytest.mark.parametrize(
    ("filter", "attributes"),
    [
        ({}, {}),
        ({"size": 1}, {"size": 1}),
        ({"size": 1}, {"size": 1.0}),
        ({"size": None}, {"size": None}),
        ({"size": (1, 2)}, {"size": (1, 2)}),
        ({"size": [1, 2]}, {"size": [1, 2]}),
        ({"size": frozenset({1})}, {"size": {1}}),
        ({"size": {1}}, {"size": frozenset({1})}),
        ({"size": mock.ANY}, {"size": 7}),
        ({"size": 1, "name": "x"}, {"size": 1, "name": "x"}),
        ({"size": [1], "name": "x"}, {"size": [1], "name": "x"}),
        ({"thing.name": "x"}, {"thing": Thing(name="x")}),
        ({"thing.inner.size": [1]}, {"thing": Thing(inner=Thing(size=[1]))}),
        ({"thing.name": "x", "size": 1}, {"thing": Thing(name="x"), "size": 1}),
        ({"kind": "saved"}, {}),
    ],
)
def test_a_matching_filter_lets_the_event_pass(manager, calls, filter, attributes):
    class KindEvent(SaveEvent):
        kind = "saved"

    manager.connect(SaveEvent, calls.append, filter=filter)
    event = KindEvent(**attributes)
    manager.emit(event)
    assert calls == [event]
    assert list(manager.get_listeners(event)) == [calls.append]


@pytest.mark.parametrize(
    ("filter", "attributes"),
    [
        ({"size": 1}, {}),
        ({"size": None}, {}),
        ({"size": 1}, {"size": 2}),
        ({"size": 1}, {"size": [1]}),
        ({"size": (1, 2)}, {"size": [1, 2]}),
        ({"size": float("nan")}, {"size": float("nan")}),
        ({"size": int}, {"size": 1}),
        ({"size": 1, "name": "x"}, {"size": 1, "name": "y"}),
        ({"size": 1, "name": "x"}, {"size": 2, "name": "x"}),
        ({"size": 1, "name": "x"}, {"name": "x"}),
        ({"thing.name": "x"}, {}),
        ({"thing.name": "x"}, {"thing": Thing()}),
        ({"thing.name": "x"}, {"thing": Thing(name="y")}),
    ],
)
def test_other_filters_hold_the_event_back_without_log_noise(
    manager, calls, caplog, filter, attributes
):
    manager.connect(SaveEvent, calls.append, filter=filter)
    event = SaveEvent(**attributes)
    manager.emit(event)
    assert calls == []
    assert list(manager.get_listeners(event)) == []
    assert caplog.records == []


def test_nan_is_not_equal_to_itself(manager, calls):
    nan = float("nan")
    manager.connect(SaveEvent, calls.append, filter={"size": nan})
    manager.emit(SaveEvent(size=nan))
    assert calls == []


def test_listeners_that_wait_for_other_values_are_not_looked_at(manager, calls):
    for number in range(500):
        manager.connect(
            SaveEvent, lambda event, n=number: calls.append(n), {"key": Counted(number)}
        )
    event = SaveEvent(key=Counted(7))
    manager.emit(event)
    Counted.comparisons = 0
    manager.emit(event)
    assert calls == [7, 7]
    assert Counted.comparisons <= 1


def test_several_attributes_are_looked_up_together(manager, calls):
    for attribute in ("a", "b", "c"):
        for value in range(3):
            manager.connect(
                SaveEvent, lambda event, at=(attribute, value): calls.append(at), {attribute: value}
            )
    manager.emit(SaveEvent(c=0, a=2))
    assert calls == [("a", 2), ("c", 0)]


def test_filtered_listeners_can_be_disconnected_one_by_one(manager, calls):
    def listener(number):
        return lambda event: calls.append(number)

    listeners = [listener(number) for number in range(6)]
    manager.emit(SaveEvent(key=0))
    for number, function in enumerate(listeners):
        manager.connect(SaveEvent, function, filter={"key": number % 2})
    for number, function in enumerate(listeners):
        calls.clear()
        manager.emit(SaveEvent(key=0))
        assert calls == [n for n in (0, 2, 4) if n >= number]
        manager.disconnect(SaveEvent, function)
    assert not manager.has_listeners(SaveEvent)


def test_an_unhashable_value_finds_several_waiting_listeners_in_order(manager, calls):
    manager.connect(SaveEvent, lambda event: calls.append("low"), {"key": frozenset({1})})
    manager.connect(SaveEvent, lambda event: calls.append("other"), {"key": 3}, 1)
    manager.connect(SaveEvent, lambda event: calls.append("high"), {"key": frozenset({1})}, 2)
    manager.emit(SaveEvent(key={1}))
    assert calls == ["high", "low"]
    calls.clear()
    manager.emit(SaveEvent(key=mock.ANY))
    assert calls == ["high", "other", "low"]


class Incomparable:
    __hash__ = None

    def __eq__(self, other):
        raise ValueError("incomparable")


@pytest.mark.parametrize(
    ("filter", "value"),
    [
        ({"size": Incomparable()}, 1),
        ({"size": 1}, Incomparable()),
        ({"size": 1, "source": None}, Incomparable()),
        ({"source": None, "size": 1}, Incomparable()),
    ],
)
def test_a_filter_that_cannot_be_compared_is_logged_and_harms_nobody(
    manager, calls, caplog, filter, value
):
    manager.connect(SaveEvent, print, filter=filter)
    manager.connect(SaveEvent, calls.append)
    event = SaveEvent(size=value)
    manager.emit(event)
    assert [id(call) for call in calls] == [id(event)]
    (record,) = caplog.records
    assert record.exc_info[0] is ValueError
    assert record.getMessage().startswith(f"filter of listener {print!r} failed for ")


def test_all_who_tell_of_a_predicate_that_raises_tell_of_the_filter(manager, calls, caplog):
    def predicate(value):
        raise ValueError("on purpose")

    manager.connect(SaveEvent, calls.append, filter={"source": predicate})
    assert manager.get_listeners(SaveEvent()) == []
    strict = EventManager(on_error="raise")
    strict.connect(SaveEvent, lambda event: 1 / 0, priority=1)
    strict.connect(SaveEvent, calls.append, filter={"source": predicate})
    with pytest.raises(ZeroDivisionError):
        strict.emit(SaveEvent())
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second == f"filter of listener {calls.append!r} failed for {SaveEvent()!r}"
    failures = []
    told = EventManager(on_error=lambda *args: failures.append(args))
    told.connect(SaveEvent, calls.append, filter={"source": predicate})
    told.emit(SaveEvent())
    assert failures[0][0] == calls.append


def test_a_listener_that_raises_is_not_taken_for_a_filter(manager, caplog):
    manager.connect(SaveEvent, lambda event: 1 / 0, filter={"source": None}, once=True)
    manager.emit(SaveEvent())
    assert caplog.records[0].getMessage().startswith("listener <function")


def test_an_attribute_that_raises_is_logged_and_harms_nobody(manager, calls, caplog):
    class Broken(BaseEvent):
        @property
        def size(self):
            raise RuntimeError("no size")

    manager.connect(Broken, print, filter={"size": 1})
    manager.connect(Broken, calls.append)
    manager.emit(Broken())
    assert len(calls) == 1
    assert caplog.records[0].exc_info[0] is RuntimeError


@pytest.mark.parametrize("filter", [{"size": [1]}, {"a.b": 1}])
def test_compared_filters_can_be_connected_after_the_first_emit_and_disconnected(
    manager, calls, filter
):
    manager.connect(SaveEvent, calls.append)
    manager.emit(SaveEvent())
    manager.connect(SaveEvent, print, filter=filter, priority=1)
    manager.emit(SaveEvent())
    manager.connect(BaseEvent, calls.append, priority=2)
    manager.disconnect(BaseEvent, calls.append)
    manager.disconnect(SaveEvent, print)
    manager.emit(SaveEvent())
    assert len(calls) == 3
    manager.disconnect(SaveEvent, calls.append)
    assert not manager.has_listeners(SaveEvent)


@pytest.mark.parametrize(
    "filters",
    [
        [{"source": 1, "key": Counted(n)} for n in range(300)],
        [{"key": Counted(n), "source": 1} for n in range(300)],
        [{"inner.key": Counted(n)} for n in range(300)],
    ],
    ids=["source first", "key first", "dotted"],
)
def test_filters_on_several_attributes_and_dotted_ones_are_looked_up(manager, calls, filters):
    class Inner:
        key = Counted(7)

    for number, filter in enumerate(filters):
        manager.connect(SaveEvent, lambda event, n=number: calls.append(n), filter)
    event = SaveEvent(1, key=Counted(7), inner=Inner())
    manager.emit(event)
    Counted.comparisons = 0
    manager.emit(event)
    assert calls == [7, 7]
    assert Counted.comparisons <= 2


def test_an_attribute_of_a_second_name_is_not_compared_where_the_first_differs(calls):
    class Broken(SaveEvent):
        @property
        def broken(self):
            raise RuntimeError("not to be looked at")

    failures = []
    manager = EventManager(on_error=lambda *args: failures.append(args))
    manager.connect(SaveEvent, calls.append, {"a": 1, "broken": 2})
    manager.emit(Broken(a=2))
    assert failures == []
    manager.emit(Broken(a=1))
    assert len(failures) == 1
    assert calls == []
