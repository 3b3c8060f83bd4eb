import threading

import pytest

from encore.events import package_globals
from encore.events.api import EventManager, get_event_manager, set_event_manager

DEADLINE = 30


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(package_globals, "_event_manager", None)


def test_a_manager_is_made_on_first_use_and_stays():
    manager = get_event_manager()
    assert isinstance(manager, EventManager)
    assert get_event_manager() is manager


def test_a_manager_can_be_set_before_first_use():
    manager = EventManager()
    set_event_manager(manager)
    assert get_event_manager() is manager


@pytest.mark.parametrize("first", [get_event_manager, lambda: set_event_manager(EventManager())])
def test_a_manager_that_exists_cannot_be_replaced(first):
    first()
    before = get_event_manager()
    with pytest.raises(ValueError, match="set already"):
        set_event_manager(EventManager())
    assert get_event_manager() is before


def test_threads_that_come_first_together_get_one_manager(monkeypatch):
    count = 8
    barrier = threading.Barrier(count)

    class SlowManager(EventManager):
        def __init__(self):
            super().__init__()
            barrier.wait(DEADLINE)

    monkeypatch.setattr("encore.events.event_manager.EventManager", SlowManager)
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(get_event_manager())) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(got) == count
    assert len(set(map(id, got))) == 1
