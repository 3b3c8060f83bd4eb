"""The lines of all operations on one stream: who writes, when, and what is there already.

No lock is held while a writer renders or the stream takes text, so that neither can block the
threads that emit events, nor deadlock by emitting one itself. One thread at a time paints; the
others leave their request with it.
"""

from __future__ import annotations

from _thread import get_ident

from ._format import Widths, columns, fit, line, plain, wrap

__all__ = ["Bars", "Lines", "Screen"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ._format import Row
    from ._stream import Stream

    class Operation(Protocol):
        """What a screen shows."""

        def row(self, now: float) -> Row:
            """The state of the operation at this time."""

        def reason(self) -> str:
            """Why it did not end normally, or what else is to be told at its end."""


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

    def __init__(self, stream: Stream, clock: Callable[[], float], interval: float) -> None:
        from threading import Condition, RLock

        self.stream = stream
        self.clock = clock
        self.interval = interval
        #: Before this time there is nothing to do for a step.
        self.due = clock() + interval
        self.closed = False
        # Re-entrant, since a signal handler or a finalizer may emit events at any point.
        self._lock = Condition(RLock())
        self._live: list[Operation] = []
        self._started: list[Operation] = []
        self._ended: list[tuple[Operation, float]] = []
        self._painter: int | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._live)} operations on {self.stream!r}>"

    def add(self, operation: Operation) -> None:
        """Show an operation from now on."""
        with self._lock:
            if self.closed or operation in self._live:
                return
            self._live.append(operation)

    def start(self, operation: Operation) -> None:
        """Paint an operation for the first time."""
        with self._lock:
            self._started.append(operation)
        self.paint()

    def drop(self, operation: Operation) -> None:
        """Show an operation no longer."""
        with self._lock:
            if operation in self._live:
                self._live.remove(operation)

    def end(self, operation: Operation) -> None:
        """Show an operation for the last time; what is said of it stays."""
        now = self.clock()
        with self._lock:
            if operation not in self._live:
                return
            self._live.remove(operation)
            self._ended.append((operation, now))
        self.paint()

    def refresh(self) -> None:
        """Paint what is new, unless another thread is painting."""
        if self._painter is None:
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
        try:
            while True:
                with self._lock:
                    if not self._asked:
                        self._rest()
                        return
                    self._asked = False
                    started, self._started = self._started, []
                    ended, self._ended = self._ended, []
                    live = self._live.copy()
                now = self.clock()
                self.due = now + self.interval
                if not self.stream.broken:
                    self._show(live, started, ended, now)
        except BaseException:
            with self._lock:
                self._rest()
            raise

    def _rest(self) -> None:
        # In the same locked section as the last look at what was asked, so that no request is lost.
        self._painter = None
        self._lock.notify_all()

    def close(self) -> None:
        """Paint the last state and take no more operations; returns when everything is written."""
        self.paint()
        with self._lock:
            self.closed = True
            if self._painter != get_ident():
                # With a bound, for a stream that blocks for ever must not stop the program.
                self._lock.wait_for(lambda: self._painter is None, timeout=1)
            self._live.clear()

    def _show(
        self,
        live: list[Operation],
        started: list[Operation],
        ended: list[tuple[Operation, float]],
        now: float,
    ) -> None:
        raise NotImplementedError


class Bars(Screen):
    """A line for each running operation at the bottom of a terminal, repainted in place.

    The cursor rests at the start of the line below, so that a program that dies or prints at any
    moment begins on a fresh line.
    """

    def __init__(self, stream: Stream, clock: Callable[[], float], interval: float) -> None:
        super().__init__(stream, clock, interval)
        self._widths = Widths()
        self._drawn: list[str] = []
        self._width = 0

    def _show(
        self,
        live: list[Operation],
        started: list[Operation],
        ended: list[tuple[Operation, float]],
        now: float,
    ) -> None:
        width, height = self.stream.size()
        # The last column stays free: terminals differ in where the cursor is after writing there.
        room = max(1, width - 1)
        style = self.stream.style
        last_rows = [(operation.row(then), operation.reason()) for operation, then in ended]
        rows = [operation.row(now) for operation in live]
        for row in (*rows, *(row for row, _ in last_rows)):
            row.label = self.stream.legible(row.label)  # now, since it can become narrower
            self._widths.include(row)
        above = []
        for row, reason in last_rows:
            above.append(line(row, self._widths, room, style))
            label = self._widths.shares(room)["label"]
            if reason and row.state == "normal":
                # Told in the line itself, if the line has room for it.
                if columns(row.label) > label:
                    above += [f"  {text}" for text in wrap(reason, room - 2)]
            elif reason:
                color = "33" if row.state == "warning" else "31"
                above += [style.paint(text, color) for text in wrap(reason, room, 2)]
        below = [line(row, self._widths, room, style) for row in rows]
        if len(below) > max(1, height - 1):  # the cursor needs a line too
            shown = max(0, height - 2)
            more = fit(f"{style.ellipsis} {len(below) - shown} more", room, style.ellipsis).rstrip()
            below[shown:] = [more]
        if not above and below == self._drawn and width == self._width:
            return
        text = "\r"
        # A terminal that became narrower has broken the lines that are too long for it now.
        up = sum(max(1, -(-_visible(drawn) // width)) for drawn in self._drawn)
        if up:
            text += f"\x1b[{up}A"
        if up > len(above) + len(below) or (up and width != self._width):
            text += "\x1b[J"
        text += "".join(f"{shown}\x1b[K\n" for shown in (*above, *below))
        self._drawn = below
        self._width = width
        self.stream.write(text)


def _visible(text: str) -> int:
    """The columns of a painted text: without its colours."""
    return columns("".join(part.partition("m")[2] for part in f"m{text}".split("\x1b[")))


class Lines(Screen):
    """Plain lines for a file or a pipe: at the start, now and then, at the end.

    Parameters
    ----------
    stream, clock, interval
        As for `Screen`; the interval is the least time between two lines of an operation, which are
        written when it is a tenth further.
    patience : float
        Seconds after which a line is written anyway, if there was any step.
    """

    def __init__(
        self, stream: Stream, clock: Callable[[], float], interval: float, patience: float
    ) -> None:
        # Looked at more often than written, so that a line comes soon after its tenth is reached.
        super().__init__(stream, clock, interval / 8)
        self.spacing = interval
        self.patience = patience
        self._said: dict[Operation, tuple[float, int, str]] = {}

    def _show(
        self,
        live: list[Operation],
        started: list[Operation],
        ended: list[tuple[Operation, float]],
        now: float,
    ) -> None:
        texts = []
        ending = [operation for operation, _ in ended]
        for operation in started:
            row = operation.row(now)
            texts.append(f"{row.label}: started" if row.label else "started")
            self._said[operation] = now, 0, row.amount
        for operation in live:
            row = operation.row(now)
            if row.state != "running":
                continue  # it has ended since it was counted among these, and comes among the ended
            then, tenth, amount = self._said.setdefault(operation, (now, 0, row.amount))
            further = int((row.fraction or 0) * 10)
            passed = now - then
            if (passed >= self.spacing and further > tenth) or (
                passed >= self.patience and row.amount != amount
            ):
                texts.append(plain(row))
                self._said[operation] = now, further, row.amount
        for operation, then in ended:
            row = operation.row(then)
            texts.append(plain(row, "" if row.state == "normal" else operation.reason()))
        for operation in [
            operation for operation in self._said if operation in ending or operation not in live
        ]:
            del self._said[operation]
        if texts:
            self.stream.write("".join(f"{text}\n" for text in texts))
