"""The event manager: when listeners are called."""

from __future__ import annotations

# What threading.local is; importing threading takes longer than importing this package.
from _thread import _local

from .._lazy import lazy_names
from ._listeners import Listener, agrees, part_of, target_of
from ._plans import ListenerRegistry, hierarchy
from .abstract_event_manager import BaseEvent, BaseEventManager, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from logging import Logger
    from threading import Thread
    from typing import Any, Literal, TypeAlias, TypeVar, overload

    from ._blocks import Held
    from ._listeners import Call
    from ._plans import Plan
    from ._tracing import LoggingTracer
    from .abstract_event_manager import Dispatch

    EventT = TypeVar("EventT", bound=BaseEvent)
    Tracer: TypeAlias = Callable[[str, Callable[..., object], tuple[Any, ...]], object]
    OnError: TypeAlias = Callable[[Any, Any, Exception], object]

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
        return f"<EventInfo {self.cls.__name__}: {state}, {_counted(self.listeners)}>"


def _log(listener: object, event: BaseEvent, error: Exception, part: str = "listener") -> None:
    _logger().error("%s %r failed for %r", part, listener, event, exc_info=error)


def _raise(listener: Call, event: BaseEvent, error: Exception) -> None:
    try:
        raise error
    finally:
        del error  # the traceback leads here, and must not lead back to it


def _counted(listeners: Sequence[object]) -> str:
    return "1 listener" if len(listeners) == 1 else f"{len(listeners)} listeners"


def _thread_name(event: BaseEvent) -> str:
    try:
        return f"Event emit: {event!r}"
    except Exception:  # its attributes are those of others
        return f"Event emit: {type(event).__name__}"


class _ThreadState(_local):
    """What a manager knows of the calling thread."""

    holds: tuple[Held, ...] = ()


