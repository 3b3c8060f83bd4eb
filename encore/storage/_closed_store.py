"""A store that is never connected: all that it does is to refuse bad arguments."""

from __future__ import annotations

from .base_store import BaseStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ClosedStore"]


def _do_nothing(*args: Any) -> None:
    pass


_never: Any = _do_nothing


class ClosedStore(BaseStore):
    """A store whose methods all raise: TypeError or ValueError for bad arguments, else StoreError."""

    _read = _head = _scan = _never
    _stage = _save = _remove = _never
    _begin = _commit = _rollback = _never
    _savepoint = _rollback_to = _never
