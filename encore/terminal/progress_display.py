"""Progress events in, lines out."""

from __future__ import annotations

from _weakref import ref
from time import monotonic

from ._meter import as_number
from ._stream import Stream
from .printing import DisplayStream, closed, opened
from .writers import ProgressWriter, SpinWriter

__all__ = ["ProgressDisplay"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from logging import Handler
    from types import TracebackType
    from typing import Any, Literal, TextIO, TypeVar

    from ..events.abstract_event_manager import BaseEvent, BaseEventManager
    from ._screen import Screen

    Listener = Callable[[Any], object]

    SelfT = TypeVar("SelfT", bound="ProgressDisplay")

_MODES = ("auto", "bar", "lines", "off")


class ProgressDisplay:
    """Shows the operations that progress events tell of.

    On a terminal every running operation has a line that is repainted in place, and its last state
    stays. On any other stream plain lines are written now and then. The display shows what it can
    and never disturbs the program: a stream that fails is left alone.

    An operation that starts while another one of the same thread is running is shown as nested in
    it.

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
    mode : {'auto', 'bar', 'lines', 'off'}
        'bar' repaints lines in place, 'lines' writes plain lines, 'off' shows no operation at all;
        'auto' is 'bar' on a terminal and 'lines' elsewhere.

    Raises
    ------
    ValueError
        If `mode` is none of these.

    Attributes
    ----------
    mode : {'bar', 'lines', 'off'}
        How operations are shown.
    event_manager : BaseEventManager
        The event manager that the display is connected to.
    stream : text file
        For `print(file=...)`, `contextlib.redirect_stdout` and the like: prints above the lines of
        the operations, as :meth:`write` does. An unfinished line is kept until it ends, or the
        display is closed.
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
        tenth further. A nested operation that takes less has no line, unless it fails.
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
        mode: Literal["auto", "bar", "lines", "off"] = "auto",
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode is one of {', '.join(_MODES)}, not {mode!r}")
        if event_manager is None:
            from ..events.package_globals import get_event_manager

            event_manager = get_event_manager()
        if stream is None:
            import sys

            stream = sys.stderr
        self.event_manager = event_manager
        self.writers: dict[Any, Any] = {}
        # Those whose steps need nothing but to be kept until the next repaint, by the id() of the
        # operation id: hashing a UUID costs more than all the rest of a step.
        self._plain: dict[int, ProgressWriter] = {}
        target = Stream(stream)
        if mode == "auto":
            mode = "bar" if target.terminal else "lines"
        self.mode: Literal["bar", "lines", "off"] = mode
        self._screen: Screen
        # Imported where they are used: a program has one kind of them at most.
        if mode == "bar":
            from ._bars import Bars

            self._screen = Bars(target, clock, self.repaint_interval)
        elif mode == "lines":
            from ._lines import Lines

            self._screen = Lines(target, clock, self.line_interval, self.line_patience)
        else:
            from ._screen import Screen

            self._screen = Screen(target, clock, self.repaint_interval)
        self.stream = DisplayStream(self._screen)
        self._on_step = _step_listener(self)
        self._connect(filter)

    def _connect(self, filter: Mapping[str, Any] | None = None) -> None:
        for cls, listener in self._listeners():
            # Steps and ends are those of operations whose start was seen.
            chosen = filter if listener == self.start_listener else None
            self.event_manager.connect(cls, listener, filter=chosen)
        opened(self)

    def _listeners(self) -> list[tuple[type[BaseEvent], Listener]]:
        from ..events.progress_events import ProgressEndEvent, ProgressStartEvent, ProgressStepEvent

        if self.mode == "off":
            # For those who ask the event manager whether somebody cares for what is to be seen.
            return [(ProgressStartEvent, self._ignore)]
        return [
            (ProgressStartEvent, self.start_listener),
            (ProgressStepEvent, self._on_step or self.step_listener),
            (ProgressEndEvent, self.end_listener),
        ]

    def __repr__(self) -> str:
        count = len(self.writers)
        return f"<{type(self).__name__} showing {count} operations on {self._screen.stream!r}>"

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, KeyboardInterrupt):
            for writer in list(self.writers.values()):
                if isinstance(writer, ProgressWriter):
                    writer._state = "interrupted"
        self.close()

    def close(self) -> None:
        """Show nothing more, and disconnect from the event manager.

        What is shown stays as it is, operations that still run at their last state, with the cursor
        on a fresh line below. Closing again does nothing.
        """
        try:
            for cls, listener in self._listeners():
                try:
                    self.event_manager.disconnect(cls, listener)
                except KeyError:  # closed before, or disconnected by somebody else
                    pass
        finally:
            closed(self)
            self.stream.finish()
            self._screen.close()
            self._plain.clear()
            self.writers.clear()

    def write(self, text: str) -> None:
        """Print text above the lines of the operations.

        For what a program has to say while operations run: what it prints itself would be painted
        over. Any thread may do so. On a terminal, colours in the text are shown, other
        control characters are not. A closed display prints the text as it is.

        Parameters
        ----------
        text : str
            One line or several; the line end after the last is optional.
        """
        self._screen.write(str(text))

    def log_handler(self, level: int | str = 0) -> Handler:
        """Return a handler that prints the records of loggers above the lines of the operations.

        Parameters
        ----------
        level : int or str
            The least level of the records that are printed.

        Returns
        -------
        logging.Handler
            A new handler, which takes a formatter and filters as any other. It keeps the display
            alive.
        """
        from ._log_handler import DisplayHandler

        return DisplayHandler(self.write, self, level)

    def find(self, operation_id: object) -> Any:
        """Return the writer of a running operation, or None.

        Parameters
        ----------
        operation_id : any
            The operation; it need not be hashable.
        """
        return self.writers.get(self._key(operation_id))

    def _key(self, operation_id: object) -> object:
        try:
            hash(operation_id)
        except Exception:  # of somebody else's
            # What cannot be hashed may have changed since it started.
            for key, writer in list(self.writers.items()):
                if getattr(writer, "operation_id", self) is operation_id:
                    return key
            return repr(operation_id)
        return operation_id

    def _ignore(self, event: BaseEvent) -> None:
        pass

    def start_listener(self, event: BaseEvent) -> None:
        """Make a writer for the operation that starts."""
        operation_id = getattr(event, "operation_id", None)
        steps = getattr(event, "steps", None)
        key = self._key(operation_id)
        previous = self.writers.pop(key, None)
        if isinstance(previous, ProgressWriter):
            previous.drop()  # it starts again; of the first time there will be no end
            self._plain.pop(id(previous.operation_id), None)
        writer: Any
        if as_number(steps) is None:
            writer = self.spin_writer(self, operation_id)
        else:
            writer = self.progress_writer(self, operation_id, steps)
        self.writers[key] = writer
        listener = getattr(writer, "start_listener", None)
        if listener is not None:
            listener(event)
        if self.writers.get(key) is writer and isinstance(writer, ProgressWriter) and writer.plain:
            self._plain[id(operation_id)] = writer

    def step_listener(self, event: BaseEvent) -> None:
        """Hand a step to the writer of its operation."""
        writer = self.find(getattr(event, "operation_id", None))
        if writer is not None:
            writer.step_listener(event)

    def end_listener(self, event: BaseEvent) -> None:
        """Hand the end to the writer of the operation, and forget it."""
        key = self._key(getattr(event, "operation_id", None))
        writer = self.writers.get(key)
        if writer is None:
            return
        if isinstance(writer, ProgressWriter):
            self._plain.pop(id(writer.operation_id), None)
        try:
            writer.end_listener(event)
        finally:
            # The listener may have removed it, or started the operation again.
            if self.writers.get(key) is writer:
                self.writers.pop(key, None)


def _step_listener(display: ProgressDisplay) -> Listener | None:
    """What listens to steps faster than the method of a display, unless that is overridden."""
    if (
        type(display).step_listener is not ProgressDisplay.step_listener
        or "step_listener" in display.__dict__
    ):
        return None
    from ..events.progress_events import ProgressStepEvent

    # A function, which is called more quickly than a method that is held weakly. So it must not
    # hold the display, and is disconnected when that is gone.
    writers = display._plain
    find = writers.get
    manager = display.event_manager
    screen = display._screen
    clock = screen.clock

    def step_listener(event: Any) -> None:
        try:
            writer = find(id(event.operation_id))
        except AttributeError:
            writer = None
        if writer is not None:
            writer._step = event
            if clock() >= screen.due:
                screen.refresh()
            return
        owner = alive()
        if owner is not None:
            owner.step_listener(event)

    def gone(_: object) -> None:
        writers.clear()
        try:
            manager.disconnect(ProgressStepEvent, step_listener)
        except KeyError:  # it was closed, or never connected
            pass

    alive = ref(display, gone)
    return step_listener
