"""From one store to another."""

from __future__ import annotations

from ..events.progress_events import Cancelled, check_cancel, is_cancelled
from ._changes import has_listeners
from ._metadata import equal
from ._progress import StoreProgressManager
from ._streams import BUFFER_SIZE, BufferIteratorIO
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import PreconditionError, StoreError
from .events import StoreProgressEndEvent, StoreProgressStartEvent, StoreProgressStepEvent
from .value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from ..events.progress_events import Cancel

__all__ = ["CopyReport", "copy_store"]

_POLICIES = ("error", "skip", "overwrite")

# So much is committed at once: a commit that is flushed to disk takes about a millisecond, more
# than most values. Not more, because other writers wait for it, and because this is what a copy
# that is killed has to do again.
_BATCH_KEYS = 200
_BATCH_BYTES = 16 * BUFFER_SIZE


class CopyReport:
    """What became of each key.

    Attributes
    ----------
    copied : list of str
        Keys that the target did not have like this.
    skipped : list of str
        Keys that were left as they are.
    failed : dict of str to Exception
        Keys that could not be copied, and why.
    """

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.skipped: list[str] = []
        self.failed: dict[str, Exception] = {}

    def __str__(self) -> str:
        return f"{len(self.copied)} copied, {len(self.skipped)} skipped, {len(self.failed)} failed"

    def __repr__(self) -> str:
        return f"<CopyReport: {self}>"


def copy_store(
    source: AbstractReadOnlyStore,
    target: AbstractStore,
    *,
    match: str | Callable[[str], object] | None = None,
    on_conflict: str = "error",
    event_manager: BaseEventManager | None = None,
    cancel: Cancel | None = None,
) -> CopyReport:
    """Copy data and metadata of all keys, or of some, from one store to another.

    A key whose data the target has already (same etag, or same size and SHA-256) is not written
    again; where only its metadata differ they are set. So a copy that was interrupted is completed
    by the same call.

    Keys are written in transactions of limited size where the target has them. What goes wrong with
    one key is noted in the report and stops no other; what makes a transaction as a whole fail is
    noted for each of its keys. A key that disappears from the source meanwhile is none of these.

    Parameters
    ----------
    source, target : store
        Two different ones, connected.
    match : str or callable, optional
        A pattern as for glob(), or a function that says of a key whether to copy it.
    on_conflict : {'error', 'skip', 'overwrite'}
        What to do about a key that the target has with other data: note it as failed and leave it;
        leave whatever is there, without a look at it, for all keys that the target has; write it.
    event_manager : BaseEventManager, optional
        Where to tell of the progress; by default the target's.
    cancel : object with `cancelled`, optional
        Asked, by an attribute or a method `cancelled`, before each key and in the middle of long
        ones, whether to break off. The target keeps the keys that are complete.

    Returns
    -------
    CopyReport

    Raises
    ------
    Cancelled
        If that is what `cancel` says; its `report` is the CopyReport until then, if anything had
        been done.

    Events
    ------
    StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent for the whole, in bytes,
    with an empty `key`; the events of the target for each key
    """
    if source is target:
        raise ValueError(f"a store cannot be copied to itself: {source!r}")
    if not isinstance(source, AbstractReadOnlyStore):
        raise TypeError(f"the source is no store: {source!r:.80}")
    if not isinstance(target, AbstractStore):
        raise TypeError(f"the target is no store that can be written: {target!r:.80}")
    if on_conflict not in _POLICIES:
        raise ValueError(f"on_conflict is one of {', '.join(_POLICIES)}, not {on_conflict!r}")
    check_cancel(cancel)
    if match is None:
        found = source.query_keys()
    elif callable(match):
        found = (key for key in source.query_keys() if match(key))
    else:
        found = source.glob(match)
    keys = sorted(_unless(cancel, found))
    manager = target.event_manager if event_manager is None else event_manager
    copier = _Copier(source, target, on_conflict, cancel)
    if not any(
        has_listeners(manager, kind)
        for kind in (StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent)
    ):
        copier.copy(keys)
        return copier.report
    with StoreProgressManager(
        manager,
        source=target,
        message="Copying",
        steps=_total(source, _unless(cancel, keys)),
        key="",
        metadata={},
        unit="B",
    ) as progress:
        copier.progress = progress
        try:
            copier.copy(keys)
        except KeyboardInterrupt:
            # It has no text of its own.
            progress.end("interrupted", "exception")
            raise
        if copier.report.failed:
            progress.end(f"{len(copier.report.failed)} of {len(keys)} keys failed", "warning")
    return copier.report


def _unless(cancel: Cancel | None, keys: Iterable[str]) -> Iterator[str]:
    """Iterate until that is cancelled."""
    for key in keys:
        if cancel is not None and is_cancelled(cancel):
            raise Cancelled("Copying: cancelled")
        yield key


