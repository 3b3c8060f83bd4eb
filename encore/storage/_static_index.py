"""The index of a StaticURLStore: all keys and their metadata at one moment.

Once it is made nothing of it changes that can be seen, so whoever has one walks over it without a
lock, and a new one takes its place as a whole. What makes it faster is made when it is first of use:
the keys in order, and columns, which tell by name and value of metadata who has them.
"""

from __future__ import annotations

from ._keys import check_key, prefix_end
from ._metadata import equal, matches, normalise
from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Metadata = dict[str, Any]
    Item = tuple[str, Metadata]
    Column = tuple[dict[Any, list[Item]], dict[bool, list[Item]]]

__all__ = ["StaticIndex", "differences"]

# No more than this many names of metadata have a column.
_MOST_COLUMNS = 32

_PLAIN = frozenset({str, int, float, bool, type(None)})


class StaticIndex:
    """Keys and metadata.

    Parameters
    ----------
    metadata : dict
        Normalised metadata by key.
    validators : dict
        The headers that ask for the index if it is no longer this one.
    digest : bytes
        Of the index as it came.
    """

    def __init__(
        self,
        metadata: dict[str, Metadata],
        validators: dict[str, str] | None = None,
        digest: bytes = b"",
    ) -> None:
        self.metadata = metadata
        self.validators = validators or {}
        self.digest = digest
        self._sorted: list[str] | None = None
        self._items: list[Item] | None = None
        #: None where a name was asked for once, which is no reason to make a column.
        self._columns: dict[str, Column | None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.metadata)} keys>"

    # Listing

    def sorted(self) -> list[str]:
        """Return all keys in code point order."""
        if self._sorted is None:
            self._sorted = sorted(self.metadata)
        return self._sorted

    def page(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> list[str]:
        from bisect import bisect_left, bisect_right

        keys = self.sorted()
        first = bisect_left(keys, prefix)
        if start_after is not None:
            first = max(first, bisect_right(keys, start_after))
        end = prefix_end(prefix)
        last = len(keys) if end is None else bisect_left(keys, end)
        return keys[first : last if limit is None else min(last, first + limit)]

    # Finding

    def find(self, criteria: Metadata) -> Iterable[Item]:
        """Return keys and metadata that match."""
        if not criteria:
            return self.metadata.items()
        found: list[Item] | None = None
        asked = set()
        for name, value in criteria.items():
            if type(value) in _PLAIN:
                column = self._column(name)
                if column is None:
                    continue
                have = column[type(value) is bool].get(value, [])
                asked.add(name)
                if found is None or len(have) < len(found):
                    found = have
        if found is None:
            return self._scan(criteria)
        if len(criteria) == 1:
            return iter(found)
        return [item for item in found if matches(item[1], criteria)]

    def _scan(self, criteria: Metadata) -> list[Item]:
        items: Iterable[Item] = self.metadata.items()
        for name, value in criteria.items():
            if type(value) in _PLAIN:
                # One expression leaves few of them for a look that takes ten times as long.
                items = [item for item in items if item[1].get(name) == value]
                break
        return [item for item in items if matches(item[1], criteria)]

    def _column(self, name: str) -> Column | None:
        """Return who has which value of a name; None if it is not worth while."""
        columns = self._columns
        column = columns.get(name)
        if column is None:
            if len(columns) < _MOST_COLUMNS and name not in columns:
                columns[name] = None
            elif name in columns:
                columns[name] = column = self._new_column(name)
        return column

    def _new_column(self, name: str) -> Column:
        if self._items is None:
            self._items = list(self.metadata.items())
        values: dict[Any, list[Item]] = {}
        # Python finds True where 1 is; for JSON they are two values.
        truths: dict[bool, list[Item]] = {}
        for item in self._items:
            # A name that is not there is no null.
            if name in item[1]:
                value = item[1][name]
                kind = type(value)
                if kind in _PLAIN:
                    into: dict[Any, list[Item]] = truths if kind is bool else values
                    into.setdefault(value, []).append(item)
        return values, truths


# Reading one


def parse(data: bytes) -> dict[str, Metadata]:
    """Return normalised metadata by key; ValueError if the data are no index."""
    import json

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    del data
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    del text
    if type(found) is not dict:
        raise ValueError("it is no JSON object")
    for key, metadata in found.items():
        if type(metadata) is not dict:
            raise ValueError(f"what it has for {key!r:.80} is no JSON object but {shown(metadata)}")
        try:
            check_key(key)
            # In place, as there may be much of it; no key comes or goes.
            found[key] = normalise(metadata)
        except ValueError as error:
            raise ValueError(f"{key!a:.80}: {error}") from error
    return found


def _object(pairs: list[tuple[str, Any]]) -> Metadata:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"it has the name {name!a:.80} twice")
            seen.add(name)
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


# Comparing two


def differences(old: StaticIndex, new: StaticIndex) -> Iterator[tuple[str, str, Metadata]]:
    """Tell what was deleted, set and updated: the action, the key, and the metadata to show."""
    before, after = old.metadata, new.metadata
    for key, metadata in before.items():
        if key not in after:
            yield "delete", key, metadata
    for key, metadata in after.items():
        if key not in before:
            yield "set", key, metadata
    for key, metadata in after.items():
        if key in before:
            known = before[key]
            # What Python calls equal may be 1 and True.
            if known != metadata or not equal(known, metadata):
                yield "update", key, metadata
