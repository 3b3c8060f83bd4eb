"""The short way of set() and delete() of an SqliteStore: one statement instead of a unit of work.

SQLite does a statement wholly or not at all, and the number of rows it has changed tells what was
there. That is enough for most calls: no condition is to be checked, nobody is told of progress, no
method of the store has been replaced, data and metadata are given and small, and the row, if there
is one, is small and looks as we write rows. What turns out to need more has changed nothing, and
takes the long way of BaseStore.
"""

from __future__ import annotations

from ._changes import Change, has_listeners
from ._keys import check_key
from ._metadata import dumps
from ._sqlite_base import PER_CHANGE, PER_NAME
from ._sqlite_large import is_tame, stage_tame
from ._streams import buffers_of
from .errors import StoreError
from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._changes import Observer
    from ._streams import Readable
    from .sqlite_store import SqliteStore

    Metadata = dict[str, Any]

# What is not there, is strange or is large goes the long way. "It moves whatever the clock did", as
# in BaseStore._modify().
REPLACE = (
    "UPDATE {} SET metadata = ?, modified = max(?, round(modified * 1e6 + 1) / 1e6), data = ?"
    " WHERE key = ? AND typeof(data) = 'blob' AND typeof(modified) = 'real' AND modified < 1e11"
)
INSERT = "INSERT OR IGNORE INTO {} (metadata, created, modified, data, key) VALUES (?, ?, ?, ?, ?)"
DELETE = "DELETE FROM {} WHERE key = ? AND typeof(data) = 'blob'"


def write(
    store: SqliteStore, key: str, stream: Readable, metadata: Metadata | None, buffer_size: int
) -> None:
    """Set a key, the short way if that does; without condition and progress."""
    state = store._state
    # What the stream does meanwhile is its own doing.
    observer, state.observer = state.observer, None
    try:
        if is_tame(stream):
            staged = stage_tame(stream, buffer_size)
        else:
            staged = store._stage(buffers_of(stream, buffer_size, None), None)
        changes = None
        if type(staged) is bytes and metadata is not None:
            changes = put(store, key, staged, metadata, observer)
        if changes is None:
            try:
                changes = store._perform(
                    lambda: store._modify(key, staged, metadata, False, None, observer)
                )
            except StoreError:
                error = getattr(staged, "error", None)
                if error is not None:
                    raise error from None
                raise
            finally:
                store._discard(staged)
    finally:
        state.observer = observer
    for change in changes:
        store._tell(change)


def put(
    store: SqliteStore, key: str, data: bytes, metadata: Metadata, observer: Observer | None
) -> list[Change] | None:
    """Set a key the short way; return what is to be told now, or None if it takes the long one."""
    if store._state.created is not None:
        return None
    text = dumps(metadata)
    now = round(store._clock() * 1e6) / 1e6
    replace = (store._replace_sql, (text, now, data, key), StoreUpdateEvent)
    insert = (store._insert_sql, (text, now, now, data, key), StoreSetEvent)
    unit = store._state.unit
    size = PER_CHANGE + PER_NAME * len(metadata) + len(text) + len(data)
    for sql, values, kind in (insert, replace) if store._mostly_new else (replace, insert):
        if store._execute(sql, values, unit, size):
            store._mostly_new = kind is StoreSetEvent
            change = Change(kind, key, metadata, observer)
            if unit is None:
                return [change]
            unit.changes.append(change)
            return []
    return None


def delete(store: SqliteStore, key: str) -> bool:
    """Delete a key the short way; return False, having done nothing, if it takes the long one."""
    # Whoever is told of it is told the metadata, too.
    state = store._state
    return bool(
        state.unit is None
        and state.observer is None
        and store._connected
        and not has_listeners(store.event_manager, StoreDeleteEvent)
        and store._execute(store._delete_sql, (check_key(key),), None)
    )
