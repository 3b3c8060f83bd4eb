"""A FileSystemStore for the processes of all computers that share a directory, with a log of all changes.

Who writes has the lock of the store (file_lock.py) while a change is committed, or for as long as a
transaction lasts; data are streamed before. How the log can be relied on is said in _change_log.py.
"""

from __future__ import annotations

from ._changes import has_listeners
from ._pair_store import MAGIC
from .errors import StoreError, from_os_error
from .filesystem_store import FileSystemStore, _State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from datetime import datetime, timedelta
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from ._change_lines import Line
    from ._change_log import ChangeLog
    from ._change_reader import LogReader
    from ._pair_directory import PairDirectory
    from ._poller import Poller
    from ._shared_directory import SharedWriterLock

__all__ = ["LockingFileSystemStore"]

_ABSENT: Any = object()

_TIME = "%Y-%m-%d %H:%M:%S.%f"


class _LockingState(_State):
    #: How many changes of the unit of work are in the log, and how many are to be there with the next commit.
    logged = to_log = 0
    #: What that commit makes, and what was made before in this unit of work: keys and records.
    batch: dict[str, Any] = {}
    made: dict[str, Any] = {}


class LockingFileSystemStore(FileSystemStore):
    """A FileSystemStore for any number of computers, with a log of changes and events for those of others.

    Parameters
    ----------
    path, magic_fname, event_manager, durability
        As of :class:`~encore.storage.filesystem_store.FileSystemStore`, which raises the same errors.
    force_lock_timeout : float
        Seconds after which a writer on another computer is taken for dead that gives no sign of
        life. One on this computer is known to live or to have died.
    remote_event_poll_interval : float
        Seconds between two looks at the log for changes made by others; 0 never looks.
    max_time_delta : timedelta, optional
        How far the clocks of the computers may differ: get_modified_keys() begins this much
        earlier. One minute, if it is left out.

    Notes
    -----
    The file system needs atomic rename and hard links, as NFS has them.

    From connect() to disconnect() each change by another handle, in this process or in another one, is told by
    exactly one event: a StoreSetEvent, StoreUpdateEvent or StoreDeleteEvent as that handle had it, with `remote` True.
    """

    _transient = FileSystemStore._transient | {
        "_handle",
        "_told",
        "_log",
        "_reader",
        "_poller",
        "_is_orphan",
        "_open_number",
    }
    _state: _LockingState

    def __init__(
        self,
        path: str | os.PathLike[str],
        force_lock_timeout: float = 10.0,
        magic_fname: str = MAGIC,
        remote_event_poll_interval: float = 5.0,
        max_time_delta: timedelta | None = None,
        *,
        event_manager: BaseEventManager | None = None,
        durability: str = "power",
    ) -> None:
        from datetime import timedelta

        from .base_store import no_positional_manager

        no_positional_manager(force_lock_timeout)
        self.force_lock_timeout = _seconds("force_lock_timeout", force_lock_timeout)
        self.remote_event_poll_interval = _seconds(
            "remote_event_poll_interval", remote_event_poll_interval
        )
        if max_time_delta is not None and not isinstance(max_time_delta, timedelta):
            raise TypeError(f"max_time_delta is a timedelta, not {max_time_delta!r:.80}")
        self.max_time_delta = timedelta(minutes=1) if max_time_delta is None else max_time_delta
        super().__init__(path, magic_fname, event_manager=event_manager, durability=durability)

    def _prepare(self) -> None:
        super()._prepare()
        self._state = _LockingState()
        self._handle = _new_handle()
        #: Of the handles that this was before a fork: the number of their last change then.
        self._told: dict[str, int] = {}
        self._log: ChangeLog | None = None
        self._reader: LogReader | None = None
        self._poller: Poller | None = None
        #: Whether the thread was left behind by a fork.
        self._is_orphan = False
        self._open_number = 0

    def _forked(self) -> None:
        super()._forked()
        self._state = _LockingState()
        # What the parent does from now on is done by somebody else.
        if self._log is not None:
            self._told[self._handle] = self._log.last_number
        self._handle = _new_handle()
        if self._poller is not None:
            # No thread can be started yet. _check_connected() does it, which is called by whatever
            # finds the store not connected.
            self._poller = None
            self._is_orphan = True
            self._connected = False
        if self._log is not None:
            self._log.close()

    # Life cycle

    def is_connected(self) -> bool:
        return self._connected or self._is_orphan

    def connect(self, credentials: Any = None) -> None:
        self._adopt()
        super().connect(credentials)

    def disconnect(self) -> None:
        self._adopt()
        super().disconnect()

    def _check_connected(self) -> None:
        if self._is_orphan:
            self._adopt()
        super()._check_connected()

    def _adopt(self) -> None:
        """Go on in the child of a fork."""
        with self._life_cycle:
            if self._is_orphan:
                self._is_orphan = False
                self._connected = True
                self._start_polling()

    def _open(self, credentials: Any) -> None:
        from ._change_log import ChangeLog
        from ._change_reader import LogReader

        super()._open(credentials)
        self._log = ChangeLog(self.path, self._durability == "power")
        self._log.create()
        try:
            self._reader = LogReader(self.path)
        except OSError as error:
            self._close()
            raise from_os_error(error) from error
        self._start_polling()

    def _close(self) -> None:
        self._reader = None
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.end()
        super()._close()

    def _start_polling(self) -> None:
        from ._poller import Poller

        if self.remote_event_poll_interval:
            self._poller = Poller(self, "_poll", self.remote_event_poll_interval)

    def _make_directory(self) -> PairDirectory:
        from ._pair_directory import PairDirectory
        from ._pair_reader import FOLDER
        from ._shared_directory import SharedSession, SharedWriterLock

        folder = f"{self.path}/{FOLDER}"
        return PairDirectory(
            self.path,
            self._durability == "power",
            SharedWriterLock(f"{folder}/lock", self.force_lock_timeout),
            SharedSession(folder),
        )

    # Writing

    def _commit(self) -> None:
        state = self._state
        state.logged, state.made = 0, {}
        super()._commit()

    def _apply(self, overlay: dict[str, Any]) -> None:
        # A signal handler, or a finalizer, may have added to the unit of work since `overlay` was copied,
        # or be about to. What is made must be what is logged, at any moment: so its changes are
        # counted, and then nothing may have come to the records.
        state = self._state
        unit, records, made = state.unit, state.overlay, state.made
        assert unit is not None
        assert records is not None
        while True:
            state.to_log = len(unit.changes)
            known = {**made, **overlay}
            missing = [
                (key, record)
                for key, record in records.copy().items()
                if record is not known.get(key, _ABSENT)
            ]
            if not missing:
                break
            overlay.update(missing)
        state.batch = overlay.copy()
        super()._apply(overlay)
        made.update(overlay)
        self._seen = ("", None)
        # What is added and deleted again from now on is to be told too: our caller finds that it is new.
        for key in [key for key, record in overlay.items() if record is None]:
            del overlay[key]

    def _before_commit(self, changes: list[tuple[str, str]]) -> None:
        pairs, log, state = self._locked, self._log, self._state
        assert pairs is not None
        assert log is not None
        assert state.unit is not None
        lock: SharedWriterLock = pairs.writer_lock  # type: ignore[assignment]
        lock.check()
        told = state.unit.changes[state.logged : state.to_log]
        state.logged = state.to_log
        if not told:
            return
        log.begin(
            [
                (
                    each.kind.action,
                    each.key,
                    each.metadata,
                    _microseconds(state.batch.get(each.key)),
                )
                for each in told
            ],
            self._handle,
            self._clock(),
            self._was_made,
            pairs._temporary,
        )

    def _after_commit(self, changes: list[tuple[str, str]]) -> None:
        assert self._log is not None
        if not self._log.has_begun:
            return
        try:
            self._log.end(self._clock())
        except OSError:
            # Whoever writes next finds out that it was made.
            pass

    def _change(self, pairs: PairDirectory, overlay: dict[str, Any], digests: list[str]) -> None:
        state = self._state
        try:
            super()._change(pairs, overlay, digests)
            if state.logged < state.to_log:
                # What was set was deleted again: nothing is to be committed, but it is to be told.
                self._before_commit([])
                self._after_commit([])
        except BaseException:
            # It may have been made all the same, if this is an interrupt.
            if self._log is not None and self._log.has_begun:
                self._settle_log()
            raise

    def _settle_log(self) -> None:
        """Have the log say what came of changes; for who has the lock."""
        assert self._log is not None
        try:
            self._log.settle(self._clock(), self._was_made)
        except (OSError, StoreError):
            # The next writer does.
            pass

    def _was_made(self, lines: list[Line]) -> bool:
        for line in lines:
            modified = line.payload.get("modified")
            if modified is not None:
                pair = self._directory.look(self._name(line.key))
                return pair is not None and round(pair.modified * 1e6) == modified
        # All of them end with a delete; some may have been set before in the same transaction.
        if any(line.action != "delete" for line in {line.key: line for line in lines}.values()):
            # Its end was not written.
            return False
        return not any(self._directory.holds(self._name(line.key)) for line in lines)

    # Changes of others

    def _poll(self) -> None:
        """Tell what others have changed since the last time."""
        reader = self._reader
        if reader is None:
            return
        try:
            lines = reader.read()
            if reader.open and reader.open[0].number == self._open_number:
                # Whoever began it may have died.
                self._try_to_settle()
                lines += reader.read()
            self._open_number = reader.open[0].number if reader.open else 0
        except OSError:
            # The file server does not answer, say. The next look finds it all.
            return
        for line in lines:
            if self._reader is not reader:
                return
            by = str(line.payload.get("by"))
            if by != self._handle and line.number > self._told.get(by, 0):
                try:
                    self._tell_line(line)
                except BaseException:
                    # The others are to be told too, even if a listener calls sys.exit().
                    import logging

                    logging.getLogger(__name__).exception("%r could not tell %r", self, line.key)

    def _tell_line(self, line: Line) -> None:
        from .events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent

        if line.action in ("d", "delete"):
            kind: type = StoreDeleteEvent
        else:
            kind = StoreSetEvent if line.action == "set" else StoreUpdateEvent
        manager = self.event_manager
        if has_listeners(manager, kind):
            metadata = self._metadata_now(line.key) if line.is_old else line.payload["metadata"]
            manager.emit(kind(self, key=line.key, metadata=metadata, remote=True))

    def _metadata_now(self, key: str) -> dict[str, Any]:
        # EnCore 0.8 does not write them down.
        try:
            return self.get_metadata(key)
        except (KeyError, ValueError, StoreError):
            return {}

    def _try_to_settle(self) -> None:
        """As _settle_log(), if nobody is writing."""
        if self._state.unit is not None or not self._mutex.acquire(blocking=False):
            return
        try:
            pairs = self._directory
            try:
                pairs.lock(0.0)
                self._settle_log()
            except (OSError, StoreError):
                # Somebody has it. Or others may write here, and we may not.
                pass
            finally:
                pairs.unlock()
        finally:
            self._mutex.release()

    def get_modified_keys(self, since: datetime | str) -> list[str]:
        """Return the keys that were changed from a time on, in the order of the changes.

        Parameters
        ----------
        since : datetime or str
            The changes begin `max_time_delta` before that. A str is like ``'2026-03-01 12:00:00.000000'``.
            Without a time zone it is UTC.

        Returns
        -------
        list of str
            A key is there as often as it was changed; one that was deleted is there too.
        """
        limit = self._limit(since)
        self._check_connected()
        from ._change_reader import changes_since

        try:
            lines, is_open = changes_since(self.path, limit)
            if is_open:
                self._try_to_settle()
                lines, _ = changes_since(self.path, limit)
        except OSError as error:
            raise from_os_error(error) from error
        return [line.key for line in lines]

    def _limit(self, since: datetime | str) -> str:
        from datetime import datetime, timezone

        if isinstance(since, str):
            since = datetime.strptime(since, _TIME)
        elif not isinstance(since, datetime):
            raise TypeError(f"since is a datetime or a str, not {type(since).__name__}: {since!r}")
        if since.tzinfo is not None:
            since = since.astimezone(timezone.utc).replace(tzinfo=None)
        try:
            return (since - self.max_time_delta).isoformat(" ", "microseconds")
        except OverflowError:
            return ""


def _seconds(name: str, value: float) -> float:
    import math

    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {type(value).__name__}: {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} is not negative: {value!r}")
    return value


def _microseconds(draft: Any) -> int | None:
    return None if draft is None else max(0, round(draft.modified * 1e6))


def _new_handle() -> str:
    import os

    return os.urandom(8).hex()
