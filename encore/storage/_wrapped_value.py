"""The base of values around another value."""

from __future__ import annotations

from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["WrappedValue"]


class WrappedValue(Value):
    """What another value says of itself; a subclass adds the data.

    Nothing is asked before it is wanted: a value behind a URL may have to be opened.

    Parameters
    ----------
    value : Value
    """

    def __init__(self, value: Value) -> None:
        self._value = value

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self._value.size

    @property
    def created(self) -> float | None:  # type: ignore[override]
        return self._value.created

    @property
    def modified(self) -> float | None:  # type: ignore[override]
        return self._value.modified

    @property
    def etag(self) -> str | None:  # type: ignore[override]
        return self._value.etag

    @property
    def metadata(self) -> dict[str, Any]:
        return self._value.metadata

    @property
    def permissions(self) -> dict[str, set[str]]:
        return self._value.permissions
