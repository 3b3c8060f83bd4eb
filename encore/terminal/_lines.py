"""Plain lines for a file or a pipe: at the start of an operation, now and then, at its end."""

from __future__ import annotations

from ._format import indentation, plain
from ._nesting import kind
from ._screen import Screen, ended_line

__all__ = ["Lines"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._format import Row
    from ._nesting import Entry
    from ._screen import News
    from ._stream import Stream
    from .writers import ProgressWriter

_WIDTH = 80


class Lines(Screen):
    """The lines of a log.

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
        self._look = self.due
        self._said: dict[ProgressWriter, tuple[float, int, str]] = {}

    def _show(self, news: list[News], now: float, last: bool) -> None:
        texts = []
        for item in news:
            if isinstance(item, str):
                texts.append(ended_line(item))
            elif isinstance(item, list):
                texts += [self._end(entry) for entry in item]
            elif not item.depth:
                texts.append(self._start(item, now))
        # Not for each operation that starts or ends while a thousand others run.
        if now >= self._look or last:
            self._look = now + self.interval
            live = self._forest.walk()
            texts += [self._progress(entry, now) for entry in live]
            running = {entry.operation for entry in live}
            self._said = {
                operation: said for operation, said in self._said.items() if operation in running
            }
        text = "".join(texts)
        if text:
            self.stream.write(text)

    @staticmethod
    def _row(entry: Entry, now: float) -> tuple[ProgressWriter, Row]:
        operation = entry.operation
        if TYPE_CHECKING:
            assert operation is not None
        row = operation.row(now if entry.ended is None else entry.ended)
        row.label = indentation(entry.depth, _WIDTH) + row.label
        return operation, row

    def _start(self, entry: Entry, now: float) -> str:
        operation, row = self._row(entry, now)
        self._said[operation] = now, 0, row.amount
        return f"{row.label}: started\n" if row.label.strip() else f"{row.label}started\n"

    def _progress(self, entry: Entry, now: float) -> str:
        operation, row = self._row(entry, now)
        if row.state == "interrupted" and entry.ended is None:
            return f"{plain(row, row.state)}\n"
        if row.state != "running":
            return ""  # it has ended since it was counted among these; its end is among the news
        if entry.depth and operation not in self._said:
            # What soon ends is told of by what it is nested in.
            return self._start(entry, now) if row.elapsed >= self.spacing else ""
        then, tenth, amount = self._said.setdefault(operation, (now, 0, row.amount))
        further = int((row.fraction or 0) * 10)
        passed = now - then
        if (passed >= self.spacing and further > tenth) or (
            passed >= self.patience and row.amount != amount
        ):
            self._said[operation] = now, further, row.amount
            return f"{plain(row)}\n"
        return ""

    def _end(self, entry: Entry) -> str:
        operation, row = self._row(entry, 0)
        done = kind(row.state) == "done"
        if done and entry.depth and row.elapsed < self.spacing:
            return ""
        return f"{plain(row, '' if done else operation.reason())}\n"
