import logging
import threading

import pytest

from encore.events.api import BaseEvent
from encore.events.event_manager import LoggingTracer


class SaveEvent(BaseEvent):
    pass


@pytest.fixture
def traced(manager):
    """Everything the manager's tracer is told; names added to `veto` are vetoed."""

    class Trace(list):
        veto = frozenset()

        def __call__(self, name, method, args):
            self.append((name, method, args))
            return name in self.veto

    trace = Trace()
    manager.set_trace(trace)
    return trace


def test_the_tracer_is_told_everything_before_it_happens(manager, calls, traced):
    event = SaveEvent()
    manager.connect(SaveEvent, calls.append, {"source": None}, 3)
    manager.emit(event)
    manager.disconnect(SaveEvent, calls.append)
    assert traced == [
        ("connect", manager.connect, (SaveEvent, calls.append, {"source": None}, 3)),
        ("emit", manager.emit, (event,)),
        ("listen", calls.append, (event,)),
        ("disconnect", manager.disconnect, (SaveEvent, calls.append)),
    ]


def test_a_bound_method_is_told_as_it_was_connected(manager, calls, traced):
    class Listener:
        def heard(self, event):
            calls.append(self)

    listener = Listener()
    manager.connect(SaveEvent, listener.heard)
    manager.emit(SaveEvent())
    assert traced[-1][:2] == ("listen", listener.heard)
    assert calls == [listener]


def test_the_tracer_is_not_told_of_dead_listeners(manager, calls):
    class Listener:
        def heard(self, event):
            raise AssertionError

    holder = [Listener()]
    manager.set_trace(lambda name, method, args: calls.append(name))
    manager.connect(SaveEvent, lambda event: holder.clear(), priority=1)
    manager.connect(SaveEvent, holder[0].heard)
    manager.emit(SaveEvent())
    assert calls == ["connect", "connect", "emit", "listen"]


def test_a_vetoed_connect_leaves_no_trace(manager, calls, traced):
    traced.veto = {"connect"}
    manager.connect(SaveEvent, calls.append)
    manager.set_trace(None)
    assert manager.get_event() == {}
    assert not manager.has_listeners(SaveEvent)
    with pytest.raises(KeyError):
        manager.disconnect(SaveEvent, calls.append)


def test_a_vetoed_disconnect_keeps_the_listener(manager, calls, traced):
    manager.connect(SaveEvent, calls.append)
    traced.veto = {"disconnect"}
    manager.disconnect(SaveEvent, calls.append)
    manager.emit(SaveEvent())
    assert len(calls) == 1


def test_a_vetoed_emit_calls_no_listener_and_no_hook(manager, calls, traced):
    class Hooked(BaseEvent):
        def pre_emit(self):
            raise AssertionError

    manager.connect(Hooked, calls.append)
    traced.veto = {"emit"}
    manager.emit(Hooked())
    thread = manager.emit(Hooked(), block=False)
    assert isinstance(thread, threading.Thread)
    thread.join(30)
    assert calls == []


def test_a_vetoed_listener_is_the_only_one_left_out(manager, calls):
    def left_out(event):
        calls.append("left out")

    manager.set_trace(lambda name, method, args: method is left_out)
    manager.connect(SaveEvent, left_out)
    manager.connect(SaveEvent, lambda event: calls.append("called"))
    manager.emit(SaveEvent())
    assert calls == ["called"]


def test_the_tracer_is_told_of_events_of_disabled_classes(manager, calls, traced):
    manager.disable(SaveEvent)
    manager.emit(SaveEvent())
    assert [name for name, _, _ in traced] == ["emit"]


def test_none_removes_the_tracer(manager, calls, traced):
    manager.set_trace(None)
    manager.connect(SaveEvent, calls.append)
    manager.emit(SaveEvent())
    assert traced == []
    assert len(calls) == 1


def test_an_error_of_the_tracer_reaches_the_caller(manager, calls):
    def broken(name, method, args):
        raise ZeroDivisionError

    manager.connect(SaveEvent, calls.append)
    manager.set_trace(broken)
    with pytest.raises(ZeroDivisionError):
        manager.emit(SaveEvent())
    with pytest.raises(ZeroDivisionError):
        manager.connect(SaveEvent, print)
    assert calls == []


def test_a_tracer_that_removes_itself_is_called_no_more(manager, calls):
    def once(name, method, args):
        calls.append(name)
        manager.set_trace(None)

    manager.connect(SaveEvent, lambda event: calls.append("heard"))
    manager.set_trace(once)
    manager.emit(SaveEvent())
    assert calls == ["emit", "heard"]


def test_the_logging_tracer_logs_and_vetoes_nothing(manager, calls, caplog):
    caplog.set_level(logging.DEBUG)
    manager.set_trace(LoggingTracer())
    manager.connect(SaveEvent, calls.append)
    manager.emit(SaveEvent())
    assert len(calls) == 1
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "connect", "emit", "listen",
    ]  # fmt: skip
    assert {(record.name, record.levelno) for record in caplog.records} == {
        ("encore.events.event_manager", logging.INFO)
    }


def test_the_lines_of_the_logging_tracer_can_be_read(manager, caplog):
    def backup(event):
        pass

    caplog.set_level(logging.INFO)
    manager.set_trace(LoggingTracer())
    manager.connect(SaveEvent, backup)
    manager.emit(SaveEvent(1))
    manager.connect(SaveEvent, backup, {"source": 2}, -3)
    manager.disconnect(SaveEvent, backup)
    assert [record.getMessage() for record in caplog.records] == [
        f"connect: {backup!r} to SaveEvent",
        "emit: SaveEvent(source=1)",
        f"listen: {backup!r} hears SaveEvent(source=1)",
        f"connect: {backup!r} to SaveEvent, filter {{'source': 2}}, priority -3",
        f"disconnect: {backup!r} from SaveEvent",
    ]


def test_the_logging_tracer_takes_another_logger_and_level(manager, caplog):
    caplog.set_level(logging.DEBUG)
    tracer = LoggingTracer(logger=logging.getLogger("elsewhere"), level=logging.DEBUG)
    manager.set_trace(tracer)
    manager.emit(SaveEvent())
    assert [(r.name, r.levelno) for r in caplog.records] == [("elsewhere", logging.DEBUG)]
    assert "elsewhere" in repr(tracer)
