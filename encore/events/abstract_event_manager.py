"""The contract of event managers, and the base class of all events."""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Thread
    from typing import Any, Literal, TypeVar, overload

    EventT = TypeVar("EventT", bound="BaseEvent")

__all__ = ["BaseEvent", "BaseEventManager"]


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

    def mark_as_handled(self) -> None:
        """Mark the event as handled, so that listeners further down are not called."""
        self._handled = True

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
        priority: int = 0,
    ) -> Any:
        """Add a listener for a class of events.

        Connecting a connected listener again replaces it: it has the new
        filter and priority, and it is the last of that priority.

        Parameters
        ----------
        cls : type
            The class of events to listen for, its subclasses included.
        func : callable
            Called with the event as its only argument. A bound method is held
            weakly and disappears with its object; everything else is held
            until it is disconnected. (So is a method of an object that has no
            weak references.)
        filter : mapping, optional
            Attribute names, dotted where they go through several objects
            (``'source.name'``), and the values they must equal. The listener
            is called only for events where all of them do; an attribute that
            is missing does not match.
        priority : int
            Listeners with higher priority are called first; those of equal
            priority in the order in which they were connected.
        """

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

        A listener that raises an Exception is logged and the others are
        called; other BaseExceptions (KeyboardInterrupt, SystemExit) end the
        dispatch and reach the caller.

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
