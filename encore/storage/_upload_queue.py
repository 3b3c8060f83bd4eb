"""When the changes of a write-back cache are uploaded, and by whom.

A change is due when it has rested for a while since its key became dirty, whatever is read or
written meanwhile; after a failure, when it has waited longer each time. Threads are there while
something is dirty, and no longer.

Nothing here knows a store.
"""

from __future__ import annotations

from _thread import RLock, allocate_lock, get_ident

from .errors import StoreFullError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterable
    from typing import Any
    from weakref import ReferenceType

# As threading.TIMEOUT_MAX, about; an int of 32 bits on some systems.
_LONGEST = 2.0**31 / 1000


class Pending:
    """A change that is not uploaded yet.

    Attributes
    ----------
    size : int
    serial : int
        Which entry of the key it is; later ones have higher numbers, whatever the clock does.
    due : float
        By the monotonic clock.
    tries, failures : int
        How often an upload has begun; how many have failed since one succeeded.
    error : Exception or None
        What the last one raised.
    is_conflict : bool
        Whether it is not tried any more.
    busy : int or None
        The thread that is at it.
    """

    __slots__ = ("busy", "due", "error", "failures", "is_conflict", "serial", "size", "tries")

    def __init__(self, due: float) -> None:
        self.size = 0
        self.serial = -1
        self.due = due
        self.tries = 0
        self.failures = 0
        self.error: Exception | None = None
        self.is_conflict = False
        self.busy: int | None = None


