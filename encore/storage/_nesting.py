"""Which stores lie in which, and by what names the keys of one can be reached through another."""

from __future__ import annotations

from ._layers_reading import ReadingLayers
from ._reading_wrapper import ReadingWrapper
from .abstract_store import AbstractReadOnlyStore
from .renaming_store import RenamingStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Rename = Callable[[str], str | None]
    Way = list[RenamingStore]

__all__ = ["lies_within", "members", "renamed", "renamings", "shared", "ways", "within"]


def members(store: object) -> list[AbstractReadOnlyStore]:
    """Return the stores that a store holds."""
    found = {}
    for value in getattr(store, "__dict__", {}).values():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, AbstractReadOnlyStore):
                found[id(each)] = each
    return list(found.values())


def ways(store: AbstractReadOnlyStore) -> Iterator[tuple[Way, AbstractReadOnlyStore]]:
    """Return the ways into a store: the wrappers with other names, from the outside in, and where it ends."""
    if not isinstance(store, ReadingWrapper):
        yield [], store
        return
    # What a layer does to names, and nothing else, lies between a store of layers and its members.
    for member in store._layers() if isinstance(store, ReadingLayers) else members(store):
        for way, end in ways(member):
            yield ([store, *way] if isinstance(store, RenamingStore) else way), end


def within(store: AbstractReadOnlyStore) -> set[int]:
    """Return the identities of a store and all those in it."""
    found: set[int] = set()
    stores = [store]
    while stores:
        each = stores.pop()
        if id(each) not in found:
            found.add(id(each))
            stores += members(each)
    return found


def renamings(way: Way, back: Way | None = None) -> list[Rename]:
    """Return what makes of a key its name at the end of a way, and back from there by another one."""
    renames: list[Rename] = [each._inner for each in way]
    return [*renames, *(each._outer for each in reversed(back or []))]


def renamed(key: str, renames: Iterable[Rename]) -> str | None:
    """Return the name that a key gets by these, None if it has none."""
    name: str | None = key
    for rename in renames:
        name = None if name is None else rename(name)
    return name


def shared(
    store: AbstractReadOnlyStore,
    other: AbstractReadOnlyStore,
    same: Callable[[AbstractReadOnlyStore, AbstractReadOnlyStore], bool],
) -> list[list[Rename]]:
    """Return what makes of a key of one store the names by which another one reaches the same value.

    `same` says whether two stores without wrappers are the same.
    """
    return [
        renamings(way, way_of_other)
        for way, end in ways(store)
        for way_of_other, end_of_other in ways(other)
        if same(end, end_of_other)
    ]


# What lies within has a name for each of these outside; what is outside, hardly for all of them.
_PROBES = tuple(f"{number} probe" for number in range(12))


def lies_within(renames: Iterable[Rename]) -> bool:
    """Whether these make another name of every key, so that what they lead from lies in what they lead to."""
    renames = list(renames)
    names = [renamed(probe, renames) for probe in _PROBES]
    return None not in names and names != list(_PROBES)