class EventManager(BaseEventManager):
    """The event manager that dispatches events inside one process.

    All methods may be called from any thread, from listeners too. No lock is
    held while listeners run.

    Parameters
    ----------
    on_error : {'log', 'raise'} or callable
        What happens when a listener, or a predicate of its filter, raises an
        Exception. The other listeners are called in any case. 'log' writes a
        record with the listener, the event and the traceback to the logger of
        this module. With 'raise' :meth:`emit` raises the exception when all
        listeners have been called; if there are several, the first, and the
        others are logged. A callable is called as ``on_error(listener, event,
        error)`` at once; what it raises is treated as with 'raise'. What would
        be raised when the emit is over, because the listener runs elsewhere
        (`dispatch`), is logged.
    """

    def __init__(self, *, on_error: Literal["log", "raise"] | OnError = "log") -> None:
        if callable(on_error):
            self._on_error = on_error
        elif on_error in ("log", "raise"):
            self._on_error = _log if on_error == "log" else _raise
        else:
            raise ValueError(f"on_error is 'log', 'raise' or a callable, not {on_error!r}")
        self._registry = ListenerRegistry(self)
        self._tracer: Tracer | None = None
        self._state = _ThreadState()
        # Why emit has to take care: a tracer, what holds events in any thread, errors that are
        # not just logged.
        self._watchers: set[object] = set()
        # What emit reads: the plans of the registry, or nothing as long as there are watchers.
        self._plans: dict[type, Plan] = self._registry.plans
        self._in_use = [self._plans]
        self._replaced = False
        if self._on_error is not _log:
            self._watch("on_error", True)

    def __setattr__(self, name: str, value: Any) -> None:
        # An emit of somebody else's, in a subclass or (as tests do) in one object, wants to see
        # events that nobody listens for, too.
        if name == "emit":
            self._replaced = True
            self._in_use[0] = {}
        super().__setattr__(name, value)

    def connect(
        self,
        cls: type[EventT],
        func: Callable[[EventT], object],
        filter: Mapping[str, Any] | None = None,
        priority: float = 0,
        *,
        once: bool = False,
        weak: bool | None = None,
        dispatch: Dispatch | None = None,
    ) -> Connection:
        if not isinstance(cls, type):
            raise TypeError(f"not a class of events: {cls!r}")
        if self._tracer is not None:
            if not callable(func):
                raise TypeError(f"a listener is a callable that takes an event, not {func!r}")
            if self._vetoed("connect", self.connect, (cls, func, filter, priority)):
                return Listener(cls, func, (0, 0), lambda: None)
        return self._registry.connect(cls, func, filter, priority, once, weak, dispatch)

    def disconnect(self, cls: type[EventT], func: Callable[[EventT], object]) -> None:
        if self._tracer is not None and self._vetoed("disconnect", self.disconnect, (cls, func)):
            return
        self._registry.disconnect(cls, func)

    def _disconnect(self, listener: Listener) -> None:
        """Disconnect what a connection stands for."""
        target = listener.target()
        told = target is not None and listener.connected
        if told and self._vetoed("disconnect", self.disconnect, (listener.cls, target)):
            return
        self._registry.drop(listener)

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
            plan = None
        if plan is None:
            return self._emit_with_care(event, block)
        calls: Sequence[Call] | None = plan.calls
        if not calls or not block:
            if not block or plan.hooked:
                return self._emit_with_care(event, block)
            if calls is not None:
                return None
            calls = plan.calls_for(event)
        for call in calls:
            try:
                call(event)
            except Exception as error:
                self._failed(call, event, error, None)
            if event._handled:
                break
        return None

    def _emit_with_care(self, event: BaseEvent, block: bool) -> Thread | None:
        wanted = self._tracer is None or not self._vetoed("emit", self.emit, (event,))
        cls = event.__class__
        if cls not in self._registry.plans and not issubclass(cls, BaseEvent):
            what = f"the class {event.__name__}" if isinstance(event, type) else repr(event)
            raise TypeError(f"emit takes an event, not {what}")
        return self._emit_unless_held(event, self._registry.plan(cls), block, wanted)

    def _emit_unless_held(
        self, event: BaseEvent, plan: Plan, block: bool, wanted: bool = True
    ) -> Thread | None:
        if wanted and plan.enabled:
            # The innermost block comes first.
            wanted = not any(hold.keeps(event, block) for hold in self._state.holds)
        if block:
            if wanted:
                self._dispatch(event, plan)
            return None
        from threading import Thread

        # A thread is promised, and waited for, whether there is something to do or not.
        thread = Thread(
            target=self._dispatch if wanted else None,
            args=(event, plan),
            name=_thread_name(event),
        )
        thread.start()
        return thread

    def _dispatch(self, event: BaseEvent, plan: Plan) -> None:
        if not plan.enabled:
            return
        if plan.hooked:
            event.pre_emit()
        failure = None
        for listener in plan.select(event):
            if self._tracer is not None:
                target = listener.target()
                if target is None or self._vetoed("listen", target, (event,)):
                    continue
            try:
                listener.call(event)
            except Exception as error:
                failure = self._failed(listener.call, event, error, failure)
            if event._handled:
                break
        try:
            if plan.hooked:
                event.post_emit()
        except BaseException:
            if failure is not None:
                _logger().error("a listener failed for %r", event, exc_info=failure)
            raise
        else:
            if failure is not None:
                raise failure
        finally:
            del failure  # the traceback leads here, and must not lead back to it

    def _failed(
        self,
        call: Any,
        event: BaseEvent,
        error: Exception,
        failure: Exception | None,
        part: str | None = None,
    ) -> Exception | None:
        """Report what a listener raised; return what is to be raised when all have been called.

        That is `failure`, if there is one already.
        """
        listener = target_of(call)
        part = part or part_of(call)
        try:
            if self._on_error is _log:
                _log(listener, event, error, part)
            else:
                self._on_error(listener, event, error)
        except Exception as raised:
            if failure is not None:
                _log(listener, event, raised, part)
            # Logging that is broken is no reason to break off.
            elif self._on_error is not _log:
                failure = raised
        try:
            return failure
        finally:
            del error, failure  # as above

    def held(
        self,
        cls: type[BaseEvent],
        filter: Mapping[str, Any] | None = None,
        *,
        discard_on_error: bool = False,
    ) -> AbstractContextManager[None]:
        from ._blocks import Held

        return Held(self, cls, filter, discard_on_error)

    def _hold(self, hold: Held) -> None:
        self._watch(hold, True)
        self._state.holds = (hold, *(other for other in self._state.holds if other.active))

    def _report(
        self, listener: Any, event: BaseEvent, error: Exception, part: str = "listener"
    ) -> None:
        """Report what a listener raised, where there is no emit that could raise it."""
        failure = self._failed(listener, event, error, None, part)
        try:
            if failure is not None:
                _log(listener, event, failure, part)
        finally:
            del error, failure  # as above

    def _let_go(self, hold: Held, events: Sequence[tuple[BaseEvent, bool]], quiet: bool) -> None:
        """Stop holding, and emit events that were held; `quiet`: raise nothing."""
        self._state.holds = tuple(other for other in self._state.holds if other is not hold)
        self._watch(hold, False)
        failure: Exception | None = None
        for event, block in events:
            try:
                self._emit_unless_held(event, self._registry.plan(type(event)), block)
            except Exception as error:
                if failure is None and not quiet:
                    failure = error
                else:
                    _logger().error("%r could not be emitted", event, exc_info=error)
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # the traceback leads here, and must not lead back to it

    def disabled(self, cls: type[BaseEvent]) -> AbstractContextManager[None]:
        from ._blocks import Suspended

        return Suspended(self, cls)

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
        if plan.calls != ():
            if not self._registry.dead:
                return True
            self._registry.sweep()
            if self._registry.plan(cls).calls != ():
                return True
        return (
            self._replaced
            or self._tracer is not None
            # An emit patched onto the class, as tests do; or listeners that may come until the
            # block ends.
            or type(self).emit is not _EMIT
            or bool(self._watchers and self._state.holds)
        )

    def is_silent(self, cls: type[BaseEvent]) -> bool:
        """Tell whether nobody would notice events of a class, or of any of its base classes.

        For code that is called often, and emits events of several classes: a
        class made of them all takes one question instead of one for each.

        Parameters
        ----------
        cls : type
            The class of events.

        Returns
        -------
        bool
            False also where it cannot be said at once; then ask
            :meth:`has_listeners` of each.
        """
        if self._replaced or type(self).emit is not _EMIT:
            return False
        try:
            # There are none as long as there is a tracer, or events are held.
            plan = self._plans[cls]
        except KeyError:
            self._registry.plan(cls)  # makes it
            return False
        # One that is disabled has no calls, but of its base classes some may be enabled.
        return plan.calls == () and plan.enabled

    def _plans_in_use(self) -> list[dict[type, Plan]]:
        """Return a list of one dict, which is replaced in there when others are in use.

        For code of this package that asks before each event whether to make it: where the dict has
        a plan for its class that has `calls`, emitting it would do nothing but these. It has none
        where somebody wants to see the events themselves.
        """
        return self._in_use if type(self).emit is _EMIT else [{}]

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
                if agrees(event_or_class, listener.filter):
                    chosen.append(target)
            except Exception as error:
                _log(target, event_or_class, error, "filter of listener")
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
        self._watch("tracer", func is not None)

    def _watch(self, watcher: object, watching: bool) -> None:
        with self._registry.lock:
            if watching:
                self._watchers.add(watcher)
            else:
                self._watchers.discard(watcher)
            # Again if something came in between, a signal handler for instance.
            while True:
                watched = bool(self._watchers)
                self._plans = {} if watched else self._registry.plans
                self._in_use[0] = {} if self._replaced else self._plans
                if watched == bool(self._watchers):
                    break

    def _vetoed(self, name: str, method: Callable[..., object], args: tuple[Any, ...]) -> bool:
        tracer = self._tracer
        return tracer is not None and bool(tracer(name, method, args))

    def __repr__(self) -> str:
        classes = self._registry.classes()
        listeners = _counted(self._registry.live(classes))
        known = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
        return f"<EventManager: {listeners}, {known} of events>"


_EMIT = EventManager.emit

__getattr__, __dir__ = lazy_names(__name__, {"_tracing": "LoggingTracer"})
