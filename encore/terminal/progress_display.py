"""Progress events in, lines out."""

from __future__ import annotations

from time import monotonic

from ._meter import as_number
from ._screen import Bars, Lines
from ._stream import Stream
from .writers import ProgressWriter, SpinWriter

__all__ = ["ProgressDisplay"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any, Self, TextIO

    from ..events.abstract_event_manager import BaseEvent, BaseEventManager
    from ._screen import Screen


class ProgressDisplay:
    """Shows the operations that progress events tell of.

    On a terminal every running operation has a line that is repainted in place, and its last state
    stays. On any other stream plain lines are written now and then. The display shows what it can
    and never disturbs the program: a stream that fails is left alone.

    It is connected when it is made, and held weakly by the event manager: keep it as long as it is
    to be seen.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
        Whose progress events to show; by default the one of the process.
    stream : text file, optional
        Where to show them; by default `sys.stderr` as it is now. Only `write` is needed; `flush`,
        `isatty`, `fileno` and `encoding` are used where they exist and work.
    clock : callable, optional
        Returns the time in seconds.
    filter : dict, optional
        Only operations whose start event has these attributes are shown.

    Attributes
    ----------
    event_manager : BaseEventManager
        The event manager that the display is connected to.
    writers : dict
        The writer of each running operation, by operation id. For an id that cannot be hashed, its
        repr.
    progress_writer : class
        Makes the writer of an operation whose number of steps is known: `progress_writer(display,
        operation_id, steps)`. Subclasses may replace it.
    spin_writer : class
        Makes the writer of any other operation: `spin_writer(display, operation_id)`. Subclasses
        may replace it.
    repaint_interval : float
        Least time between two repaints on a terminal, in seconds.
    line_interval : float
        Elsewhere, least time between two lines of an operation, which are written when it is a
        tenth further.
    line_patience : float
        Elsewhere, the time after which a line is written anyway, if there was any step.
    """

    progress_writer: type[Any] = ProgressWriter
    spin_writer: type[Any] = SpinWriter
    repaint_interval = 0.08
    line_interval = 2.0
    line_patience = 15.0

    def __init__(
        self,
        event_manager: BaseEventManager | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
        filter: Mapping[str, Any] | None = None,
    ) -> None:
        from ..events.progress_events import ProgressEndEvent, ProgressStartEvent, ProgressStepEvent

        if event_manager is None:
            from ..events.package_globals import get_event_manager

            event_manager = get_event_manager()
        if stream is None:
            import sys

            stream = sys.stderr
        self.event_manager = event_manager
        self.writers: dict[Any, Any] = {}
        target = Stream(stream)
        self._screen: Screen
        if target.terminal:
            self._screen = Bars(target, clock, self.repaint_interval)
        else:
            self._screen = Lines(target, clock, self.line_interval, self.line_patience)
        event_manager.connect(ProgressStartEvent, self.start_listener, filter=filter)
        event_manager.connect(ProgressStepEvent, self.step_listener)
        event_manager.connect(ProgressEndEvent, self.end_listener)

    def __repr__(self) -> str:
        count = len(self.writers)
        return f"<{type(self).__name__} showing {count} operations on {self._screen.stream!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more, and disconnect from the event manager.

        What is shown stays as it is, operations that still run at their last state, with the cursor
        on a fresh line below. Closing again does nothing.
        """
        from ..events.progress_events import ProgressEndEvent, ProgressStartEvent, ProgressStepEvent

        for cls, listener in (
            (ProgressStartEvent, self.start_listener),
            (ProgressStepEvent, self.step_listener),
            (ProgressEndEvent, self.end_listener),
        ):
            try:
                self.event_manager.disconnect(cls, listener)
            except KeyError:  # closed before, or disconnected by somebody else
                pass
        self._screen.close()
        self.writers.clear()

    def start_listener(self, event: BaseEvent) -> None:
        """Make a writer for the operation that starts."""
        operation_id = getattr(event, "operation_id", None)
        steps = getattr(event, "steps", None)
        key = _key(operation_id)
        previous = self.writers.pop(key, None)
        if isinstance(previous, ProgressWriter):
            self._screen.drop(previous)  # it starts again; of the first time there will be no end
        if as_number(steps) is None:
            writer = self.spin_writer(self, operation_id)
        else:
            writer = self.progress_writer(self, operation_id, steps)
        self.writers[key] = writer
        listener = getattr(writer, "start_listener", None)
        if listener is not None:
            listener(event)

    def step_listener(self, event: BaseEvent) -> None:
        """Hand a step to the writer of its operation."""
        try:
            writer = self.writers.get(event.operation_id)
        except (AttributeError, TypeError):
            writer = self.writers.get(_key(getattr(event, "operation_id", None)))
        if writer is not None:
            writer.step_listener(event)

    def end_listener(self, event: BaseEvent) -> None:
        """Hand the end to the writer of the operation, and forget it."""
        key = _key(getattr(event, "operation_id", None))
        writer = self.writers.get(key)
        if writer is None:
            return
        try:
            writer.end_listener(event)
        finally:
            # The listener may have removed it, or started the operation again.
            if self.writers.get(key) is writer:
                self.writers.pop(key, None)


def _key(operation_id: object) -> object:
    try:
        hash(operation_id)
    except TypeError:
        return repr(operation_id)
    return operation_id
