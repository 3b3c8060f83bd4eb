"""Names of stores around stores: ``readonly::fs:PATH``, ``cache:sqlite:near.db::http://host/``.

A link is the name of a wrapper, perhaps with ``=`` and an argument; then, for one that needs a
second store, ``:`` and the name of that; then ``::`` and the name of what it wraps, which may be a
chain itself.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .abstract_store import AbstractReadOnlyStore

    # A wrapper, its argument, the second store, and what is wrapped.
    Link = tuple[str, str | None, str | None, str]
    # Opens a store by its name; the others say whether it is to be written, and made, and whether it
    # is the last one, which the options are for.
    Open = Callable[[str, bool, bool], AbstractReadOnlyStore]
    Make = Callable[[str | None, AbstractReadOnlyStore, Any, Any], AbstractReadOnlyStore]

__all__ = ["WRAPPERS", "open_chain", "shown_name", "split"]

# What may have an @ that is none of a URL.
_PATHS = ("sqlite:", "fs:", "lockfs:", "dir:")

# Names of stores that end in a colon, one with a double colon in it.
_IN_MEMORY = ("sqlite::memory:", "memory:")


def shown_name(name: str) -> str:
    """Return the name of a store without what may be a password: what stands before the @.

    Whatever is no path may be meant for a URL, with a scheme or a separator that is mistyped.
    """
    if "@" not in name:
        return name
    import re

    words = "|".join((*_PATHS, "https?:", "static:", *(f"{wrapper}[:=]" for wrapper in WRAPPERS)))
    # Before each word, which is the first, or the first after a colon.
    pieces = re.split(f"(?:^|(?<=:))(?={words})", name)
    start = re.compile(rf"((?:[\w-]+::)*[\w+.-]*://|(?:{words}))?.*@", re.DOTALL)
    return "".join(
        piece if piece.startswith(_PATHS) else start.sub(r"\1...@", piece, count=1)
        for piece in pieces
    )


def split(name: str) -> Link | None:
    """Take the first link off; None if the name is not that of a wrapper.

    Raises
    ------
    ValueError
        If it is, but what follows does not.
    """
    wrapper = name
    for end, character in enumerate(name):
        if character in ":=":
            wrapper = name[:end]
            break
    if wrapper not in WRAPPERS:
        return None
    _, has_second, usage = WRAPPERS[wrapper]
    rest = name[len(wrapper) :]
    argument = second = None
    if has_second:
        if rest.startswith("="):
            argument, _, rest = rest[1:].partition(":")
        else:
            rest = rest[1:]
        for second in _IN_MEMORY:
            if rest.startswith(second):
                rest = rest[len(second) :]
                colons, rest = rest[:2], rest[2:]
                break
        else:
            second, colons, rest = rest.partition("::")
    else:
        head, colons, rest = rest.partition("::")
        if head.startswith("="):
            argument = head[1:]
        elif head:
            colons = ""
    if colons != "::" or not rest or second == "":
        raise ValueError(f"{shown_name(name)!r}: it is {usage}::STORE")
    return wrapper, argument, second, rest


def open_chain(
    name: str, link: Link, create: bool, event_manager: Any, open_it: Open
) -> AbstractReadOnlyStore:
    """Make the store that a chain names."""
    wrapper, argument, near, rest = link
    make, _, usage = WRAPPERS[wrapper]
    second = None
    if near is not None:
        # A cache is there to be filled, whatever the store behind it is for.
        second = open_it(near, create or wrapper == "cache", False)
    writes_second = wrapper in ("joined", "mount")
    inner = open_it(rest, create and not writes_second, True)
    try:
        return make(argument, inner, second, event_manager)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown_name(name)!r}: it is {usage}::STORE: {error}") from error


def _nothing(argument: str | None) -> None:
    if argument is not None:
        raise ValueError(f"nothing may follow, {shown_name(argument)!r} neither")


def _whole(argument: str) -> int:
    try:
        return int(argument)
    except ValueError:
        raise ValueError(f"it takes a whole number, not {shown_name(argument)!r}") from None


def _seconds(argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise ValueError(f"it takes a number of seconds, not {shown_name(argument)!r}") from None


def _read_only(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .read_only_store import ReadOnlyStore

    _nothing(argument)
    return ReadOnlyStore(inner, event_manager=manager)


def _prefix(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .prefix_store import PrefixStore

    if not argument:
        raise ValueError("the prefix is missing")
    return PrefixStore(inner, argument, event_manager=manager)


def _hash(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .hash_prefix_store import HashPrefixStore

    if argument is None:
        return HashPrefixStore(inner, event_manager=manager)
    return HashPrefixStore(inner, _whole(argument), event_manager=manager)


def _checked(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .checked_store import CheckedStore

    if argument is None:
        return CheckedStore(inner, event_manager=manager)
    return CheckedStore(inner, argument, event_manager=manager)


def _retry(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .retry_policy import RetryPolicy
    from .retry_store import RetryStore

    policy = None if argument is None else RetryPolicy(attempts=_whole(argument))
    return RetryStore(inner, policy, event_manager=manager)


def _cache(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .caching_store import CachingStore

    expire: Any = {} if argument is None else {"expire": _seconds(argument)}
    return CachingStore(inner, second, event_manager=manager, **expire)


def _metadata_cache(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .metadata_caching_store import MetadataCachingStore

    expire: Any = {} if argument is None else {"expire": _seconds(argument)}
    return MetadataCachingStore(inner, event_manager=manager, **expire)


def _joined(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .joined_store import JoinedStore

    _nothing(argument)
    return JoinedStore([second, inner], event_manager=manager)


def _mount(argument: str | None, inner: Any, second: Any, manager: Any) -> Any:
    from .mounted_store import MountedStore

    if argument is None:
        raise ValueError("the mount point is missing")
    return MountedStore(argument, second, inner, event_manager=manager)


#: Of each wrapper: what makes it, whether there is a second store, and how it is written.
WRAPPERS: dict[str, tuple[Make, bool, str]] = {
    "cache": (_cache, True, "cache[=SECONDS]:NEAR"),
    "checked": (_checked, False, "checked[=ALGORITHM]"),
    "hash": (_hash, False, "hash[=DIGITS]"),
    "joined": (_joined, True, "joined:FIRST"),
    "metadata-cache": (_metadata_cache, False, "metadata-cache[=SECONDS]"),
    "mount": (_mount, True, "mount=POINT:STORE"),
    "prefix": (_prefix, False, "prefix=TEXT"),
    "readonly": (_read_only, False, "readonly"),
    "retry": (_retry, False, "retry[=ATTEMPTS]"),
}
