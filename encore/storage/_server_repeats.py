"""Writes that come twice, as their client has lost the answer to the first: they are done once.

A client gives each write a name of its own, the same at each attempt. The second attempt gets the
answer to the first, so that it undoes nothing that others have written in between, and still tells
whether the key was new.
"""

from __future__ import annotations

from _thread import allocate_lock
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._server_requests import Request
    from ._server_responses import Response

__all__ = ["Repeats"]

# Answers are remembered so long, unless there are more of them, or larger ones.
_SECONDS = 120.0
_MOST = 4096
_MOST_BYTES = 16 << 20

# How long the second attempt waits for the first, which may be waiting for a client that is gone.
_PATIENCE = 2.0

# Names that are longer are none of our clients'.
_LONGEST = 64

Name = tuple[str | None, str, str, str]


class _Write:
    """A write that is being done, or has been."""

    __slots__ = ("answer", "began", "is_busy")

    def __init__(self, began: float) -> None:
        self.began = began
        self.answer: Response | None = None
        self.is_busy = allocate_lock()
        self.is_busy.acquire()


class Repeats:
    """The writes of the last minutes.

    Parameters
    ----------
    clock : callable
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        #: Guards what follows; held for a moment.
        self._lock = allocate_lock()
        #: The oldest first.
        self._writes: dict[Name, _Write] = {}
        self._bytes = 0

    def answer(self, request: Request, do: Callable[[], Response]) -> Response:
        """Return the answer to a write: that of an earlier attempt if it has been done."""
        text = request.header("Encore-Request")
        if text is None or len(text) > _LONGEST:
            return do()
        name = (request.user, request.method, request.path, text)
        mine = _Write(self._clock())
        with self._lock:
            first = self._writes.setdefault(name, mine)
        if first is not mine:
            if first.is_busy.acquire(timeout=_PATIENCE):
                first.is_busy.release()
            return do() if first.answer is None else first.answer
        answer = None
        try:
            answer = do()
            return answer
        finally:
            self._end(name, mine, answer)

    def _end(self, name: Name, write: _Write, answer: Response | None) -> None:
        """Remember what was done; of what was refused nothing was done."""
        size = None
        if answer is not None and answer.status < 300 and isinstance(answer.body, bytes):
            size = len(answer.body)
        with self._lock:
            # It may have been forgotten, if it took long.
            if self._writes.get(name) is write:
                if size is None:
                    del self._writes[name]
                else:
                    write.answer = answer
                    self._bytes += size
            self._forget()
        write.is_busy.release()

    def _forget(self) -> None:
        """Forget what is old, or too much."""
        since = self._clock() - _SECONDS
        while self._writes:
            name, write = next(iter(self._writes.items()))
            is_much = len(self._writes) > _MOST or self._bytes > _MOST_BYTES
            if not is_much and write.began >= since:
                break
            del self._writes[name]
            if write.answer is not None and isinstance(write.answer.body, bytes):
                self._bytes -= len(write.answer.body)
