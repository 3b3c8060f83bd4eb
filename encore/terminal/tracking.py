"""Progress of a loop."""

from __future__ import annotations

from _thread import RLock
from os import getpid

from .printing import displays
from .progress_display import ProgressDisplay

__all__ = ["track"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from ..events.abstract_event_manager import BaseEvent, BaseEventManager
    from ..events.progress_events import Cancel, ProgressManager
    from ._screen import Screen

    T = TypeVar("T")

_SKIPPED = 8
"""Items of a tight loop for which the clock is read once: reading it takes as long as the rest."""

_SOON = 0.001
"""Seconds from one reading to the next in a loop that is tight."""


def track(
    iterable: Iterable[T],
    message: str = "Working",
    total: float | None = None,
    event_manager: BaseEventManager | None = None,
    *,
    unit: str | None = None,
    parent: object = ...,
    cancel: Cancel | None = None,
) -> Iterator[T]:
    """Iterate over something and tell how far it is, as progress events::

        for file in track(files, "Copying"):
            copy(file)

    There is a start event before the first item is taken, a step event after the body of the loop
    has run for an item, and an end event with the last. Where nobody but a display listens for
    steps, it counts them without events. A loop that is left early, by ``break``,
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
    unit : str, optional
        What the items are, such as 'files', as an attribute of every event.
    parent : object, optional
        The operation id of what the loop is part of, or None, as an attribute of every event.
    cancel : object with `cancelled`, optional
        As for :class:`~encore.events.progress_events.ProgressManager`.

    Returns
    -------
    iterator
        The items.
    """
    steps = _length(iterable) if total is None else total
    attributes: dict[str, Any] = {} if unit is None else {"unit": unit}
    if parent is not ...:
        attributes["parent"] = parent
    if cancel is not None:
        attributes["cancel"] = cancel
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
    kind = progress.StepEventType
    counter = _Counter()
    plans_in_use = getattr(manager, "_plans_in_use", None)
    plans: list[dict[type, Any]] = [{}] if plans_in_use is None else plans_in_use()
    calls: object = None
    known: object = counter
    counted = False
    screen: Screen | None = None
    look = 0.0
    looked = float("-inf")
    try:
        progress.start()
        for count, item in enumerate(items, 1):
            yield item
            counter.step = count
            try:
                # Replaced whenever somebody connects or disconnects.
                calls = plans[0][kind].calls
            except KeyError:
                calls = None
            if calls is not known:
                known = calls
                counted, screen = _count(progress, calls, counter)
                look = count if screen is not None else float("inf")
            if not counted:
                progress.step(step=count)
            elif count >= look and screen is not None:
                now = screen.clock()
                look = count + (_SKIPPED if now - looked < _SOON else 1)
                looked = now
                if now >= screen.due:
                    screen.refresh()
    except GeneratorExit:
        progress.end(complete=False)
        raise
    except BaseException as exc:
        interrupted = isinstance(exc, KeyboardInterrupt)
        progress.end("interrupted" if interrupted else str(exc) or type(exc).__name__, "exception")
        raise
    else:
        progress.end()
    finally:
        if display is not None:
            _give_back(display)


class _Counter:
    """What stands for the steps of a loop that nobody but a display listens for."""

    __slots__ = ("step",)

    step: int


def _count(progress: ProgressManager, calls: Any, counter: Any) -> tuple[bool, Screen | None]:
    """Whether a loop need not emit its steps; and the screen that shows them all the same."""
    if calls is None or len(calls) > 1 or progress._cancel is not None:
        return False, None
    if not calls:
        return True, None
    operation_id = progress.operation_id
    for display in displays():
        if display._on_step is calls[0]:
            writer = display._plain.get(id(operation_id))
            if writer is None:
                return display.find(operation_id) is None, None
            writer._step = counter
            return True, writer._screen
    return False, None


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
