"""The event manager shared by the whole process."""

from __future__ import annotations

from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .abstract_event_manager import BaseEventManager

__all__ = ["get_event_manager", "set_event_manager"]

_event_manager: BaseEventManager | None = None
# Re-entrant, because a finalizer or a signal handler may ask for the manager meanwhile.
_lock = RLock()


def get_event_manager() -> BaseEventManager:
    """Return the event manager of the process.

    An :class:`~encore.events.event_manager.EventManager` is made on first use,
    unless :func:`set_event_manager` has named another before.

    Returns
    -------
    BaseEventManager
        The same one at each call.
    """
    global _event_manager  # noqa: PLW0603
    manager = _event_manager
    if manager is None:
        from .event_manager import EventManager

        made = EventManager()
        with _lock:
            if _event_manager is None:
                _event_manager = made
            manager = _event_manager
    return manager


def set_event_manager(event_manager: BaseEventManager) -> None:
    """Name the event manager of the process.

    Parameters
    ----------
    event_manager : BaseEventManager
        What :func:`get_event_manager` returns from now on.

    Raises
    ------
    ValueError
        If there is one already: others may hold it.
    """
    global _event_manager  # noqa: PLW0603
    with _lock:
        if _event_manager is not None:
            raise ValueError(f"the event manager is set already: {_event_manager!r}")
        _event_manager = event_manager
