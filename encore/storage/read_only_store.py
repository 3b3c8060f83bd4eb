"""A store of which only the reading half is shown."""

from __future__ import annotations

from ._reading_wrapper import ReadingWrapper

__all__ = ["ReadOnlyStore"]


class ReadOnlyStore(ReadingWrapper):
    """What another store holds, without the methods that change it.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """
