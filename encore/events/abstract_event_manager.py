"""The contract of event managers, and the base class of all events."""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager
    from threading import Thread
    from types import TracebackType
    from typing import Any, Literal, TypeAlias, TypeVar, overload

    SelfT = TypeVar("SelfT", bound="Connection")
    EventT = TypeVar("EventT", bound="BaseEvent")
    ResultT = TypeVar("ResultT")
    # What a call returns is Any: a coroutine where the listener is a coroutine function.
    Dispatch: TypeAlias = Executor | Callable[[Callable[[], Any]], object]

__all__ = ["BaseEvent", "BaseEventManager", "Connection"]


class BaseEvent:
    """Base class for all events.

    Parameters
    ----------
    source : object
        The object which generated the event.
    **kwargs
        Further attributes of the event.

    Attributes
    ----------
    source : object
        The object which generated the event.
    """

    # On the class, so that an event nobody handles pays nothing for it.
    _handled = False

    if TYPE_CHECKING:
        # Events take any attribute; a subclass that wants its attributes checked annotates them.
        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, /, source: Any = None, **kwargs: Any) -> None:
        self.source = source
        if kwargs:
            self.__dict__.update(kwargs)

    def __post_init__(self, *args: Any) -> None:
        """Called by the constructor of a dataclass, which knows its own fields only."""
        # A default on the class would slow the constructor above down (3.11: by 100 ns), and make
        # a field `source` an optional one.
        if not hasattr(self, "source"):
            self.__dict__["source"] = None

    def mark_as_handled(self) -> None:
        """Mark the event as handled, so that listeners further down are not called."""
        try:
            self._handled = True
        except AttributeError:  # of a frozen dataclass
            self.__dict__["_handled"] = True

    def pre_emit(self) -> None:
        """Called before the listeners, on the thread that calls them.

        Does nothing by default. What it raises reaches the caller of
        :meth:`BaseEventManager.emit`, and no listener is called.
        """

    def post_emit(self) -> None:
        """Called after the listeners, on the thread that called them.

        Does nothing by default. It runs whether listeners failed or not and
        whether the event was handled or not, but not after a
        KeyboardInterrupt, a SystemExit or the like has broken off the
        dispatch. What it raises reaches the caller of
        :meth:`BaseEventManager.emit`.
        """

    def __repr__(self) -> str:
        attributes = [
            f"{name}={value!r}" for name, value in self.__dict__.items() if not name.startswith("_")
        ]
        return f"{type(self).__name__}({', '.join(attributes)})"


def make_event(cls: type[EventT], attributes: dict[str, Any]) -> EventT:
    """Make ``cls(**attributes)``, in half the time where the class has no constructor of its own.

    The dictionary becomes the event's.
    """
    if cls.__init__ is not BaseEvent.__init__:
        return cls(**attributes)
    event = cls.__new__(cls)
    event.__dict__ = attributes
    return event


