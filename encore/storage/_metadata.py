"""Metadata is a JSON object: what that means, and when two of its values are equal.

One rule for all stores, so that what one takes the others take, and what one finds they all find.
The JSON of RFC 8259, without duplicate names, NaN and infinities; text that encodes to UTF-8.
"""

from __future__ import annotations

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# Deeper values could not be read back everywhere: json's scanner recurses, and older
# interpreters count that against the limit of 1000 frames which the caller has begun to use up.
MAX_DEPTH = 200

_TOO_DEEP = f"metadata is nested more than {MAX_DEPTH} levels deep, or contains itself"

_PLAIN = frozenset({bool, type(None)})


def normalise(metadata: Mapping[str, Any], depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return a deep copy of plain JSON types, or raise TypeError or ValueError.

    Tuples become lists; subclasses of the JSON types become those types.
    """
    if type(metadata) is not dict and not isinstance(metadata, dict):
        raise TypeError(f"metadata is a dict, not {shown(metadata)}")
    if depth <= 0:
        raise ValueError(_TOO_DEEP)
    result = {}
    for name, item in metadata.items():
        # Most of what there is, which takes no call of ours.
        kind = type(item)
        if kind is str:
            if not item.isascii():
                item = _text(item)
        elif kind is int:
            # What fits into one digit of CPython's is compared fast.
            if item > 0x3FFFFFFF or item < -0x3FFFFFFF:
                item = _value(item, depth)
        elif kind not in _PLAIN:
            item = _value(item, depth)
        if type(name) is not str or not name.isascii():
            name = _name(name)
        result[name] = item
    return result


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"names in metadata are str, not {shown(name)}")
    return _text(name)


def _value(value: Any, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        value = int.__int__(value)
        if not -0x8000000000000000 < value < 0x8000000000000000:
            # Python refuses to write very long integers (CVE-2020-10735), so no store could keep
            # them.
            str(value)
        return value
    if isinstance(value, float):
        if value - value != 0:
            # An infinity or NaN: math.isfinite() without loading the module for it.
            raise ValueError(f"metadata is JSON, which has no {float.__float__(value)}")
        return float.__float__(value)
    try:
        if isinstance(value, dict):
            return normalise(value, depth - 1)
        if isinstance(value, list | tuple):
            if depth <= 1:
                raise ValueError(_TOO_DEEP)
            return [_value(item, depth - 1) for item in value]
    except RecursionError:
        raise ValueError("metadata is nested too deeply") from None
    raise TypeError(f"metadata is JSON, which has no {shown(value)}")


def _text(value: str) -> str:
    value = str.__str__(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text in metadata must encode to UTF-8: {value!a:.80}") from error
    return value


def check_names(select: Iterable[str] | None) -> list[str] | None:
    """Return the names to select as a list, None for all of them."""
    if select is None:
        return None
    if isinstance(select, str):
        raise TypeError(f"select is an iterable of names, not one str: {select!r}")
    names = list(select)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names in select are str, not {shown(name)}")
    return [str.__str__(name) for name in names]


def copy_of(metadata: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return a deep copy of normalised metadata, only of `names` where these are given."""
    copied = (
        dict(metadata)
        if names is None
        else {name: metadata[name] for name in names if name in metadata}
    )
    for name, value in copied.items():
        if type(value) not in _SCALARS:
            copied[name] = _copy(value)
    return copied


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def check_criteria(where: Mapping[str, Any] | None, named: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a query asks for as one normalised dict, None if nothing can fulfil it."""
    criteria = normalise(named)
    if where is not None:
        # What collections.abc gives, without loading collections.
        from _collections_abc import Mapping

        if not isinstance(where, Mapping):
            raise TypeError(f"where is a mapping, not {shown(where)}")
        for name, value in normalise(dict(where)).items():
            if name in criteria and not equal(criteria[name], value):
                return None
            criteria[name] = value
    return criteria


def matches(metadata: Mapping[str, Any], criteria: Mapping[str, Any]) -> bool:
    """Whether every criterion is there and equal."""
    for name, value in criteria.items():  # noqa: SIM110 - all() would take twice as long
        if name not in metadata or not equal(metadata[name], value):
            return False
    return True


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are equal, 1 and True are not."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and len(one) == len(other)
            and all(name in other and equal(item, other[name]) for name, item in one.items())
        )
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(map(equal, one, other))
        )
    # bool is a subclass of int, but true is no number in JSON.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


# Of an encoder that is made on first use, as json is heavy.
_encode: Any = None


def dumps(metadata: Mapping[str, Any]) -> str:
    """Write normalised metadata as JSON, compact and in ASCII."""
    if _encode is None:
        _make_encoder()
    # It returns one text, or parts of one.
    return "".join(_encode(metadata, 0))


def _make_encoder() -> None:
    """Make what a JSONEncoder makes at each call, which takes longer than the metadata do."""
    global _encode  # noqa: PLW0603
    from json import JSONEncoder, encoder

    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        # Normalised metadata do not contain themselves.
        whole = JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
        _encode = whole.iterencode
    else:
        text = encoder.encode_basestring_ascii
        _encode = make(None, None, text, None, ":", ",", False, False, False)


def loads(text: str | bytes) -> dict[str, Any]:
    """Read metadata that may have been written by anybody; ValueError if it is none.

    What other programs write need not keep our rules in full (NaN, say), but it must be a JSON
    object, and not too deep: what reads, copies and compares it recurses.
    """
    import json

    try:
        metadata = json.loads(text)
    except RecursionError:
        raise ValueError("the metadata is nested too deeply") from None
    if type(metadata) is not dict:
        raise ValueError("the metadata is no JSON object")
    check_depth(text, metadata)
    return metadata


def check_depth(text: str | bytes, metadata: dict[str, Any]) -> None:
    """Raise ValueError if metadata that were read from a text are nested too deeply."""
    openers: Any = ("{", "[") if isinstance(text, str) else (b"{", b"[")
    if sum(map(text.count, openers)) <= MAX_DEPTH:
        return
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            for item in (each.values() if type(each) is dict else each)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def digest(*parts: object) -> str:
    """A short text that changes when one of `parts` (numbers, text, normalised metadata) does."""
    from hashlib import blake2b

    if _encode_sorted is None:
        _make_sorting_encoder()
    text = "".join(_encode_sorted(parts, 0))
    return blake2b(text.encode(), digest_size=12).hexdigest()


_encode_sorted: Any = None


def _make_sorting_encoder() -> None:
    global _encode_sorted  # noqa: PLW0603
    from json import JSONEncoder, encoder

    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        _encode_sorted = JSONEncoder(separators=(",", ":"), sort_keys=True, default=repr).iterencode
    else:
        text = encoder.encode_basestring_ascii
        _encode_sorted = make(None, repr, text, None, ":", ",", True, False, True)
