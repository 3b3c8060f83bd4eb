"""Every public name of :mod:`encore.events`."""

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
