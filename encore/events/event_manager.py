"""The event manager: when listeners are called."""

from __future__ import annotations

from ._listeners import Listener, ListenerRegistry, hierarchy
from .abstract_event_manager import BaseEvent, BaseEventManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from logging import Logger
    from threading import Thread
    from typing import Any, Literal, TypeAlias, TypeVar, overload

    from ._listeners import Call, Plan

    EventT = TypeVar("EventT", bound=BaseEvent)
    Tracer: TypeAlias = Callable[[str, Callable[..., object], tuple[Any, ...]], object]

__all__ = ["BaseEvent", "EventInfo", "EventManager", "LoggingTracer"]


def _logger() -> Logger:
    import logging

    return logging.getLogger(__name__)


class EventInfo:
    """What an event manager knows about one class of events, at any time.

    Attributes
    ----------
    cls : type
        The class.
    """

    __slots__ = ("_registry", "cls")

    def __init__(self, cls: type[BaseEvent], registry: ListenerRegistry) -> None:
        self.cls = cls
        self._registry = registry

    @property
    def enabled(self) -> bool:
        """Whether the class itself is enabled, whatever its base classes are."""
        return self._registry.is_enabled_itself(self.cls)

    @property
    def listeners(self) -> list[Call]:
        """The live listeners connected to this very class, in call order."""
        return [target for _, target in self._registry.live((self.cls,))]

    def __repr__(self) -> str:
        state = "enabled" if self.enabled else "disabled"
        return f"<EventInfo {self.cls.__name__}: {state}, {len(self.listeners)} listeners>"


