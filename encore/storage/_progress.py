"""Progress of data in and out of a store, as events; nothing is made where nobody listens."""

from __future__ import annotations

from ..events.progress_events import ProgressManager
from ._changes import has_listeners
from .events import (
    StoreProgressEndEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
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


def progress_wanted(manager: Any) -> bool:
    """Whether anybody wants to see progress."""
    return any(
        has_listeners(manager, kind)
        for kind in (StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent)
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
