"""What is in a metadata file: a JSON object, and a trailer of white space that holds three stamps.

JSON permits white space at the end, so every program can read the file. Bits are blanks (0) and
tabs (1), after one line feed: 64 each for the time at which the pair was created, that at which it
was last modified, both in microseconds since the Unix epoch, and the mtime of the data that the
metadata belong to, in nanoseconds.
"""

from __future__ import annotations

from ._metadata import MAX_DEPTH, check_depth, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: created, modified: microseconds; mtime of the data: nanoseconds.
    Stamps = tuple[int, int, int]

_TRAILER = 64 * 3
_MASK = (1 << 64) - 1
_TO_BLANKS = bytes.maketrans(b"01", b" \t")
# All other bytes become one that is in no number.
_FROM_BLANKS = bytes({32: 48, 9: 49}.get(byte, 120) for byte in range(256))
_LINE_FEED = 10

_encode: Callable[[dict[str, Any]], str]
_decode: Callable[[str, int], tuple[Any, int]] | None = None


def _load() -> None:
    """Make an encoder and a decoder: json.dumps() makes one at each call, json.loads() guesses.

    The encoder knows NaN: another program may have put it there, which is no reason to refuse new
    data.
    """
    global _encode, _decode  # noqa: PLW0603
    from json import JSONDecoder, JSONEncoder, encoder

    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        _encode = JSONEncoder(separators=(",", ":"), check_circular=False).encode
    else:
        text = encoder.encode_basestring_ascii
        encode = make(None, None, text, None, ":", ",", False, False, True)
        _encode = lambda metadata: "".join(encode(metadata, 0))  # noqa: E731
    decoder: Any = JSONDecoder()
    # Last: it says that all is there.
    _decode = decoder.scan_once


def dump(metadata: dict[str, Any], stamps: Stamps) -> bytes:
    """Return the content of a metadata file."""
    if _decode is None:
        _load()
    return _encode(metadata).encode() + trailer(stamps)


def trailer(stamps: Stamps) -> bytes:
    """Write stamps as white space."""
    created, modified, data = stamps
    bits = (created & _MASK) << 128 | (modified & _MASK) << 64 | data & _MASK
    return b"\n" + f"{bits:0192b}".encode().translate(_TO_BLANKS)


def stamps_of(text: bytes) -> Stamps | None:
    """Return the stamps in a metadata file, None if it was not written by us."""
    if len(text) <= _TRAILER or text[-_TRAILER - 1] != _LINE_FEED:
        return None
    try:
        bits = int(text[-_TRAILER:].translate(_FROM_BLANKS), 2)
    except ValueError:
        return None
    return bits >> 128, bits >> 64 & _MASK, bits & _MASK


def needle_of(criteria: dict[str, Any]) -> bytes:
    """Return what the metadata that fulfil these criteria contain, for may_contain()."""
    # A number may be written in more than one way, and so may text that needs escapes.
    found = [
        value
        for value in criteria.values()
        if type(value) is str and value.isascii() and value.isprintable()
    ]
    found = [value for value in found if '"' not in value and "\\" not in value]
    return f'"{max(found, key=len)}"'.encode() if found else b""


def may_contain(text: bytes, needle: bytes) -> bool:
    """Whether it takes a closer look to know that metadata lack the needle.

    It does if there are escapes, if the encoding may not be UTF-8, and if it is not one of our files,
    which are whole.
    """
    return (
        needle in text or b"\\" in text or b"\0" in text or text[-_TRAILER - 1 : -_TRAILER] != b"\n"
    )


def parse(text: bytes) -> dict[str, Any] | None:
    """Return metadata, None if they are damaged."""
    if _decode is None:
        _load()
    try:
        # What we write is ASCII, and has nothing before the object.
        plain = text.decode("ascii")
        metadata, end = _decode(plain, 0)  # type: ignore[misc]
        if type(metadata) is dict and not plain[end:].strip(" \t\n\r"):
            # Nearly all that there are cannot be too deep.
            if plain.count("{") + plain.count("[") > MAX_DEPTH:
                check_depth(plain, metadata)
            return metadata
    except (ValueError, StopIteration, RecursionError):
        pass
    try:
        return loads(text)
    except ValueError:
        return None
