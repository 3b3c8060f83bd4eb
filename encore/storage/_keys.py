"""Which strings are keys, and which keys a pattern matches.

A key is opaque: a store never splits, folds, normalises or resolves it.
"""

from __future__ import annotations

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_KEY_BYTES = 1024

#: A pattern that is longer is nothing to ask somebody else for: it takes much time and memory.
MAX_PATTERN = 8192


def check_key(key: str) -> str:
    """Return `key` as an exact str, or raise TypeError or ValueError."""
    # Nearly every key; the rest of this takes twice as long.
    if type(key) is str and key.isascii() and 0 < len(key) <= MAX_KEY_BYTES:
        return key
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {shown(key)}")
    if not key:
        raise ValueError("a key is not empty")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"a key must encode to UTF-8: {key!a}") from error
    if size > MAX_KEY_BYTES:
        raise ValueError(
            f"a key has at most {MAX_KEY_BYTES} bytes in UTF-8, not {size}: {key[:40]!r}..."
        )
    # A subclass of str may compare, hash or print as it likes; what is stored must not.
    return key if type(key) is str else str.__str__(key)


def key_matcher(pattern: str) -> Callable[[str], object]:
    """Return a predicate for a glob-style pattern: ``*``, ``?``, ``[a-b]``, ``[!a]``; case counts."""
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern is a str, not {shown(pattern)}")
    import fnmatch
    import re

    # Brackets that nothing closes stand for themselves. fnmatch looks for the end of each, in a time
    # that grows with the square of their number.
    end = pattern.rfind("]") + 1
    pattern = pattern[:end] + pattern[end:].replace("[", "[[]")
    return re.compile(fnmatch.translate(pattern)).match


def literal_prefix(pattern: str) -> str:
    """Return what every key that matches the pattern begins with."""
    for position, character in enumerate(pattern):
        if character in "*?[":
            return pattern[:position]
    return pattern


def prefix_end(prefix: str) -> str | None:
    """Return the first text behind all those that begin with `prefix`, None if there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:  # the last code point
            # Surrogates are no characters.
            return prefix[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
        prefix = prefix[:-1]
    return None


def check_page(prefix: str, start_after: str | None, limit: int | None) -> None:
    """Raise TypeError or ValueError where these are no arguments of ``keys()``."""
    for name, value in (("prefix", prefix), ("start_after", start_after)):
        if not isinstance(value, str) and (name == "prefix" or value is not None):
            raise TypeError(f"{name} is a str, not {shown(value)}")
    if limit is not None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"limit is an int or None, not {shown(limit)}")
        if limit < 0:
            raise ValueError(f"limit is not negative: {limit}")
