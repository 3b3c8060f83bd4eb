"""What is shown of one operation: a bar where its end is known, a spinner where it is not."""

from __future__ import annotations

from _weakref import ref

from ._format import Row, clean
from ._meter import Meter, as_number

__all__ = ["ProgressWriter", "SpinWriter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..events.abstract_event_manager import BaseEvent
    from .progress_display import ProgressDisplay


class ProgressWriter:
    """The line of an operation: a bar with percentage, count, rate and time left.

    A class of one's own in its place needs the same arguments and the methods `step_listener` and
    `end_listener`. It may have a `start_listener` too; the display calls it with the start event.

    Parameters
    ----------
    display : ProgressDisplay
        The display that the operation is shown on.
    operation_id : any
        The operation.
    steps : number
        The step at which the operation is complete.
    """

    def __init__(self, display: ProgressDisplay, operation_id: object, steps: object) -> None:
        self.operation_id = operation_id
        self.steps = steps
        # The display holds its writers; were it held here, dropping it would not free it.
        self._display = ref(display)
        self._screen = screen = display._screen
        self._clock = clock = screen.clock
        self._meter = Meter(clock(), as_number(steps))
        self._start: BaseEvent | None = None
        self._step: BaseEvent | None = None
        self._measured: BaseEvent | None = None
        self._end: BaseEvent | None = None
        screen.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.operation_id!r}: {self._meter!r}>"

    @property
    def display(self) -> ProgressDisplay | None:
        """The display, or None if it is gone."""
        return self._display()

    def start_listener(self, event: BaseEvent) -> None:
        """Show the operation for the first time."""
        self._start = event
        self._screen.start(self)

    def step_listener(self, event: BaseEvent) -> None:
        """Take note of a step, and repaint if that is due."""
        # Everything else waits for the repaint: this runs for each step of a program.
        self._step = event
        screen = self._screen
        if self._clock() >= screen.due:
            screen.refresh()

    def end_listener(self, event: BaseEvent) -> None:
        """Show how it ended, for the last time."""
        self._end = event
        self._screen.end(self)

    def row(self, now: float) -> Row:
        """What to show at a time of the display's clock. Only the thread that paints calls this."""
        step = self._step
        if step is not self._measured:
            self._measured = step
            done = as_number(getattr(step, "step", None))
            if done is not None:
                self._meter.update(done, now)
        unit = clean(getattr(self._start, "unit", None) or getattr(step, "unit", None) or "")
        return Row(self._meter, now, self._label(), unit, self._state())

    def reason(self) -> str:
        """What the end event says: 'ERROR: disk full'; at a normal end only what is new."""
        message = self._message(self._end)
        state = self._state()
        if state == "normal":
            return message if message != self._message(self._start) else ""
        return f"{clean(state).upper()}: {message}" if message else clean(state).upper()

    @staticmethod
    def _message(event: BaseEvent | None) -> str:
        message = getattr(event, "message", None)
        return "" if message is None else clean(message)

    def _state(self) -> str:
        if self._end is None:
            return "running"
        state = getattr(self._end, "exit_state", None)
        return "normal" if state is None else str(state)

    def _label(self) -> str:
        label = self._message(self._start)
        latest = self._step
        if self._end is not None:
            latest = (
                self._end if self._state() == "normal" else None
            )  # why it failed is told elsewhere
        detail = self._message(latest)
        if not detail or detail == label:
            return label
        return detail if detail.startswith(label) else f"{label}: {detail}"


class SpinWriter(ProgressWriter):
    """The line of an operation whose end is not known: a spinner with count, rate and time passed.

    Parameters
    ----------
    display : ProgressDisplay
        The display that the operation is shown on.
    operation_id : any
        The operation.
    """

    def __init__(self, display: ProgressDisplay, operation_id: object) -> None:
        super().__init__(display, operation_id, -1)
