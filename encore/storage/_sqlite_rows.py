"""What stands in the columns of a row, whoever wrote it."""

from __future__ import annotations

from ._metadata import loads, normalise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of a decoder and an encoder that are made on first use: json is heavy.
_scan: Any = None
_encode: Any = None


def _load_json() -> None:
    global _encode, _scan  # noqa: PLW0603
    import json

    # What decode() calls after it has looked for white space.
    _scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
    # Normalised metadata do not contain themselves.
    _encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def encode(metadata: dict[str, Any]) -> str:
    """Return what dumps() of _metadata.py does, in half the time."""
    if _encode is None:
        _load_json()
    return _encode(metadata)  # type: ignore[no-any-return]


def parse(stored: Any) -> dict[str, Any] | None:
    """Read what stands in the metadata column, None if it is damaged."""
    try:
        if isinstance(stored, str):
            if stored.startswith("{"):
                # As loads(), in half the time, where nothing stands around it.
                if _scan is None:
                    _load_json()
                try:
                    metadata: dict[str, Any]
                    metadata, end = _scan(stored, 0)
                    if end == len(stored):
                        return metadata
                except (StopIteration, RecursionError):
                    pass
            if not stored.startswith("\x80"):
                return loads(stored)
            stored = stored.encode("latin-1")
        if isinstance(stored, bytes):
            if stored.lstrip().startswith(b"{"):
                return loads(stored)
            from ._pickles import load_plain

            return normalise(load_plain(stored))
    except (TypeError, ValueError):
        pass
    return None


def as_bytes(key: str | bytes) -> bytes:
    """Return a key, or a part of one, as it stands in the table."""
    # In this form surrogates stand where their code points do; no key has any.
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")


def as_key(key: Any) -> str | None:
    """Return a key as str, None if it is none."""
    if type(key) is str:
        return key
    try:
        return str(key, "utf-8")
    except UnicodeDecodeError:
        return None


def as_data(data: Any) -> bytes:
    """Return what stands in the data column as bytes."""
    # Other programs may have put text there, or nothing.
    if isinstance(data, bytes):
        return data
    return b"" if data is None else str(data).encode()


def as_stamp(stamp: Any) -> float:
    """Return a stamp, 0.0 if it is none."""
    # The difference of an infinity or NaN is none: math.isfinite() without loading the module.
    return float(stamp) if isinstance(stamp, int | float) and stamp - stamp == 0 else 0.0