class UploadQueue:
    """The changes that are not uploaded yet, and the threads that do it.

    Parameters
    ----------
    workers : int >= 0
        At most so many threads.
    rest, retry, max_retry : float, in seconds
    max_bytes : int or None
        The most that all changes may have.
    waits : bool
        Whether writers wait for room.
    monotonic : callable
    """

    def __init__(
        self,
        workers: int,
        rest: float,
        retry: float,
        max_retry: float,
        max_bytes: int | None,
        waits: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self.workers = workers
        self.rest = rest
        self.retry = retry
        self.max_retry = max_retry
        self.max_bytes = max_bytes
        self.waits = waits
        self.monotonic = monotonic
        self.pending: dict[str, Pending] = {}
        self.reset()

    def __repr__(self) -> str:
        return f"<UploadQueue: {len(self.pending)} changes, {self.bytes} bytes>"

    def reset(self) -> None:
        """Forget everything: before connect(), and in the child of a fork."""
        self.lock = RLock()
        # Others know this dict.
        self.pending.clear()
        self.bytes = 0
        self._reserved = 0
        # Due time, number, key; out of date if the change is gone, busy or due at another time.
        self._queue: list[tuple[float, int, str]] = []
        self._serial = 0
        self._owner: ReferenceType[Any] | None = None
        # Thread -> what wakes it.
        self._threads: dict[Any, LockType] = {}
        # What wakes those that wait until something is due: at most one, if nobody has been woken.
        self._sleeping: list[LockType] = []
        self._waiters: list[LockType] = []

    # Threads

    def start(self, owner: Any) -> None:
        """Let threads call ``owner._upload(key)`` from now on."""
        from sys import is_finalizing
        from weakref import ref

        def end(_: object) -> None:
            uploads = this()
            # At the end of the interpreter the threads have ended, perhaps with the lock in their hands.
            if uploads is not None and not is_finalizing():
                uploads._halt()

        this = ref(self)
        with self.lock:
            self._owner = ref(owner, end)
            self._wake()

    def stop(self) -> None:
        """End the threads; wait a moment for one that is in the middle of an upload."""
        threads = self._halt()
        for thread in threads:
            if thread.ident != get_ident():
                thread.join(1.0)

    def _halt(self) -> list[Any]:
        with self.lock:
            self._owner = None
            threads = list(self._threads)
            for wake in self._threads.values():
                _release(wake)
            self._tell()
        return threads

    def is_worker(self) -> bool:
        """Whether the calling thread is one of those that upload."""
        ident = get_ident()
        return any(thread.ident == ident for thread in list(self._threads))

    def _wake(self) -> None:
        """See to it that somebody knows what is due, who is not busy, if there may be so many."""
        if self._owner is None or not self.workers or not self._queue:
            return
        if self._sleeping:
            for wake in self._sleeping:
                _release(wake)
        elif len(self._threads) < self.workers:
            self._add_thread()

    def _add_thread(self) -> None:
        import threading

        wake = allocate_lock()
        wake.acquire()
        thread = threading.Thread(
            target=_run, args=(self, self._owner, wake), name="encore-upload", daemon=True
        )
        self._threads[thread] = wake
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is about to end. What is in the cache stays there.
            del self._threads[thread]

    def next(self, wake: LockType) -> tuple[str | None, float | None]:
        """Return a key, or how long the calling thread is to sleep; nothing if it is to end."""
        with self.lock:
            if wake in self._sleeping:
                self._sleeping.remove(wake)
            if self._owner is not None:
                key, wait = self.claim()
                if key is not None:
                    self._wake()
                    return key, None
                if wait is not None and not self._sleeping:
                    self._sleeping.append(wake)
                    return None, wait
            self._threads = {
                thread: other for thread, other in self._threads.items() if other is not wake
            }
            return None, None

    # Changes

    def note(
        self,
        key: str,
        size: int,
        serial: int,
        due: float | None = None,
    ) -> None:
        """A key is dirty, by an entry of this size and number."""
        with self.lock:
            pending = self.pending.get(key)
            if pending is None:
                when = self.monotonic() + self.rest if due is None else due
                self.pending[key] = pending = Pending(when)
                self._push(key, pending)
                if not self._threads or self._queue[0][2] == key:
                    # Otherwise whoever sleeps wakes up before.
                    self._wake()
            elif pending.serial >= serial:
                return
            self.bytes += size - pending.size
            pending.size, pending.serial = size, serial

    def forget(self, key: str, serial: int) -> None:
        """A key is not dirty any more, unless a later entry is."""
        with self.lock:
            pending = self.pending.get(key)
            if pending is not None and pending.serial <= serial:
                del self.pending[key]
                self.bytes -= pending.size
                self._tell()

    def claim(self) -> tuple[str | None, float | None]:
        """Return a key that is due, for the caller to upload; or the seconds until one is, if any will be."""
        from heapq import heappop

        with self.lock:
            now = self.monotonic()
            while self._queue:
                due, _, key = self._queue[0]
                pending = self.pending.get(key)
                if pending is not None and pending.busy is None and pending.due == due:
                    if due > now:
                        return None, due - now
                    if not pending.is_conflict:
                        heappop(self._queue)
                        pending.busy = get_ident()
                        pending.tries += 1
                        return key, None
                heappop(self._queue)
            return None, None

    def done(self, key: str, error: Exception | None, is_conflict: bool = False) -> float | None:
        """An upload is over; return in how many seconds the next one is due, if it failed."""
        with self.lock:
            pending = self.pending.get(key)
            wait: float | None = None
            if pending is not None:
                pending.busy = None
                pending.error = error
                pending.is_conflict = is_conflict
                if error is None:
                    pending.failures = 0
                    pending.due = self.monotonic() + self.rest
                else:
                    pending.failures += 1
                    # Not 2.0**1024.
                    factor = 2.0 ** min(pending.failures - 1, 60)
                    wait = None if is_conflict else min(self.retry * factor, self.max_retry)
                    # What the store has asked for.
                    asked = getattr(error, "retry_after", None)
                    if wait is not None and isinstance(asked, int | float):
                        wait = max(wait, asked)
                    pending.due = self.monotonic() + (wait or 0.0)
                if not is_conflict:
                    self._push(key, pending)
            self._tell()
            if not self.is_worker():
                # Otherwise this thread looks what is next.
                self._wake()
            return wait

    def hurry(self, keys: Iterable[str] | None = None) -> None:
        """Make changes due now: these, or all that have not failed."""
        with self.lock:
            now = self.monotonic()
            for key in list(self.pending) if keys is None else keys:
                pending = self.pending.get(key)
                if pending is None or pending.is_conflict or pending.due <= now:
                    continue
                if keys is not None or pending.error is None:
                    pending.due = now
                    if pending.busy is None:
                        self._push(key, pending)
            self._wake()

    def retry_conflict(self, key: str) -> None:
        """A conflict is no more."""
        with self.lock:
            pending = self.pending.get(key)
            if pending is not None:
                pending.is_conflict = False
                pending.error = None
                pending.due = self.monotonic()
                if pending.busy is None:
                    self._push(key, pending)
                self._wake()

    def _push(self, key: str, pending: Pending) -> None:
        from heapq import heappush

        self._serial += 1
        heappush(self._queue, (pending.due, self._serial, key))

    # Waiting

    def gate(self) -> LockType:
        """Return what is released when something happens; to be asked for under the lock."""
        gate = allocate_lock()
        gate.acquire()
        self._waiters.append(gate)
        return gate

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for gate in waiters:
            _release(gate)

    def flush(
        self,
        upload: Callable[[str], object],
        timeout: float | None,
        only_due: bool,
        most_failures: int | None = None,
    ) -> tuple[bool, dict[str, Exception]]:
        """Upload what is there now; return whether there was time for it, and what went wrong.

        Parameters
        ----------
        upload : callable
            Called where no thread does it, or this one has all the time.
        timeout : float or None, in seconds
        only_due : bool
            Whether to upload only what has rested.
        most_failures : int, optional
            Leave the rest when so many have failed.
        """
        with self.lock:
            now = self.monotonic()
            targets = {
                key: pending.tries
                for key, pending in self.pending.items()
                if not pending.is_conflict and (not only_due or pending.due <= now)
            }
        deadline = None if timeout is None else now + timeout
        inline = timeout is None or not self.workers or self._owner is None
        while True:
            with self.lock:
                waiting, failed = self._progress(targets)
                if not waiting or (most_failures is not None and len(failed) >= most_failures):
                    conflicts = {
                        key: pending.error
                        for key, pending in self.pending.items()
                        if pending.is_conflict and pending.error is not None
                    }
                    return not waiting, {**conflicts, **failed}
                left = None if deadline is None else deadline - self.monotonic()
                if left is not None and left <= 0:
                    return False, {}
                self.hurry(waiting)
                key = self.claim()[0] if inline else None
                gate = self.gate() if key is None else None
            if key is not None:
                upload(key)
            elif gate is not None:
                gate.acquire(timeout=-1 if left is None else min(left, _LONGEST))

    def _progress(self, targets: dict[str, int]) -> tuple[list[str], dict[str, Exception]]:
        """Return which keys have not been tried since, and which have failed."""
        waiting, failed = [], {}
        for key, tries in targets.items():
            pending = self.pending.get(key)
            # One that this very thread is at was not finished when a listener called.
            if pending is None or pending.busy == get_ident():
                continue
            if pending.is_conflict and pending.error is not None:
                # It was being tried when this began, and is not tried again.
                failed[key] = pending.error
            elif pending.busy is not None or pending.tries <= tries:
                waiting.append(key)
            elif pending.error is not None:
                failed[key] = pending.error
        return waiting, failed

    # Room

    def reserve(self, key: str, size: int, upload: Callable[[str], object]) -> None:
        """Wait until there is room for an entry, and keep it; StoreFullError if there will be none.

        `upload` is called where no thread does it.
        """
        if self.max_bytes is None:
            return
        while True:
            with self.lock:
                pending = self.pending.get(key)
                more = size - (0 if pending is None else pending.size)
                # One that is larger than all there is comes in alone.
                alone = self.bytes == (0 if pending is None else pending.size)
                free = self.max_bytes - self.bytes - self._reserved
                if more <= free or more <= 0 or (alone and not self._reserved):
                    self._reserved += size
                    return
                is_worker = self.is_worker()
                if is_worker or not self.waits or (self._is_stuck() and not self._reserved):
                    error = next((p.error for p in self.pending.values() if p.error), None)
                    raise StoreFullError(
                        f"{self.bytes} bytes are waiting to be uploaded, and {size} more "
                        f"would be more than {self.max_bytes}",
                        key=key,
                    ) from error
                self.hurry()
                inline = self.claim()[0] if self._owner is None or not self.workers else None
                gate = None if inline is not None else self.gate()
            if inline is not None:
                upload(inline)
            elif gate is not None:
                gate.acquire()

    def release(self, size: int) -> None:
        """What was to be kept in the room that was reserved is there, or will never be."""
        if self.max_bytes is not None:
            with self.lock:
                self._reserved -= size
                self._tell()

    def _is_stuck(self) -> bool:
        """Whether no upload will make room soon."""
        return all(
            pending.error is not None and pending.busy is None for pending in self.pending.values()
        )


def _run(uploads: UploadQueue, reference: ReferenceType[Any], wake: LockType) -> None:
    while True:
        key, wait = uploads.next(wake)
        if key is None:
            if wait is None:
                return
            wake.acquire(timeout=min(wait, _LONGEST))
            continue
        owner = reference()
        if owner is None:
            uploads.done(key, None)
            continue
        try:
            owner._upload(key)
        except Exception:
            import logging

            logging.getLogger(__name__).exception("the upload of %r failed", key)
        finally:
            del owner


def _release(lock: LockType) -> None:
    try:
        lock.release()
    except RuntimeError:
        # Somebody else has done it.
        pass
