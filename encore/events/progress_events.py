"""Events that tell how far an operation has come, and the helper that emits them."""

from __future__ import annotations

from .abstract_event_manager import BaseEvent, make_event
from .package_globals import get_event_manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Literal, Protocol, TypeAlias, TypeVar

    class _HasCancelled(Protocol):
        @property
        def cancelled(self) -> Any: ...

    class _HasIsSet(Protocol):
        def is_set(self) -> bool: ...

    Cancel: TypeAlias = _HasCancelled | _HasIsSet

    from .abstract_event_manager import BaseEventManager

    SelfT = TypeVar("SelfT", bound="ProgressManager")

__all__ = [
    "Cancelled",
    "ProgressEndEvent",
    "ProgressEvent",
    "ProgressManager",
    "ProgressStartEvent",
    "ProgressStepEvent",
]


class Cancelled(Exception):
    """An operation was broken off, because it was asked to be.

    Attributes
    ----------
    report : object
        What had been done until then, where the operation keeps a record of it, otherwise None.
    """

    def __init__(self, *args: object, report: Any = None) -> None:
        super().__init__(*args)
        self.report = report


def check_cancel(cancel: Cancel | None) -> None:
    """Raise TypeError for what cannot be asked whether it is cancelled."""
    if cancel is not None and not (hasattr(cancel, "cancelled") or hasattr(cancel, "is_set")):
        raise TypeError(
            "cancel needs an attribute or a method 'cancelled', or a method 'is_set', "
            f"unlike {cancel!r}"
        )


def is_cancelled(cancel: Cancel) -> bool:
    """Ask an object with an attribute or a method ``cancelled``, or a method ``is_set``."""
    asked: Any = cancel
    try:
        cancelled = asked.cancelled
    except AttributeError:
        cancelled = asked.is_set
    return bool(cancelled() if callable(cancelled) else cancelled)


class ProgressEvent(BaseEvent):
    """Base class of the progress events, to listen for all of them.

    Attributes
    ----------
    operation_id : object
        What the events of one operation have in common, and no others.
    message : str
        What is being done, for people.
    """

    if TYPE_CHECKING:
        operation_id: Any
        message: str


class ProgressStartEvent(ProgressEvent):
    """An operation starts.

    Attributes
    ----------
    steps : int
        The number of steps, -1 if it is unknown or varies.
    """

    if TYPE_CHECKING:
        steps: int


class ProgressStepEvent(ProgressEvent):
    """An operation has advanced.

    Attributes
    ----------
    step : int
        The steps done so far, -1 if that is unknown.
    """

    if TYPE_CHECKING:
        step: float


class ProgressEndEvent(ProgressEvent):
    """An operation has ended.

    Attributes
    ----------
    exit_state : str
        How it ended: 'normal', 'warning', 'error' or 'exception'. An operation
        that was cancelled ends with a warning.
    """

    if TYPE_CHECKING:
        exit_state: str


