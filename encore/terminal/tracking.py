"""Progress of a loop."""

from __future__ import annotations

from _thread import RLock
from os import getpid

from .progress_display import ProgressDisplay

__all__ = ["track"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from ..events.abstract_event_manager import BaseEvent, BaseEventManager

    T = TypeVar("T")


def track(
    iterable: Iterable[T],
    message: str = "Working",
    total: float | None = None,
    event_manager: BaseEventManager | None = None,
    **attributes: Any,
) -> Iterator[T]:
    """Iterate over something and tell how far it is, as progress events::

        for file in track(files, "Copying"):
            copy(file)

    There is a start event before the first item is taken, a step event after the body of the loop
    has run for an item, and an end event with the last. A loop that is left early, by ``break``,
    ``return`` or an exception in its body, ends the operation normally where it is: the end event
    has ``complete=False``, and a display keeps the bar as it stands. (What leaves a loop does not
    reach what it iterates over. Code that wants to tell a failure from a break uses a
    :class:`~encore.events.progress_events.ProgressManager`.) What the iterable itself raises ends
    the operation with the exit state 'exception'.

    Without an event manager the events go to that of the process. If nobody listens for them there,
    a display on standard error shows them for the length of the loop.

    Parameters
    ----------
    iterable : iterable
        What to iterate over.
    message : str
        What is done.
    total : number, optional
        The number of items; by default what ``len()`` or ``__length_hint__`` say, if there is one.
    event_manager : BaseEventManager, optional
        Where the events are emitted.
    **attributes
        Further attributes of every event, such as ``unit='files'``.

    Returns
    -------
    iterator
        The items.
    """
    steps = _length(iterable) if total is None else total
    return _track(iter(iterable), message, steps, event_manager, attributes)


def _length(iterable: object) -> int:
    from operator import length_hint

    try:
        return length_hint(iterable, -1)
    except Exception:  # len() of somebody else's: no reason not to iterate
        return -1


def _track(
    items: Iterator[T],
    message: str,
    steps: Any,
    event_manager: BaseEventManager | None,
    attributes: dict[str, Any],
) -> Iterator[T]:
    from ..events.package_globals import get_event_manager
    from ..events.progress_events import ProgressManager

    manager = get_event_manager() if event_manager is None else event_manager
    display = _borrow(manager) if event_manager is None else None
    progress = ProgressManager(manager, None, None, message, steps, **attributes)
    count = 0
    try:
        progress.start()
        for item in items:
            yield item
            count += 1
            progress.step(step=count)
    except GeneratorExit:
        progress.end(complete=False)
        raise
    except BaseException as exc:
        progress.end(str(exc) or type(exc).__name__, "exception")
        raise
    else:
        progress.end()
    finally:
        if display is not None:
            _give_back(display)


class _LoopDisplay(ProgressDisplay):
    """A display that loops of several threads share: two would overwrite each other's lines."""

    users = 0
    retired = False

    def _connect(self, filter: Mapping[str, Any] | None = None) -> None:
        pass  # not before it is clear that it is the one that is shared

    def listen(self) -> None:
        super()._connect()  # several times is once

    def start_listener(self, event: BaseEvent) -> None:
        if not self.retired:
            super().start_listener(event)


# Re-entrant, since an iterator that is thrown away may be finalized at any point. One for each
# process, since a fork may leave behind who holds it.
_locks: dict[int, Any] = {}
_shared: _LoopDisplay | None = None
_closing: list[_LoopDisplay] = []


def _borrow(manager: BaseEventManager) -> _LoopDisplay | None:
    """A display for a loop, if the manager has nobody who listens."""
    display = _share(manager, None)
    if display is None:
        from ..events.progress_events import ProgressStartEvent

        # One that is just being closed is nobody.
        if not _closing and manager.has_listeners(ProgressStartEvent):
            return None
        display = _share(manager, _LoopDisplay(manager))
    if display is not None:
        display.listen()
    return display


def _lock() -> Any:
    return _locks.setdefault(getpid(), RLock())


def _share(manager: BaseEventManager, made: _LoopDisplay | None) -> _LoopDisplay | None:
    global _shared  # noqa: PLW0603
    with _lock():
        if _shared is None or _shared.event_manager is not manager:
            if made is None:
                return None
            _shared = made
        _shared.users += 1
        return _shared


def _give_back(display: _LoopDisplay) -> None:
    global _shared  # noqa: PLW0603
    with _lock():
        display.users -= 1
        if display.users:
            return
        display.retired = True
        _closing.append(display)
        if _shared is display:
            _shared = None
    try:
        display.close()
    finally:
        with _lock():
            _closing.remove(display)
