"""Several stores as one."""

from __future__ import annotations

from ._layers import LayeredStore
from ._signatures import without_misplaced
from .abstract_store import AbstractReadOnlyStore
from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from ..events.abstract_event_manager import BaseEventManager

__all__ = ["JoinedStore"]


class JoinedStore(LayeredStore):
    """The keys of several stores; where two hold the same key, the earlier one counts.

    Everything is written into the first store. To set the data or the metadata alone of a key that
    only a later one holds brings the other half along. To delete a key deletes it from all stores,
    and is refused, touching nothing, where one of these cannot be written.

    Parameters
    ----------
    stores : iterable of AbstractReadOnlyStore
        Those that are not connected are connected by connect(), and disconnected by disconnect().
        The first one may be read only, and then nothing can be written.
    event_manager : BaseEventManager, optional

    Notes
    -----
    What is written is as atomic and as durable as in the first store, and transaction() is the
    first store's. To delete a key that later stores hold concerns several stores: inside a
    transaction these take part in it, and are committed before the first one, or after it if move()
    has brought a value up. Nothing is promised across stores: if one of them fails to commit, those
    before it have done so.
    """

    @without_misplaced
    def __init__(
        self,
        stores: Iterable[AbstractReadOnlyStore],
        *misplaced: NoReturn,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        if misplaced:
            from .base_store import no_positional_manager

            no_positional_manager(stores, *misplaced)
            raise TypeError("JoinedStore() takes one positional argument, an iterable of stores")
        try:
            members = list(stores)
        except TypeError:
            raise TypeError(
                f"JoinedStore() takes an iterable of stores, not {shown(stores)}"
            ) from None
        for store in members:
            if not isinstance(store, AbstractReadOnlyStore):
                raise TypeError(f"JoinedStore() joins stores, not {shown(store)}")
        if not members:
            raise ValueError("JoinedStore() takes at least one store")
        if len({id(store) for store in members}) < len(members):
            raise ValueError("a store can be joined only once")
        #: list of AbstractReadOnlyStore
        self.stores = members
        super().__init__(members, members, event_manager=event_manager)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stores!r})"
