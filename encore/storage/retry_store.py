"""A store that tries again what failed for a while only.

An attempt whose answer was lost may have done its work. It is repeated only if that makes no
difference: see RetryStore.
"""

from __future__ import annotations

import io

from ._changes import Change
from ._metadata import check_names
from ._progress import store_progress
from ._retry_value import RetryValue
from ._signatures import without_misplaced
from ._streams import BUFFER_SIZE, as_bytes, check_buffer_size, check_readable
from ._watching_wrapper import in_transaction
from .errors import shown
from .events import StoreDeleteEvent
from .retry_policy import Attempts, RetryPolicy, may_have_happened
from .value import Value, check_value
from .wrapper_store import Changing, WrapperStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, BinaryIO, NoReturn, TypeVar

    from ..events.abstract_event_manager import BaseEventManager
    from ._streams import Readable
    from .abstract_store import AbstractReadOnlyStore
    from .maintenance import Finding

    Metadata = dict[str, Any]
    Path = str | os.PathLike[str]
    T = TypeVar("T")

__all__ = ["RetryStore"]


class RetryStore(WrapperStore):
    """A store that tries again what another one could not do for the moment.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    policy : RetryPolicy, optional
    event_manager : BaseEventManager, optional

    Notes
    -----
    What is tried again, if the error is temporary and the policy allows it:

    - Whatever reads, connect(), and the beginning of a transaction. A stream whose data broke off
      goes on where it was, if the key has the same etag still; to_bytes() and to_file() with a
      path begin anew if it has not, or none. An iterator goes on behind what it has given; query(),
      query_keys() and glob() remember the keys for that.
    - ``set``, ``set_data``, ``set_metadata``, ``update_metadata`` and what calls them, if the data can
      be given again (from a Value, bytes, a path or a stream that can be put back to where it
      stood, or has not been read yet). If the first attempt was done after all, and only its answer
      was lost, the key is told as updated that was new; and what somebody else has written since
      is overwritten.
    - ``delete``. A key that is gone after an attempt that may have been done counts as deleted; the
      event has empty metadata then.
    - With ``if_match`` or ``if_none_match`` only what has certainly not been done: after an error whose
      `happened` is False, or a connection that was refused. The condition might not hold any more
      because of the lost attempt.

    Inside a transaction, be it of this store or of one within, nothing is tried again: waiting would
    keep others out, and a connection that broke has taken the transaction with it. The bulk methods
    are one transaction where there are any; elsewhere they are key by key. A commit is never repeated.

    The error of the last attempt is what is raised; it has the number of `attempts` as an attribute.
    Each wait is logged at level INFO. Each attempt tells progress of its own.
    """

    @without_misplaced
    def __init__(
        self,
        store: AbstractReadOnlyStore,
        policy: RetryPolicy | None = None,
        *,
        event_manager: BaseEventManager | None = None,
        **misplaced: NoReturn,
    ) -> None:
        if misplaced:
            names = ", ".join(misplaced)
            raise TypeError(
                f"RetryStore() takes no {names}; what a RetryPolicy takes is given to that: "
                f"RetryStore(store, RetryPolicy({', '.join(f'{name}=...' for name in misplaced)}))"
            )
        if policy is not None and not isinstance(policy, RetryPolicy):
            raise TypeError(f"a policy is a RetryPolicy, not {shown(policy)}")
        super().__init__(store, event_manager=event_manager)
        self.policy = RetryPolicy() if policy is None else policy

    def _attempts(self) -> Attempts:
        return Attempts(self.policy, self, self._is_outside)

    def _is_outside(self) -> bool:
        """Whether this thread is in no transaction, neither here nor of a store within."""
        return not in_transaction(self)

    def _try(self, attempt: Callable[[], T]) -> T:
        """Return what a function returns that can be called again."""
        run = self._attempts()
        while True:
            try:
                return attempt()
            except Exception as error:
                if not run.again(error):
                    raise

    # Life cycle

    def connect(self, credentials: Any = None) -> None:
        connect = super().connect
        self._try(lambda: connect(credentials))

    # Reading

    def get(self, key: str) -> Value:
        return RetryValue(self, key, self._try(lambda: self.store.get(key)))

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        names = check_names(select)
        return self._try(lambda: self.store.get_metadata(key, names))

    def exists(self, key: str) -> bool:
        return self._try(lambda: self.store.exists(key))

    def to_bytes(self, key: str, buffer_size: int = BUFFER_SIZE) -> bytes:
        check_buffer_size(buffer_size)
        return self._read_whole(key, buffer_size, b"".join)

    def to_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        from ._files import writing

        check_buffer_size(buffer_size)
        writing(path)
        may_repeat = not hasattr(path, "write")

        def write_all(buffers: Iterator[bytes]) -> None:
            with writing(path) as write:
                for buffer in buffers:
                    write(buffer)

        self._read_whole(key, buffer_size, write_all, may_repeat)

    def _read_whole(
        self,
        key: str,
        buffer_size: int,
        consume: Callable[[Iterator[bytes]], T],
        may_repeat: bool = True,
    ) -> T:
        run = self._attempts()
        while True:
            value = RetryValue(self, key, self._try(lambda: self.store.get(key)))
            try:
                with store_progress(self, "Reading", key, value) as progress:
                    return consume(value.iterdata(buffer_size, progress))
            except Exception as error:
                # It goes on by itself where it can, and has been tried often enough.
                if value.gave_up or not run.again(error, may_repeat):
                    raise

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        names = check_names(select)
        query = super().query
        seen: set[str] = set()
        return self._walk(
            lambda: query(names, where=where, **kwargs), lambda item: _is_new(item[0], seen)
        )

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        query_keys = super().query_keys
        seen: set[str] = set()
        return self._walk(lambda: query_keys(where=where, **kwargs), lambda key: _is_new(key, seen))

    def glob(self, pattern: str) -> Iterator[str]:
        seen: set[str] = set()
        return self._walk(lambda: self.store.glob(pattern), lambda key: _is_new(key, seen))

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        last, left = start_after, limit

        def note(key: str) -> bool:
            nonlocal last, left
            last = key
            if left is not None:
                left -= 1
            return True

        return self._walk(lambda: self.store.keys(prefix, last, left), note)

    def _walk(self, begin: Callable[[], Iterator[T]], is_new: Callable[[T], bool]) -> Iterator[T]:
        """Iterate over what is new; `begin` is called again after an error."""
        return self._continued(begin, is_new, self._try(begin))

    def _continued(
        self,
        begin: Callable[[], Iterator[T]],
        is_new: Callable[[T], bool],
        items: Iterator[T] | None,
    ) -> Iterator[T]:
        run = self._attempts()
        while True:
            try:
                if items is None:
                    items = begin()
                item = next(items)
            except StopIteration:
                return
            except Exception as error:
                if not run.again(error):
                    raise
                items = None
                continue
            if is_new(item):
                yield item
                run.begin()

    def check(self) -> list[Finding]:
        return self._try(self.store.check)

    # Writing

    def set(
        self,
        key: str,
        value: Value | tuple[Readable, Metadata],
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        source = None
        if not isinstance(value, Value):
            stream, metadata = check_value(value)
            source = _Source(stream)
            value = source.stream, metadata
        write = super().set
        self._try_to_write(
            lambda: write(key, value, buffer_size, if_match=if_match, if_none_match=if_none_match),
            source,
            if_match is not None or if_none_match is not None,
        )

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        check_readable(data)
        source = _Source(data)
        write = super().set_data
        self._try_to_write(
            lambda: write(
                key, source.stream, buffer_size, if_match=if_match, if_none_match=if_none_match
            ),
            source,
            if_match is not None or if_none_match is not None,
        )

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        write = super().set_metadata
        self._try_to_write(
            lambda: write(key, metadata, if_match=if_match, if_none_match=if_none_match),
            None,
            if_match is not None or if_none_match is not None,
        )

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        write = super().update_metadata
        self._try_to_write(
            lambda: write(key, metadata, if_match=if_match, if_none_match=if_none_match),
            None,
            if_match is not None or if_none_match is not None,
        )

    def from_bytes(self, key: str, data: bytes, buffer_size: int = BUFFER_SIZE) -> None:
        self.set_data(key, io.BytesIO(as_bytes(data, "from_bytes() takes")), buffer_size)

    def from_file(self, key: str, path: Path | BinaryIO, buffer_size: int = BUFFER_SIZE) -> None:
        from ._files import reading

        reading(path)
        if hasattr(path, "read"):
            self.set_data(key, path, buffer_size)  # type: ignore[arg-type]
            return
        write = super().set_data

        def attempt() -> None:
            with reading(path) as stream:
                write(key, stream, buffer_size)

        self._try_to_write(attempt, None, False)

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> None:
        given = self._conditions(if_match, if_none_match)
        lost = told = False

        def attempt() -> None:
            nonlocal lost, told
            changing = _Noting(self, key)
            with changing:
                try:
                    self._write(changing, "delete", key, **given)
                except KeyError:
                    if not lost:
                        raise
                    # An attempt before has deleted it, and could not say so.
                    if not told:
                        changing.add(Change(StoreDeleteEvent, key, {}))
                except Exception as error:
                    lost = lost or may_have_happened(error)
                    told = told or changing.has_changes
                    raise

        self._try_to_write(attempt, None, if_match is not None or if_none_match is not None)

    def _try_to_write(
        self, attempt: Callable[[], None], source: _Source | None, conditional: bool
    ) -> None:
        run = self._attempts()
        while True:
            try:
                attempt()
            except Exception as error:
                if source is not None and source.failure is error:
                    # It is the caller's.
                    raise
                may_repeat = not (conditional and may_have_happened(error)) and (
                    source is None or source.can_rewind()
                )
                if not run.again(error, may_repeat):
                    raise
                if source is not None and not source.rewind():
                    raise
            else:
                return

    # Transactions

    def _enter(self, notes: str) -> None:
        enter = super()._enter
        self._try(lambda: enter(notes))


class _Noting(Changing):
    """Knows whether there has been a change."""

    has_changes = False

    def add(self, change: Change) -> None:
        self.has_changes = True
        super().add(change)


def _is_new(key: str, seen: set[str]) -> bool:
    if key in seen:
        return False
    seen.add(key)
    return True


class _Source:
    """A caller's stream, and how to go back to where it stood."""

    def __init__(self, stream: Readable) -> None:
        self._original: Any = stream
        #: What a store is given.
        self.stream: Readable = stream if type(stream) is io.BytesIO else self
        self._was_read = self.stream is stream
        #: What it has raised.
        self.failure: BaseException | None = None
        self._position: int | None = None
        try:
            if stream.seekable():  # type: ignore[attr-defined]
                self._position = stream.tell()  # type: ignore[attr-defined]
        except Exception:  # it has no such methods, or is closed, which reading will tell
            pass

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            # As stores written for 0.8 may read; the stream itself need not know how.
            return b"".join(iter(lambda: self.read(BUFFER_SIZE), b""))
        self._was_read = True
        try:
            data: bytes = self._original.read(size)
        except BaseException as error:
            self.failure = error
            raise
        return data

    def can_rewind(self) -> bool:
        return self._position is not None or not self._was_read

    def rewind(self) -> bool:
        """Go back, or return False if that cannot be done."""
        if self._position is not None:
            try:
                self._original.seek(self._position)
            except Exception:  # then what went wrong before is to be told
                return False
        return True
