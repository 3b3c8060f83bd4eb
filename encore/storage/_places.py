"""Where the data of a store are, told by a text: two stores with the same one show the same.

It is made of what a store says of itself: the kind of store, and a path, a URL or ``info()['location']``.
A store in memory, and one that says nothing, has a text of its own, which goes along when it is pickled.
"""

from __future__ import annotations

import os

from ._layers_reading import ReadingLayers
from ._nesting import members
from ._reading_wrapper import ReadingWrapper
from .abstract_store import AbstractReadOnlyStore
from .renaming_store import RenamingStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["is_same_place", "place_of"]

# Those around which a store is what it was: exactly these classes, as a subclass may change it.
_TRANSPARENT = frozenset(
    (
        *("WrapperStore", "ReadOnlyStore", "RetryStore", "CachingStore"),
        *("MetadataCachingStore", "SimpleAuthStore"),
    )
)

# What a store without a wrapper says of itself, in info() or as an attribute.
_PATHS = ("location", "path")
_URLS = ("url", "root_url", "base_url", "data_path", "query_path", "query_url")
_OTHERS = ("table", "url_format", "url_format_no_part")


def place_of(store: AbstractReadOnlyStore) -> str:
    """Return the text, in which there is no secret."""
    if not isinstance(store, ReadingWrapper):
        return _leaf(store)
    kind = type(store)
    if kind.__name__ in _TRANSPARENT and kind.__module__.startswith(f"{__package__}."):
        return place_of(store.store)
    layers = getattr(store, "stores", None) if isinstance(store, ReadingLayers) else None
    within = [place_of(each) for each in layers or _public_members(store)]
    if isinstance(store, RenamingStore):
        # Whatever it does to names, it does to this one.
        within.append(repr(store._inner("...")))
    point = getattr(store, "mount_point", None)
    if isinstance(point, str):
        within.insert(0, repr(point))
    return f"{kind.__name__}({', '.join(within)})"


def is_same_place(store: AbstractReadOnlyStore, other: AbstractReadOnlyStore) -> bool:
    """Whether two stores without wrappers have the same data, as far as they tell."""
    return store is other or _leaf(store) == _leaf(other)


def _public_members(store: AbstractReadOnlyStore) -> list[AbstractReadOnlyStore]:
    if not isinstance(store, ReadingLayers):
        return members(store)
    return [
        each
        for name, each in store.__dict__.items()
        if isinstance(each, AbstractReadOnlyStore) and name != "store"
    ]


def _leaf(store: AbstractReadOnlyStore) -> str:
    info = store.info()

    def facts(names: tuple[str, ...]) -> dict[str, str]:
        found = {name: info.get(name, getattr(store, name, None)) for name in names}
        return {
            name: os.fspath(each)
            for name, each in found.items()
            if isinstance(each, str | os.PathLike) and each
        }

    paths, urls, others = facts(_PATHS), facts(_URLS), facts(_OTHERS)
    if not (paths or urls) or paths.get("location") == ":memory:":
        return f"{_kind(store)}(in memory, {_token(store)})"
    shown = []
    if urls:
        from hashlib import sha256

        from ._http_errors import shown_url

        shown = [repr(shown_url(each)) for each in urls.values()]
        # What is not shown makes a difference too.
        exact = repr([sorted(urls.items()), sorted(others.items())])
        shown.append(sha256(exact.encode(errors="surrogateescape")).hexdigest()[:12])
    else:
        places = (each if "://" in each else os.path.realpath(each) for each in paths.values())
        shown = [repr(each) for each in (*dict.fromkeys(places), *others.values())]
    return f"{_kind(store)}({', '.join(shown)})"


def _kind(store: object) -> str:
    name = type(store).__name__
    # The same files.
    return "FileSystemStore" if name == "LockingFileSystemStore" else name


def _token(store: Any) -> str:
    """Return what no other object has, unless it comes from the same pickle."""
    try:
        token: str = store.__dict__.setdefault("_place_token", os.urandom(6).hex())
    except AttributeError:
        token = f"{id(store):x}"
    return token
