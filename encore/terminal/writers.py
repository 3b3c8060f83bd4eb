"""What is shown of one operation: a bar where its end is known, a spinner where it is not."""

from __future__ import annotations

from _weakref import ref
from sys import exc_info

from ._format import Row
from ._meter import Meter, as_number
from ._text import clean

__all__ = ["ProgressWriter", "SpinWriter"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..events.abstract_event_manager import BaseEvent
    from ._nesting import Node
    from .progress_display import ProgressDisplay

_UNSAID = object()


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
        # What the events say, as clean text. Of the steps only that which is painted is read.
        self._name = self._detail = self._unit = ""
        self._last = ""
        self._state = "running"
        self._step: BaseEvent | None = None
        self._measured: BaseEvent | None = None
        self._node: Node | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.operation_id!r}: {self._meter!r}>"

    @property
    def display(self) -> ProgressDisplay | None:
        """The display, or None if it is gone."""
        return self._display()

    @property
    def plain(self) -> bool:
        """Whether `step_listener` is the one of this class and has nothing to do but its usual."""
        return (
            type(self).step_listener is ProgressWriter.step_listener
            and "step_listener" not in self.__dict__
            and self._node is not None
        )

    def drop(self) -> None:
        """Show the operation no longer."""
        node, self._node = self._node, None
        if node is not None:
            self._screen.drop(node)

    def start_listener(self, event: BaseEvent) -> None:
        """Show the operation for the first time."""
        self._name = _text(event, "message") or ""
        self._unit = _text(event, "unit") or ""
        if self._node is None:
            self._node = self._screen.start(self, self._parent(event))

    def _parent(self, event: BaseEvent) -> Node | None:
        parent = getattr(event, "parent", _UNSAID)
        if parent is _UNSAID:
            return self._screen.innermost()
        display = self._display()
        writer = None if display is None else display.find(parent)
        return writer._node if isinstance(writer, ProgressWriter) else None

    def step_listener(self, event: BaseEvent) -> None:
        """Take note of a step, and repaint if that is due."""
        # The display does the same itself, without a call, where this method is not overridden.
        self._step = event
        screen = self._screen
        if self._node is None and self._state == "running":
            self._node = screen.add(self)  # it was made by somebody who has no start event
        if self._clock() >= screen.due:
            screen.refresh()

    def end_listener(self, event: BaseEvent) -> None:
        """Show how it ended, for the last time."""
        if self._state != "running":
            return
        message = _text(event, "message") or ""
        self._last = message.removeprefix(f"{self._name}: ")
        state = _text(event, "exit_state")
        if state == "exception" and (
            # Control-C has no text of its own.
            message == "interrupted"
            or (not message and isinstance(exc_info()[1], KeyboardInterrupt))
        ):
            state = "interrupted"
        elif state is None or state == "normal":
            state = "stopped" if _value(event, "complete") is False else "normal"
        elif state != "warning":
            state = state.upper()
        self._state = state
        # From now on the screen knows the writer, not the other way round: no cycle remains.
        node, self._node = self._node or self._screen.add(self), None
        self._screen.end(node, state)

    def row(self, now: float) -> Row:
        """What to show at a time of the display's clock. Only the thread that paints calls this."""
        step = self._step
        done = as_number(_value(step, "step"))
        # What stands for the steps of a loop counts on.
        if done is not None and (step is not self._measured or done != self._meter.count):
            self._meter.update(done, now)
        if step is not self._measured:
            self._measured = step
            self._detail = _text(step, "message") or ""
            self._unit = self._unit or _text(step, "unit") or ""
        return Row(self._meter, now, self._label(), self._unit, self._state)

    def reason(self) -> str:
        """What the end event says: 'ERROR: disk full'; at a normal end only what is new."""
        message = self._last
        if self._state in ("stopped", "interrupted"):
            return self._state
        if self._state == "normal":
            return message if message != self._name else ""
        return f"{self._state.upper()}: {message}" if message else self._state.upper()

    def _label(self) -> str:
        label, detail = self._name, self._detail
        if self._state != "running":  # why it failed is told elsewhere
            detail = self._last if self._state in ("normal", "stopped") else ""
        if not detail or detail == label:
            return label
        return detail if detail.startswith(label) else f"{label}: {detail}"


def _value(event: object, name: str) -> Any:
    try:
        return getattr(event, name, None)
    except Exception:  # an attribute may be foreign code
        return None


def _text(event: object, name: str) -> str | None:
    """What an attribute of an event says, whatever it is; None if there is nothing."""
    value = _value(event, name)
    return None if value is None else clean(value)


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
