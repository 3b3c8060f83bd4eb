"""Every public name of :mod:`encore.events`, imported when it is first used."""

from __future__ import annotations

from .._lazy import lazy_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .abstract_event_manager import BaseEvent, BaseEventManager, Connection
    from .event_manager import EventManager
    from .heartbeat import Heartbeat, HeartbeatEvent
    from .package_globals import get_event_manager, set_event_manager
    from .progress_events import (
        Cancelled,
        ProgressEndEvent,
        ProgressEvent,
        ProgressManager,
        ProgressStartEvent,
        ProgressStepEvent,
    )

__all__ = [
    "BaseEvent",
    "BaseEventManager",
    "Cancelled",
    "Connection",
    "EventManager",
    "Heartbeat",
    "HeartbeatEvent",
    "ProgressEndEvent",
    "ProgressEvent",
    "ProgressManager",
    "ProgressStartEvent",
    "ProgressStepEvent",
    "get_event_manager",
    "set_event_manager",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "abstract_event_manager": "BaseEvent BaseEventManager Connection",
        "event_manager": "EventManager",
        "heartbeat": "Heartbeat HeartbeatEvent",
        "package_globals": "get_event_manager set_event_manager",
        "progress_events": (
            "Cancelled ProgressEndEvent ProgressEvent ProgressManager ProgressStartEvent "
            "ProgressStepEvent"
        ),
    },
)
