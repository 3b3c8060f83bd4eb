"""The events that stores emit; classes only, no behaviour.

Every event of a store has the store that was called as its `source`.
"""

from __future__ import annotations

from ..events.abstract_event_manager import BaseEvent
from ..events.progress_events import (
    ProgressEndEvent,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "StoreDeleteEvent",
    "StoreEvent",
    "StoreKeyEvent",
    "StoreModificationEvent",
    "StorePollFailedEvent",
    "StoreProgressEndEvent",
    "StoreProgressEvent",
    "StoreProgressStartEvent",
    "StoreProgressStepEvent",
    "StoreSetEvent",
    "StoreTransactionEndEvent",
    "StoreTransactionEvent",
    "StoreTransactionStartEvent",
    "StoreUpdateEvent",
    "StoreUploadFailedEvent",
]


class StoreEvent(BaseEvent):
    """Anything that happens in a store."""


class StorePollFailedEvent(StoreEvent):
    """What others have changed could not be found out; it is tried again at the next poll.

    Attributes
    ----------
    error : BaseException
    """

    error: BaseException


class StoreTransactionEvent(StoreEvent):
    """A transaction begins or ends."""


class StoreTransactionStartEvent(StoreTransactionEvent):
    """A transaction has begun."""


class StoreTransactionEndEvent(StoreTransactionEvent):
    """A transaction is over; the events of its changes follow if it was committed.

    Attributes
    ----------
    state : {'done', 'failed'}
    """

    state: str


class StoreKeyEvent(StoreEvent):
    """Something that concerns one key.

    Attributes
    ----------
    key : str
    metadata : dict
        A copy that belongs to the event.
    """

    key: str
    metadata: dict[str, Any]


class StoreModificationEvent(StoreKeyEvent):
    """A key was changed; the change can already be seen.

    Attributes
    ----------
    action : {'set', 'update', 'delete'}
    remote : bool
        Whether it was made by another handle, in this process or in another one.
    """

    action: str
    remote: bool = False


class StoreSetEvent(StoreModificationEvent):
    """A new key came to be."""

    action = "set"


class StoreUpdateEvent(StoreModificationEvent):
    """The data or the metadata of a key that existed was replaced."""

    action = "update"


class StoreDeleteEvent(StoreModificationEvent):
    """A key was deleted; `metadata` is what it had."""

    action = "delete"


class StoreUploadFailedEvent(StoreKeyEvent):
    """A change that was made in a cache could not be made in the store behind it; it is kept.

    Attributes
    ----------
    error : Exception
    attempts : int
        How often it has failed by now.
    retry_in : float or None
        Seconds until it is tried again; None if it is not, before resolve() is called: the store
        has something that was written there meanwhile.
    """

    error: Exception
    attempts: int
    retry_in: float | None


class StoreProgressEvent(ProgressEvent, StoreKeyEvent):
    """Data is being moved; steps count bytes, and `unit` is 'B' to say so."""


class StoreProgressStartEvent(StoreProgressEvent, ProgressStartEvent):
    """Data begins to move; `steps` is the size in bytes, -1 if that is not known."""


class StoreProgressStepEvent(StoreProgressEvent, ProgressStepEvent):
    """One more buffer was read; `step` is the number of bytes so far."""


class StoreProgressEndEvent(StoreProgressEvent, ProgressEndEvent):
    """The data has been moved, or could not be: see `exit_state`."""
