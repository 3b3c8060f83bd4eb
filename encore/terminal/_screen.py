"""The operations shown on one stream: who paints them, and when.

Whoever has something to show, be it a thread, a signal handler or a finalizer, leaves it in an
inbox and holds no lock. One at a time paints: it takes over what is in the inbox, and writes. So
nothing changes below its feet, no writer and no stream can block those who emit events, nor
deadlock by emitting one, and neither an interrupt nor a fork leaves a lock behind.
"""

from __future__ import annotations

# The C module that collections has the name from: importing that takes longer.
from _collections import deque  # type: ignore[import-not-found]
from _thread import allocate_lock, get_ident
from os import getpid

from ._nesting import Entry, Forest, Node, enter, innermost, kind

__all__ = ["Screen", "ended_line"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._stream import Stream
    from .writers import ProgressWriter

    #: What is to be told once: text of the program, an operation that starts, the lines of one that
    #: has ended.
    News = str | Entry | list[Entry]

_ROUNDS = 10
"""How often a thread paints for others before it is relieved."""

_LONGEST = 10_000
"""Of how much news the last is kept for a stream that takes nothing."""

_PATIENCE = 1.0
"""Seconds to wait for a stream that blocks, which must not stop the program."""


class Screen:
    """The operations that are shown on a stream; this one shows none, but what is written.

    Parameters
    ----------
    stream : Stream
        Where to write.
    clock : callable
        Returns the time in seconds.
    interval : float
        Seconds between two repaints.
    """

    #: Of how many operations nested in the same one, that have ended, the lines stay.
    kept = 0

    def __init__(self, stream: Stream, clock: Callable[[], float], interval: float) -> None:
        self.stream = stream
        self.clock = clock
        self.interval = interval
        #: Before this time there is nothing to do for a step.
        self.due = clock() + interval
        self.closed = False
        self._closing = False
        self._done = allocate_lock()
        self._done.acquire()
        # What to call, and with what. append() and popleft() are indivisible.
        self._inbox: deque[tuple[Any, ...]] = deque()
        # The thread that paints, by process: whom a fork has left behind counts for nothing.
        # setdefault() is indivisible.
        self._painters: dict[int, int] = {}
        self._asked = False
        # These belong to who paints.
        self._forest = Forest(self.kept)
        self._news: list[News] = []

    def __repr__(self) -> str:
        count = sum(entry.state == "running" for entry in self._forest.walk())
        return f"<{type(self).__name__} with {count} operations on {self.stream!r}>"

    def add(self, operation: ProgressWriter) -> Node:
        """Show an operation from now on, without saying that it starts."""
        node = Node(operation, self)
        self._inbox.append((Screen._on_add, node))
        return node

    def innermost(self) -> Node | None:
        """The operation that one which starts here and now is nested in."""
        return innermost(self)

    def start(self, operation: ProgressWriter, parent: Node | None) -> Node:
        """Show an operation that starts, nested in another one."""
        node = Node(operation, self)
        node.parent = parent
        self._inbox.append((Screen._on_start, node))
        self.nudge(parent is None)
        # Not before: a stream that emits progress itself is not part of the operation.
        enter(node)
        return node

    def drop(self, node: Node) -> None:
        """Show an operation no longer."""
        node.over = True
        self._inbox.append((Screen._on_drop, node, self.clock()))

    def end(self, node: Node, state: str) -> None:
        """Show how an operation has ended."""
        node.over = True
        self._inbox.append((Screen._on_end, node, self.clock(), state))
        self.nudge(node.parent is None or kind(state) != "done")

    def write(self, text: str) -> None:
        """Write lines of the program's own."""
        self._inbox.append((Screen._on_text, text))
        self.paint()

    def nudge(self, urgent: bool) -> None:
        """Paint what has come in, at once if it is urgent."""
        self.paint()

    def refresh(self) -> None:
        """Paint what is new, unless somebody is painting."""
        if getpid() not in self._painters:
            self.paint()

    def paint(self) -> None:
        """Paint now; if another thread is painting, have it paint once more."""
        me, process, painters = get_ident(), getpid(), self._painters
        if painters.get(process) == me:
            return  # from within; what painting itself brings must not keep it going for ever
        self._asked = True
        rounds = 0
        try:
            while self._asked and painters.setdefault(process, me) == me:
                self._asked = False
                self._paint()
                rounds += 1
                # Before the last look at what has come in, so that nothing of it is overlooked.
                del painters[process]
                # From within, once; and to close cannot be left to anybody else.
                if (rounds == 1 and self._inbox) or (self._closing and not self.closed):
                    self._asked = True
                if rounds >= _ROUNDS and self._asked and self._relieved():
                    return
        finally:
            if painters.get(process) == me:  # interrupted
                del painters[process]

    def _relieved(self) -> bool:
        from threading import Thread

        try:
            Thread(target=self.paint, name="encore.terminal", daemon=False).start()
        except RuntimeError:  # the system has none, or the interpreter ends
            return False
        return True

    def close(self) -> None:
        """Paint the last state and take no more operations; returns when everything is written."""
        self._closing = True
        self.paint()
        within = self._painters.get(getpid()) == get_ident()
        if not (within or self.closed) and self._done.acquire(timeout=_PATIENCE):
            self._done.release()

    def _paint(self) -> None:
        now = self.clock()
        self.due = now + self.interval
        for _ in range(len(self._inbox)):
            change, *details = self._inbox.popleft()
            change(self, *details)
        last = self._closing and not self.closed
        try:
            if last:
                self.stream.drain(_PATIENCE)
            self._tell(now, last)
            if last:
                self.stream.drain(_PATIENCE)
        finally:
            if last:
                self.closed = True
                self._forest.clear()
                self._done.release()

    def _tell(self, now: float, last: bool) -> None:
        news, stream = self._news, self.stream
        if not stream.ready():
            if stream.broken:
                self.due = float("inf")
            del news[: None if stream.broken else -_LONGEST]
            return
        stream.handed = False
        try:
            show = Screen._show if self.closed else type(self)._show
            show(self, news, now, last)
        except BaseException as exc:
            if isinstance(exc, Exception) or stream.handed:
                news.clear()
            raise  # otherwise it was interrupted before any of it was written
        news.clear()

    def _show(self, news: list[News], now: float, last: bool) -> None:
        self.stream.write("".join(ended_line(text) for text in news if isinstance(text, str)))

    # What the inbox asks for

    def _on_add(self, node: Node) -> None:
        if not self.closed:
            self._forest.add(node)

    def _on_start(self, node: Node) -> None:
        self._on_add(node)
        if not self.closed:
            self._news.append(Entry(node.depth, node))

    def _on_drop(self, node: Node, now: float) -> None:
        self._forest.drop(node, now)

    def _on_end(self, node: Node, now: float, state: str) -> None:
        lines = self._forest.end(node, now, state)
        if lines:
            self._news.append(lines)

    def _on_text(self, text: str) -> None:
        self._news.append(text)


def ended_line(text: str) -> str:
    """The text with a line end at its end."""
    return text if text.endswith("\n") else f"{text}\n"
