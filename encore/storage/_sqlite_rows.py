"""What stands in the columns of a row, whoever wrote it."""

from __future__ import annotations

from ._metadata import MAX_DEPTH, loads, normalise

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

# Of a decoder that is made on first use, as json is heavy.
_scan: Any = None


def _make_decoder() -> None:
    global _scan  # noqa: PLW0603
    from json import JSONDecoder

    # What decode() calls after it has looked for white space.
    _scan = JSONDecoder().scan_once  # type: ignore[attr-defined]


def parse(stored: Any) -> dict[str, Any] | None:
    """Read what stands in the metadata column, None if it is damaged."""
    try:
        if isinstance(stored, str):
            if stored.startswith("{"):
                if _may_be_deep(stored):
                    return _shallow(loads(stored))
                # As loads(), in half the time, where nothing stands around it.
                if _scan is None:
                    _make_decoder()
                try:
                    metadata: dict[str, Any]
                    metadata, end = _scan(stored, 0)
                    if end == len(stored):
                        return metadata
                except (StopIteration, RecursionError):
                    pass
            if not stored.startswith("\x80"):
                return _shallow(loads(stored))
            stored = stored.encode("latin-1")
        if isinstance(stored, bytes):
            if stored.lstrip().startswith(b"{"):
                return _shallow(loads(stored))
            from ._pickles import load_plain

            return normalise(load_plain(stored))
    except (TypeError, ValueError):
        pass
    return None


def _may_be_deep(text: str) -> bool:
    return len(text) > 2 * MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH


def _shallow(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata, or raise ValueError if they are deeper than those that can be set."""
    # Who reads them goes down by recursion. Level by level:
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return metadata
    raise ValueError("the metadata are nested too deeply")


class ReadableText:
    """Has a connection return text as bytes where it is no UTF-8."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._factory = connection.text_factory

    def __enter__(self) -> None:
        self._connection.text_factory = _as_text

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._connection.text_factory = self._factory


def _as_text(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


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
