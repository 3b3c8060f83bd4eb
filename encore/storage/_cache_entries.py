"""How a caching store keeps things in its cache.

An entry of the cache has the key of the value that it stands for, its data, and three names of
metadata: ``state``; ``store``, which tells the store that it belongs to; and ``entry``, a JSON text with
all the rest, so that no index of the cache has to do with it. It is written in one set(), so that the
cache holds all of an entry or nothing.
"""

from __future__ import annotations

from ._metadata import check_depth, dumps
from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .abstract_store import AbstractStore
    from .value import Value

    Version = dict[str, Any]
    Metadata = dict[str, Any]

#: As the store has it.
CLEAN = "clean"
#: Written here, and not in the store yet.
DIRTY = "dirty"
#: Deleted here, and not in the store yet.
DELETED = "deleted"

#: The version of a key that the store does not have.
ABSENT: Version = {"absent": True}

_FIELDS = (
    *("id", "metadata", "created", "modified", "etag", "size", "remote", "base"),
    *("since", "checked", "session", "tried", "announced"),
)


class DamagedEntryError(StoreError):
    """What the cache has under a key is no entry, or not all of one."""

    #: The condition that the cache has it still.
    unchanged: dict[str, str] = {}


class Entry:
    """An entry of the cache.

    Attributes
    ----------
    state : {'clean', 'dirty', 'deleted'}
    place : str
        The store that it belongs to.
    id : str
        Another one for each data and metadata that were put here.
    metadata, created, modified, etag
        As the value shows them.
    size : int or None
        How many bytes were to be written, if that was known.
    remote : dict or None
        The version of the store that this is a copy of; None if that cannot be told.
    base : dict or None
        The version that the store had when it was last looked at.
    since : float or None
        When it became dirty.
    checked : float or None
        When the store was last known to have the same; as `since` by the local clock.
    session : str
        The caching store that wrote it.
    tried : list of str
        Fingerprints of what may have been uploaded since `base`.
    announced : bool
        Whether this entry may have been uploaded too.
    value : Value
        What the cache returned.
    """

    value: Value

    def __init__(self, state: str, place: str, fields: dict[str, Any]) -> None:
        self.state = state
        self.place = place
        self.id: str = fields["id"]
        self.metadata: Metadata = fields["metadata"]
        self.created: float | None = fields.get("created")
        self.modified: float | None = fields.get("modified")
        self.etag: str | None = fields.get("etag")
        self.size: int | None = fields.get("size")
        self.remote: Version | None = fields.get("remote")
        self.base: Version | None = fields.get("base")
        self.since: float | None = fields.get("since")
        self.checked: float | None = fields.get("checked")
        self.session: str = fields.get("session") or ""
        self.tried: list[str] = fields.get("tried") or []
        self.announced: bool = bool(fields.get("announced"))

    def __repr__(self) -> str:
        return f"<{self.state} entry {self.id}>"

    def record(self) -> Metadata:
        """Return the metadata that the cache keeps."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        told = {
            name: field
            for name, field in fields.items()
            if field is not None and field is not False and field != []
        }
        return {"state": self.state, "store": self.place, "entry": dumps(told)}

    @property
    def unchanged(self) -> dict[str, str]:
        """The condition that the cache still has this entry; nothing if it has no etags."""
        return _unchanged(self.value)


def _unchanged(value: Value) -> dict[str, str]:
    return {} if value.etag is None else {"if_match": value.etag}


# Texts of entries and what they say: parsing takes longer than all the rest of reading a small value
# that is in memory.
_parsed: dict[str, dict[str, Any]] = {}
_MOST_PARSED = 500
_LONGEST_PARSED = 4000


def parse(metadata: Metadata) -> Entry:
    """Return an entry without its value; DamagedEntryError if this is none."""
    state, text, place = metadata.get("state"), metadata.get("entry"), metadata.get("store", "")
    if (
        state not in (CLEAN, DIRTY, DELETED)
        or not isinstance(text, str)
        or not isinstance(place, str)
    ):
        raise DamagedEntryError("the cache holds something that is no entry")
    fields = _parsed.get(text)
    if fields is not None:
        return Entry(state, place, fields)
    import json

    try:
        fields = json.loads(text)
        entry = Entry(state, place, fields)
        if not isinstance(entry.id, str) or not isinstance(entry.metadata, dict):
            raise ValueError("a part of the entry is missing")
        check_depth(text, entry.metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedEntryError(f"the cache holds a damaged entry: {error}") from error
    if len(text) <= _LONGEST_PARSED:
        if len(_parsed) >= _MOST_PARSED:
            _parsed.clear()
        _parsed[text] = fields
    return entry


def load(cache: AbstractStore, key: str) -> Entry | None:
    """Return the entry of a key, None if there is none; what the cache raises passes through."""
    try:
        value = cache.get(key)
    except KeyError:
        return None
    try:
        entry = parse(value.metadata)
        if entry.size is not None and value.size not in (None, entry.size):
            raise DamagedEntryError(
                f"the cache holds {value.size} bytes of {key!r} instead of {entry.size}", key=key
            )
    except DamagedEntryError as error:
        error.unchanged = _unchanged(value)
        raise
    entry.value = value
    return entry


def version_of(value: Value) -> Version:
    """Return what tells a value of the store from later ones: never compared with a local clock."""
    return {"etag": value.etag, "modified": value.modified, "size": value.size}


def is_version(version: Version | None, value: Value) -> bool:
    """Whether a value of the store is surely this version."""
    if not version or "absent" in version:
        return False
    if version["etag"] is not None or value.etag is not None:
        return bool(version["etag"] == value.etag)
    if version["modified"] is None:
        return False
    return bool(version["modified"] == value.modified and version["size"] == value.size)