def _total(source: AbstractReadOnlyStore, keys: Iterable[str]) -> int:
    total = 0
    for key in keys:
        try:
            size = source.get(key).size
        except Exception:  # it is told of when its turn comes
            continue
        if size is None:
            return -1
        total += size
    return total


class _Copier:
    """One run of copy_store()."""

    progress: Callable[..., object] | None = None

    def __init__(
        self,
        source: AbstractReadOnlyStore,
        target: AbstractStore,
        on_conflict: str,
        cancel: Cancel | None,
    ) -> None:
        self.source = source
        self.target = target
        self.on_conflict = on_conflict
        self.cancel = cancel
        self.report = CopyReport()
        self.conditional = target.info().get("conditional", False)
        # Bytes of all keys that are done with, and of the one in hand.
        self.done = 0
        self.current = 0

    def copy(self, keys: list[str]) -> None:
        rest = iter(keys)
        more = bool(keys)
        while more:
            more = self.batch(rest)

    def batch(self, keys: Iterator[str]) -> bool:
        """Copy the next few keys in one transaction; return whether there may be more."""
        written: list[str] = []
        begin = self.done
        more = True
        cancelled = None
        try:
            with self.target.transaction("copy_store"):
                for count, key in enumerate(keys, 1):
                    try:
                        if self.one(key):
                            written.append(key)
                    except Cancelled as error:
                        cancelled = error  # what was done before is done
                        break
                    if count >= _BATCH_KEYS or self.done - begin >= _BATCH_BYTES:
                        break
                else:
                    more = False
        except Exception as error:
            # one() lets no exception out: it is the transaction itself that could not begin or end.
            if not written:
                raise
            self.report.failed.update(dict.fromkeys(written, error))
            return True
        self.report.copied += written
        if cancelled is not None:
            cancelled.report = self.report
            raise cancelled
        return more

    def one(self, key: str) -> bool:
        """Copy one key; return whether anything was written."""
        size = None
        written = False
        self.break_off()
        try:
            value = self.source.get(key)
            size = value.size
            written = self.transfer(key, value)
            if not written:
                self.report.skipped.append(key)
        except Cancelled:
            raise
        except Exception as error:
            if not self.is_gone(key):
                self.report.failed[key] = error
        self.advance(self.current if size is None else size)
        self.done += self.current
        self.current = 0
        return written

    def is_gone(self, key: str) -> bool:
        try:
            return not self.source.exists(key)
        except Exception:
            return False

    def break_off(self) -> None:
        """Raise Cancelled if that is wanted."""
        if self.cancel is not None and is_cancelled(self.cancel):
            raise Cancelled("Copying: cancelled")

    def watch(self, step: int) -> None:
        """What is called while data are read."""
        self.break_off()
        self.advance(step)

    def advance(self, step: int) -> None:
        # What was compared first and is written now comes by twice.
        self.current = max(self.current, step)
        if self.progress is not None:
            self.progress(step=self.done + self.current)

    def transfer(self, key: str, value: Value) -> bool:
        """Do what there is to do for a key; return whether anything was written."""
        target = self.target
        if self.on_conflict == "skip":
            return not target.exists(key) and self.create(key, value)
        try:
            there = target.get(key)
        except KeyError:
            return self.create(key, value)
        if value.etag is not None and value.etag == there.etag:
            return False
        if not self.is_same_data(value, there):
            if self.on_conflict != "overwrite":
                raise StoreError(f"{key!r} is there with other data", key=key)
            self.write(key, value, {})
            return True
        metadata = value.metadata
        if equal(metadata, there.metadata):
            return False
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
        if value.size is None or value.size > BUFFER_SIZE:
            value = _Watched(value, self.watch)
        self.target.set(key, value, BUFFER_SIZE, **self.condition(condition))

    def condition(self, condition: dict[str, Any]) -> dict[str, Any]:
        return condition if self.conditional else {}

    def is_same_data(self, value: Value, there: Value) -> bool:
        if value.size is not None and there.size is not None and value.size != there.size:
            return False
        return _digest(value, self.watch) == _digest(there, lambda step: self.break_off())


def _digest(value: Value, progress: Callable[..., object] | None) -> bytes:
    from hashlib import sha256

    digest = sha256()
    for buffer in value.iterdata(BUFFER_SIZE, progress):
        digest.update(buffer)
    return digest.digest()


class _Watched(Value):
    """A value that tells how much of it has been read."""

    def __init__(self, value: Value, progress: Callable[..., object]) -> None:
        self._value = value
        self._progress = progress
        self.size = value.size
        self.created = value.created
        self.modified = value.modified
        self.etag = value.etag

    @property
    def data(self) -> BinaryIO:
        stream: Any = BufferIteratorIO(self._value.iterdata(BUFFER_SIZE, self._progress))
        return stream  # type: ignore[no-any-return]

    @property
    def metadata(self) -> dict[str, Any]:
        return self._value.metadata