class Connection(ABC):
    """What :meth:`BaseEventManager.connect` returns: a listener connected to a class of events.

    As a context manager it is disconnected at the end of the block. It need
    not be kept: the listener stays connected without it.
    """

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the listener is still connected, by this connection."""

    @abstractmethod
    def disconnect(self) -> None:
        """Disconnect the listener, unless that has happened already."""

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()


class BaseEventManager(ABC):
    """The interface of event managers.

    Listeners are connected to classes of events; an emitted event reaches the
    listeners of its class and of all its base classes up to
    :class:`BaseEvent`.
    """

    @abstractmethod
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
        """Add a listener for a class of events.

        Connecting a connected listener again replaces it: it has the new
        options, and it is the last of its priority.

        Parameters
        ----------
        cls : type
            The class of events to listen for, its subclasses included.
        func : callable
            Called with the event as its only argument.
        filter : mapping, optional
            Attribute names, dotted where they go through several objects
            (``'source.name'``), and the values they must equal. A value that
            can be called and is no class is a predicate instead: it is called
            with what the event has, and its result says whether that matches.
            The listener is called only for events where everything matches; an
            attribute that is missing does not.
        priority : float
            Listeners with higher priority are called first; those of equal
            priority in the order in which they were connected.
        once : bool
            Disconnect the listener when it is called for the first time,
            before it is called. Of several threads that emit at once, one
            calls it.
        weak : bool, optional
            Whether the listener disappears with the function, or with the
            object of a bound method, rather than keeping it alive. By default
            bound methods are held weakly (where their objects can be), and
            everything else is held until it is disconnected.
        dispatch : concurrent.futures.Executor or callable, optional
            Runs the listener, instead of the thread that emits: an executor
            is given it by ``submit``; anything else is called with a callable
            without arguments, as ``loop.call_soon_threadsafe`` of asyncio is.
            If the listener is a coroutine function, what that returns is to be
            awaited. The emit does not wait, and it is too late for such a
            listener to mark an event as handled. What it raises is logged, or
            given to the manager's `on_error`, if the emit is over.

        Returns
        -------
        Connection
            To disconnect the listener with, or to use in a with statement.

        Raises
        ------
        TypeError
            If `cls` is no class, if the listener cannot be called or not be
            held weakly, if the priority is no number, and for a coroutine
            function that has no `dispatch` to run what it returns (an executor
            does not).
        """

    def listener(
        self,
        cls: type[EventT],
        filter: Mapping[str, Any] | None = None,
        priority: float = 0,
        *,
        once: bool = False,
        weak: bool | None = None,
        dispatch: Dispatch | None = None,
    ) -> Callable[[Callable[[EventT], ResultT]], Callable[[EventT], ResultT]]:
        """Return a decorator that connects a function, and leaves it as it is.

        Parameters
        ----------
        cls, filter, priority, once, weak, dispatch
            As for :meth:`connect`.

        Returns
        -------
        callable
            The decorator.
        """

        if not isinstance(cls, type):
            raise TypeError(
                f"listener takes a class of events, as in @manager.listener(SaveEvent), not {cls!r}"
            )
        # Managers written for EnCore 0.8 know none of these.
        options: dict[str, Any] = {"once": once, "weak": weak, "dispatch": dispatch}
        given = {name: value for name, value in options.items() if value not in (None, False)}
        if weak is False:
            given["weak"] = False

        def decorate(func: Callable[[EventT], ResultT]) -> Callable[[EventT], ResultT]:
            self.connect(cls, func, filter, priority, **given)
            return func

        return decorate

    @abstractmethod
    def disconnect(self, cls: type[EventT], func: Callable[[EventT], object]) -> None:
        """Remove a listener from a class of events.

        Parameters
        ----------
        cls : type
            The class the listener was connected to.
        func : callable
            The listener.

        Raises
        ------
        KeyError
            If the listener is not connected to this class.
        """

    if TYPE_CHECKING:

        @overload
        def emit(self, event: BaseEvent, block: Literal[True] = True) -> None: ...
        @overload
        def emit(self, event: BaseEvent, block: Literal[False]) -> Thread: ...
        @overload
        def emit(self, event: BaseEvent, block: bool) -> Thread | None: ...

    @abstractmethod
    def emit(self, event: BaseEvent, block: bool = True) -> Thread | None:
        """Call the listeners of an event.

        These are the listeners of the class of the event and of all its base
        classes together, ordered by priority, as they are connected when the
        dispatch starts: one that an earlier listener disconnects is still
        called, one that it connects is not. The call order ends at a listener
        that marks the event as handled. An event that a listener emits is
        dispatched at once, before the listeners that remain.

        A listener that raises an Exception does not keep the others from being
        called; by default it is logged. Other BaseExceptions
        (KeyboardInterrupt, SystemExit) end the dispatch and reach the caller.

        Parameters
        ----------
        event : BaseEvent
            The event.
        block : bool
            If False, the listeners are called on a new thread.

        Returns
        -------
        threading.Thread or None
            The started thread if block is False.
        """

    @abstractmethod
    def disable(self, cls: type[BaseEvent]) -> None:
        """Do not dispatch events of this class and its subclasses any more.

        Such events are not emitted at all: their hooks are not called either.
        Each class has a state of its own, so enabling a class again does not
        enable a subclass that was disabled itself.

        Parameters
        ----------
        cls : type
            The class of events.
        """

    @abstractmethod
    def enable(self, cls: type[BaseEvent]) -> None:
        """Undo :meth:`disable`, however often that was called.

        Parameters
        ----------
        cls : type
            The class of events.
        """

    @abstractmethod
    def is_enabled(self, cls: type[BaseEvent]) -> bool:
        """Tell whether events of this class are dispatched.

        Parameters
        ----------
        cls : type
            The class of events.

        Returns
        -------
        bool
            False if the class or one of its base classes is disabled.
        """

    def disabled(self, cls: type[BaseEvent]) -> AbstractContextManager[None]:
        """Return a context manager that disables a class of events for the length of a block.

        Blocks nest, in several threads too: the class is disabled as long as
        one of them lasts, and afterwards it is as it was before. To
        :meth:`enable` it in the meantime changes nothing until then.

        Parameters
        ----------
        cls : type
            The class of events.
        """
        from ._blocks import Disabled

        return Disabled(self, cls)

    def held(
        self,
        cls: type[BaseEvent],
        filter: Mapping[str, Any] | None = None,
        *,
        discard_on_error: bool = False,
    ) -> AbstractContextManager[None]:
        """Return a context manager that keeps events back until the end of a block.

        It concerns the events that the thread of the block emits; those of
        other threads are dispatched as ever. At the end the events are
        dispatched in the order in which they were emitted, to the listeners
        of then. Blocks nest: what an inner one lets go, an outer one may
        hold.

        Parameters
        ----------
        cls : type
            The class of events, its subclasses included.
        filter : mapping, optional
            Hold only events that match, as for :meth:`connect`.
        discard_on_error : bool
            Drop the events if the block raises.
        """
        from ._blocks import HeldByListener

        return HeldByListener(self, cls, filter, discard_on_error)

    def has_listeners(self, cls: type[BaseEvent]) -> bool:
        """Tell whether emitting an event of exactly this class can have an effect.

        For code that can save itself the making of an event. Managers that do
        not know answer True.

        Parameters
        ----------
        cls : type
            The class of events.

        Returns
        -------
        bool
            False only if emitting such an event now would do nothing:
            there is no listener for the class or a base class, whatever its
            filter, and no hook; or the class is disabled.
        """
        return True
