"""capture_events: which events were emitted."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from ..events.abstract_event_manager import BaseEvent, BaseEventManager

__all__ = ["capture_events"]

EventT = TypeVar("EventT", bound="BaseEvent")


@contextmanager
def capture_events(
    manager: BaseEventManager, cls: type[EventT], filter: Mapping[str, Any] | None = None
) -> Iterator[list[EventT]]:
    """Collect the events that a manager dispatches in a with block.

    They are collected before any other listener can mark them as handled.

    Parameters
    ----------
    manager : BaseEventManager
        The manager to listen at.
    cls : type
        The class of events, its subclasses included.
    filter : mapping, optional
        Collect only events that match, as for
        :meth:`~encore.events.abstract_event_manager.BaseEventManager.connect`.

    Yields
    ------
    list
        The events in the order in which they are dispatched, of whatever thread; it stays as it
        is when the block ends.
    """
    events: list[EventT] = []
    collect = events.append
    manager.connect(cls, collect, filter, float("inf"))
    try:
        yield events
    finally:
        # A tracer may have vetoed that it was connected, or somebody else disconnected it.
        with suppress(KeyError):
            manager.disconnect(cls, collect)
