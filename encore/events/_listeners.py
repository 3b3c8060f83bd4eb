"""One connection of a listener: what is called, and for which events."""

from __future__ import annotations

# weakref and types make up much of the time that importing this package would take; this is the
# C module the first has its name from.
from _weakref import ref
from sys import modules

from .abstract_event_manager import BaseEvent, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from types import FunctionType, MethodType
    from typing import Any, TypeAlias

    from .event_manager import EventManager

    Call: TypeAlias = Callable[[Any], object]
    OnDeath: TypeAlias = Callable[["Reference"], None]
    Home: TypeAlias = Callable[[], EventManager | None]
    Checks: TypeAlias = tuple[tuple[tuple[str, ...], Any], ...]
else:
    MethodType = type(BaseEvent().mark_as_handled)
    FunctionType = type(BaseEvent.mark_as_handled)

__all__ = [
    "COROUTINE",
    "FunctionType",
    "Listener",
    "Reference",
    "agrees",
    "checks_of",
    "failing",
    "key_of",
    "target_of",
]

#: inspect.CO_COROUTINE and inspect.CO_ASYNC_GENERATOR.
COROUTINE = 0x80 | 0x200


def key_of(func: Any) -> Hashable:
    """What tells listeners apart without keeping alive what may be held weakly."""
    kind = type(func)
    if kind is MethodType:
        # Methods are equal if their objects are identical and their functions equal.
        return (id(func.__self__), func.__func__)
    if _compared_by_identity(kind):
        return id(func)
    try:
        hash(func)
    except TypeError:
        return id(func)
    key: Hashable = func
    return key


def _compared_by_identity(kind: type) -> bool:
    equals: object = kind.__eq__
    return kind is FunctionType or equals is object.__eq__


def _is_coroutine_function(func: Any) -> bool:
    # As inspect.iscoroutinefunction, which takes long to import. Where there is a partial function,
    # functools has been imported.
    partial = getattr(modules.get("functools"), "partial", ())
    while isinstance(func, partial):
        func = func.func
    code = getattr(func, "__code__", None) or getattr(type(func).__call__, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & COROUTINE)


class Reference(ref["Any"]):
    """A weak reference to a listener, or to the object of a bound method, which knows whose it is."""

    __slots__ = ("cls", "key")

    cls: type
    key: Hashable


class _Target:
    """The listener as it was connected; None if it is gone."""

    __slots__ = ("func", "reference")

    def __init__(self, func: Call | None, reference: Reference | None) -> None:
        #: The listener, the function of a weakly held bound method, or None if all is in `reference`.
        self.func = func
        self.reference = reference

    def __call__(self) -> Call | None:
        if self.reference is None:
            return self.func
        obj: Call | None = self.reference()
        if obj is None or self.func is None:
            return obj
        return MethodType(self.func, obj)


def target_of(call: Call) -> Call:
    """The listener as it was connected of what is called; what is called if it is gone."""
    target = getattr(call, "_encore_target", None)
    return (target() if type(target) is _Target else None) or call


# What is called instead of the listener itself. Closures: calling one is faster than calling an
# object that has __call__.


def _weak_function(reference: Reference) -> Call:
    def call(event: Any) -> object:
        func = reference()
        return None if func is None else func(event)

    return call


def _weak_method(reference: Reference, func: Callable[..., object]) -> Call:
    def call(event: Any) -> object:
        obj = reference()
        return None if obj is None else func(obj, event)

    return call


def _once(call: Call, listener: ref[Listener]) -> Call:
    turn = [None]

    def first_call(event: Any) -> object:
        try:
            turn.pop()  # of several threads one gets it
        except IndexError:
            return None
        connection = listener()
        if connection is not None:
            connection.drop()
        return call(event)

    return first_call


def _dispatched(call: Call, dispatch: Any, target: _Target, home: Home) -> Call:
    def job(event: Any) -> object:
        try:
            # Of a coroutine function this is the coroutine, for whoever is to run it.
            return call(event)
        except Exception as error:
            # The emit that would report this may be over.
            manager = home()
            if manager is None:
                raise
            failure = manager._failed(target() or call, event, error, None)
            if failure is not None:
                raise failure from None
            return None

    submit = getattr(dispatch, "submit", None)

    def hand_over(event: Any) -> object:
        return dispatch(lambda: job(event)) if submit is None else submit(job, event)

    return hand_over


def failing(listener: Listener, error: Exception) -> Listener:
    """A stand-in for a listener whose filter cannot be compared; it fails when it is called."""

    def call(event: Any) -> object:
        raise error

    call._encore_target = _Target(listener.target(), None)  # type: ignore[attr-defined]
    return Listener(listener.cls, call, listener.order, listener.home)


