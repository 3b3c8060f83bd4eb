"""Values that are verified when their data are read to their end."""

from __future__ import annotations

import io

from ._digests import RESERVED, digests_of, new_hash, outer_of
from ._streams import read_into
from ._wrapped_value import WrappedValue
from .errors import IntegrityError
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    Metadata = dict[str, Any]

# Enough for small reads to be fast; larger ones go straight through.
_READ_AHEAD = 65536


class _Verifier:
    """Compares data, as they come, with the digests of all of them."""

    def __init__(self, key: str, digests: Metadata, size: int | None) -> None:
        self._key = key
        self._digests = digests
        self._size = size
        self._hashes = [
            (name[len(RESERVED) :], new_hash(name[len(RESERVED) :]), expected)
            for name, expected in digests.items()
        ]
        self.hashed = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next data; IntegrityError if they are the last and are not well."""
        for _, hash, _ in self._hashes:
            hash.update(data)
        self.hashed += len(data)
        if self.hashed == self._size:
            self.finish()

    def finish(self) -> None:
        """These were all."""
        for algorithm, hash, expected in self._hashes:
            found = hash.hexdigest()
            if found != expected:
                raise IntegrityError(
                    f"the data of {self._key!r} are damaged: "
                    f"their {algorithm} is {found}, not {expected!s:.128}",
                    key=self._key,
                )

    def again(self) -> _Verifier:
        """Return a new one for the same data."""
        return _Verifier(self._key, self._digests, self._size)


class _Reader(io.RawIOBase):
    """A stream that is verified if it is read from its beginning to its end, in whatever steps."""

    def __init__(self, stream: Any, verifier: _Verifier) -> None:
        super().__init__()
        self._stream = stream
        self._verifier = verifier
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        seekable = getattr(self._stream, "seekable", None)
        return seekable is not None and bool(seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        position: int = self._stream.seek(offset, whence)
        self._position = position
        if position == 0:
            self._verifier = self._verifier.again()
        return position

    def tell(self) -> int:
        return self._position

    def _passed(self, data: bytes | memoryview, want: int) -> None:
        verifier = self._verifier
        begin = self._position
        self._position += len(data)
        if begin <= verifier.hashed < self._position:
            verifier.update(data[verifier.hashed - begin :])
        elif not data and want and begin == verifier.hashed:
            verifier.finish()

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        count = read_into(self._stream, target)
        self._passed(target[:count], len(target))
        return count

    def readall(self) -> bytes:
        data: bytes = self._stream.read()
        self._passed(data, 1)
        if data:
            # The size need not have been known.
            self._passed(b"", 1)
        return data

    def close(self) -> None:
        try:
            if not self.closed:
                self._stream.close()
        finally:
            super().close()


class CheckedValue(WrappedValue):
    """A value that is verified when its data are read to their end."""

    def __init__(self, key: str, value: Value) -> None:
        super().__init__(value)
        self._key = key

    @property
    def metadata(self) -> Metadata:
        return outer_of(self._value.metadata)

    @property
    def digests(self) -> Metadata:
        """The reserved names, and the digests that they have."""
        return digests_of(self._value.metadata)

    def with_digests(self) -> Value:
        """Return the value as it is in the inner store, which is verified as well."""
        return _WithDigests(self)

    @property
    def data(self) -> BinaryIO:
        stream = self._value.data
        try:
            digests = self.digests
            if not digests:
                return stream
            # In this order: a value may learn its size when it is opened.
            verifier = _Verifier(self._key, digests, self._value.size)
            return io.BufferedReader(_Reader(stream, verifier), _READ_AHEAD)
        except BaseException:
            stream.close()
            raise

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._value.range(start, end)

    def _iterdata(
        self, buffer_size: int, progress: Callable[..., object] | None
    ) -> Iterator[bytes]:
        digests = self.digests
        if not digests:
            return self._value.iterdata(buffer_size, progress)
        return self._verified(self._value.iterdata(buffer_size, progress), digests)

    def _verified(self, buffers: Iterator[bytes], digests: Metadata) -> Iterator[bytes]:
        verifier = _Verifier(self._key, digests, self._value.size)
        for buffer in buffers:
            verifier.update(buffer)
            yield buffer
        verifier.finish()


class _WithDigests(Value):
    """A value that comes from a CheckedStore and goes into one."""

    def __init__(self, value: CheckedValue) -> None:
        self._value = value
        self.size = value.size

    @property
    def data(self) -> BinaryIO:
        return self._value.data

    @property
    def metadata(self) -> Metadata:
        return self._value._value.metadata
