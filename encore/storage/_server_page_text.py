"""Keys, sizes, times and metadata as people are shown them.

A key may hold anything: what is invisible, or moves what stands around it, is shown as an escape,
as the command line does, so that no key looks like another one.
"""

from __future__ import annotations

import time

from ._server_page_markup import Html, element, escape, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["exact_size", "pretty", "readable", "short_size", "shown_key", "utc"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

# Printable, says Python, but there is nothing to be seen: fillers, blanks, selectors of variants.
_INVISIBLE = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x180E),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)

# Of a title, which is one line of a window.
_LONGEST_TITLE = 100


def _is_plain(text: str) -> bool:
    return (
        text.isascii()
        and text.isprintable()
        and "\\" not in text
        and "  " not in text
        and text == text.strip(" ")
    )


def _pieces(text: str) -> list[tuple[bool, str]]:
    """Cut a text into pieces that are as they were, and escapes, which are True."""
    if _is_plain(text):
        return [(False, text)]
    import unicodedata

    pieces: list[tuple[bool, str]] = []
    before = " "
    last = len(text) - 1
    for position, character in enumerate(text):
        shown = character
        if character == "\\":
            shown = "\\\\"
        elif character == " ":
            # At an end, or behind another one, nobody sees it.
            if before == " " or position == last:
                shown = "\\x20"
        elif (
            not character.isprintable()
            or character in _INVISIBLE
            # It would join what stands before: something that is not of the key, or an escape.
            or (
                unicodedata.category(character)[0] == "M"
                and (position == 0 or (pieces and pieces[-1][0]))
            )
        ):
            shown = character.encode("unicode_escape").decode("ascii")
        is_escape = shown is not character
        if pieces and pieces[-1][0] == is_escape:
            pieces[-1] = is_escape, pieces[-1][1] + shown
        else:
            pieces.append((is_escape, shown))
        before = character
    return pieces


def shown_key(key: str) -> Html:
    """Return HTML that shows a key, with its escapes set apart."""
    pieces = (
        element("span", piece, class_="escape") if is_escape else escape(piece)
        for is_escape, piece in _pieces(key)
    )
    return element("bdi", join(pieces), class_="key")


def readable(text: str, most: int = _LONGEST_TITLE) -> str:
    """Return a text with escapes, where there can be no HTML, as in titles; not more than a line of it."""
    shown = "".join(piece for _, piece in _pieces(text[: most + 1]))
    return shown if len(shown) <= most else f"{shown[:most]}…"


def short_size(size: int | None) -> str:
    """Return a number of bytes in a readable unit."""
    if size is None:
        return "unknown"
    if size < 1024:
        return "1 byte" if size == 1 else f"{size} bytes"
    power = 0
    while size >= 1023.95 * 1024 ** (power + 1) and power < len(_UNITS) - 1:
        power += 1
    return f"{size / 1024 ** (power + 1):.1f} {_UNITS[power]}"


def exact_size(size: int | None) -> str:
    """Return a number of bytes in a readable unit, and exactly."""
    if size is None or size < 1024:
        return short_size(size)
    return f"{short_size(size)} ({size:,} bytes)"


def utc(moment: float | None) -> Html:
    """Return HTML that shows a time, in UTC."""
    try:
        date = None if moment is None else time.gmtime(moment // 1)
    except (ValueError, OverflowError, OSError):
        date = None
    if date is None or not 1000 <= date.tm_year <= 9999:
        return Html("unknown")
    day = f"{date.tm_year}-{date.tm_mon:02}-{date.tm_mday:02}"
    clock = f"{date.tm_hour:02}:{date.tm_min:02}:{date.tm_sec:02}"
    return element("time", f"{day} {clock} UTC", datetime=f"{day}T{clock}Z")


def pretty(metadata: Any, most: int) -> tuple[Html, int]:
    """Return HTML that shows JSON in lines, and how many characters there are.

    What is not readable is shown by the escapes that JSON has.

    Parameters
    ----------
    metadata : dict
    most : int
        How many characters are shown at most.
    """
    import json
    import re

    # Another program may have written NaN: it is shown as it is.
    text = json.dumps(metadata, ensure_ascii=False, indent=2)
    size, text = len(text), text[:most]
    if text.isascii() and text.replace("\n", "").isprintable():
        return escape(text), size
    pieces = re.split(r'("(?:[^"\\]|\\.)*")', "".join(map(_json_character, text)))
    # A text that is written from right to left would take its neighbours with it.
    isolated = (
        piece if piece.isascii() or not number % 2 else element("bdi", piece)
        for number, piece in enumerate(pieces)
    )
    return join(isolated), size


def _json_character(character: str) -> str:
    if character == "\n" or (character.isprintable() and character not in _INVISIBLE):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
