"""A line for each running operation at the bottom of a terminal, repainted in place."""

from __future__ import annotations

from ._format import Widths, indentation, line, state_color, summary
from ._nesting import count, kind
from ._screen import Screen
from ._text import columns, fit, painted_columns, printable, wrap

__all__ = ["Bars"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._format import Row
    from ._nesting import Entry
    from ._screen import News
    from ._stream import Stream

    _Shown = tuple[Entry, Row | None, str]

_HASTE = 10
"""Repaints in half a second for operations that are nested, before they wait for the usual one."""

_CROWD = 32
"""Of so many operations at least one has to start or end for a repaint, before the usual one."""


class Bars(Screen):
    """The lines of a terminal.

    The cursor rests at the start of the line below, so that a program that dies or prints at any
    moment begins on a fresh line.
    """

    kept = 4

    def __init__(self, stream: Stream, clock: Callable[[], float], interval: float) -> None:
        super().__init__(stream, clock, interval)
        self._widths = Widths()
        self._drawn: list[str] = []
        self._width = 0
        self._hasty = 0
        self._calm = 0.0
        self._count = 0

    def nudge(self, urgent: bool) -> None:
        now = self.clock()
        if urgent:
            # The more there are, the longer it takes to look at all of them.
            haste = len(self._inbox) * _CROWD >= self._count
        else:
            # A thousand small files in a second are a thousand nested operations.
            if now >= self._calm:
                self._calm = now + 0.5
                self._hasty = 0
            self._hasty += 1
            haste = self._hasty <= _HASTE
        if haste or now >= self.due:
            self.paint()

    def _show(self, news: list[News], now: float, last: bool) -> None:
        live = self._forest.walk()
        self._count = len(live)
        width, height = self.stream.size()
        # The last column stays free: terminals differ in where the cursor is after writing there.
        room = max(1, width - 1)
        # The cursor needs a line too.
        shown, others = _choose(live, max(1, height - 1))
        ended = [item for item in news if isinstance(item, (str, list))]
        if last:
            ended += [[entry] for entry in others if kind(entry.state) in ("warning", "failed")]
        # All rows are made before a line is: they share the widths of their columns.
        told = [
            item if isinstance(item, str) else [self._row(entry, now, room) for entry in item]
            for item in ended
        ]
        rows = [self._row(entry, now, room) for entry in shown]
        above: list[str] = []
        below: list[str] = []
        for item in told:
            if isinstance(item, str):
                # What is longer than a line gets into the next one. To clear behind a text that
                # just fills the terminal would take its last character.
                above += [
                    f"{text}\x1b[K" if painted_columns(text) % width else text
                    for text in printable(self.stream.legible(item))
                ]
            else:
                for last_row in item:
                    above += self._lines(last_row, room)
        for row in rows:
            below += self._lines(row, room, reasons=1)
        if others:
            counts: dict[str, int] = {}
            for entry in others:
                count(counts, entry)
            below.append(self._summary(counts, room, others=bool(rows)))
        self._draw(above, below, width, last and bool(below))

    def _draw(self, above: list[str], below: list[str], width: int, last: bool) -> None:
        """Write lines that stay, and those that will be painted over."""
        if not above and below == self._drawn and width == self._width and not last:
            return
        up = len(self._drawn)
        if width < self._width:
            # A terminal that became narrower has broken the lines that are too long for it now.
            up = sum(max(1, -(-painted_columns(drawn) // width)) for drawn in self._drawn)
        text = f"\r\x1b[{up}A" if up else "\r"
        # Cleared as a whole: of what is cleared behind a text tmux remembers how long it was, and
        # that it went on in the next line, and breaks and joins it accordingly in another width.
        text += "".join(f"\x1b[2K{shown}\n" for shown in above + below)
        # Behind the lines, not before them: what is cleared from the top of the screen on, tmux
        # takes for something to keep in its history. What is there when the last state has been
        # painted is the ^C that a terminal shows where the cursor is.
        if last or (up and (up > len(above) + len(below) or width != self._width)):
            text += "\x1b[J"
        try:
            self.stream.write(text)
        finally:
            if self.stream.handed:
                self._drawn = below
                self._width = width

    def _row(self, entry: Entry, now: float, room: int) -> _Shown:
        margin = indentation(entry.depth, room)
        operation = entry.operation
        if operation is None:
            return entry, None, margin
        row = operation.row(now if entry.ended is None else entry.ended)
        # Now, since it can become narrower.
        row.label = margin + self.stream.legible(row.label)
        self._widths.include(row)
        return entry, row, margin

    def _lines(self, shown: _Shown, room: int, reasons: int | None = None) -> list[str]:
        """An operation, and what its end says, in at most so many lines."""
        entry, row, margin = shown
        if row is None or entry.operation is None:
            return [self._summary(entry.counts, room, margin)]
        style = self.stream.style
        lines = [line(row, self._widths, room, style)]
        if row.state == "running":
            return lines
        reason = entry.operation.reason()
        if row.state != "normal":
            told = wrap(reason, room - len(margin), 2)
            if reasons is not None and len(told) > reasons:
                told = [fit(reason, room - len(margin), style.ellipsis)]
            lines += [margin + style.paint(text, state_color(row.state)) for text in told]
        elif (
            reason
            and reasons is None
            # Told in the line itself, if the line has room for it.
            and columns(row.label) > self._widths.shares(room)["label"]
        ):
            margin += "  "
            lines += [margin + text for text in wrap(reason, room - len(margin))]
        return lines

    def _summary(
        self, counts: dict[str, int], room: int, margin: str = "", others: bool = True
    ) -> str:
        style = self.stream.style
        text = margin + summary(counts, style, room - len(margin), others)
        return style.paint(
            fit(text, room, style.ellipsis).rstrip(), "31" if counts.get("failed") else "90"
        )


def _choose(entries: list[Entry], limit: int) -> tuple[list[Entry], list[Entry]]:
    """The entries that so many lines have room for, and the others."""
    if sum(map(_height, entries)) <= limit:
        return entries, []
    # One line is needed to count the others in. What runs comes first, and what it is part of.
    limit -= 1
    chosen = set()
    for entry in sorted((entry for entry in entries if entry.operation is not None), key=_rank):
        if _height(entry) <= limit:
            limit -= _height(entry)
            chosen.add(id(entry))
    return (
        [entry for entry in entries if id(entry) in chosen],
        [entry for entry in entries if id(entry) not in chosen],
    )


def _height(entry: Entry) -> int:
    return 1 if entry.state in ("running", "normal") else 2


def _rank(entry: Entry) -> tuple[int, float]:
    if entry.ended is None:
        return 0, entry.depth
    return 2 if kind(entry.state) == "done" else 1, -entry.ended
