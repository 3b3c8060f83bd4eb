"""The operations shown on one stream: who paints them, and when.

No lock is held while a writer renders or the stream takes text, so that neither can block the
threads that emit events, nor deadlock by emitting one itself. One thread at a time paints; the
others leave their request with it.
"""

from __future__ import annotations

from _thread import get_ident

from ._nesting import Entry, Forest, Node, enter, innermost, kind

__all__ = ["Hidden", "Screen", "ended_line"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._stream import Stream
    from .writers import ProgressWriter

    #: What is to be told once: text of the program, an operation that starts, the lines of one that
    #: has ended.
    News = str | Entry | list[Entry]


class Screen:
    """The operations that are shown on a stream.

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
        from threading import Condition, RLock

        self.stream = stream
        self.clock = clock
        self.interval = interval
        #: Before this time there is nothing to do for a step.
        self.due = clock() + interval
        self.closed = False
        self.closing = False
        # Re-entrant, since a signal handler or a finalizer may emit events at any point.
        self._lock = Condition(RLock())
        self._forest = Forest(self.kept)
        self._news: list[News] = []
        self._painter: int | None = None
        self._asked = False

    def __repr__(self) -> str:
        count = sum(entry.state == "running" for entry in self._forest.walk())
        return f"<{type(self).__name__} with {count} operations on {self.stream!r}>"

    def add(self, operation: ProgressWriter) -> Node:
        """Show an operation from now on, without saying that it starts."""
        node = Node(operation, self)
        with self._lock:
            self._add(node, None)
        return node

    def innermost(self) -> Node | None:
        """The operation that one which starts here and now is nested in."""
        return innermost(self)

    def start(self, operation: ProgressWriter, parent: Node | None) -> Node:
        """Show an operation that starts, nested in another one."""
        node = Node(operation, self)
        with self._lock:
            self._add(node, parent)
            if not self.closed:
                self._news.append(Entry(node.depth, node))
        if node.parent is None:
            self.paint()
        else:
            self.nudge()
        # Not before: a stream that emits progress itself is not part of the operation.
        enter(node)
        return node

    def _add(self, node: Node, parent: Node | None) -> None:
        if self.closed:
            node.ended = self.clock()
        else:
            self._forest.add(node, parent)

    def drop(self, node: Node) -> None:
        """Show an operation no longer."""
        now = self.clock()
        with self._lock:
            if node.ended is None and not self.closed:
                self._forest.drop(node, now)

    def end(self, node: Node, state: str) -> None:
        """Show how an operation has ended."""
        now = self.clock()
        with self._lock:
            if node.ended is not None or self.closed:
                return
            lines = self._forest.end(node, now, state)
            if lines:
                self._news.append(lines)
        if lines or kind(state) != "done":
            self.paint()
        else:
            self.nudge()

    def write(self, text: str) -> None:
        """Write lines of the program's own."""
        with self._lock:
            closed = self.closed
            if not closed:
                self._news.append(text)
        if closed:
            self.stream.write(ended_line(text))
        else:
            self.paint()

    def refresh(self) -> None:
        """Paint what is new, unless another thread is painting."""
        if self._painter is None:
            self.paint()

    def nudge(self) -> None:
        """Paint for something that nobody has to see at once."""
        self.paint()

    def paint(self) -> None:
        """Paint now; if another thread is painting, have it paint once more."""
        with self._lock:
            if self.closed:
                return
            self._asked = True
            if self._painter is not None:
                return
            self._painter = get_ident()
        news: list[News] = []
        try:
            while True:
                with self._lock:
                    if not self._asked:
                        self._rest()
                        return
                    self._asked = False
                    self.stream.handed = False
                    news = self._news
                    self._news = []
                    live = self._forest.walk()
                now = self.clock()
                self.due = now + self.interval
                if not self.stream.broken:
                    self._show(live, news, now)
        except BaseException as exc:
            with self._lock:
                if not isinstance(exc, Exception) and not self.stream.handed:
                    self._news[:0] = news  # interrupted before any of it was written
                self._rest()
            raise

    def _rest(self) -> None:
        # In the same locked section as the last look at what was asked, so that no request is lost.
        self._painter = None
        self._lock.notify_all()

    def close(self) -> None:
        """Paint the last state and take no more operations; returns when everything is written."""
        self.closing = True
        try:
            self.paint()
        finally:
            with self._lock:
                self.closed = True
                if self._painter != get_ident():
                    # With a bound, for a stream that blocks for ever must not stop the program.
                    self._lock.wait_for(lambda: self._painter is None, timeout=1)
                self._forest.clear()

    def _show(self, live: list[Entry], news: list[News], now: float) -> None:
        raise NotImplementedError


class Hidden(Screen):
    """Shows no operation; what the program writes itself is written as it is."""

    def _show(self, live: list[Entry], news: list[News], now: float) -> None:
        self.stream.write("".join(ended_line(text) for text in news if isinstance(text, str)))


def ended_line(text: str) -> str:
    """The text with a line end at its end."""
    return text if text.endswith("\n") else f"{text}\n"
