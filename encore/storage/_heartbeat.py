"""Signs of life: files whose owner lives are touched again and again, for other computers to see.

One daemon thread of the process does it, as long as there is such a file.
"""

from __future__ import annotations

import os
import time
from _thread import RLock, allocate_lock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from _thread import LockType

_NEVER = float("inf")

#: Seconds between two signs of life of what is held for a short time.
INTERVAL = 0.5


class Heartbeat:
    """Touches files, each at an interval of its own.

    It calls no foreign code. A finalizer may call it in the middle of a call.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        #: Path -> seconds between two signs, and when the next is due.
        self._due: dict[str, list[float]] = {}
        self._thread: threading.Thread | None = None
        #: Released to wake the thread. No Event: a finalizer that interrupts one would wait for itself.
        self._wake: LockType | None = None
        #: Until when the thread sleeps.
        self._until = _NEVER
        self._registered = False

    def add(self, path: str, interval: float = INTERVAL) -> None:
        """Touch a file from now on."""
        due = time.monotonic() + interval
        self._due[path] = [interval, due]
        if self._thread is None:
            self._start()
        elif due < self._until and self._wake is not None:
            _release(self._wake)

    def discard(self, path: str, wait: bool = False) -> None:
        """Leave a file alone; `wait` for the end of the thread if it was the last one."""
        if self._due.pop(path, None) is None or self._due:
            return
        thread, wake = self._thread, self._wake
        if wake is not None:
            _release(wake)
        if wait and thread is not None and thread.ident != get_ident():
            # It is not waited for without end: a system call may hang, on a network file system.
            thread.join(1.0)

    def forget(self) -> None:
        """Drop everything: in the child of a fork it is the parent's."""
        self._lock = RLock()
        self._due = {}
        self._thread = self._wake = None

    def beat(self, now: float) -> float | None:
        """Touch what is due; return when the next is due, None if there is nothing."""
        for path, entry in list(self._due.items()):
            interval, due = entry
            if due > now:
                continue
            try:
                os.utime(path)
            except OSError:
                # Somebody has removed it. Its owner will see.
                pass
            entry[1] = now + interval
        return min((due for _, due in list(self._due.values())), default=None)

    def _start(self) -> None:
        import threading

        with self._lock:
            if self._thread is not None:
                return
            if not self._registered and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self.forget)
                self._registered = True
            wake = allocate_lock()
            thread = threading.Thread(
                target=self._run, args=(wake,), name="encore-heartbeat", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is about to end, and what we own with it.
                return
            self._thread, self._wake = thread, wake

    def _run(self, wake: LockType) -> None:
        while True:
            wake.acquire(blocking=False)
            # Whatever is added from now on wakes the thread.
            self._until = _NEVER
            now = time.monotonic()
            next_due = self.beat(now)
            if next_due is None:
                with self._lock:
                    if not self._due:
                        if self._wake is wake:
                            self._thread = self._wake = None
                        return
                continue
            self._until = next_due
            wake.acquire(timeout=max(0.0, next_due - now))


def _release(lock: LockType) -> None:
    try:
        lock.release()
    except RuntimeError:
        # Somebody else has done it.
        pass


heartbeat = Heartbeat()
