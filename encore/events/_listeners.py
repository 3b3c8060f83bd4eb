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
    from types import CodeType, FunctionType, MethodType
    from typing import Any, TypeAlias

    from .event_manager import EventManager

    Call: TypeAlias = Callable[[Any], object]
    OnDeath: TypeAlias = Callable[["Reference"], None]
    Home: TypeAlias = Callable[[], EventManager | None]
    Paths: TypeAlias = tuple[tuple[str, ...], ...]
    Checks: TypeAlias = tuple[tuple[tuple[str, ...], Any], ...]
else:
    MethodType = type(BaseEvent().mark_as_handled)
    FunctionType = type(BaseEvent.mark_as_handled)
    CodeType = type(BaseEvent.mark_as_handled.__code__)

__all__ = [
    "COROUTINE",
    "RUN_COROUTINE",
    "FunctionType",
    "Listener",
    "Reference",
    "Target",
    "agrees",
    "checks_of",
    "failing",
    "key_of",
    "part_of",
    "target_of",
    "values_at",
]

#: inspect.CO_COROUTINE and inspect.CO_ASYNC_GENERATOR.
COROUTINE = 0x80 | 0x200

#: How a coroutine function can be a listener, for messages.
RUN_COROUTINE = "dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop)"


def key_of(func: Any) -> Hashable:
    """What tells listeners apart without keeping alive what may be held weakly."""
    kind = type(func)
    if kind is MethodType:
        # Methods are equal if their objects are identical and their functions equal.
        return (id(func.__self__), key_of(func.__func__))
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
    # What inspect.iscoroutinefunction says, which takes long to import. Where functions have been
    # marked for it, or where there are partial functions, the modules have been imported.
    if "inspect" in modules and modules["inspect"].iscoroutinefunction(func):
        return True
    partial = getattr(modules.get("functools"), "partial", ())
    while isinstance(func, (partial, staticmethod)):
        func = func.func if isinstance(func, partial) else func.__func__
    for code in (getattr(func, "__code__", None), getattr(type(func).__call__, "__code__", None)):
        if type(code) is CodeType and code.co_flags & COROUTINE:
            return True
    return False


class Reference(ref["Any"]):
    """A weak reference to a listener, or to the object of a bound method; knows whose it is."""

    __slots__ = ("cls", "key")

    cls: type
    key: Hashable


class Target:
    """The listener as it was connected; None if it is gone."""

    __slots__ = ("func", "part", "reference")

    def __init__(
        self, func: Call | None, reference: Reference | None, part: str = "listener"
    ) -> None:
        #: The listener, the function of a weakly held bound method, or None if `reference` has all.
        self.func = func
        self.reference = reference
        #: What fails if the call does, for messages.
        self.part = part

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
    return (target() if type(target) is Target else None) or call


def part_of(call: Call) -> str:
    """What has failed if a call raises: the listener, or its filter."""
    target = getattr(call, "_encore_target", None)
    return target.part if type(target) is Target else "listener"


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


def failing(listener: Listener, error: Exception) -> Listener | None:
    """A stand-in for a listener whose filter cannot be compared; it fails when it is called.

    None if the listener is gone.
    """
    target = listener.target()
    if target is None:
        return None
    # Only once, and kept nowhere: the traceback of the error leads to whoever holds this.
    errors = [error]

    def call(event: Any) -> object:
        raise errors.pop()

    call._encore_target = Target(target, None, "filter of listener")  # type: ignore[attr-defined]
    return Listener(listener.cls, call, listener.order, listener.home)


class Listener(Connection):
    """One connection of a callable to a class of events."""

    # Most listeners have none of these, and making a listener should cost little.

    #: To what is held weakly, otherwise None.
    reference: Reference | None = None
    #: The whole filter: attribute paths, and what is expected of them.
    filter: Checks = ()
    #: The part of it that is looked up rather than compared: paths, and the value, or a tuple of
    #: the values if there are several. None if there is no such part.
    slot: tuple[Paths, Any] | None = None
    #: The part of it that is compared.
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
        coroutine = _is_coroutine_function(func)
        if coroutine and (dispatch is None or hasattr(dispatch, "submit")):
            raise TypeError(
                f"{func!r} is a coroutine function: calling it does nothing. Name what runs it, "
                f"such as {RUN_COROUTINE}"
            )
        self.key = key_of(func)
        target = Target(func, None)
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
            from ._dispatch import dispatched

            self.call = dispatched(self.call, dispatch, coroutine, target, self.home)
        if once:
            self.call = _once(self.call, ref(self))
        if self.call is not listener:
            self.call._encore_target = target  # type: ignore[attr-defined]

    def _refer_to(self, func: Any, method: bool, on_death: OnDeath, must: bool) -> Target:
        if not method and not _compared_by_identity(type(func)):
            raise TypeError(f"cannot be held weakly, because equal ones are the same: {func!r}")
        try:
            reference = Reference(func.__self__ if method else func, on_death)
        except TypeError:
            if must:
                raise TypeError(f"cannot be held weakly: {func!r}") from None
            return Target(func, None)  # held like everything else
        reference.cls = self.cls
        reference.key = self.key
        self.reference = reference
        return Target(func.__func__ if method else None, reference)

    def set_filter(self, filter: Mapping[str, Any]) -> None:
        """Find out what of the filter can be looked up; the rest is compared."""
        self.filter = checks_of(filter)
        found: list[tuple[tuple[str, ...], Any]] = []
        checks: list[tuple[tuple[str, ...], Any]] = []
        for check in self.filter:
            (found if _can_be_looked_up(check[1]) else checks).append(check)
        if found:
            # In a canonical order, so that filters on the same attributes share a dictionary.
            found.sort(key=_by_path)
            paths, values = zip(*found, strict=True)
            self.slot = (paths, values[0] if len(values) == 1 else values)
        self.checks = tuple(checks)

    def target(self) -> Call | None:
        """The listener as it was connected, None if it is gone."""
        return None if self._gone() else target_of(self.call)

    def _gone(self) -> bool:
        return self.reference is not None and self.reference() is None

    @property
    def connected(self) -> bool:
        manager = self.home()
        return manager is not None and not self._gone() and manager._registry.holds(self)

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
        target = self.target()
        listener = "a listener that is gone" if target is None else repr(target)
        return f"<Connection of {listener} to {self.cls.__name__}{state}>"


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


def _by_path(check: tuple[tuple[str, ...], Any]) -> tuple[str, ...]:
    return check[0]


def checks_of(filter: Mapping[str, Any]) -> Checks:
    """The attribute paths of a filter, and what is expected of them."""
    checks = []
    if not hasattr(filter, "items"):
        raise TypeError(f"a filter maps names of attributes to values, unlike {filter!r}")
    for name, value in filter.items():
        if not isinstance(name, str):
            raise TypeError(f"a filter's keys are names of attributes, not {name!r}")
        checks.append((tuple(name.split(".")), value))
    return tuple(checks)


def _attribute(event: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        event = getattr(event, name)
    return event


def values_at(event: BaseEvent, paths: Paths) -> Any:
    """What a slot with these paths is looked up by; AttributeError if something is missing."""
    if len(paths) == 1:
        return _attribute(event, paths[0])
    return tuple([_attribute(event, path) for path in paths])


def agrees(event: BaseEvent, checks: Checks) -> bool:
    """Whether an event is as expected."""
    for path, value in checks:
        try:
            found = _attribute(event, path)
        except AttributeError:
            return False
        if not (value(found) if _is_predicate(value) else found == value):
            return False
    return True