class Listener(Connection):
    """One connection of a callable to a class of events."""

    # Most listeners have none of these, and making a listener should cost little.

    #: To what is held weakly, otherwise None.
    reference: Reference | None = None
    #: The attribute and the value to find the listener under, or None.
    slot: tuple[str, Any] | None = None
    #: The rest of the filter: attribute paths and values, compared one by one.
    checks: Checks = ()

    def __init__(self, cls: type, func: Call, order: tuple[float, int], home: Home) -> None:
        self.cls = cls
        #: What is called: the listener itself, or a closure.
        self.call = func
        self.key: Hashable = id(func)
        #: Sorts listeners into the order in which they are called.
        self.order = order
        self.home = home

    def configure(self, once: bool, weak: bool | None, dispatch: Any, on_death: OnDeath) -> None:
        """Prepare the calling of everything but a plain function that is held strongly."""
        listener = func = self.call
        if not callable(func):
            raise TypeError(f"a listener is a callable that takes an event, not {func!r}")
        if dispatch is not None and not (hasattr(dispatch, "submit") or callable(dispatch)):
            raise TypeError(f"dispatch is an executor or takes a callable, not {dispatch!r}")
        if _is_coroutine_function(func) and (dispatch is None or hasattr(dispatch, "submit")):
            raise TypeError(
                f"{func!r} is a coroutine function: calling it does nothing. Name what runs it, "
                "such as dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop)"
            )
        self.key = key_of(func)
        target = _Target(func, None)
        method = type(func) is MethodType
        if weak or (weak is None and method):
            target = self._refer_to(func, method, on_death, weak is True)
        if self.reference is not None:
            function = target.func
            self.call = (
                _weak_function(self.reference)
                if function is None
                else _weak_method(self.reference, function)
            )
        if dispatch is not None:
            self.call = _dispatched(self.call, dispatch, target, self.home)
        if once:
            self.call = _once(self.call, ref(self))
        if self.call is not listener:
            self.call._encore_target = target  # type: ignore[attr-defined]

    def _refer_to(self, func: Any, method: bool, on_death: OnDeath, must: bool) -> _Target:
        if not method and not _compared_by_identity(type(func)):
            raise TypeError(f"cannot be held weakly, because equal ones are the same: {func!r}")
        try:
            reference = Reference(func.__self__ if method else func, on_death)
        except TypeError:
            if must:
                raise TypeError(f"cannot be held weakly: {func!r}") from None
            return _Target(func, None)  # held like everything else
        reference.cls = self.cls
        reference.key = self.key
        self.reference = reference
        return _Target(func.__func__ if method else None, reference)

    def set_filter(self, filter: Mapping[str, Any]) -> None:
        """Find a part of the filter to look up; the rest is compared."""
        checks = checks_of(filter)
        for at, (path, value) in enumerate(checks):
            if len(path) == 1 and _can_be_looked_up(value):
                self.slot = (path[0], value)
                checks = checks[:at] + checks[at + 1 :]
                break
        self.checks = checks

    def target(self) -> Call | None:
        """The listener as it was connected, None if it is gone."""
        reference = self.reference
        if reference is not None and reference() is None:
            return None
        return target_of(self.call)

    def matches(self, event: BaseEvent) -> bool:
        """Compare the whole filter."""
        slot = self.slot
        return agrees(event, self.checks) and (
            slot is None or agrees(event, (((slot[0],), slot[1]),))
        )

    @property
    def connected(self) -> bool:
        manager = self.home()
        return manager is not None and manager._registry.holds(self)

    def disconnect(self) -> None:
        manager = self.home()
        if manager is not None:
            manager._disconnect(self)

    def drop(self) -> None:
        """Disconnect without asking anybody."""
        manager = self.home()
        if manager is not None:
            manager._registry.drop(self)

    def __repr__(self) -> str:
        state = "" if self.connected else ", disconnected"
        return f"<Connection of {self.target()!r} to {self.cls.__name__}{state}>"


def _is_predicate(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _can_be_looked_up(value: Any) -> bool:
    """Whether a dictionary finds a value exactly when the filter matches."""
    if _is_predicate(value):
        return False
    try:
        hash(value)
        # NaN is found, because it is identical, but equals nothing.
        return bool(value == value)
    except Exception:
        return False


def checks_of(filter: Mapping[str, Any]) -> Checks:
    """The attribute paths of a filter, and what is expected of them."""
    checks = []
    for name, value in filter.items():
        if not isinstance(name, str):
            raise TypeError(f"a filter's keys are names of attributes, not {name!r}")
        checks.append((tuple(name.split(".")), value))
    return tuple(checks)


def agrees(event: BaseEvent, checks: Checks) -> bool:
    """Whether an event is as expected."""
    for path, value in checks:
        found: Any = event
        try:
            for name in path:
                found = getattr(found, name)
        except AttributeError:
            return False
        if not (value(found) if _is_predicate(value) else found == value):
            return False
    return True
