"""What becomes of one key when a store is copied: fetched, compared, written."""

from __future__ import annotations

from io import BufferedReader, BytesIO
from itertools import filterfalse

from ..events.progress_events import Cancelled, check_cancel, is_cancelled
from ._metadata import equal
from ._nesting import lies_within, renamed, shared
from ._places import is_same_place, place_of
from ._streams import BUFFER_SIZE, BufferIteratorIO
from ._wrapped_value import WrappedValue
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import PreconditionError, StoreError
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from ..events.progress_events import Cancel

__all__ = ["Transfer"]

_POLICIES = ("error", "skip", "overwrite", "newer")


class Transfer:
    """From one store to another, key by key; any thread may do one."""

    progress: Callable[..., object] | None = None

    def __init__(
        self,
        source: AbstractReadOnlyStore,
        target: AbstractStore,
        on_conflict: str,
        workers: int,
        cancel: Cancel | None,
        dry_run: bool = False,
    ) -> None:
        if source is target:
            raise ValueError(f"a store cannot be copied to itself: {source!r}")
        if not isinstance(source, AbstractReadOnlyStore):
            raise TypeError(f"the source is no store: {source!r:.80}")
        if not isinstance(target, AbstractStore):
            raise TypeError(f"the target is no store that can be written: {target!r:.80}")
        if on_conflict not in _POLICIES:
            raise ValueError(f"on_conflict is one of {', '.join(_POLICIES)}, not {on_conflict!r}")
        if not isinstance(workers, int) or isinstance(workers, bool):
            raise TypeError(f"workers is an int, not {workers!r:.80}")
        if workers < 1:
            raise ValueError(f"there is at least one worker, not {workers}")
        if place_of(source) == place_of(target):
            raise ValueError(f"{source!r} cannot be copied to {target!r}, which is the same place")
        check_cancel(cancel)
        self.source = source
        self.target = target
        self.on_conflict = on_conflict
        self.workers = workers
        self.cancel = cancel
        self.dry_run = dry_run
        info = target.info()
        self.conditional = info.get("conditional", False)
        # A thread of its own would not see what the caller's transaction has done.
        self.reads_apart = workers > 1 and not source.info().get("transactional", False)
        self.writes_apart = workers > 1 and not info.get("transactional", False)
        self.broken_off = False
        # Where one of them lies in the other, or both in a third.
        names_in_source = shared(target, source, is_same_place)
        within = [lies_within(renames) for renames in names_in_source]
        self.shared = [
            r for r, is_within in zip(names_in_source, within, strict=True) if not is_within
        ]
        # What of the source is the target itself, by the names that its keys have there.
        names_in_target = shared(source, target, is_same_place) if any(within) else []
        back = [r for r in names_in_target if not lies_within(r)]
        self.targets_own = back if any(within) else []
        # Bytes of all keys that are done with, and of those in hand.
        self.done = 0
        self.bytes: dict[str, int] = {}
        self.shown = -1

    def names_in_source(self, key: str) -> set[str]:
        """Return the key of the target, and what else the same value is called in the source."""
        names = (renamed(key, renames) for renames in self.shared)
        found = {key}.union(name for name in names if name is not None)
        return set(filterfalse(self.is_targets_own, found))

    def is_targets_own(self, key: str) -> bool:
        """Whether a key of the source is one of the target, which lies in the source: copied there,
        it would be one more key of the source, and so on."""
        return any(renamed(key, renames) is not None for renames in self.targets_own)

    def show(self) -> None:
        """Tell how far it is."""
        if self.progress is not None:
            done = self.done + sum(list(self.bytes.values()))
            if done != self.shown:
                self.shown = done
                self.progress(step=done)

    def break_off(self) -> None:
        """Raise Cancelled if that is wanted."""
        if self.broken_off or (self.cancel is not None and is_cancelled(self.cancel)):
            self.broken_off = True
            raise Cancelled("Copying: cancelled")

    def fetch_or_read(self, key: str) -> Callable[[], Any]:
        """Return what fetches a key in another thread, with its data if they will be needed."""
        try:
            new = not self.target.exists(key)
        except Exception:  # it is told of when its turn comes
            new = False
        return lambda: self.fetch(key, read=new)

    def fetch(self, key: str, *, read: bool = False) -> Value | Exception | None:
        """Return the value of a key, small data in memory if they are to be read, or why not; None if it is gone."""
        try:
            value = self.source.get(key)
            if read and value.size is not None and value.size <= BUFFER_SIZE:
                return _Read(value)
            return value
        except Exception as error:
            return None if self.is_gone(key) else error

    def store(self, key: str, value: Value | Exception | None) -> bool | Exception | None:
        """Copy one key; return whether anything was written, or what went wrong; None if it is gone."""
        if not isinstance(value, Value):
            return value
        try:
            written = self.transfer(key, value)
        except Cancelled:
            raise
        except Exception as error:
            # Of what has failed, only the part that was read counts as done.
            return None if self.is_gone(key) else error
        try:
            self.advance(key, value.size or 0)
        except Exception:  # the key is done, whatever its size
            pass
        return written

    def is_gone(self, key: str) -> bool:
        try:
            return not self.source.exists(key)
        except Exception:
            return False

    def watch(self, key: str) -> Callable[[int], None]:
        """Return what is called while data are read."""

        def step(step: int) -> None:
            self.advance(key, step)
            if not self.writes_apart:
                self.break_off()
                self.show()
            elif self.broken_off:
                raise Cancelled("Copying: cancelled")

        return step

    def advance(self, key: str, step: int) -> None:
        # What was compared first and is written now comes by twice.
        self.bytes[key] = max(self.bytes.get(key, 0), step)

    def transfer(self, key: str, value: Value) -> bool:
        """Do what there is to do for a key; return whether anything was written."""
        target = self.target
        if self.on_conflict == "skip":
            return not target.exists(key) and self.create(key, value)
        try:
            there = target.get(key)
        except KeyError:
            return self.create(key, value)
        if self.on_conflict == "newer" and not is_newer(key, value, there):
            return False
        if not self.is_same_data(key, value, there):
            if self.on_conflict == "error":
                raise StoreError(f"{key!r} is there with other data", key=key)
            # What is newer is not overwritten either if it came after the look.
            seen = {"if_match": there.etag} if self.on_conflict == "newer" else {}
            self.write(key, value, seen)
            return True
        metadata = value.metadata
        if equal(metadata, there.metadata):
            return False
        if not self.dry_run:
            target.set_metadata(key, metadata, **self.condition({"if_match": there.etag}))
        return True

    def create(self, key: str, value: Value) -> bool:
        """Write a key that was not there a moment ago; return whether that was so still."""
        try:
            only_new = {} if self.on_conflict == "overwrite" else {"if_none_match": "*"}
            self.write(key, value, only_new)
        except PreconditionError:
            # Somebody else was faster.
            if self.on_conflict == "skip":
                return False
            raise
        return True

    def write(self, key: str, value: Value, condition: dict[str, Any]) -> None:
        if self.dry_run:
            return
        if value.size is None or value.size > BUFFER_SIZE:
            value = _Watched(value, self.watch(key))
        self.target.set(key, value, BUFFER_SIZE, **self.condition(condition))

    def condition(self, condition: dict[str, Any]) -> dict[str, Any]:
        return condition if self.conditional else {}

    def is_same_data(self, key: str, value: Value, there: Value) -> bool:
        if value.size is not None and there.size is not None and value.size != there.size:
            return False
        watch = self.watch(key)
        return _digest(value, watch) == _digest(there, lambda step: watch(0))


def is_newer(key: str, value: Value, there: Value) -> bool:
    """Whether a value was modified later than another one."""
    if value.modified is None or there.modified is None:
        raise StoreError(f"it is not known when {key!r} was modified", key=key)
    return value.modified > there.modified


def _digest(value: Value, progress: Callable[..., object]) -> bytes:
    from hashlib import sha256

    digest = sha256()
    for buffer in value.iterdata(BUFFER_SIZE, progress):
        digest.update(buffer)
    return digest.digest()


class _Watched(WrappedValue):
    """A value that tells how much of it has been read."""

    def __init__(self, value: Value, progress: Callable[..., object]) -> None:
        super().__init__(value)
        self._progress = progress

    @property
    def data(self) -> BinaryIO:
        # Buffered, so that read() is all of it, as stores written for 0.8 may read.
        return BufferedReader(BufferIteratorIO(self._value.iterdata(BUFFER_SIZE, self._progress)))


class _Read(WrappedValue):
    """A value whose data have been read."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        with value.data as stream:
            self._bytes = stream.read()
        if len(self._bytes) != self.size:
            raise StoreError(f"{len(self._bytes)} bytes of data instead of {self.size}")

    @property
    def data(self) -> BinaryIO:
        return BytesIO(self._bytes)
