"""Progress of data in and out of a store, as events; nothing is made where nobody listens."""

from __future__ import annotations

from ..events.event_manager import EventManager
from ..events.progress_events import ProgressManager
from ._changes import has_listeners
from .events import (
    StoreDeleteEvent,
    StoreProgressEndEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from .value import Value


class StoreProgressManager(ProgressManager):
    """A ProgressManager whose events are StoreProgressEvents."""

    StartEventType = StoreProgressStartEvent
    StepEventType = StoreProgressStepEvent
    EndEventType = StoreProgressEndEvent


class _Nobody:
    """What is entered where nobody listens."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


_NOBODY = _Nobody()


class _Anything(
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreProgressEndEvent,
    StoreSetEvent,
    StoreUpdateEvent,
    StoreDeleteEvent,
):
    """Noticed by whoever would notice one of these."""


def unheard(manager: Any) -> bool:
    """Whether nobody would notice what methods that read or write one key have to tell.

    False also where that cannot be said at once. It is what has_listeners() says of each of these
    events, in a tenth of the time: one plan has the listeners of them all.
    """
    return type(manager) is EventManager and manager.is_silent(_Anything)


def progress_wanted(manager: Any) -> bool:
    """Whether anybody wants to see progress."""
    return not unheard(manager) and has_listeners(
        manager, StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent
    )


def progress(
    store: Any,
    message: str,
    key: str | None,
    metadata: Callable[[], dict[str, Any]],
    size: int | None,
) -> AbstractContextManager[Callable[..., object] | None]:
    """Return a context manager that gives what is to be called as ``progress(step=bytes_so_far)``.

    It gives None where nobody listens.
    """
    manager = store.event_manager
    if not progress_wanted(manager):
        return _NOBODY
    return StoreProgressManager(
        manager,
        source=store,
        message=message if key is None else f"{message} {key}",
        steps=-1 if size is None else size,
        key=key,
        metadata=metadata(),
        unit="B",
    )


def store_progress(
    store: Any, message: str, key: str, value: Value
) -> AbstractContextManager[Callable[..., object] | None]:
    """As progress(), for reading a value."""
    if not progress_wanted(store.event_manager):
        # It may cost something to ask a value for its size.
        return _NOBODY
    return progress(store, message, key, lambda: value.metadata, value.size)
