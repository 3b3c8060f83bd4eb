import subprocess
import sys

import pytest

from encore.events.api import BaseEvent, EventManager
from encore.testing import capture_events


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


@pytest.fixture
def manager():
    return EventManager()


def test_it_collects_what_is_emitted_in_the_block(manager):
    manager.emit(FileEvent())
    with capture_events(manager, FileEvent) as events:
        manager.emit(first := FileEvent())
        manager.emit(BaseEvent())
        manager.emit(second := SaveEvent())
    manager.emit(FileEvent())
    assert events == [first, second]
    assert manager.get_listeners(FileEvent) == []


def test_it_sees_events_before_others_can_handle_them(manager):
    manager.connect(FileEvent, lambda event: event.mark_as_handled(), priority=10**9)
    with capture_events(manager, FileEvent) as events:
        manager.emit(FileEvent())
    assert len(events) == 1


def test_a_filter_narrows_it_down(manager):
    with capture_events(manager, FileEvent, {"source": 1}) as events:
        manager.emit(FileEvent(1))
        manager.emit(FileEvent(2))
    assert [event.source for event in events] == [1]


def test_it_ends_with_a_block_that_raises(manager):
    with pytest.raises(ValueError, match="inside"), capture_events(manager, FileEvent):
        raise ValueError("inside")
    assert manager.get_listeners(FileEvent) == []


def test_blocks_nest(manager):
    with capture_events(manager, FileEvent) as outer:
        with capture_events(manager, FileEvent) as inner:
            manager.emit(FileEvent())
        manager.emit(FileEvent())
    assert (len(outer), len(inner)) == (2, 1)


def test_the_package_is_light():
    code = "import sys, encore.testing; print('encore.storage' in sys.modules, 'unittest' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == ["False", "False"]


def test_a_veto_replaces_no_exception(manager):
    manager.set_trace(lambda name, method, args: name == "connect")
    with pytest.raises(ValueError, match="inside"), capture_events(manager, FileEvent):
        raise ValueError("inside")
