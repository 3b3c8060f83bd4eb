"""A store of which only the reading half is shown."""

from __future__ import annotations

from ._reading_wrapper import ReadingWrapper
from ._signatures import not_there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ReadOnlyStore"]


class ReadOnlyStore(ReadingWrapper):
    """What another store holds, without the methods that change it.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    event_manager : BaseEventManager, optional
    """

    if not TYPE_CHECKING:  # for a type checker, any attribute would be there

        def __getattr__(self, name: str) -> Any:
            raise not_there(self, name)