class EventManager(BaseEventManager):
    """The event manager that dispatches events inside one process.

    All methods may be called from any thread, from listeners too. No lock is
    held while listeners run.
    """

    def __init__(self) -> None:
        self._registry = ListenerRegistry()
        self._plans = self._registry.plans
        self._tracer: Tracer | None = None
        self._replaced = type(self).emit is not EventManager.emit

    def __setattr__(self, name: str, value: Any) -> None:
        # An emit of somebody else's, in a subclass or (as tests do) in one object, wants to see
        # events that nobody listens for, too.
        if name == "emit":
            self._replaced = True
        super().__setattr__(name, value)

    def connect(
        self,
        cls: type[EventT],
        func: Callable[[EventT], object],
        filter: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        if not isinstance(cls, type):
            raise TypeError(f"not a class of events: {cls!r}")
        if not callable(func):
            raise TypeError(f"a listener is a callable that takes an event, not {func!r}")
        if self._tracer is not None and self._vetoed(
            "connect", self.connect, (cls, func, filter, priority)
        ):
            return
        self._registry.connect(cls, func, filter, priority)

    def disconnect(self, cls: type[EventT], func: Callable[[EventT], object]) -> None:
        if self._tracer is not None and self._vetoed("disconnect", self.disconnect, (cls, func)):
            return
        self._registry.disconnect(cls, func)

    if TYPE_CHECKING:

        @overload
        def emit(self, event: BaseEvent, block: Literal[True] = True) -> None: ...
        @overload
        def emit(self, event: BaseEvent, block: Literal[False]) -> Thread: ...
        @overload
        def emit(self, event: BaseEvent, block: bool) -> Thread | None: ...

    def emit(self, event: BaseEvent, block: bool = True) -> Thread | None:
        try:
            plan = self._plans[event.__class__]
        except KeyError:
            plan = self._registry.plan(event.__class__)
        calls = plan.calls
        if calls is None or self._tracer is not None or not block:
            return self._emit_with_care(event, plan, block)
        for call in calls:
            try:
                call(event)
            except Exception:
                self._log_failure(call, event)
            if event._handled:
                break
        return None

    def _emit_with_care(self, event: BaseEvent, plan: Plan, block: bool) -> Thread | None:
        go = self._tracer is None or not self._vetoed("emit", self.emit, (event,))
        go = go and plan.enabled
        if block:
            if go:
                self._dispatch(event, plan)
            return None
        from threading import Thread

        # A thread is promised, and waited for, whether there is something to do or not.
        thread = Thread(
            target=self._dispatch if go else None,
            args=(event, plan),
            name=f"Event emit: {event!r}",
        )
        thread.start()
        return thread

    def _dispatch(self, event: BaseEvent, plan: Plan) -> None:
        if plan.hooked:
            event.pre_emit()
        for listener in plan.select(event, self._log_filter_failure):
            if self._tracer is not None:
                target = listener.target()
                if target is None or self._vetoed("listen", target, (event,)):
                    continue
            try:
                listener.call(event)
            except Exception:
                self._log_failure(listener.call, event)
            if event._handled:
                break
        if plan.hooked:
            event.post_emit()

    def _log_failure(self, call: Call, event: BaseEvent) -> None:
        live = self._registry.live(hierarchy(type(event)))
        target = next((target for listener, target in live if listener.call is call), call)
        _logger().exception("listener %r failed for %r", target, event)

    def _log_filter_failure(self, listener: Listener, event: BaseEvent) -> None:
        _logger().exception("the filter of listener %r failed for %r", listener.target(), event)

    def disable(self, cls: type[BaseEvent]) -> None:
        self._registry.set_enabled(cls, False)

    def enable(self, cls: type[BaseEvent]) -> None:
        self._registry.set_enabled(cls, True)

    def is_enabled(self, cls: type[BaseEvent]) -> bool:
        return self._registry.is_enabled(cls)

    def has_listeners(self, cls: type[BaseEvent]) -> bool:
        try:
            plan = self._plans[cls]
        except KeyError:
            plan = self._registry.plan(cls)
        if not plan.silent:
            if not self._registry.dead:
                return True
            self._registry.sweep()
            if not self._registry.plan(cls).silent:
                return True
        return self._replaced or self._tracer is not None

    def register(self, cls: type[BaseEvent]) -> None:
        """Make a class of events known. Connecting and disabling do so too.

        Parameters
        ----------
        cls : type
            The class of events.

        Raises
        ------
        ValueError
            If the class is known.
        """
        if not self._registry.add_class(cls):
            raise ValueError(f"{cls!r} is registered already")

    if TYPE_CHECKING:

        @overload
        def get_event(self, cls: None = None) -> dict[type[BaseEvent], EventInfo]: ...
        @overload
        def get_event(self, cls: type[BaseEvent]) -> EventInfo: ...

    def get_event(
        self, cls: type[BaseEvent] | None = None
    ) -> EventInfo | dict[type[BaseEvent], EventInfo]:
        """Return what is known about a class of events, or about all known ones.

        Parameters
        ----------
        cls : type, optional
            A class of events.

        Returns
        -------
        EventInfo or dict
            Of the class; without one, a new dictionary of all known classes.

        Raises
        ------
        KeyError
            If the class is not known.
        """
        known = self._registry.classes()
        if cls is None:
            return {known_cls: EventInfo(known_cls, self._registry) for known_cls in known}
        if cls not in known:
            raise KeyError(cls)
        return EventInfo(cls, self._registry)

    def get_listeners(self, event_or_class: BaseEvent | type[BaseEvent]) -> list[Call]:
        """Return the live listeners that an event reaches.

        Parameters
        ----------
        event_or_class : BaseEvent or type
            With an event, only the listeners whose filter it matches.

        Returns
        -------
        list of callable
            The listeners as they were connected, in call order, whether the
            class is enabled or not.
        """
        if isinstance(event_or_class, type):
            return [target for _, target in self._registry.live(hierarchy(event_or_class))]
        chosen = []
        for listener, target in self._registry.live(hierarchy(type(event_or_class))):
            try:
                if listener.matches(event_or_class):
                    chosen.append(target)
            except Exception:
                self._log_filter_failure(listener, event_or_class)
        return chosen

    def get_event_hierarchy(self, cls: type[BaseEvent]) -> tuple[type, ...]:
        """Return the classes whose listeners are notified of events of a class.

        Parameters
        ----------
        cls : type
            The class of events.

        Returns
        -------
        tuple of type
            The class and its bases in method resolution order, down to
            :class:`BaseEvent`.
        """
        return hierarchy(cls)

    def set_trace(self, func: Tracer | None) -> None:
        """Have a function called before everything this manager does.

        Parameters
        ----------
        func : callable or None
            Called as ``func(name, method, args)``; a true result vetoes the
            action. None removes the tracer. What it raises reaches the caller
            of the method.

            =============  ============================  =============================
            name           method                        args
            =============  ============================  =============================
            'connect'      the manager's ``connect``     (cls, func, filter, priority)
            'disconnect'   the manager's ``disconnect``  (cls, func)
            'emit'         the manager's ``emit``        (event,)
            'listen'       the listener                  (event,)
            =============  ============================  =============================
        """
        self._tracer = func

    def _vetoed(self, name: str, method: Callable[..., object], args: tuple[Any, ...]) -> bool:
        tracer = self._tracer
        return tracer is not None and bool(tracer(name, method, args))

    def __repr__(self) -> str:
        classes = self._registry.classes()
        listeners = len(self._registry.live(classes))
        return f"<EventManager: {listeners} listeners, {len(classes)} classes of events>"


class LoggingTracer:
    """A tracer for :meth:`EventManager.set_trace` that logs what is done and vetoes nothing.

    Parameters
    ----------
    logger : logging.Logger, optional
        By default the logger of this module.
    level : int
        The level of the records, INFO by default.
    """

    def __init__(self, logger: Logger | None = None, level: int = 20) -> None:
        self.logger = _logger() if logger is None else logger
        self.level = level

    def __call__(self, name: str, method: Callable[..., object], args: tuple[Any, ...]) -> bool:
        self.logger.log(self.level, "%s: %r %r", name, method, args)
        return False

    def __repr__(self) -> str:
        return f"LoggingTracer({self.logger!r}, {self.level!r})"
