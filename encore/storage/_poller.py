"""A thread that calls a method of an object now and then, and ends with the object."""

from __future__ import annotations

from _thread import allocate_lock, get_ident

# As threading.TIMEOUT_MAX, about; an int of 32 bits on some systems.
_LONGEST = 2.0**31 / 1000


class Poller:
    """Calls a method in a daemon thread.

    Parameters
    ----------
    owner : object
        Held weakly: when it is gone, the thread ends at once.
    method : str
        What the method is called. It takes no arguments.
    interval : float
        Seconds from the end of a call to the next.
    """

    def __init__(self, owner: object, method: str, interval: float) -> None:
        import threading
        from weakref import ref

        #: Released to end the thread. No Event: a finalizer that interrupts one would wait for itself.
        self._end = allocate_lock()
        self._end.acquire()
        self._owner = ref(owner, self._signal)
        self._method = method
        self._interval = min(interval, _LONGEST)
        self._is_calling = False
        self._thread = threading.Thread(target=self._run, name=f"encore-{method}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the thread; wait for it, unless it is in the middle of a call."""
        self._signal()
        if not self._is_calling and self._thread.ident != get_ident():
            self._thread.join(1.0)

    def _signal(self, _: object = None) -> None:
        try:
            self._end.release()
        except RuntimeError:
            # It was told before.
            pass

    def _run(self) -> None:
        while not self._end.acquire(timeout=self._interval):
            owner = self._owner()
            if owner is None:
                return
            self._is_calling = True
            try:
                getattr(owner, self._method)()
            except Exception:
                import logging

                logging.getLogger(__name__).exception("%s() of %r failed", self._method, owner)
            finally:
                self._is_calling = False
                del owner
