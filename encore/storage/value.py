"""What ``get`` returns: data, metadata and what is known about them."""

from __future__ import annotations

import io
from _thread import get_ident
from abc import ABC, abstractmethod

from ._metadata import copy_of
from ._streams import (
    BUFFER_SIZE,
    BufferIteratorIO,
    buffer_iterator,
    check_bounds,
    check_buffer_size,
    check_readable,
    skip,
    slice_bounds,
    source_stream,
)
from .errors import AuthorizationError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, BinaryIO

    from ._streams import Readable, Source

__all__ = ["Value"]


class Value(ABC):
    """The value of a key: bytes, their metadata, and facts about them.

    Nothing is read before it is asked for. Values of a store keep showing what they were when
    ``get`` returned them, whatever happens to the key later.

    Attributes
    ----------
    size : int or None
        Number of bytes; None if that is not known without reading them.
    created, modified : float or None
        Seconds since the Unix epoch, UTC. `created` survives overwriting; `modified` moves on every
        change, metadata changes included, and never goes back.
    etag : str or None
        Changes whenever data or metadata change; for ``if_match``. None where the store cannot
        tell.

    Notes
    -----
    For code of EnCore before 0.2 a value is also the tuple ``(data, metadata)``; using it as one
    is deprecated.
    """

    size: int | None = None
    created: float | None = None
    modified: float | None = None
    etag: str | None = None

    @property
    @abstractmethod
    def data(self) -> BinaryIO:
        """A fresh readable binary stream, independent of all others, at every access."""

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """A copy of the metadata."""

    @property
    def permissions(self) -> dict[str, set[str]]:
        """The tags that hold each permission; AuthorizationError where there are none to be seen."""
        raise AuthorizationError("this value has no permissions")

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        """Return a stream of ``data[start:end]``.

        Parameters
        ----------
        start, end : int or None
            As in a slice: half open, negative numbers count from the end, clipped, never out of
            range.

        Raises
        ------
        TypeError
            If a bound is no int.
        """
        start, end = check_bounds(start, end)
        size = self.size
        if size is None:
            if (start or 0) < 0 or (end or 0) < 0:
                with self.data as stream:
                    return io.BytesIO(stream.read()[start:end])
            begin, length = start or 0, None if end is None else max(0, end - (start or 0))
        else:
            begin, stop = slice_bounds(start, end, size)
            length = stop - begin
        if length == 0:
            return io.BytesIO()
        part = BufferIteratorIO(self._part(begin, length))
        return io.BufferedReader(part)

    def _part(self, begin: int, length: int | None) -> Iterator[bytes]:
        with self.data as stream:
            skip(stream, begin)
            buffer_size = min(BUFFER_SIZE, length or BUFFER_SIZE)
            yield from buffer_iterator(stream, buffer_size, max_bytes=length)

    def iterdata(
        self, buffer_size: int = BUFFER_SIZE, progress: Callable[..., object] | None = None
    ) -> Iterator[bytes]:
        """Iterate over the data.

        Parameters
        ----------
        buffer_size : int > 0, in bytes
            The most that is read at once.
        progress : callable, optional
            Called as ``progress(step=n)`` after each read, with the number of bytes so far.
        """
        check_buffer_size(buffer_size)
        return self._iterdata(buffer_size, progress)

    def _iterdata(
        self, buffer_size: int, progress: Callable[..., object] | None
    ) -> Iterator[bytes]:
        with self.data as stream:
            yield from buffer_iterator(stream, buffer_size, progress)

    def __enter__(self) -> BinaryIO:
        stream = self.data
        # Several threads may have entered the same value.
        self.__dict__.setdefault("_entered", {}).setdefault(get_ident(), []).append(stream)
        return stream

    def __exit__(self, *exc_info: object) -> None:
        entered = self.__dict__["_entered"]
        streams = entered[get_ident()]
        stream = streams.pop()
        if not streams:
            del entered[get_ident()]
        stream.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {'unknown size' if self.size is None else f'{self.size} bytes'}>"

    # The deprecated face of a 2-tuple.

    def __len__(self) -> int:
        _warn_tuple()
        return 2

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, position: int) -> Any:
        _warn_tuple()
        if position in (0, -2):
            return self.data
        if position in (1, -1):
            return self.metadata
        raise IndexError("a value has two parts: data, metadata")

    def __iter__(self) -> Iterator[Any]:
        _warn_tuple()
        return iter((self.data, self.metadata))


def _warn_tuple() -> None:
    import warnings

    warnings.warn(
        "a Value is no tuple any more: use value.data and value.metadata",
        DeprecationWarning,
        stacklevel=3,
    )


class SourceValue(Value):
    """A value whose bytes stay in a source that is opened already and can be read at any position."""

    def __init__(
        self,
        source: Source,
        metadata: Mapping[str, Any],
        created: float | None,
        modified: float | None,
        etag: str | None,
    ) -> None:
        self._source = source
        self._metadata = metadata
        self.size = source.size
        self.created = created
        self.modified = modified
        self.etag = etag

    @property
    def data(self) -> BinaryIO:
        return source_stream(self._source)

    @property
    def metadata(self) -> dict[str, Any]:
        return copy_of(self._metadata)

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return source_stream(self._source, start, end)


def check_value(value: Any) -> tuple[Readable, dict[str, Any]]:
    """Return a stream and metadata; TypeError where this is no tuple of those."""
    if isinstance(value, tuple) and len(value) == 2:
        check_readable(value[0])
        return value
    raise TypeError(
        "a value is a Value or a tuple (binary stream, metadata dict), "
        f"not {shown(value)}; for bytes there is from_bytes()"
    )