class ProgressManager:
    """Emit the progress events of one operation.

    As a context manager it emits the start event on entry and the end event on
    exit, whatever happens in between; calling it emits a step event::

        with ProgressManager(manager, source, None, "Copying", len(files)) as progress:
            for number, file in enumerate(files, 1):
                copy(file)
                progress(number)

    The methods :meth:`start`, :meth:`step` and :meth:`end` do the same one by
    one. Each start event has one end event: what comes first starts the
    operation, a second start and a second end do nothing, and a step after the
    end starts the operation again. Events that nobody listens for are not made.

    Parameters
    ----------
    event_manager : BaseEventManager, optional
        Where the events are emitted, by default the one of the process.
    source : object
        The source of the events.
    operation_id : object, optional
        What identifies the operation, by default a new UUID.
    message : str
        The message of events that are not given one of their own.
    steps : int
        The number of steps, -1 if it is unknown.
    cancel : object with `cancelled` or `is_set`, optional
        Asked at each step, by an attribute or a method `cancelled` or a method
        `is_set`, whether to break off; a future will do, and so will a
        :class:`~encore.concurrent.threadtools.CancellationToken` and a
        :class:`threading.Event`. If so, the
        operation ends with the exit state 'warning', and the step raises
        :class:`Cancelled`.
    **kwargs
        Further attributes of every event.
    """

    #: The class of the start events.
    StartEventType: type[ProgressStartEvent] = ProgressStartEvent
    #: The class of the step events.
    StepEventType: type[ProgressStepEvent] = ProgressStepEvent
    #: The class of the end events.
    EndEventType: type[ProgressEndEvent] = ProgressEndEvent

    def __init__(
        self,
        event_manager: BaseEventManager | None = None,
        source: Any = None,
        operation_id: Any = None,
        message: str = "Performing operation",
        steps: int = -1,
        *,
        cancel: Cancel | None = None,
        **kwargs: Any,
    ) -> None:
        check_cancel(cancel)
        self.event_manager = get_event_manager() if event_manager is None else event_manager
        self.source = source
        self.message = message
        self.steps = steps
        self.kwargs = kwargs
        self._operation_id = operation_id
        self._cancel = cancel
        self._state: Literal["new", "running", "ended"] = "new"
        self._count = 0

    @property
    def operation_id(self) -> Any:
        """What identifies the operation."""
        if self._operation_id is None:
            from uuid import uuid4

            self._operation_id = uuid4()
        return self._operation_id

    @operation_id.setter
    def operation_id(self, value: Any) -> None:
        self._operation_id = value

    def start(self, **extra_kwargs: Any) -> None:
        """Emit a start event, unless the operation is running.

        Parameters
        ----------
        **extra_kwargs
            Further attributes of the event.
        """
        if self._state == "running":
            return
        self._state = "running"
        manager = self.event_manager
        if manager.has_listeners(self.StartEventType):
            attributes = {
                "source": self.source,
                "operation_id": self.operation_id,
                "message": self.message,
                "steps": self.steps,
                **self.kwargs,
                **extra_kwargs,
            }
            manager.emit(make_event(self.StartEventType, attributes))

    def step(
        self, message: str | float | None = None, step: float | None = None, **extra_kwargs: Any
    ) -> None:
        """Emit a step event.

        Parameters
        ----------
        message : str, optional
            The message of the event. A number given alone is the step.
        step : int, optional
            The count of the step, by default the number of calls before this one.
        **extra_kwargs
            Further attributes of the event.

        Raises
        ------
        Cancelled
            If that is what `cancel` says; then there is no step event.
        """
        if self._state != "running":
            self.start()
        if self._cancel is not None and is_cancelled(self._cancel):
            cancelled = Cancelled(f"{self.message}: cancelled")
            try:
                self.end("cancelled", "warning")
            except Exception as error:  # of a listener, where the manager raises it
                raise cancelled from error
            raise cancelled
        if step is None:
            if isinstance(message, (int, float)) and not isinstance(message, bool):
                message, step = None, message
            else:
                step = self._count
        self._count += 1
        manager = self.event_manager
        kind = self.StepEventType
        if not manager.has_listeners(kind):
            return
        operation_id = self._operation_id
        if operation_id is None:
            operation_id = self.operation_id
        attributes = {
            "source": self.source,
            "operation_id": operation_id,
            "message": self.message if message is None else message,
            "step": step,
        }
        if extra_kwargs or self.kwargs:
            attributes.update(self.kwargs, **extra_kwargs)
        manager.emit(make_event(kind, attributes))

    def end(
        self, message: str | None = None, exit_state: str = "normal", **extra_kwargs: Any
    ) -> None:
        """Emit an end event, unless the operation has ended.

        Parameters
        ----------
        message : str, optional
            The message of the event.
        exit_state : {'normal', 'warning', 'error', 'exception'}
            How the operation ended; ``end_state`` is another name for it.
        **extra_kwargs
            Further attributes of the event.
        """
        if self._state != "running":
            if self._state == "ended":
                return
            self.start()
        self._state = "ended"
        exit_state = extra_kwargs.pop("end_state", exit_state)
        manager = self.event_manager
        if manager.has_listeners(self.EndEventType):
            attributes = {
                "source": self.source,
                "operation_id": self.operation_id,
                "message": self.message if message is None else message,
                "exit_state": exit_state,
                **self.kwargs,
                **extra_kwargs,
            }
            manager.emit(make_event(self.EndEventType, attributes))

    __call__ = step

    def __init_subclass__(cls) -> None:
        # A call is a step, the step of the subclass too.
        if "step" in cls.__dict__ and "__call__" not in cls.__dict__:
            cls.__call__ = cls.step  # type: ignore[method-assign]

    def __enter__(self: SelfT) -> SelfT:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.end()
        elif isinstance(exc, Cancelled):
            self.end(str(exc), "warning")
        else:
            self.end(str(exc), "exception")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.message!r}: {self._state}>"
