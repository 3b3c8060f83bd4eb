"""A value in memory."""

from __future__ import annotations

import io

from ._metadata import copy_of, digest, normalise
from ._streams import as_bytes, slice_bounds
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, BinaryIO

__all__ = ["StringValue"]


class StringValue(Value):
    """A value whose data are bytes in memory.

    Parameters
    ----------
    data : bytes
    metadata : dict, optional
    created, modified : float, optional
        Seconds since the Unix epoch.
    """

    size: int

    def __init__(
        self,
        data: bytes = b"",
        metadata: Mapping[str, Any] | None = None,
        created: float | None = None,
        modified: float | None = None,
    ) -> None:
        self._data = data if type(data) is bytes else as_bytes(data, "a StringValue takes")
        self._metadata: Mapping[str, Any] = {} if metadata is None else normalise(metadata)
        self.size = len(self._data)
        self.created = created
        self.modified = modified

    @classmethod
    def of_normalised(
        cls, data: bytes, metadata: Mapping[str, Any], created: float | None, modified: float | None
    ) -> StringValue:
        """Make a value of metadata that need be neither checked nor copied."""
        value = cls.__new__(cls)
        value._data = data
        value._metadata = metadata
        value.size = len(data)
        value.created = created
        value.modified = modified
        return value

    @property
    def etag(self) -> str:  # type: ignore[override]
        # Without a stamp only the data tell two values apart.
        version = self._data.hex() if self.modified is None else self.modified
        return digest(self.created, version, self.size, self._metadata)

    @property
    def data(self) -> BinaryIO:
        return io.BytesIO(self._data)

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)

    def _iterdata(
        self, buffer_size: int, progress: Callable[..., object] | None
    ) -> Iterator[bytes]:
        # The data of a subclass may be others.
        if type(self) is StringValue and progress is None and self.size <= buffer_size:
            return iter((self._data,) if self._data else ())
        return super()._iterdata(buffer_size, progress)

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        begin, stop = slice_bounds(start, end, self.size)
        return io.BytesIO(self._data[begin:stop])
