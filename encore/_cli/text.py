"""Text in and out: what arguments mean, and how keys and values are shown."""

from __future__ import annotations

import sys

from . import WrongUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

__all__ = [
    "as_json",
    "checked_key",
    "checked_pattern",
    "one_line",
    "pairs_of",
    "shown",
    "value_of",
]


def shown(text: str) -> str:
    """Return text with escapes for what could move the cursor or end the line."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode()
        for each in text
    )


def one_line(text: str) -> str:
    # A backslash stays: it is in most reprs, and no line need be read back.
    return "".join(each if each.isprintable() else shown(each) for each in text)


def as_json(value: object) -> str:
    """Return JSON in readable characters, in ASCII where some are not."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        readable = False
    else:
        readable = text.isprintable()
    return text if readable else json.dumps(value, default=str).replace("\x7f", "\\u007f")


def checked_key(text: str) -> str:
    from encore.storage._keys import check_key

    try:
        return check_key(text)
    except ValueError as error:
        raise WrongUse(error) from error


def checked_pattern(text: str | None) -> str | None:
    if text == "":
        raise WrongUse("an empty pattern matches nothing")
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise WrongUse(f"a pattern must encode to UTF-8: {text!a}") from error
    return text


def pairs_of(texts: Sequence[str]) -> dict[str, Any]:
    """Return metadata or criteria from ``name=value``."""
    from encore.storage._metadata import normalise

    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise WrongUse(f"{text!a} is not name=value")
        if name in pairs:
            raise WrongUse(f"{name!a} is given twice")
        pairs[name] = value_of(value)
    try:
        return normalise(pairs)
    except ValueError as error:
        raise WrongUse(error) from error


def value_of(text: str) -> Any:
    import json

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text
