"""What managers do for the length of a with statement: disable events, hold them back."""

from __future__ import annotations

from _thread import get_ident
from itertools import count

from ._listeners import agrees, checks_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .abstract_event_manager import BaseEvent, BaseEventManager
    from .event_manager import EventManager

__all__ = ["Disabled", "Held", "HeldByListener", "Suspended"]


class Disabled:
    """Disable a class with what every manager has."""

    def __init__(self, manager: BaseEventManager, cls: type[BaseEvent]) -> None:
        self.manager = manager
        self.cls = cls

    def __enter__(self) -> None:
        self.was_enabled = self.manager.is_enabled(self.cls)
        self.manager.disable(self.cls)

    def __exit__(self, *exc_info: object) -> None:
        if self.was_enabled:
            self.manager.enable(self.cls)


class Suspended:
    """Disable a class of an EventManager, which knows such blocks."""

    def __init__(self, manager: EventManager, cls: type[BaseEvent]) -> None:
        self.registry = manager._registry
        self.cls = cls

    def __enter__(self) -> None:
        self.registry.suspend(self.cls, self, True)

    def __exit__(self, *exc_info: object) -> None:
        self.registry.suspend(self.cls, self, False)


# The innermost block, entered last, comes first.
_priorities = count(2**62)


class HeldByListener:
    """Hold events with what every manager has: a listener before all others, which handles them."""

    def __init__(
        self,
        manager: BaseEventManager,
        cls: type[BaseEvent],
        filter: Mapping[str, Any] | None,
        discard_on_error: bool,
    ) -> None:
        self.manager = manager
        self.cls = cls
        self.filter = filter
        self.discard_on_error = discard_on_error

    def __enter__(self) -> None:
        self.thread = get_ident()
        self.events: list[BaseEvent] = []
        self.manager.connect(self.cls, self._keep, self.filter, next(_priorities))

    def _keep(self, event: BaseEvent) -> None:
        if get_ident() == self.thread:
            self.events.append(event)
            event.mark_as_handled()

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            self.manager.disconnect(self.cls, self._keep)
        except KeyError:  # it was not allowed to connect
            pass
        if kind is None or not self.discard_on_error:
            for event in self.events:
                event.__dict__["_handled"] = False  # one that is frozen too
                self.manager.emit(event)


class Held:
    """Hold events of an EventManager, which asks before it dispatches any."""

    def __init__(
        self,
        manager: EventManager,
        cls: type[BaseEvent],
        filter: Mapping[str, Any] | None,
        discard_on_error: bool,
    ) -> None:
        self.manager = manager
        self.cls = cls
        self.checks = checks_of(filter or {})
        self.discard_on_error = discard_on_error
        self.active = False

    def __enter__(self) -> None:
        self.events: list[tuple[BaseEvent, bool]] = []
        self.active = True
        self.manager._hold(self)

    def keeps(self, event: BaseEvent, block: bool) -> bool:
        """Keep an event if it is to be held."""
        if not self.active:
            return False  # a generator with the block in it was closed by another thread
        try:
            wanted = isinstance(event, self.cls) and agrees(event, self.checks)
        except Exception as error:
            self.manager._report(self.keeps, event, error, "filter of")
            return False
        if wanted:
            self.events.append((event, block))
        return wanted

    def __repr__(self) -> str:
        return f"<block that holds {self.cls.__name__} back>"

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self.active = False
        events, self.events = self.events, []
        failed = kind is not None
        if failed and self.discard_on_error:
            events = []
        # What the block raised is not to be replaced by what the events raise.
        self.manager._let_go(self, events, quiet=failed)
