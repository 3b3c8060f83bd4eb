"""What a signal handler or a finalizer does in the middle of the manager's own code."""

import pytest

from encore.events import _blocks, _listeners, _plans, event_manager
from encore.events.api import BaseEvent, EventManager

FILES = {module.__file__ for module in (_blocks, _listeners, _plans, event_manager)}


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


class OtherEvent(BaseEvent):
    pass


class World:
    def __init__(self, filter):
        self.heard = []
        self.filter = filter
        self.manager = EventManager()
        self.one, self.two, self.three, self.late = map(self.listener, range(4))
        self.manager.connect(FileEvent, self.one, filter)
        self.manager.connect(SaveEvent, self.two)
        for cls in (SaveEvent, FileEvent):
            self.manager.emit(cls(1))

    def listener(self, number):
        return lambda event: self.heard.append(number)

    def connect(self):
        self.manager.connect(FileEvent, self.three, self.filter)

    def disconnect(self):
        try:
            self.manager.disconnect(FileEvent, self.one)
        except KeyError:
            pass  # the other one was faster

    def replace(self):
        self.manager.connect(FileEvent, self.one, self.filter, 1)

    def come_and_go(self):
        with self.manager.connect(SaveEvent, self.three, self.filter):
            pass

    def emit(self):
        self.manager.emit(SaveEvent(1))

    def emit_another(self):
        self.manager.emit(OtherEvent(1))

    def disable_and_enable(self):
        self.manager.disable(FileEvent)
        self.manager.enable(FileEvent)

    def disable_for_a_block(self):
        with self.manager.disabled(FileEvent):
            pass

    def hold(self):
        with self.manager.held(FileEvent):
            self.manager.emit(SaveEvent(1))

    def trace(self):
        self.manager.set_trace(lambda name, method, args: False)
        self.manager.set_trace(None)

    def check(self):
        """Every listener that is connected is heard, and one that comes now too."""
        manager = self.manager
        assert manager._plans is manager._registry.plans
        for cls in (FileEvent, SaveEvent, OtherEvent, BaseEvent):
            assert manager.is_enabled(cls)
            self.heard.clear()
            manager.emit(cls(1))
            numbers = [self.one, self.two, self.three]
            assert self.heard == [numbers.index(call) for call in manager.get_listeners(cls)]
        manager.connect(BaseEvent, self.late)
        for cls in (FileEvent, SaveEvent, OtherEvent, BaseEvent):
            self.heard.clear()
            manager.emit(cls(1))
            assert self.heard.count(3) == 1


ACTIONS = [
    name for name in vars(World) if not name.startswith("_") and name not in ("listener", "check")
]


@pytest.mark.parametrize("filter", [None, {"source": 1}], ids=["all", "filtered"])
@pytest.mark.parametrize("inner", ACTIONS)
@pytest.mark.parametrize("outer", ACTIONS)
def test_nothing_is_lost(outer, inner, filter, interrupted):
    moment = 0
    came = True
    while came:
        moment += 1
        world = World(filter)
        action = getattr(world, inner)
        came = interrupted(getattr(world, outer), FILES, moment, lambda frame: action())  # noqa: B023
        world.check()
    assert moment > 3
